"""The lines that an evaluation prints about its data are of the samples that its numbers are measured on."""

import numpy as np
import pytest
from PIL import Image

from contrastill.cli.main import main

DRAW = np.random.default_rng(0)


def images(folder, count):
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            picture = DRAW.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(picture).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lines")
    images(folder / "own", 30), images(folder / "other", 10)
    command = ["train", "teachers/image_folder", f"data.path={folder / 'own'}", "data.size=16", "data.workers=0"]
    assert main([*command, "student.model=resnet8", "train.epochs=1", f"out={folder / 'run'}", "-q"]) == 0
    return folder


@pytest.mark.parametrize(
    ("path", "fraction", "images", "lines"),
    [
        ("own", None, None, ["own has no test split"]),
        ("own", "0.5", None, ["own has no test split", "0.5 training samples are measured too", "other samples than"]),
        ("own", "1", 60, ["1 training samples are measured too", "other samples than"]),
        ("other", "0.5", None, ["other has no test split", "other samples than"]),
        ("other", "1", 20, ["other samples than"]),
    ],
)
def test_lines_are_of_the_samples_that_are_measured(run, capsys, caplog, path, fraction, images, lines):
    overrides = [f"data.path={run / path}"] + ([] if fraction is None else [f"data.test_fraction={fraction}"])
    assert main(["evaluate", str(run / "run"), *overrides]) == 0
    answer = capsys.readouterr()
    printed = [*(record.getMessage() for record in caplog.records), *answer.err.splitlines()]
    printed = [line for line in printed if "split" in line or "samples" in line]
    assert len(printed) == len(lines) and all(line in text for line, text in zip(lines, printed, strict=True))
    assert images is None or f" {images} " in answer.out
