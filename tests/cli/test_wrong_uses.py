"""docs/errors.md, row by row: what is asked for in a wrong way ends in that sentence and that exit code, and leaves
nothing behind.
"""

import re
import shlex
import shutil
from contextlib import nullcontext
from pathlib import Path

import h5py
import numpy as np
import pytest

from contrastill.cli.main import main
from contrastill.core import plugins
from helpers.paths import ROOT

PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
ROW = re.compile(
    r"^\| (?P<what>[^|]+) \| `(?P<command>[^`|]+)` \| `(?P<said>[^`|]+)` \| (?P<code>\d) \|$", re.MULTILINE
)
ROWS = [match.groupdict() for match in ROW.finditer(PAGE)]
SHORT = dict(re.findall(r"`([A-Z]{5})` is\s+`([^`]+)`", PAGE))


@pytest.fixture(autouse=True)
def _no_packages(monkeypatch):
    """Modules of own networks that other tests imported would be named beside each misspelt name."""
    for names in ("_requested", "_imported"):
        monkeypatch.setattr(plugins, names, {})


@pytest.fixture(scope="module")
def folder(four_classes, tmp_path_factory):
    """The files that the rows name."""
    root = tmp_path_factory.mktemp("wrong")
    shutil.copy(four_classes, root / "data.h5")
    (root / "cut.h5").write_bytes(four_classes.read_bytes()[:9000])
    for name, shape, classes in (("three", (16, 16, 3), 3), ("turned", (3, 16, 16), 4)):
        with h5py.File(root / f"{name}.h5", "w") as file:
            for split, count in (("train", 48), ("test", 16)):
                file[f"{split}/rgb"], file[f"{split}/target"] = (
                    np.zeros((count, *shape), np.uint8),
                    np.arange(count) % classes,
                )
    for name, classes in (("cranes", ["crane", "cat", "crane", "dog"]), ("numbers", ["1", "2", "3", "4"])):
        shutil.copy(four_classes, root / f"{name}.h5")
        with h5py.File(root / f"{name}.h5", "a") as file:
            file.attrs["classes"] = classes
    shutil.copy(root / "three.h5", root / "mixed.h5")
    with h5py.File(root / "mixed.h5", "r+") as file:
        file["more/rgb"], file["more/target"] = np.zeros((48, 16, 16, 3), np.float32), np.arange(48) % 3
    for place in ("empty/train/cat", "empty/val/cat", "half/cifar-100-python"):
        (root / place).mkdir(parents=True)
    for name in ("train", "test", "meta"):
        (root / "half" / "cifar-100-python" / name).write_bytes(b"the first half")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(root)
        assert (
            main(
                [
                    "train",
                    "teachers/cifar100",
                    "data.path=data.h5",
                    "student.model=resnet8",
                    "out=run",
                    "train.epochs=1",
                    "-q",
                ]
            )
            == 0
        )
    shutil.copytree(root / "run", root / "five" / "seed-0")
    (root / "cut.safetensors").write_bytes((root / "run" / "student.safetensors").read_bytes()[:5000])
    return root


def pattern(text):
    """Of a sentence in which … stands for anything."""
    return ".*".join(map(re.escape, text.split("…")))


def test_the_page_has_its_rows():
    assert len(ROWS) == PAGE.partition("## From Python")[0].count("\n| ") - 1 >= 30 and set(SHORT) == {"TRAIN", "TEACH"}


@pytest.mark.parametrize("row", ROWS, ids=[row["what"] for row in ROWS])
def test_a_wrong_use_is_one_sentence(row, folder, files_up_to, monkeypatch, capsys):
    if "/proc/" in row["command"] and not Path("/proc/self").exists():
        pytest.skip("there is no /proc to try to write to")
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    first, _, rest = row["command"].partition(" ")
    words = shlex.split(f"{SHORT.get(first, first)} {rest}")
    assert words.pop(0) == "contrastill"
    try:
        with files_up_to(100_000) if row["what"] == "a full disk" else nullcontext():
            assert main(words) == int(row["code"])
        output = capsys.readouterr()
        lines = [line for line in output.err.splitlines() if re.match("contrastill: |Error: ", line)]
        assert len(lines) == 1 and re.fullmatch(f"(contrastill|Error): {pattern(row['said'])}", lines[0]), output.err
        assert "Traceback" not in output.err and "--debug" not in output.err and not output.out
        left = sorted(path for path in folder.rglob("*") if "new" not in path.relative_to(folder).parts)
        assert left == before
    finally:
        shutil.rmtree(folder / "new", ignore_errors=True)
