"""A run that is killed again and again ends in the same bits as one that was not; SIGTERM saves and exits."""

import json
import signal

import pytest
from safetensors.torch import load_file

from contrastill.cli.main import main
from contrastill.training.checkpoint import checkpoints
from helpers.paths import HELPERS

DYING = f"import runpy; runpy.run_path({str(HELPERS / 'dying.py')!r}, run_name='__main__')"
TIMES = ("seconds", "samples_per_second")


@pytest.fixture(scope="module")
def run(forked):
    def start(point, arguments, out):
        """The exit code and what was printed; a negative code is the signal that killed it."""
        process = forked(point, *arguments, f"out={out}", script=DYING) if point else forked(*arguments, f"out={out}")
        return process.wait(), process.errors.read_text()

    return start


@pytest.fixture(scope="module")
def command(four_classes, tmp_path_factory, run):
    """A training of 3 epochs of 3 batches, a checkpoint every 2 steps, with CRD's banks and draws; and a run of it that
    was never killed.
    """
    folder = tmp_path_factory.mktemp("runs")
    teacher = str(folder / "teacher")
    assert (
        main(
            [
                "train",
                "teachers/cifar100",
                f"data.path={four_classes}",
                "student.model=resnet8",
                "train.epochs=1",
                f"out={teacher}",
                "-q",
            ]
        )
        == 0
    )
    arguments = ["train", "compression/cifar100_crd", f"data.path={four_classes}", "teachers.0.model=resnet8",
        f"teachers.0.weights={teacher}", "student.model=resnet8",
                 "objectives.crd.negatives=sampled", "objectives.crd.num_negatives=8", "train.epochs=3",
                 "train.batch_size=16", "train.checkpoint_every_steps=2"]  # fmt: skip
    # A process of its own too: the number of threads may change bits.
    assert run(None, [*arguments, "-q"], folder / "whole")[0] == 0
    return arguments, folder / "whole"


def assert_same_run(one, other):
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    for name in (file for file in files if file.suffix == ".safetensors"):
        expected, actual = load_file(one / name), load_file(other / name)
        assert expected.keys() == actual.keys()
        for key, value in expected.items():
            assert key in TIMES or value.equal(actual[key]), (name, key)
    rows = [
        [
            {key: value for key, value in json.loads(line).items() if key not in TIMES}
            for line in (path / "metrics.jsonl").open()
        ]
        for path in (one, other)
    ]
    assert rows[0] == rows[1]


def test_killed_at_many_points_of_one_run(command, run, tmp_path):
    arguments, whole = command
    out = tmp_path / "killed"
    # In turn: before any checkpoint, amid the files of one, between a step and its checkpoint, with a row written and
    # no checkpoint, and before a checkpoint gets its name.
    for point in ("step:1", "file:6", "step:3", "row:1", "replace:3"):
        assert run(point, arguments, out)[0] == -signal.SIGKILL, point
        assert not (out / "student.safetensors").exists()
    code, output = run(None, arguments, out)
    assert code == 0 and "going on at epoch" in output
    assert_same_run(whole, out)


def test_sigterm_saves_and_exits(command, run, tmp_path):
    arguments, whole = command
    out = tmp_path / "stopped"
    code, output = run("term:5", arguments, out)
    assert code == 143 and "stopped by SIGTERM after epoch 1, batch 2" in output and "Traceback" not in output
    # Step 5 is none of those that are saved anyway.
    assert checkpoints(out / "checkpoints")[-1].name == "step-00000005"
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert run(None, arguments, out)[0] == 0
    assert_same_run(whole, out)


def test_a_killed_run_with_averaging_clipping_mixing_and_balancing(command, run, tmp_path):
    """What is off by default: the moving average, limits of the gradient, mixed samples, balanced classes."""
    arguments = [argument for argument in command[0] if not argument.startswith("objectives.crd.")]
    arguments += ["objectives.crd=null", "objectives.kd.weight=1", "train.ema=0.9", "train.clip_norm=0.5"]
    arguments += ["train.mixup=0.4", "train.cutmix=1", "train.class_balanced=true", "train.validation=0.25"]
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert run(None, arguments, whole)[0] == 0
    assert run("step:3", arguments, out)[0] == -signal.SIGKILL
    assert run(None, arguments, out)[0] == 0
    assert_same_run(whole, out)
    assert (out / "student_best.safetensors").is_file()
