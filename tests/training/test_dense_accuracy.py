"""Measures of answers at each position against loops over pixels: classes, outlines, depth; over batches and ranks."""

import json
import math
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from contrastill.core.errors import ContrastillError, UsageError
from contrastill.core.representation import Network, Preprocess, Taps
from contrastill.core.windows import predict_in_windows
from contrastill.datasets.io.in_memory import TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.evaluation.dense_predictor import DensePredictor
from contrastill.evaluation.gallery import Gallery
from contrastill.probe.pixel_measures import boundary_f
from contrastill.training.dense_accuracy import (
    LOWER_IS_BETTER,
    DenseMeasures,
    DepthMeasures,
    evaluate_dense,
    measure_dense,
)

SIZE = (12, 16)


class Batches:
    """Frames in batches; each rank has its slice of every batch, which may be empty."""

    def __init__(self, frames, batch_size, rank=0, world=1):
        self.frames, self.batch_size, self.rank, self.world = frames, batch_size, rank, world

    def epoch(self, k, start=0):
        for rows in torch.arange(len(self.frames["rgb"])).split(self.batch_size):
            own = rows.tensor_split(self.world)[self.rank]
            yield {name: values[own] for name, values in self.frames.items()}


class Empty(Batches):
    def epoch(self, k, start=0):
        return iter(())


class Answers(nn.Module):
    """The image's channels as they are, at half the resolution: what the network answers is what the test wrote."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, images):
        return images[:, :, ::2, ::2]


def network_of(channels, module=None):
    preprocess = Preprocess((0.0,) * channels, (1.0,) * channels)
    return Network(module or Answers(), taps=Taps(prediction="output:"), preprocess=preprocess, modality="rgb")


def accelerator():
    return Accelerator(cpu=True)


def frames_of(kind, count=5, seed=0):
    """Logits of 4 classes, of which 4 occurs nowhere in the labels, 2 is hardly predicted; or depths."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count, 1, 3, 4), generator=generator)
    labels = labels.repeat_interleave(4, 2).repeat_interleave(4, 3)
    labels[:, :, 5, 3:9] = -1
    labels[:, :, 6, 3:9] = -100
    if kind == "classes":
        logits = torch.rand(count, 4, *SIZE, generator=generator)
        logits += 0.7 * torch.cat([labels == c for c in (1, 2, 3, 4)], 1)
        logits[:, 1] -= 0.6
        return {"rgb": logits / 4, "semantics": labels}
    depth = 0.5 + 5 * torch.rand(count, 1, *SIZE, generator=generator)
    ours = 0.05 * depth * (0.6 + torch.rand(count, 1, *SIZE, generator=generator))
    depth[:, :, 2:5, 1:7] = math.nan
    depth[:, :, 7, 7] = 0
    depth[:, :, 8, 7] = math.inf
    depth[1] = math.nan
    return {"rgb": ours, "depth": depth}


def enlarged(values, size):
    """Bilinear, by its definition: an output pixel's centre falls between the centres of four input pixels."""
    channels, height, width = values.shape
    result = np.zeros((channels, *size))
    for y in range(size[0]):
        for x in range(size[1]):
            v = min(max((y + 0.5) * height / size[0] - 0.5, 0), height - 1)
            u = min(max((x + 0.5) * width / size[1] - 0.5, 0), width - 1)
            top, left = int(v), int(u)
            low, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = (1 - (u - left)) * values[:, top, left] + (u - left) * values[:, top, right]
            lower = (1 - (u - left)) * values[:, low, left] + (u - left) * values[:, low, right]
            result[:, y, x] = (1 - (v - top)) * upper + (v - top) * lower
    return result


def predictions(frames):
    return [enlarged(frame[:, ::2, ::2].double().numpy(), SIZE) for frame in frames["rgb"]]


# Classes of pixels


def naive_classes(frames, classes=4):
    pairs = [
        (int(logits[:, y, x].argmax()) + 1, int(label[0, y, x]))
        for logits, label in zip(predictions(frames), frames["semantics"], strict=True)
        for y in range(SIZE[0])
        for x in range(SIZE[1])
        if label[0, y, x] > 0
    ]
    ious, accuracies = [], []
    for c in range(1, classes + 1):
        both = sum(p == c and q == c for p, q in pairs)
        either = sum(p == c or q == c for p, q in pairs)
        labelled = sum(q == c for _, q in pairs)
        ious.append(100 * both / either if either else math.nan)
        accuracies += [100 * both / labelled] if labelled else []
    there = [iou for iou in ious if not math.isnan(iou)]
    return {
        "miou": sum(there) / len(there),
        "pixel_accuracy": 100 * sum(p == q for p, q in pairs) / len(pairs),
        "mean_accuracy": sum(accuracies) / len(accuracies),
        "per_class_iou": tuple(ious),
    }


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_classes_are_measured_as_by_loops_over_pixels(batch_size):
    frames = frames_of("classes")
    expected = naive_classes(frames)
    measures = measure_dense(network_of(4), Batches(frames, batch_size), accelerator())
    assert isinstance(measures, DenseMeasures)
    for name, value in expected.items():
        assert getattr(measures, name) == pytest.approx(value, rel=1e-9), name
    assert 30 < measures.miou < 90 and len(set(measures.per_class_iou)) == 4
    short = evaluate_dense(network_of(4), Batches(frames, batch_size), accelerator())
    assert list(short) == ["miou", "pixel_accuracy", "mean_accuracy"]
    assert short == {name: getattr(measures, name) for name in short}


def test_a_class_that_is_nowhere_has_no_iou_and_does_not_count():
    frames = frames_of("classes")
    frames["rgb"][:, 3] = -1  # never predicted either
    measures = measure_dense(network_of(4), Batches(frames, 2), accelerator())
    assert math.isnan(measures.per_class_iou[3])
    assert measures.miou == pytest.approx(sum(measures.per_class_iou[:3]) / 3)


def test_answers_that_are_no_class_of_the_data_are_wrong_and_count_as_no_class():
    frames = frames_of("classes")
    expected = naive_classes(frames, classes=3)  # class 4 is predicted, and the data have three
    measures = measure_dense(network_of(4), Batches(frames, 2), accelerator(), classes=3)
    for name, value in expected.items():
        assert getattr(measures, name) == pytest.approx(value, rel=1e-9), name
    assert measures.miou > 1.3 * measure_dense(network_of(4), Batches(frames, 2), accelerator()).miou
    labels = torch.tensor([[[[1, 1, 1, 2, 2, 2]]]])
    answered = torch.tensor([[[[1, 2, 2, 2, 2, 3]]]])  # the mean of two scores of three, one of which is 0
    assert torch.allclose(boundary_f(answered, labels, classes=2), boundary_f(answered, labels) * 1.5)
    assert boundary_f(answered, labels, classes=3) == boundary_f(answered, labels)
    assert boundary_f(answered + 2, labels.clamp(max=1), classes=2).isnan().all()


def naive_outline(values, labels):
    """Class -> its outline's pixels."""
    outlines = {}
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if (
                    0 <= v < height
                    and 0 <= u < width
                    and labels[y, x] > 0
                    and labels[v, u] > 0
                    and values[y, x] != values[v, u]
                ):
                    outlines.setdefault(int(values[y, x]), set()).add((y, x))
    return outlines


def naive_boundary_f(prediction, labels, tolerance):
    radius = max(1, tolerance * math.hypot(*labels.shape))
    ours, truth = naive_outline(prediction, labels), naive_outline(labels, labels)
    scores = []
    for c in ours.keys() | truth.keys():
        sides = [(ours.get(c, ()), truth.get(c, ())), (truth.get(c, ()), ours.get(c, ()))]
        shares = [
            sum(any(math.dist(p, q) <= radius + 1e-9 for q in others) for p in pixels) / len(pixels) if pixels else 0
            for pixels, others in sides
        ]
        scores.append(2 * shares[0] * shares[1] / sum(shares) if sum(shares) else 0)
    return 100 * sum(scores) / len(scores) if scores else math.nan


@pytest.mark.parametrize("tolerance", [0.0075, 0.1, 0.15, 0.9])
def test_outlines_are_compared_as_by_loops_over_pixels(tolerance):
    # 0.15 of the diagonal of 12×16, which is 20, is a distance of 3 exactly.
    frames = frames_of("classes", 3)
    labels = frames["semantics"]
    noisy = torch.tensor(np.stack([logits.argmax(0) for logits in predictions(frames)])[:, None] + 1)
    near = labels.roll((1, 1), (2, 3)).clamp(min=1)
    for maps in (noisy, near, labels.clamp(min=1)):
        scores = boundary_f(maps, labels, tolerance)
        expected = [
            naive_boundary_f(one[0].numpy(), label[0].numpy(), tolerance)
            for one, label in zip(maps, labels, strict=True)
        ]
        assert scores.tolist() == pytest.approx(expected, rel=1e-12)
    assert scores.tolist() == [100] * 3


@pytest.mark.parametrize(("away", "score"), [(6, 100.0), (7, 0.0)])
def test_the_tolerance_is_three_quarters_of_a_per_cent_of_the_diagonal(away, score):
    labels = torch.ones(1, 1, 480, 640, dtype=torch.uint8)
    labels[..., 300:] = 2
    prediction = torch.ones_like(labels)
    prediction[..., 300 + away :] = 2
    assert boundary_f(prediction, labels).tolist() == [score]


def test_more_classes_than_are_compared_at_a_time():
    generator = torch.Generator().manual_seed(0)
    labels, maps = (torch.randint(1, 20, (2, 1, 9, 9), generator=generator) for _ in range(2))
    expected = [
        naive_boundary_f(one[0].numpy(), label[0].numpy(), 0.0075) for one, label in zip(maps, labels, strict=True)
    ]
    assert boundary_f(maps, labels).tolist() == pytest.approx(expected, rel=1e-12)


def test_frames_without_outlines_are_left_out_of_the_mean():
    frames = frames_of("classes", 3)
    predicted = torch.tensor(np.stack([logits.argmax(0) for logits in predictions(frames)])[:, None] + 1)
    frames["semantics"][1] = 0
    expected = [
        naive_boundary_f(predicted[row, 0].numpy(), frames["semantics"][row, 0].numpy(), 0.0075) for row in (0, 2)
    ]
    measures = measure_dense(network_of(4), Batches(frames, 2), accelerator())
    assert measures.boundary_f == pytest.approx(sum(expected) / 2, rel=1e-9)
    frames["semantics"][:] = torch.where(frames["semantics"] == 1, 1, 0)
    frames["rgb"][:, 0] = 9
    measures = measure_dense(network_of(4), Batches(frames, 2), accelerator())
    assert math.isnan(measures.boundary_f) and measures.miou == 100


# Depth


def naive_depth(frames, align):
    errors, relative, ratios = [], [], []
    for ours, depth in zip(predictions(frames), frames["depth"].double().numpy(), strict=True):
        pixels = [
            (ours[0, y, x], depth[0, y, x])
            for y in range(SIZE[0])
            for x in range(SIZE[1])
            if 0 < depth[0, y, x] < math.inf
        ]
        scale = 1
        if align == "median" and pixels:
            ours_median, median = (float(np.median(side)) for side in zip(*pixels, strict=True))
            scale = median / ours_median if ours_median > 0 else 1
        for p, d in pixels:
            errors.append((scale * p - d) ** 2)
            relative.append(abs(scale * p - d) / d)
            ratios.append(max(scale * p / d, d / (scale * p)) if scale * p > 0 else math.inf)
    return {
        "abs_rel": sum(relative) / len(relative),
        "rmse": math.sqrt(sum(errors) / len(errors)),
        **{f"delta{k}": 100 * sum(ratio < 1.25**k for ratio in ratios) / len(ratios) for k in (1, 2, 3)},
    }


@pytest.mark.parametrize("align", ["none", "median"])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_depth_is_measured_as_by_loops_over_pixels(align, batch_size):
    frames = frames_of("depth")
    frames["rgb"] *= 1 if align == "median" else 15
    frames["rgb"][0, :, 3:6] *= -1  # no depth: never near, whatever the ratio's sign
    if align == "median":
        frames["rgb"][3] *= -1  # a frame without a scale
    expected = naive_depth(frames, align)
    measures = measure_dense(network_of(1), Batches(frames, batch_size), accelerator(), align=align)
    assert isinstance(measures, DepthMeasures) and measures.align == align
    for name, value in expected.items():
        assert getattr(measures, name) == pytest.approx(value, rel=1e-5), name
    assert 5 < measures.delta1 < measures.delta2 < measures.delta3 < 99
    short = evaluate_dense(network_of(1), Batches(frames, batch_size), accelerator(), align=align)
    # The best epoch is chosen by the first one.
    assert {*short} == {*expected} >= LOWER_IS_BETTER and next(iter(short)) == "delta1"
    assert short == {name: getattr(measures, name) for name in short}


def test_the_median_takes_away_a_scale_of_each_frame():
    frames = frames_of("depth")
    scaled = {**frames, "rgb": frames["rgb"] * torch.tensor([0.1, 1, 0.5, 2, 3]).reshape(5, 1, 1, 1)}
    first, second = (evaluate_dense(network_of(1), Batches(each, 3), accelerator(), align="median") for each in
                     (frames, scaled))  # fmt: skip
    assert first == pytest.approx(second, rel=1e-5)


# Both


def test_flags_and_statistics_are_as_before():
    network = network_of(4).train()
    network.module.norm.eval()
    evaluate_dense(network, Batches(frames_of("classes"), 2), accelerator())
    assert network.training and network.module.training and not network.module.norm.training


def test_large_images_are_measured_in_windows():
    frames, network = frames_of("classes"), network_of(4, nn.Conv2d(4, 4, 1))
    whole = measure_dense(network, Batches(frames, 2), accelerator())
    windows = partial(predict_in_windows, network, window=8, stride=6)
    result = measure_dense(network, Batches(frames, 2), accelerator(), predict=windows)
    assert result.per_class_iou == pytest.approx(whole.per_class_iou, nan_ok=True)
    assert result.boundary_f == pytest.approx(whole.boundary_f)


class Damaged(Answers):
    """NaN where the image has a value above 50."""

    def forward(self, images):
        return super().forward(images.where(images < 50, math.nan))


@pytest.mark.parametrize(("kind", "channels"), [("classes", 4), ("depth", 1)])
def test_what_is_damaged_or_has_nothing_to_compare_with_is_refused(kind, channels):
    frames, network = frames_of(kind), network_of(channels)

    with pytest.raises(ContrastillError, match="Damaged gives NaN"):
        broken = {**frames, "rgb": frames["rgb"].clone()}
        broken["rgb"][1, :, 4, 4] = 60
        evaluate_dense(network_of(channels, Damaged()), Batches(broken, 2), accelerator())
    with pytest.raises(UsageError, match="have no (semantics|depth) to compare with: they have rgb"):
        evaluate_dense(network, Batches({"rgb": frames["rgb"]}, 2), accelerator())
    truth = {"classes": "semantics", "depth": "depth"}[kind]
    with pytest.raises(UsageError, match="no pixel of the test frames"):
        evaluate_dense(network, Batches({**frames, truth: torch.zeros_like(frames[truth])}, 2), accelerator())
    with pytest.raises(UsageError, match="has no batches"):
        evaluate_dense(network, Empty(frames, 2), accelerator())


def test_labels_beyond_the_classes_and_an_unknown_alignment_are_refused():
    frames = frames_of("classes")
    with pytest.raises(UsageError, match="hold class 3, and num_classes is 2"):
        evaluate_dense(network_of(2), Batches({**frames, "rgb": frames["rgb"][:, :2]}, 2), accelerator())
    with pytest.raises(UsageError, match="align is 'mean'"):
        evaluate_dense(network_of(1), Batches(frames_of("depth"), 2), accelerator(), align="mean")


RANK = """
import sys, json, runpy
from dataclasses import asdict
rank, world, file, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
names = runpy.run_path(file)
results = {}
for kind, channels, align in (("classes", 4, "none"), ("depth", 1, "none"), ("depth", 1, "median")):
    loader = names["Batches"](names["frames_of"](kind), 2, rank, world)
    measures = names["measure_dense"](names["network_of"](channels), loader, names["accelerator"](), align=align)
    results[f"{kind} {align}"] = asdict(measures)
open(f"{out}/{rank}.json", "w").write(json.dumps(results))
# A prediction that is NaN on one rank alone ends all of them.
frames = names["frames_of"]("classes")
frames["rgb"][0, :, 4, 4] = 60
damaged = names["network_of"](4, names["Damaged"]())
try:
    names["evaluate_dense"](damaged, names["Batches"](frames, 2, rank, world), names["accelerator"]())
except names["ContrastillError"]:
    open(f"{out}/{rank}.refused", "w")
"""


def test_ranks_measure_what_one_process_measures(ranks, tmp_path):
    # Of the last batch, one frame, the second rank has none.
    ranks(RANK, 2, __file__, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second and len(list(tmp_path.glob("*.refused"))) == 2
    for key, measures in first.items():
        kind, align = key.split()
        loader = Batches(frames_of(kind), 2)
        alone = asdict(measure_dense(network_of(4 if kind == "classes" else 1), loader, accelerator(), align=align))
        assert measures.pop("per_class_iou", None) == (list(alone.pop("per_class_iou")) if kind == "classes" else None)
        assert measures.pop("align", None) == alone.pop("align", None)
        assert measures == pytest.approx(alone, rel=1e-12)


# The picture


def test_a_network_is_drawn_beside_the_truth(tmp_path):
    images = {
        "rgb": PaddedImages(torch.randint(256, (6, 12, 16, 3), dtype=torch.uint8), 0),
        "semantics": PaddedImages(torch.randint(0, 5, (6, 12, 16, 1), dtype=torch.uint8), 0),
    }
    split = TensorSplit(images, semantic_classes=["unlabelled", "wall", "floor", "chair", "table"])
    split.split = split  # as the evaluation of a run wraps it
    gallery, device = Gallery(), torch.device("cpu")
    for role in ("teacher", "student"):
        network = network_of(3, nn.Conv2d(3, 4, 3, stride=2, padding=1))
        assert gallery.add(role, role, DensePredictor(network), split, "semantics", device)
    network.train()
    whole = DensePredictor(network).predict({"rgb": torch.rand(2, 3, 12, 16)}, (24, 32))
    assert whole.shape == (2, 1, 24, 32) and whole.dtype == torch.int64 and network.training
    assert set(whole.unique().tolist()) <= {1, 2, 3, 4}
    windows = DensePredictor(network_of(4, nn.Conv2d(4, 4, 1)), window=(8, 8))
    maps = windows.predict({"rgb": frames_of("classes")["rgb"]}, SIZE)
    assert torch.equal(maps, DensePredictor(windows.network).predict({"rgb": frames_of("classes")["rgb"]}, SIZE))
    assert gallery.draw(tmp_path / "strip.png").stat().st_size > 1000
