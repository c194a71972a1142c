"""`contrastill cache` as a user runs it, and trainings that read what it wrote without ever asking a teacher."""

import gc
import json
import os
import signal
import weakref

import h5py
import numpy as np
import pytest
import torch

from contrastill.cli.main import main
from contrastill.core.representation import Network
from contrastill.core.teachers import cache_shard
from contrastill.core.teachers.seal import SEAL
from contrastill.training.checkpoint import load_newest

COUNT = 96


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """96 training images of four classes that differ in brightness."""
    return write_packed(tmp_path_factory.mktemp("data") / "four.h5", 0)


def write_packed(path, seed):
    generator = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for split, count in (("train", COUNT), ("test", 8)):
            target = np.arange(count) % 4
            file[f"{split}/rgb"] = (
                target[:, None, None, None] * 60 + generator.integers(0, 60, (count, 16, 16, 3))
            ).astype(np.uint8)
            file[f"{split}/target"] = target.astype(np.int64)
    return str(path)


@pytest.fixture(autouse=True)
def short_files(monkeypatch):
    """Three files of 32 samples for each part and view."""
    monkeypatch.setattr(cache_shard, "ROWS", 32)


def settings(packed, *more):
    """A teacher of random weights is the same in every command of one seed."""
    return ["compression/cifar100_crd", f"data.path={packed}", "data.crop_padding=2", "teachers.0.model=resnet8",
        "teachers.0.weights=null",
            "student.model=resnet8", "objectives.kd.weight=1", "train.batch_size=32", "train.epochs=2", "train.lr=0.02",
            *more]  # fmt: skip


def cached(packed, folder, *more):
    return main(["cache", *settings(packed, *more), "--views", "2", "--out", str(folder), "-q"])


def trained(packed, folder, out, *more):
    return main(
        [
            "train",
            *settings(packed),
            "train.views=2",
            *([f"train.teacher_cache={folder}"] if folder else []),
            f"out={out}",
            "-q",
            *more,
        ]
    )


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def state_of(out):
    return load_newest(out / "checkpoints").model


def equal(state, other):
    return state.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in state.items())


def forbid_teachers(monkeypatch):
    """From now on whoever asks a teacher fails, but for the few samples by which outputs are compared: of the networks
    built for a run all but the last, the student.
    """
    from contrastill.training import networks

    build = networks.build

    def silenced(config, *rest, student=False, **options):
        network = build(config, *rest, student=student, **options)
        if not student:
            forward = network.module.forward
            network.module.forward = lambda images: (
                forward(images) if len(images) <= 8 else pytest.fail("a teacher was asked")
            )
        return network

    monkeypatch.setattr(networks, "build", silenced)


def test_a_training_from_it_is_that_from_memory_and_never_asks_a_teacher(packed, tmp_path, capsys, monkeypatch):
    assert trained(packed, None, tmp_path / "memory") == 0
    assert trained(packed, tmp_path / "on the fly", tmp_path / "filled") == 0
    assert cached(packed, tmp_path / "outputs") == 0
    before = files_of(tmp_path / "outputs")
    assert before.keys() - {"cache.json"} == files_of(tmp_path / "on the fly").keys() and "cache.json" in before
    forbid_teachers(monkeypatch)
    teachers = []
    freeze = Network.freeze
    monkeypatch.setattr(Network, "freeze", lambda self: teachers.append(weakref.ref(self)) or freeze(self))
    assert trained(packed, tmp_path / "outputs", tmp_path / "read") == 0
    assert files_of(tmp_path / "outputs") == before
    assert equal(state_of(tmp_path / "memory"), state_of(tmp_path / "read")) and equal(
        state_of(tmp_path / "memory"), state_of(tmp_path / "filled")
    )
    # The teacher's memory is freed.
    gc.collect()
    assert len(teachers) == 1 and teachers[0]() is None


def test_another_run_of_another_objective_reads_the_same_files(packed, tmp_path, monkeypatch):
    assert cached(packed, tmp_path / "outputs") == 0
    forbid_teachers(monkeypatch)
    assert trained(packed, tmp_path / "outputs", tmp_path / "kd", "objectives.crd=null", "train.views=1") == 0


def test_the_plan_comes_before_anything_is_written(packed, tmp_path, capsys):
    folder = tmp_path / "outputs"
    arguments = ["cache", *settings(packed), "--views", "2", "--out", str(folder)]
    assert main([*arguments, "--dry-run"]) == 0 and not folder.exists()
    output = capsys.readouterr().out
    assert (
        "2 views of 96 samples, 1 teacher: embedding (fp32), logits (fp32)" in output and "0.1 MB in 12 files" in output
    )
    assert (
        main([*arguments, "--dry-run", "--json", "cache.logits=2", "cache.precision=fp16", "cache.parts=[maps]"]) == 0
        and not folder.exists()
    )
    plan = json.loads(capsys.readouterr().out)
    maps = 16 * 16 * 16 + 32 * 8 * 8 + 64 * 4 * 4 + 16 * 16 * 16
    assert (
        plan["parts"] == {"embedding": "fp16", "logits": "2 largest in fp16", "maps": "fp16"}
        and plan["missing"] == plan["files"] == 18
    )
    assert plan["bytes"] == 2 * COUNT * (2 * 64 + 2 * (2 + 2) + 4 + 4 + 2 * maps)
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["written"] == 12
    assert main([*arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["written"] == answer["missing"] == 0
    assert abs(sum(path.stat().st_size for path in folder.rglob("*.h5")) - answer["bytes"]) < 12 * 8192


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--out", "outputs"], "the number of views of each sample is not set: add --views"),
        (["--views", "2"], "the folder to write to is not set: add --out FOLDER"),
        (
            ["--views", "2", "--out", "outputs", "objectives.crd=null", "objectives.kd=null"],
            "none of cross_entropy reads a teacher",
        ),
        (["--views", "2", "--out", "outputs", "seeds=3"], "seeds trains several times"),
        (
            ["--views", "2", "--out", "outputs", "cache.logits=4"],
            "cache.logits=4 keeps the largest of more logits than that, and a teacher has 4",
        ),
        (["--views", "2", "--out", "outputs", "cache.logits=0"], "cache.logits"),
        (
            ["--views", "2", "--out", "outputs", "cache.logit=2"],
            "cache.logit is not a key of the config: did you mean logits",
        ),
    ],
)
def test_wrong_usage_is_one_sentence(packed, tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    assert main(["cache", *settings(packed), *more]) == 2
    output = capsys.readouterr().err
    assert message in output and "Traceback" not in output
    assert not list(tmp_path.rglob("*.h5"))


def test_killed_and_given_again_it_writes_the_same_files(packed, tmp_path, forked):
    """SIGKILL in the middle of a file, by the process itself after so many batches; the second command writes only what
    is missing.
    """
    script = (
        "import os, signal, sys\n"
        "from contrastill.core.teachers import cache_shard\n"
        "from contrastill.core.teachers.codec import TeacherOutputCodec\n"
        "cache_shard.ROWS, batches = 32, int(sys.argv[1])\n"
        "encode = TeacherOutputCodec.encode\n"
        "def counting(*arguments):\n"
        "    global batches\n"
        "    batches -= 1\n"
        "    if not batches:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return encode(*arguments)\n"
        "TeacherOutputCodec.encode = counting\n"
        "from contrastill.cli.main import main\n"
        "sys.exit(main(sys.argv[2:]))\n"
    )
    # 16 samples a batch, two batches a file, two parts: two for the plan, eight for the first files of both parts and
    # the second ones, then in the middle of the third.
    command = [
        "cache",
        *settings(packed, "train.batch_size=16"),
        "--views",
        "2",
        "--out",
        str(tmp_path / "killed"),
        "-q",
    ]
    assert forked("13", *command, script=script).wait() == -signal.SIGKILL
    first = {name: (tmp_path / "killed" / name).stat().st_mtime_ns for name in files_of(tmp_path / "killed")}
    complete = [name for name in first if name.endswith(".h5")]
    assert 0 < len(complete) < 12 and any(name.endswith(".tmp") for name in first)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert main([*command[:-3], "--out", str(tmp_path / "killed"), "-q"]) == 0
    assert main([*command[:-3], "--out", str(tmp_path / "whole"), "-q"]) == 0
    torch.set_num_threads(threads)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    assert all((tmp_path / "killed" / name).stat().st_mtime_ns == first[name] for name in complete)


STALE = {
    # A seed also draws other random weights.
    "seed": (["seed=1"], "the weights of teacher 0 are others; seed: 0, now 1"),
    "crop": (["data.crop_padding=3"], "data.crop_padding: 2, now 3"),
    "flip": (["data.flip=false"], "data.flip: True, now False"),
    "fewer": (["data.limit=50"], "the number of samples: 96, now 50; data.limit: None, now 50"),
    "architecture": (["teachers.0.model=resnet14"], "the architecture of teacher 0"),
    "preprocessing": (["teachers.0.resolution=24"], "the preprocessing of teacher 0"),
    "precision": (["train.teacher_precision=bf16"], "the precision of teacher 0: float32, now bfloat16"),
    "embedding": (["teachers.0.embedding=layer3"], "the tapped modules of teacher 0"),
    "kept": (["cache.precision=fp16"], "cache.logits and cache.precision: fp32, now fp16"),
    "largest": (
        ["cache.logits=2", "objectives.crd=null"],
        "cache.logits and cache.precision: fp32, now 2 largest in fp32",
    ),
    "views": (["train.views=3"], "holds views 0, 1 and train.views=2 or more are asked for"),
    "part": (["objectives.attention.weight=1"], "holds nothing about maps"),
}


@pytest.fixture(scope="module")
def folder_written(packed, tmp_path_factory):
    """A folder that the command wrote."""
    folder = tmp_path_factory.mktemp("cache") / "outputs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_shard, "ROWS", 32)
        assert cached(packed, folder) == 0
    return folder


@pytest.mark.parametrize("what", STALE)
def test_a_stale_folder_is_refused_with_what_differs(packed, folder_written, tmp_path, capsys, monkeypatch, what):
    overrides, message = STALE[what]
    before = files_of(folder_written)
    assert trained(packed, folder_written, tmp_path / "run", *overrides) == 2
    errors = capsys.readouterr().err
    assert (
        message in errors
        and f"train.teacher_cache={folder_written}" in errors
        and "contrastill cache" in errors
        and "Traceback" not in errors
    )
    assert not (tmp_path / "run").exists() and files_of(folder_written) == before


def test_other_weights_and_other_data_are_refused(packed, folder_written, tmp_path, capsys):
    from contrastill.core.config.loading import load_config
    from contrastill.models.build import save_student
    from contrastill.training.networks import build

    torch.manual_seed(9)
    save_student(
        build(load_config(settings(packed)[0], settings(packed)[1:]).teachers[0], 4), tmp_path / "other.safetensors"
    )
    assert (
        trained(packed, folder_written, tmp_path / "run", f"teachers.0.weights={tmp_path / 'other.safetensors'}") == 2
    )
    assert "(the weights of teacher 0 are others)" in capsys.readouterr().err
    assert trained(write_packed(tmp_path / "other.h5", 1), folder_written, tmp_path / "run") == 2
    assert "(the samples as the views show them are others)" in capsys.readouterr().err
    # The same data in another place are the same data.
    os.rename(write_packed(tmp_path / "again.h5", 0), tmp_path / "moved.h5")
    assert trained(str(tmp_path / "moved.h5"), folder_written, tmp_path / "run") == 0


def test_an_unfinished_folder_and_a_truncated_file_are_refused_until_the_command_mends_them(packed, tmp_path, capsys):
    folder = tmp_path / "outputs"
    assert cached(packed, folder) == 0
    complete = files_of(folder)
    paths = [path for path in sorted(folder.rglob("*.h5")) if path.parent.name.startswith("embedding-1")]
    paths[1].write_bytes(paths[1].read_bytes()[:-100])
    assert trained(packed, folder, tmp_path / "run") == 1
    errors = capsys.readouterr().err
    assert (
        f"{paths[1]}, a teacher's outputs of some samples, is damaged: remove it, and run contrastill cache again "
        "with this config" in errors
    )
    paths[2].unlink()
    assert trained(packed, folder, tmp_path / "run") == 2
    assert (
        "is not complete (view 1 has 2 of 3 files of teacher 0's embedding): run contrastill cache again, which goes on"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()
    assert cached(packed, folder) == 0 and files_of(folder) == complete
    (folder / SEAL).write_text("{")
    assert trained(packed, folder, tmp_path / "run") == 1
    assert "cache.json is damaged" in capsys.readouterr().err


def test_a_full_disk_leaves_whole_files_alone(packed, tmp_path, capsys, monkeypatch):
    real = os.replace
    calls = []

    def full(source, target):
        calls.append(target)
        if str(target).endswith(".h5") and len(calls) > 4:
            raise OSError(28, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(os, "replace", full)
    assert cached(packed, tmp_path / "outputs") == 1
    errors = capsys.readouterr().err
    assert "cannot be written" in errors and "No space left on device" in errors and "make room" in errors
    assert not list((tmp_path / "outputs").rglob(".*.tmp")) and 0 < len(list((tmp_path / "outputs").rglob("*.h5"))) < 12


BOTH = """
import sys
from contrastill.core.teachers import cache_shard
cache_shard.ROWS = 32
from contrastill.cli.main import main
rank, _, logs, *arguments = sys.argv[1:]
cut = arguments.index("--")
sys.stdout = open(f"{logs}/{rank}", "w")
code = main(arguments[:cut]) or main(arguments[cut + 1:])
sys.stdout.flush()
sys.exit(code)
"""


def test_two_processes_write_and_train_what_one_does(packed, tmp_path, ranks):
    """Files of two processes are those of one, byte for byte, and two processes train from them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert cached(packed, tmp_path / "one") == 0 and trained(packed, tmp_path / "one", tmp_path / "run-one") == 0
    torch.set_num_threads(threads)
    cache = ["cache", *settings(packed), "--views", "2", "--out", str(tmp_path / "two"), "--json"]
    train = [
        "train",
        *settings(packed),
        "train.views=2",
        f"train.teacher_cache={tmp_path / 'two'}",
        f"out={tmp_path / 'run-two'}",
        "-q",
    ]
    logs = tmp_path / "logs"
    logs.mkdir()
    ranks(BOTH, 2, logs, *cache, "--", *train)
    output = [(logs / str(rank)).read_text() for rank in (0, 1)]
    assert json.loads(output[0])["written"] == 12 and output[1] == ""
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert state_of(tmp_path / "run-one").keys() == state_of(tmp_path / "run-two").keys()
    rows = [
        json.loads((tmp_path / f"run-{name}" / "metrics.jsonl").read_text().splitlines()[0]) for name in ("one", "two")
    ]
    # BatchNorm's statistics are of 32 samples in one and of 16 in the other; without them the trainings are the same,
    # see test_teacher_cache.py.
    assert abs(rows[0]["loss"] / rows[1]["loss"] - 1) < 0.1


def test_the_folder_is_named_in_the_configs_own_words(packed, tmp_path, capsys):
    assert main(["cache", *settings(packed, "train.views=2", f"train.teacher_cache={tmp_path / 'outputs'}")]) == 0
    assert f"train with train.views=2 train.teacher_cache={tmp_path / 'outputs'}" in capsys.readouterr().err
