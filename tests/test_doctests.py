"""The examples in the docstrings: each file of the package is imported under its own name and its doctests run."""

import doctest
import importlib
import os
import tomllib

import pytest

from helpers.paths import ROOT

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def modules():
    """Names of all modules of the package, read off the files: pkgutil does not look into datasets/."""
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    for package in packages:
        folder = ROOT.joinpath(*package.split(".")[1:])
        for path in sorted(folder.glob("*.py")):
            yield package if path.stem == "__init__" else f"{package}.{path.stem}"


@pytest.mark.parametrize("name", list(modules()))
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_the_walk_finds_datasets_and_the_examples():
    names = list(modules())
    assert {"contrastill", "contrastill.core.representation", "contrastill.cli.main"} <= set(names)
    assert any(name.startswith("contrastill.datasets.") for name in names)
    finder = doctest.DocTestFinder()
    assert any(test.examples for test in finder.find(importlib.import_module("contrastill.models.build")))
