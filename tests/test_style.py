"""Lint, layout of the code and type hints, as `make lint` and `make types` check them."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT


@pytest.fixture
def sources_under_their_name():
    """The package's name leads to the root, whatever the checkout is called; pyproject.toml tells mypy to look here."""
    link = ROOT / "build" / "types" / "contrastill"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(Path("..", ".."), target_is_directory=True)


def check(*command):
    answer = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_lint():
    check("ruff", "check", ".")


def test_format():
    check("ruff", "format", "--check", ".")


def test_files_have_one_reason():
    """A file of more than 350 lines has two."""
    written = [
        path
        for path in ROOT.rglob("*.py")
        if not any(part.startswith(".") or part in ("build", "tests", "runs") for part in path.relative_to(ROOT).parts)
    ]
    assert len(written) > 100
    lengths = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in written}
    assert {name: lines for name, lines in lengths.items() if lines > 350} == {}


def test_types(sources_under_their_name):
    check("mypy")
