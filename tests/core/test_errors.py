"""Suggestions of names: never the name that was given; errors that hold on to nothing."""

import gc
import weakref
from contextlib import suppress

import pytest

from contrastill.core.errors import UsageError, names_beside, nearest
from contrastill.core.registry import MODALITIES, OBJECTIVES


class _Thing:
    pass


def _looked_up():
    with suppress(UsageError):
        OBJECTIVES["cat"]


@pytest.mark.parametrize("ask", [lambda: "cat" in MODALITIES, lambda: "cat/1" in OBJECTIVES, _looked_up])
def test_an_unknown_name_holds_on_to_nothing_of_whoever_asks(ask):
    """An error in a variable of its own frame is a cycle, with all frames that called: their loaders and networks."""

    def asked():
        thing = _Thing()
        ask()
        return weakref.ref(thing)

    collects = gc.isenabled()
    gc.disable()
    try:
        assert asked()() is None
    finally:
        if collects:
            gc.enable()


def test_a_name_is_no_suggestion_for_itself():
    assert nearest("runs", ["runs"], "name a run") == "name a run"
    assert nearest("runs", ["runs", "run"], "name a run") == "did you mean run?"


@pytest.mark.parametrize("end", ["", "/"])
def test_names_beside_are_written_as_the_path_is(tmp_path, monkeypatch, end):
    monkeypatch.chdir(tmp_path)
    for name in ("a/runs", "a/run"):
        (tmp_path / name).mkdir(parents=True)
    assert sorted(names_beside(f"a/runs{end}")) == ["a/run", "a/runs"]
    assert names_beside(f"a{end}") == ["a"]
