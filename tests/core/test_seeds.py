"""Several seeds of one training: their folder, what a second call leaves alone, and the folder in the place of
teachers.
"""

import json
import shutil

import pytest
import torch

import contrastill
from contrastill.cli.main import main
from contrastill.core.config.loading import load_config
from contrastill.core.errors import UsageError
from contrastill.core.run import Run, walk_runs
from contrastill.core.seeds import members

SMALL = ["data.train_samples=64", "data.test_samples=64", "student.model=resnet8", "train.epochs=1"]
STUDENT = [
    "compression/rooms_crd",
    *SMALL,
    "teachers.0.model=resnet8",
    "objectives.crd.num_negatives=16",
    "train.views=1",
]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Networks of the seeds 4 and 5."""
    out = tmp_path_factory.mktemp("runs") / "two"
    assert main(["train", "teachers/rooms", *SMALL, "seed=4", "seeds=2", f"out={out}", "-q"]) == 0
    return out


def state(path):
    return {name: value.clone() for name, value in contrastill.load_student(path).state_dict().items()}


def test_each_seed_is_an_ordinary_run(two, tmp_path):
    assert sorted(path.name for path in two.iterdir()) == ["diversity.json", "diversity.png", "seed-4", "seed-5"]
    for seed in (4, 5):
        config = load_config(str(two / f"seed-{seed}" / "config.yaml"))
        assert (config.seed, config.seeds, config.out) == (seed, None, str(two / f"seed-{seed}"))
    assert main(["train", "teachers/rooms", *SMALL, "seed=5", f"out={tmp_path / 'alone'}", "-q"]) == 0
    alone, together = state(tmp_path / "alone"), state(two / "seed-5")
    assert all(torch.equal(value, together[name]) for name, value in alone.items())
    assert any(not torch.equal(value, together[name]) for name, value in state(two / "seed-4").items())


def test_the_report_is_of_these_runs(two):
    diversity = json.loads((two / "diversity.json").read_text())
    assert [row["name"] for row in diversity["networks"]] == ["seed-4 resnet8", "seed-5 resnet8"] and diversity[
        "student"
    ] is None
    assert [row["top1"] for row in diversity["networks"]] == pytest.approx(
        [Run(two / f"seed-{seed}").history()[-1]["top1"] for seed in (4, 5)]
    )
    assert diversity["samples"] == 64 and 0 < diversity["mean_disagreement"] <= 100


def test_the_same_command_trains_only_what_is_missing(two, tmp_path, capsys):
    out = tmp_path / "again"
    command = ["train", "teachers/rooms", *SMALL, "seed=4", f"out={out}"]
    assert main([*command, "seeds=1", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert (
        [run["seed"] for run in first["runs"]] == [4]
        and first["out"] == str(out)
        and first["diversity"]["mean_disagreement"] is None
    )
    written = {path: path.stat().st_mtime_ns for path in (out / "seed-4").rglob("*") if path.is_file()}
    assert main([*command, "seeds=2"]) == 0
    error = capsys.readouterr().err
    assert (
        "1/2" not in error
        and "2/2 seed 5" in error
        and f"done: {out}, 2 runs, top-1 of the last epoch" in error
        and "of their ensemble" in error
    )
    (out / "seed-5" / "student.safetensors").unlink()  # as if it had been killed after its last checkpoint
    written |= {path: path.stat().st_mtime_ns for path in (out / "seed-5" / "checkpoints").rglob("*") if path.is_file()}
    assert main([*command, "seeds=2", "-q"]) == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    for seed in (4, 5):
        assert all(
            torch.equal(value, state(two / f"seed-{seed}")[name]) for name, value in state(out / f"seed-{seed}").items()
        )


def test_fewer_seeds_than_the_folder_has_are_measured_alone(two, tmp_path):
    copy = shutil.copytree(two, tmp_path / "copy")
    config = {option.partition("=")[0]: option.partition("=")[2] for option in SMALL}
    result = contrastill.train("teachers/rooms", {**config, "seed": 4, "seeds": 1, "out": copy}, progress=False)
    assert [run.seed for run in result.runs] == [4]
    assert [network.name for network in result.diversity.networks] == ["seed-4 resnet8"]
    assert result.diversity.ensemble.top1 == pytest.approx(result.runs[0].metrics["top1"])


def test_other_settings_are_refused_before_anything_is_trained(two, capsys):
    before = sorted(two.rglob("*"))
    assert main(["train", "teachers/rooms", *SMALL, "train.lr=0.3", "seed=4", "seeds=4", f"out={two}", "-q"]) == 2
    assert "train.lr: 0.003, now 0.3" in capsys.readouterr().err and sorted(two.rglob("*")) == before
    assert main(["train", "teachers/rooms", *SMALL, "seeds=2", f"out={two / 'seed-4'}", "-q"]) == 2
    assert "holds a run by itself" in capsys.readouterr().err and sorted(two.rglob("*")) == before
    assert main(["train", "teachers/rooms", *SMALL, "seeds=0", f"out={two}"]) == 2
    assert "seeds=0 is not allowed" in capsys.readouterr().err


def test_a_folder_of_seeds_stands_for_all_of_its_runs(two, tmp_path, capsys):
    out = tmp_path / "student"
    assert (
        main(
            [
                "train",
                *STUDENT,
                f"teachers.0.weights={two}",
                "teachers.1.model=resnet8",
                f"teachers.1.weights={two / 'seed-4'}",
                f"out={out}",
                "-q",
            ]
        )
        == 0
    )
    config = load_config(str(out / "config.yaml"))
    assert [teacher.weights for teacher in config.teachers] == [
        str(two / name) for name in ("seed-4", "seed-5", "seed-4")
    ]
    assert main(["train", *STUDENT, f"teachers.0.weights={two}", "--dry-run"]) == 0
    assert capsys.readouterr().out.count("weights: ") == 3  # two teachers, and the student's


def test_the_runs_come_by_number_and_nothing_else_does(tmp_path):
    for name in ("seed-10", "seed-9", "seed-x", "seed-", "10", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "seed-3").touch()
    assert [path.name for path in members(tmp_path)] == ["seed-9", "seed-10"]
    (tmp_path / "student.safetensors").touch()
    assert members(tmp_path) == [] and members(tmp_path / "nowhere") == []


def test_a_folder_whose_training_goes_on_is_no_teacher_yet(two, tmp_path):
    copy = shutil.copytree(two, tmp_path / "copy")
    (copy / "seed-5" / "student.safetensors").unlink()
    with pytest.raises(UsageError, match=r"stands for the 2 runs in it, and seed-5 has no student.safetensors yet"):
        load_config(STUDENT[0], [*STUDENT[1:], f"teachers.0.weights={copy}"])


def test_seeds_without_a_word_of_classes_have_no_report(two, tmp_path, capsys):
    out = tmp_path / "crd"
    arguments = [
        *STUDENT,
        f"teachers.0.weights={two / 'seed-4'}",
        "objectives.kd=null",
        "objectives.cross_entropy=null",
    ]
    assert main(["train", *arguments, "seeds=1", f"out={out}"]) == 0
    error = capsys.readouterr().err
    assert "no report of diversity" in error and f"done: {out}, 1 run" in error
    assert "seed-0 were not trained, as none of crd reads them" in error
    assert [path.name for path in out.iterdir()] == ["seed-0"]


def test_the_walk_is_in_natural_order_and_enters_no_run(tmp_path):
    for name in ("b/seed-10", "b/seed-9", "a", ".hidden", "b/seed-9/checkpoints", "b/deep/er"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").touch()
    for name in ("b/seed-10", "b/seed-9"):
        (tmp_path / name / "config.yaml").touch()

    def walk(depth):
        return [path.relative_to(tmp_path).as_posix() for path in walk_runs(tmp_path, depth)]

    assert walk(3) == [".", "a", "b", "b/deep", "b/deep/er", "b/seed-9", "b/seed-10"]
    assert walk(1) == [".", "a", "b"] and walk(0) == ["."]
    assert [*walk_runs(tmp_path / "b/seed-9", 3)] == [tmp_path / "b/seed-9"]
