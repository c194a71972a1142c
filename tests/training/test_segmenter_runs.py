"""Runs of networks that answer for each position: measured, cached, resumed, matched by the names of classes."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch

import contrastill
from contrastill.core.config.loading import load_config
from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.run import Run
from contrastill.datasets.io.subset import split_off
from contrastill.evaluation.evaluate import evaluate_runs
from contrastill.models.recipe import read_recipe
from contrastill.objectives.pixel_cross_entropy import PixelCrossEntropy
from contrastill.probe.pixel_measures import measures_of
from contrastill.training.assemble import assemble
from contrastill.training.checkpoint import checkpoints
from contrastill.training.data import open_split
from contrastill.training.pixel_labels import measurable_samples
from contrastill.training.run import train_run

NAMES = ["unlabelled", "bed", "floor", "wall"]
SHADES = {"bed": 40, "floor": 120, "wall": 220}


def pack(path, names, *, labelled=True, count=16, seed=0):
    """Frames of blocks whose shade and depth say their class; a quarter of the pixels has no label."""
    draw = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for split in ("train", "test"):
            classes = draw.integers(1, len(names), (count, 3, 4)).repeat(4, 1).repeat(4, 2)
            shade = np.array([0, *(SHADES[name] for name in names[1:])])[classes]
            noise = draw.integers(-15, 15, (count, 12, 16, 3))
            file[f"{split}/rgb"] = (shade[..., None] + noise).clip(0, 255).astype(np.uint8)
            file[f"{split}/depth"] = (shade / 100 + 0.5).astype(np.float32)
            if labelled:
                hidden = draw.random(classes.shape) < 0.25
                file[f"{split}/semantics"] = np.where(hidden, 0, classes).astype(np.uint8)
        if labelled:
            file.attrs["semantic_classes"] = names
    return str(path)


def config(path, out, *overrides, objective="pixel_cross_entropy", labelled=True):
    fields = "{rgb: rgb, depth: depth" + (", semantics: semantics}" if labelled else "}")
    return load_config(
        "teachers/paired_folder_segmentation",
        [
            "data={name: packed}",
            f"data.path={path}",
            f"data.fields={fields}",
            "data.target=null",
            "data.crop_padding=0",
            "student={model: fpn/resnet8}",
            "objectives={}",
            f"objectives.{objective}.weight=1",
            "train={epochs: 4, batch_size: 8, optimizer: adamw, lr: 5e-3}",
            f"out={out}",
            *overrides,
        ],
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("segmenters")


@pytest.fixture(scope="module")
def data(folder):
    return pack(folder / "data.h5", NAMES)


@pytest.fixture(scope="module")
def run(folder, data):
    """An RGB segmenter of bed, floor and wall."""
    train_run(config(data, folder / "rgb"), progress=False)
    return Run(folder / "rgb")


def test_a_segmenter_is_measured_by_its_own_prediction(folder, data, run):
    last = run.history()[-1]
    (row,) = evaluate_runs([run.path]).rows
    network = contrastill.load_student(run.path)
    with h5py.File(data) as file:
        images, labels = torch.from_numpy(file["test/rgb"][:]), torch.from_numpy(file["test/semantics"][:]).long()
    with torch.no_grad():
        predicted = network(network.preprocess(images.permute(0, 3, 1, 2))).argmax(1) + 1
    ious = []
    for number in (1, 2, 3):
        ours, truth = (predicted == number) & (labels > 0), labels == number
        ious.append(100 * (ours & truth).sum().item() / (ours | truth).sum().item())
    assert row.scores.per_class_iou == pytest.approx(ious, abs=1e-3) and min(ious) > 50
    assert row.scores.miou == pytest.approx(np.mean(ious), abs=1e-3) == pytest.approx(last["miou"], abs=1e-3)
    assert row.scores.classes == ("bed", "floor", "wall") and network.classes == ["bed", "floor", "wall"]
    assert (run.path / "predictions.png").stat().st_size > 5000
    assert json.loads((run.path / "evaluation.json").read_text())["rows"][0]["classes"] == ["bed", "floor", "wall"]


def test_a_sensor_learns_from_the_rgb_segmenter_without_a_label(folder, run):
    pairs = pack(folder / "pairs.h5", NAMES, labelled=False, seed=1)
    labelled = pack(folder / "other_order.h5", ["unlabelled", "wall", "bed", "floor"], seed=2)
    chosen = config(
        pairs,
        folder / "depth",
        f"teachers=[{{model: fpn/resnet8, weights: {run.path}}}]",
        "student.modality=depth",
        "train.views=1",
        "train.epochs=8",
        objective="dense_kd",
        labelled=False,
    )
    train_run(chosen, progress=False)
    # Names come with the teacher, and what the numbers of other data mean is told by them.
    assert read_recipe(folder / "depth" / "student.safetensors")["classes"] == ("bed", "floor", "wall")
    fields = "evaluation.data.fields={rgb: rgb, depth: depth, semantics: semantics}"
    rows = evaluate_runs([folder / "depth"], [fields, f"evaluation.data.path={labelled}"], teachers=True).rows
    assert {row.role: row.scores.classes for row in rows} == {
        role: ("wall", "bed", "floor") for role in ("student", "teacher")
    }
    assert all(row.scores.miou > 50 for row in rows), [row.scores for row in rows]


def test_a_teacher_of_the_same_classes_in_another_order_is_matched_by_name(folder, run):
    other = pack(folder / "order.h5", ["unlabelled", "wall", "bed", "floor"], seed=3)
    teachers = f"teachers=[{{model: fpn/resnet8, weights: {run.path}}}]"
    transfer = assemble(config(other, folder / "unused", teachers, objective="dense_kd")).transfer
    assert transfer.teachers[0].classes.tolist() == [2, 0, 1]
    renamed = pack(folder / "names.h5", NAMES, seed=3)
    with h5py.File(renamed, "a") as file:
        file.attrs["semantic_classes"] = ["unlabelled", "ceiling", "bed", "floor"]
    with pytest.raises(UsageError, match=r"ceiling.*class_map"):
        assemble(config(renamed, folder / "unused", teachers, objective="dense_kd"))
    mapped = f"teachers=[{{model: fpn/resnet8, weights: {run.path}, class_map: {{wall: ceiling}}}}]"
    transfer = assemble(config(renamed, folder / "unused", mapped, objective="dense_kd")).transfer
    assert transfer.teachers[0].classes.tolist() == [2, 0, 1]


def test_of_data_of_some_of_its_classes_the_mean_is_over_those(folder, run):
    two = pack(folder / "two.h5", ["unlabelled", "wall", "bed"], seed=3)
    with h5py.File(two, "r+") as file:
        file["test/rgb"][:, :4] = SHADES["floor"]  # what is answered there is no class of these data
    (row,) = evaluate_runs([run.path], [f"evaluation.data.path={two}"]).rows
    wall, bed = row.scores.per_class_iou
    assert row.scores.classes == ("wall", "bed") and 40 < min(wall, bed) and max(wall, bed) < 90
    assert row.scores.miou == pytest.approx((wall + bed) / 2, abs=1e-3)


@pytest.mark.parametrize(
    "cache",
    [
        [],
        ["cache.precision=fp16"],
        ["cache.prediction=2", "cache.precision=fp16"],
        ["train.teacher_cache={folder}/outputs"],
    ],
)
def test_cached_predictions_are_those_of_the_live_teacher(folder, data, run, cache):
    cache = [one.format(folder=folder) for one in cache]
    teachers = f"teachers=[{{model: fpn/resnet8, weights: {run.path}}}]"
    losses = []
    for more in ([], ["train.views=1", *cache]):
        parts = assemble(config(data, folder / "unused", teachers, *more, objective="dense_kd"))
        parts.transfer.source.start_epoch(0)
        batch = next(iter(parts.train.epoch(0)))
        parts.transfer.eval()
        losses.append(parts.transfer(batch).loss.item())
    # Of three classes two are kept, and the third has what is left.
    assert losses[1] == pytest.approx(losses[0], rel=2e-3 if "cache.precision=fp16" in cache else 1e-5)


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(folder, data, run):
    teachers = f"teachers=[{{model: fpn/resnet8, weights: {run.path}}}]"
    more = [teachers, "objectives.dense_kd.weight=1", "objectives.cwd.weight=1", "train.checkpoint_every=1"]
    train_run(config(data, folder / "whole", *more), progress=False)
    shutil.copytree(folder / "whole", folder / "stopped")
    stopped = Run(folder / "stopped")
    stopped.student.unlink()
    shutil.rmtree(checkpoints(stopped.checkpoints)[-1])
    train_run(config(data, folder / "stopped", *more), progress=False)
    assert stopped.student.read_bytes() == Run(folder / "whole").student.read_bytes()


@pytest.mark.parametrize(
    ("measure", "more"),
    [("miou", {}), ("delta1", {"objective": "scale_invariant"}), ("miou", {"teacher": True, "objective": "dense_kd"})],
)
def test_the_best_epoch_on_validation_samples_is_saved_beside_the_last(folder, data, run, measure, more):
    out = Run(folder / f"validated_{measure}_{more.get('objective')}")
    overrides = ["train.validation=0.25", f"student.num_classes={1 if measure == 'delta1' else 3}", "train.lr=0.02"]
    overrides += [f"teachers=[{{model: fpn/resnet8, weights: {run.path}}}]"] if more.get("teacher") else []
    chosen = config(data, out.path, *overrides, objective=more.get("objective", "pixel_cross_entropy"))
    train_run(chosen, progress=False)
    column = [row[f"validation_{measure}"] for row in out.history()]
    assert len(column) == 4 and measure in out.history()[-1]
    split = open_split(chosen, "train")
    part = split_off(split, 0.25, 0, measurable=measurable_samples(split, chosen.student))[1]
    (batch,) = part.loader(batch_size=16, device="cpu", train=False).epoch(0)
    assert len(batch["rgb"]) == 4
    best = contrastill.load_student(out.best_student)
    with torch.no_grad():
        predicted = best(best.preprocess(batch["rgb"]))
    if measure == "miou":
        value = measures_of_maps(predicted.argmax(1, keepdim=True) + 1, batch["semantics"], 3)["miou"]
    else:
        ratio = predicted / batch["depth"]
        value = 100 * ((ratio > 1 / 1.25) & (ratio < 1.25)).float().mean().item()
    assert value == pytest.approx(max(column), abs=1e-2)


def test_samples_without_labels_stay_in_the_training(folder, tmp_path):
    with h5py.File(pack(tmp_path / "mixed.h5", NAMES), "r+") as file:
        file["train/semantics"][2:12] = 0
        file["train/depth"][8:] = 0
    labels, depth = (
        config(str(tmp_path / "mixed.h5"), tmp_path / "run", f"student.num_classes={count}") for count in (3, 1)
    )
    split = open_split(labels, "train")
    for chosen, expected in ((labels, [0, 1, 12, 13, 14, 15]), (depth, [*range(8)])):
        measurable = measurable_samples(split, chosen.student)
        assert measurable.nonzero()[:, 0].tolist() == expected
        rest, part = split_off(split, 0.5, 0, measurable=measurable)
        (batch,) = part.loader(batch_size=16, device="cpu", train=False).epoch(0)
        shown = batch["semantics" if chosen is labels else "depth"]
        assert len(shown) == len(expected) // 2 and (shown > 0).flatten(1).any(1).all()
        assert rest.num_samples + part.num_samples == 16
    with pytest.raises(UsageError, match="validation=0.05 of 6 samples with labels leaves nothing to validate on"):
        split_off(split, 0.05, 0, measurable=measurable_samples(split, labels.student))


def measures_of_maps(predicted, labels, classes):
    there = labels > 0
    pairs = (labels[there].long() - 1) * classes + predicted[there] - 1
    return measures_of(torch.bincount(pairs, minlength=classes**2).view(classes, classes))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"labelled": False}, "mIoU of the student's prediction, and the training split has no semantics to compare"),
        (
            {"objective": "pixel_cross_entropy", "overrides": ["student.num_classes=5", "teachers=[]"]},
            "that has 5 classes and the label maps 3: give the student 3, or leave it out",
        ),
        ({"unlabelled": True}, "none of the 1 samples set apart has a pixel with semantics: set"),
        ({"objective": "fitnet"}, "mIoU of the student's prediction, and no objective trains that: leave it out"),
    ],
)
def test_samples_by_which_a_segmenter_cannot_be_validated_are_refused(folder, run, more, message):
    path = pack(folder / f"{len(message)}.h5", NAMES, labelled=more.get("labelled", True))
    overrides = [f"teachers=[{{model: fpn/resnet8, weights: {run.path}}}]", "train.validation=0.07"]
    options = {"objective": more.get("objective", "dense_kd"), "labelled": more.get("labelled", True)}
    if more.get("unlabelled"):
        with h5py.File(path, "r+") as file:
            file["train/semantics"][:] = 0
    with pytest.raises(UsageError, match=rf"^train\.validation measures .*{message}"):
        assemble(config(path, folder / "unused", *overrides, *more.get("overrides", []), **options))


RANK = """
import sys, runpy, torch
rank, world, file, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.distributed.init_process_group("gloo")
names = runpy.run_path(file)
torch.save(names["share_of_gradient"](rank), f"{out}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


def share_of_gradient(rank=None):
    """The gradient of a batch, or of one process's three or two samples of it, weighted by their number."""
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(5, 3, 4, 6, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, 4, (5, 1, 8, 12), generator=generator)
    labels[0] = 0
    labels[1, :, :6] = 0
    rows = slice(0, 5) if rank is None else slice(0, 3) if rank == 0 else slice(3, 5)
    loss = PixelCrossEntropy()(prediction[rows], semantics=labels[rows])
    (loss * len(labels[rows]) / 5).backward()
    return loss.detach(), prediction.grad


def test_processes_weigh_all_labelled_pixels_alike(ranks, tmp_path):
    ranks(RANK, 2, __file__, tmp_path)
    shares = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    loss, gradient = share_of_gradient()
    torch.testing.assert_close(shares[0][1] + shares[1][1], gradient, rtol=1e-10, atol=1e-12)
    assert (3 * shares[0][0] + 2 * shares[1][0]).item() / 5 == pytest.approx(loss.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objectives={kd: {weight: 1}}"], r"objective kd .*answers for each position.*dense_kd"),
        (["teachers=[{model: resnet8, num_classes: 3}]"], r"teacher 0 \(resnet8\) answers for the sample"),
        (["student.num_classes=2"], r"3 classes|3 channels"),
        (["student.model=resnet8"], r"objective dense_kd"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(folder, data, run, overrides, message):
    teachers = f"teachers=[{{model: fpn/resnet8, weights: {run.path}}}]"
    with pytest.raises(UsageError, match=message):
        assemble(config(data, folder / "unused", teachers, *overrides, objective="dense_kd"))


def test_labels_beyond_the_named_classes_are_refused(folder):
    beyond = pack(folder / "beyond.h5", NAMES)
    with h5py.File(beyond, "a") as file:
        file["train/semantics"][0, 0, 0] = 9
    with pytest.raises(ContrastillError, match="holds the label 9, and 3 are named"):
        train_run(config(beyond, folder / "beyond"), progress=False)


def test_depth_is_predicted_from_rgb(folder, data):
    train_run(
        config(
            data,
            folder / "metres",
            "student.num_classes=1",
            "train.epochs=6",
            objective="scale_invariant",
            labelled=False,
        ),
        progress=False,
    )
    last = Run(folder / "metres").history()[-1]
    network = contrastill.load_student(folder / "metres")
    with h5py.File(data) as file:
        images, depth = torch.from_numpy(file["test/rgb"][:]), torch.from_numpy(file["test/depth"][:])
    with torch.no_grad():
        predicted = network(network.preprocess(images.permute(0, 3, 1, 2)))[:, 0]
    assert last["abs_rel"] == pytest.approx(((predicted - depth).abs() / depth).mean().item(), rel=1e-4)
    (row,) = evaluate_runs([folder / "metres"]).rows
    assert row.scores.abs_rel == pytest.approx(last["abs_rel"], rel=1e-4) and row.scores.align == "none"
    assert last["loss"] < Run(folder / "metres").history()[0]["loss"] / 4
