"""What was not trained is not measured as if it had been; what cannot be measured is said."""

import json

import h5py
import numpy as np
import pytest

import contrastill
from contrastill.cli.main import main


@pytest.fixture(scope="module")
def runs(four_classes, tmp_path_factory):
    """A teacher, and a student of which no objective reads the logits."""
    folder = tmp_path_factory.mktemp("runs")
    words = {"epochs": 1, "batch_size": 16, "quiet": True}
    contrastill.distill(None, "resnet8", str(four_classes), out=str(folder / "teacher"), **words)
    contrastill.distill(
        str(folder / "teacher"), "resnet8", str(four_classes), out=str(folder / "student"), objectives=["rkd"], **words
    )
    return folder


def test_logits_that_were_not_trained_have_no_accuracy(runs, caplog, capsys):
    assert main(["evaluate", str(runs / "student")]) == 2
    assert (
        "the logits of the student of" in caplog.text and "were not trained, as none of rkd reads them" in caplog.text
    )
    assert "can be measured by evaluation.tasks" in capsys.readouterr().err
    assert not (runs / "student" / "evaluation.json").exists()
    assert main(["evaluate", str(runs / "student"), str(runs / "teacher"), "--json"]) == 0
    assert [row["run"] for row in json.loads(capsys.readouterr().out)] == [str(runs / "teacher")]
    assert main(["evaluate", str(runs / "student"), "evaluation.tasks=[classification]", "--json"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["evaluation.tasks=[classification]", "--baselines", "scratch"],
            "the baseline scratch is for evaluation.tasks=",
        ),
        (["--baselines", "random"], "the baseline random has no head to be measured by: add evaluation.tasks=[segm"),
        (
            ["--baselines", "random,teacher"],
            "teacher has no teacher: leave teacher out of --baselines; and the baseline random has no head",
        ),
        (
            ["evaluation.tasks=[classification]", "evaluation.mode=fine_tuned"],
            "fine_tuned is for evaluation.tasks=[seg",
        ),
    ],
)
def test_a_request_that_nothing_would_be_measured_for_is_refused(runs, arguments, message, capsys):
    assert main(["evaluate", str(runs / "teacher"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_run_of_a_python_dataset_is_evaluated_on_a_named_one(four_classes, tmp_path):
    import torch

    data = torch.utils.data.TensorDataset(torch.rand(16, 3, 16, 16), torch.arange(16) % 4)
    out = str(tmp_path / "run")
    contrastill.distill(None, "resnet8", (data, data), out=out, epochs=1, batch_size=8, quiet=True)
    assert main(["evaluate", out, "data.name=packed", f"data.path={four_classes}", "-q"]) == 0


def test_random_weights_are_no_baseline(runs, four_classes, tmp_path):
    assert main(["evaluate", str(runs / "student"), "evaluation.tasks=[classification]", "--baselines", "random"]) == 0
    page = contrastill.write_report([str(runs / "student")], str(tmp_path / "page.html"), progress=False)
    (row,) = page.rows
    assert row["points_to_baseline"] is None and row["points_to_untrained"] is not None


def test_a_modality_is_made_from_any_stored_one(tmp_path, registries_of_modalities):
    @contrastill.modality("log_events", of="events", channels=2)
    def log_events(events):
        """log(1 + counts)."""
        return events.log1p()

    draw = np.random.default_rng(0)
    counts = draw.poisson(3.0, (16, 8, 8, 2)).astype(np.float32)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        for split in ("train", "test"):
            file[f"{split}/rgb"] = draw.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
            file[f"{split}/events"], file[f"{split}/target"] = counts, np.arange(16) % 4
    contrastill.distill(
        None, "conv5", {"path": str(tmp_path / "data.h5"), "fields": {"rgb": "rgb", "events": "events"}},
        out=str(tmp_path / "run"), student_modality="log_events", epochs=1, batch_size=8, quiet=True,
    )  # fmt: skip
    mean = contrastill.load_student(tmp_path / "run").preprocess.mean
    assert mean == pytest.approx(np.log1p(counts).mean((0, 1, 2)).tolist(), rel=1e-5)


@pytest.fixture
def registries_of_modalities():
    from contrastill.core.registry import MODALITIES

    before = dict(MODALITIES._entries) if len(MODALITIES) else {}
    yield
    MODALITIES._entries.clear()
    MODALITIES._entries.update(before)


def test_label_maps_without_a_label_are_no_task(tmp_path, capsys):
    draw = np.random.default_rng(0)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        for split in ("train", "test"):
            file[f"{split}/rgb"] = draw.integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
            file[f"{split}/semantics"] = np.zeros((8, 16, 16), np.uint8)
            file[f"{split}/target"] = np.arange(8) % 4
    fields = {"rgb": "rgb", "semantics": "semantics"}
    data = {"path": str(tmp_path / "data.h5"), "fields": fields}
    contrastill.distill(None, "conv5", data, out=str(tmp_path / "run"), epochs=1, batch_size=8, quiet=True)
    assert main(["evaluate", str(tmp_path / "run"), "evaluation.tasks=[segmentation]"]) == 2
    assert "no pixel of the label maps of" in capsys.readouterr().err
    with h5py.File(tmp_path / "data.h5", "a") as file:
        for split in ("train", "test"):
            del file[f"{split}/semantics"]
            file[f"{split}/semantics"] = draw.choice([1, 2, 65535], (8, 16, 16)).astype(np.uint16)
    assert main(["evaluate", str(tmp_path / "run"), "evaluation.tasks=[segmentation]"]) == 2
    assert "go to 65535, as if there were as many classes: set data.void=65535 if it" in capsys.readouterr().err
