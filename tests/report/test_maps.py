"""The report's maps of embeddings: the samples that they show, and their colours, which are of classes that the samples
have.
"""

import shutil

import h5py
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from contrastill.cli.main import main
from contrastill.report.reproduce import embeddings
from contrastill.report.runs import find
from contrastill.training.data import spaced_batches
from helpers.pages import Page


@pytest.fixture(scope="module")
def run(four_classes, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "student"
    data = [f"data.path={four_classes}", "student.model=resnet8", "train.epochs=1", "train.batch_size=16"]
    assert main(["train", "teachers/cifar100", *data, f"out={out}", "-q"]) == 0
    return out


def mapped(run, folder, targets, **data):
    """The map of the run's student on test samples with these labels."""
    copy = folder / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("step-*"))
    generator = np.random.default_rng(0)
    with h5py.File(folder / "data.h5", "w") as file:
        file.attrs["classes"] = ["a", "b", "c", "d"]
        for split in ("train", "test"):
            file[f"{split}/rgb"] = generator.integers(0, 256, (len(targets), 8, 8, 3), dtype=np.uint8)
            if data.get("target", True) is not None:
                file[f"{split}/target"] = targets
    config = OmegaConf.load(copy / "config.yaml")
    config.data.path = str(folder / "data.h5")
    config.data.update(data)
    OmegaConf.save(config, copy / "config.yaml")
    page = folder / "page.html"
    page.write_text(embeddings(find([str(copy)])).body, encoding="utf-8")
    return Page(page)


@pytest.mark.parametrize(("samples", "shown"), [(750, 400), (450, 400), (64, 64)])
def test_a_map_is_of_samples_from_all_of_the_split(run, tmp_path, samples, shown):
    page = mapped(run, tmp_path, np.sort(np.arange(samples) % 4))
    assert f"{shown} test samples" in page.text and "not coloured" not in page.text
    counts = [int(page.text.partition(f"{name} (")[2].partition(")")[0]) for name in "abcd"]
    assert sum(counts) == shown and max(counts) - min(counts) <= 2


@pytest.mark.parametrize("labels", ["several", "none"])
def test_samples_without_one_class_each_have_no_legend_of_classes(run, tmp_path, labels):
    several = (np.random.default_rng(0).random((40, 4)) > 0.6).astype(np.uint8)
    page = mapped(run, tmp_path, several, **({"target": None} if labels == "none" else {}))
    assert "40 test samples" in page.text and "no single class for each sample" in page.text
    assert "a (" not in page.text and "class 0" not in page.text
    assert not any("legend" in (attrs.get("class") or "") for _, attrs in page.attributes)


class OwnLoader:
    """As somebody's own may be: without ``in_order``."""

    num_samples = 30

    def __len__(self):
        return 15

    def epoch(self, k, start=0):
        return ({"index": torch.tensor([2 * place, 2 * place + 1])} for place in range(start, len(self)))


def test_of_a_loader_of_ones_own_batches_are_evenly_spaced():
    rows = torch.cat([batch["index"] for batch in spaced_batches(OwnLoader(), 16, 2)])
    assert rows.tolist() == [0, 1, 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27]
