"""Suggestions of names: never the name that was given."""

import pytest

from contrastill.core.errors import names_beside, nearest


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
