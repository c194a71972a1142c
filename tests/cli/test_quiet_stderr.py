"""What a user sees on standard error: contrastill's own lines, and no other library's warnings."""

import logging
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name not in ("PYTHONWARNINGS", "NO_ALBUMENTATIONS_UPDATE")
} | {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
}

# One process for all commands: what a library says when it is imported, it says once. Warnings are shown each time,
# deprecations too.
SCRIPT = """
import shlex, sys, warnings
warnings.simplefilter("default")
from contrastill.cli.main import main
for line in sys.argv[1:]:
    print("$", line, file=sys.stderr, flush=True)
    assert main(shlex.split(line)) == 0, line
"""

OURS = re.compile(
    r"\$ |cross_entropy 1.*: \d+ epochs? of \d+ samples; |epoch \d+/\d+  loss |done: |in it: |next: |\d+ views? "
    r"of |teachers' outputs|[\w.]+: (reading|\w+)$|\w+: classification, "
    r"|the \d+ classes of .* are matched by number alone, "
)


@pytest.fixture(scope="module")
def folder(four_classes, tmp_path_factory):
    """A folder with images that libraries warn of: a broken EXIF tag, a palette with transparency, sixteen bits."""
    root = tmp_path_factory.mktemp("here")
    os.symlink(four_classes, root / "data.h5")
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog"):
            (root / "pets" / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(
                    root / "pets" / split / name / f"{number}.png"
                )
    broken = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x02\x00\x12\x01\x03\x00\x01\x00\x00\x00\xff"
    photo = Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    photo.save(root / "pets" / "train" / "cat" / "exif.jpg", exif=broken)
    photo.convert("P").save(root / "pets" / "train" / "cat" / "palette.png", transparency=bytes(range(256)))
    Image.fromarray(generator.integers(0, 65536, (20, 20), dtype=np.uint16)).save(
        root / "pets" / "train" / "dog" / "sixteen.png"
    )
    return root


def lines_of(folder, *commands):
    """Standard error of commands, by line; their standard output is left out."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *commands],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [line.strip() for line in done.stderr.splitlines() if line.strip()]


STUDENT = (
    "data.path=data.h5 teachers.0.model=resnet8 teachers.0.weights=teacher student.model=resnet8 "
    "train.epochs=1 objectives.crd.num_negatives=16 objectives.kd.weight=1"
)


def test_training_measuring_and_writing_print_our_lines_alone(folder):
    pytest.importorskip("onnxruntime", reason="exporting needs contrastill[export]")
    output = lines_of(
        folder,
        "train teachers/cifar100 data.path=data.h5 student.model=resnet8 train.epochs=1 out=teacher",
        f"train compression/cifar100_crd {STUDENT} trackers=[tensorboard] out=student",
        "evaluate student evaluation.tasks=[accuracy,classification] --teachers",
        "probe student --data data.h5 --layers all --knn 3 --logme --out probe",
        "export student",
        f"cache compression/cifar100_crd {STUDENT} --views 2 --out said",
    )
    assert [line for line in output if not OURS.match(line)] == []
    assert sum(line.startswith("$") for line in output) == 6 and any(
        line.startswith("next: contrastill evaluate student") for line in output
    )


def test_images_that_libraries_warn_of(folder):
    options = "data.path=pets data.size=32 student.model=resnet8 train.epochs=1 train.warmup_epochs=0"
    options += " 'data.transforms=[{name: GaussNoise}]'"
    output = lines_of(
        folder,
        f"train teachers/image_folder {options} data.workers=3 out=pets_3 -q",  # more than the cores of many a machine
        f"train teachers/image_folder {options} data.workers=0 out=pets_0 -q",
        "data pack pets pets.h5 --size 16 -q",
        "data info pets.h5 --json -q",
    )
    # That 16 bits became 8 is ours to say.
    assert [
        line
        for line in output
        if not line.startswith("$") and "sixteen.png has more than 8 bits, and as rgb is scaled" not in line
    ] == []


def test_other_warnings_are_still_shown():
    """What is silenced is known by its words: a user's own warnings, and ours, come through."""
    code = """
import logging, warnings
import contrastill.training.compiled, contrastill.datasets.io.images
from contrastill.datasets.io.file_workers import unwarned
with unwarned():
    warnings.warn("something of the user's")
warnings.warn("Corrupt EXIF data of the user's")
"""
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stderr.count("UserWarning") == 2


def test_one_line_of_the_compiler_is_left_out():
    from contrastill.training.compiled import _is_not_of_cuda

    def record(text):
        return logging.LogRecord("torch.utils.cpp_extension", logging.WARNING, "", 0, text, (), None)

    assert not _is_not_of_cuda(record("No CUDA runtime is found, using CUDA_HOME='/usr/local'")) and _is_not_of_cuda(
        record("ninja is not there")
    )
