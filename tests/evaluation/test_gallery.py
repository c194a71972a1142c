"""The picture of segmentations: pixels without a label are black, whatever marks them, and no number is lost with a
picture that fails.
"""

import json

import numpy as np
import pytest
import torch

import contrastill
from contrastill.core.config.loading import to_yaml
from contrastill.core.config.validation import validate
from contrastill.core.errors import ContrastillError
from contrastill.core.registry import DATASETS
from contrastill.datasets.io.in_memory import AugmentOptions, TensorSplit
from contrastill.datasets.io.views import PaddedImages
from contrastill.evaluation import gallery as galleries
from contrastill.models.build import build_network, save_student
from contrastill.plots import strips as drawing
from contrastill.plots.strips import Strips, draw_strips

MARKS = {"zero": 0, "minus_one": -1, "minus_hundred": -100}


class Marked:
    """Label maps of two classes whose unlabelled pixels have a mark."""

    Options = AugmentOptions
    mark = 0

    def __init__(self, options):
        pass

    def open(self, split):
        draw = torch.Generator().manual_seed(0)
        labels = torch.randint(1, 3, (6, 8, 8, 1), generator=draw)
        labels[torch.rand(labels.shape, generator=draw) < 0.3] = self.mark
        images = {"rgb": torch.randint(256, (6, 8, 8, 3), generator=draw, dtype=torch.uint8), "semantics": labels}
        stored = {}
        for name, values in images.items():
            stored[name] = PaddedImages.zeros(*values.shape, dtype=values.dtype, padding=0)
            stored[name].interior[:] = values
        return TensorSplit(stored, semantic_classes=["unlabelled", "bed", "sofa"])


@pytest.fixture(scope="module")
def registered():
    """Those data sets, for the tests here alone: others compare what is registered with the reference."""
    for name, value in MARKS.items():
        DATASETS.register(f"test_gallery_{name}")(type(f"Marked_{name}", (Marked,), {"mark": value}))
    yield
    for name in MARKS:
        del DATASETS._entries[f"test_gallery_{name}"], DATASETS._specs[f"test_gallery_{name}"]


@pytest.fixture(scope="module")
def runs(registered, tmp_path_factory):
    """A segmenter on the data of each mark."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    network = build_network("unet/resnet8", num_classes=2)
    for mark in MARKS:
        run = folder / mark
        run.mkdir()
        config = {
            "out": str(run),
            "data": {"name": f"test_gallery_{mark}"},
            "student": {"model": "unet/resnet8"},
            "objectives": {"pixel_cross_entropy": {"weight": 1}},
        }
        (run / "config.yaml").write_text(to_yaml(validate(config)))
        (run / "metrics.jsonl").write_text(json.dumps({"epoch": 0, "step": 1, "miou": 20.0}) + "\n")
        save_student(network, run / "student.safetensors")
    return folder


def test_every_mark_of_an_unlabelled_pixel_gives_the_same_picture(runs, monkeypatch):
    drawn = []
    monkeypatch.setattr(galleries, "draw_strips", lambda shown, path, title: drawn.append(shown))
    # Frames that differ in the mark alone are the same frames.
    rows = contrastill.evaluate_runs([runs / mark for mark in MARKS], progress=False).to_dict()
    assert len({row["miou"] for row in rows}) == 1 and len(drawn[0].predictions) == 3
    assert np.unique(drawn[0].labels).tolist() == [0, 1, 2]


@pytest.mark.parametrize("mark", [-1, -100])
def test_strips_are_black_where_nothing_is_labelled(mark, tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    shown = []
    monkeypatch.setattr(Axes, "imshow", lambda axes, image, **options: shown.append(image))
    labels, prediction = np.array([[[1, 2, 0, mark]]]), np.array([[[1, 2, 2, 3]]])
    names = ["unlabelled", "bed", "sofa", "table"]
    draw_strips(Strips(labels, [("net", prediction)], names), tmp_path / "a.png", title="frames")
    truth, predicted = shown
    assert not truth[0, 2:].any() and (truth[0, :2] == drawing.class_colours(3)[[1, 2]]).all()
    assert (predicted[0] == drawing.class_colours(3)[[1, 2, 2, 3]]).all()


@pytest.mark.parametrize("error", [IndexError("out of bounds"), OSError(28, "No space left"), ContrastillError("x")])
def test_a_picture_that_fails_costs_no_number(runs, monkeypatch, caplog, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(galleries, "draw_strips", fail)
    result = contrastill.evaluate_runs(runs / "zero", progress=False)
    assert result.picture is None and len(result.rows) == 1
    assert "predictions.png could not be drawn (" in caplog.text
