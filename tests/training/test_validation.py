"""train.validation: samples apart from the training's, and the student of the best epoch."""

import json
from collections import Counter

import pytest
import torch
from PIL import Image

from contrastill.cli.main import main
from contrastill.core.config.loading import load_config
from contrastill.core.errors import UsageError
from contrastill.core.registry import DATASETS
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.subset import split_off
from contrastill.datasets.io.views import PaddedImages
from contrastill.models.build import load_student
from contrastill.models.recipe import read_recipe
from contrastill.plots import curves
from contrastill.training.data import open_split

KEYS = ["train.validation=0.25", "train.ema=0.5", "train.evaluate_every=1"]


def folder_of_images(root):
    for number in range(24):
        path = root / "train" / f"class{number % 3}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (10 * number, 0, 0)).save(path)
    options = {"path": str(root), "size": 8, "workers": 0, "test_fraction": 0.2, "crop": "none", "flip": False}
    return DATASETS["image_folder"](DATASETS["image_folder"].Options(**options)).open("train")


def samples(split):
    """(red, target) of each sample, as its loader hands it out."""
    loader = split.loader(batch_size=5, device="cpu", train=False)
    return [
        (int(image[0, 0, 0]), int(target))
        for batch in loader.epoch(0)
        for image, target in zip(batch["rgb"], batch["target"], strict=True)
    ]


def test_a_share_of_each_class_is_split_off_files(tmp_path):
    split = folder_of_images(tmp_path)
    rest, part = split_off(split, 0.5, 0)
    everything, first, second = samples(split), samples(rest), samples(part)
    assert sorted(first + second) == sorted(everything) and not set(first) & set(second)
    counts = Counter(target for _, target in everything)
    assert Counter(target for _, target in second) == {label: round(count / 2) for label, count in counts.items()}
    indices = [batch["index"] for batch in rest.loader(batch_size=5, device="cpu", train=True).epoch(1)]
    assert torch.cat(indices).sort().values.tolist() == list(range(rest.num_samples))
    assert samples(split_off(split, 0.5, 1)[1]) != second
    # Of a part again: rows of rows.
    halves = [samples(part) for part in split_off(rest, 0.5, 0)]
    assert sorted(halves[0] + halves[1]) == sorted(first)


def test_a_share_of_each_class_is_split_off_tensors(four_classes):
    split = open_split(load_config("teachers/cifar100", [f"data.path={four_classes}"]), "train")
    rest, part = split_off(split, 0.25, 0)
    assert torch.bincount(part.targets).tolist() == [3] * 4 and torch.bincount(rest.targets).tolist() == [9] * 4
    assert sorted(samples(rest) + samples(part)) == sorted(samples(split))


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_share_that_leaves_nothing_is_refused(four_classes, share):
    split = open_split(load_config("teachers/cifar100", [f"data.path={four_classes}"]), "train")
    with pytest.raises(UsageError, match="leaves nothing to"):
        split_off(split, share, 0)


def test_a_share_without_a_mark_is_refused():
    """Of samples that may have any number of classes: their mAP would be NaN, and no epoch the best."""
    images = PaddedImages.zeros(20, 4, 4, 3, dtype=torch.uint8, padding=0)
    marks = torch.zeros(20, 3)
    split = TensorSplit({"rgb": images}, label_vectors=marks, num_classes=3)
    for share, seed in ((0.3, 0), (0.3, 1)):
        marks[:] = 0
        with pytest.raises(UsageError, match="takes 6 samples, none of which is marked with a class"):
            split_off(split, share, seed)
        marks[:, 1] = 1
        assert split_off(split, share, seed)[1].label_vectors.sum() == 6


def test_the_best_epoch_is_saved_beside_the_last_and_a_stopped_run_ends_in_the_same_files(
    short_training, tmp_path, capsys
):
    outs = [tmp_path / "whole", tmp_path / "resumed"]
    assert main([*short_training, *KEYS, f"out={outs[0]}"]) == 0
    assert main([*short_training, *KEYS, "train.epochs=3", f"out={outs[1]}"]) == 0
    for newest in sorted((outs[1] / "checkpoints").glob("step-*"))[1:]:
        for file in newest.iterdir():
            file.write_bytes(b"cut off")
    (outs[1] / "student.safetensors").unlink()
    assert main([*short_training, *KEYS, f"out={outs[1]}"]) == 0
    rows = [[json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()] for out in outs]
    assert [row["validation_top1"] for row in rows[0]] == [row["validation_top1"] for row in rows[1]]
    for name in ("student.safetensors", "student_best.safetensors"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()
    best = load_student(outs[0] / "student_best.safetensors")
    split = split_off(open_split(load_config(str(outs[0] / "config.yaml")), "train"), 0.25, 0)[1]
    (batch,) = split.loader(batch_size=12, device="cpu", train=False).epoch(0)
    with torch.no_grad():
        answers = best(best.preprocess(batch["rgb"])).argmax(1)
    assert 100 * (answers == batch["target"]).float().mean() == pytest.approx(
        max(row["validation_top1"] for row in rows[0])
    )
    assert read_recipe(outs[0] / "student_best.safetensors") == read_recipe(outs[0] / "student.safetensors")


def test_validation_and_norms_are_no_terms_of_the_loss(short_training, tmp_path, capsys, monkeypatch):
    charts, out = [], tmp_path / "run"
    monkeypatch.setattr(curves, "draw_charts", lambda drawn, path: charts.extend(drawn))
    assert main([*short_training[:-1], *KEYS, "train.clip_norm=1", "train.epochs=1", f"out={out}"]) == 0
    assert "student_best.safetensors (of the best validated epoch)" in capsys.readouterr().err
    loss, accuracy = charts[:2]
    assert [series.name for series in loss.series] == ["loss"]
    assert any(series.name.startswith("top-1 on the validation samples") for series in accuracy.series)
    assert main(["report", str(out), "-q"]) == 0
    page = (out / "report.html").read_text()
    assert "Top-1 on the validation samples, %" in page and "Norm of the gradient before it was clipped" in page
    assert "validation_top1, before its weight" not in page


def test_an_unlabelled_or_untrained_answer_is_refused(four_classes, tmp_path, capsys):
    arguments = ["train", "compression/cifar100_crd", f"data.path={four_classes}", "teachers.0.model=resnet8"]
    arguments += ["teachers.0.weights=null", "teachers.0.num_classes=4"]
    arguments += ["student.model=resnet8", "objectives.cross_entropy=null", "train.validation=0.25"]
    assert main([*arguments, f"out={tmp_path / 'run'}"]) == 2
    assert "no objective trains logits" in capsys.readouterr().err
