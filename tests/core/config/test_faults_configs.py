"""Configs and command lines edited at random: the exit code is 0 or 2, there is never a traceback and never a half-made
run folder.
"""

import os
import re
from copy import deepcopy

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contrastill.cli.main import main
from contrastill.core.config.loading import configs_folder, shipped_configs


def filled(tree):
    """A shipped config with what the user has to say filled in, so that it is sound and an edit is all that may be
    wrong.
    """
    if isinstance(tree, dict):
        return {key: filled(value) for key, value in tree.items()}
    return [filled(value) for value in tree] if isinstance(tree, list) else "data.h5" if tree == "???" else tree


CONFIGS = {
    name: filled(yaml.safe_load((configs_folder() / f"{name}.yaml").read_text()))
    for name in shipped_configs()
    if not name.startswith("accelerate/")
}
for sound in CONFIGS.values():
    if "name" not in sound["data"]:
        sound["data"] = {"name": "packed", "path": "data.h5", **sound["data"]}
BOUNDED = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.sampled_from(
        [
            0,
            -1,
            1e308,
            float("inf"),
            float("nan"),
            "",
            " ",
            "???",
            "${seed}",
            "${nothing}",
            "${oc.env:HOME}",
            "~",
            "null",
            "1e-3",
            "nán",
            "a" * 3000,
        ]
    ),
    st.text(max_size=8),
    st.sampled_from(
        [
            "resnet20",
            "timm/none_of_these",
            "torchvision/",
            "crd",
            "kd",
            "image_folder",
            "packed",
            "fp8",
            "rgb",
            "pretrained",
        ]
    ),
)
GARBAGE = st.recursive(
    ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["epochs", "weights", "modell", "lr", "0", "-1", "", "a.b", "name", "path", "kd", "${x}"]
) | st.text(max_size=6)


def places(tree, path=()):
    """Paths of everything in a tree."""
    paths = [path] if path else []
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        paths += places(value, (*path, key))
    return paths


@st.composite
def edited(draw):
    """A shipped config with one to three values replaced, taken away or added."""
    tree = deepcopy(CONFIGS[draw(st.sampled_from(sorted(CONFIGS)))])
    for _ in range(draw(st.integers(1, 2))):
        *parents, last = draw(st.sampled_from(places(tree) or [("out",)]))
        holder = tree
        for key in parents:
            holder = holder[key]
        action = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if action == "remove" and (isinstance(holder, list) or last in holder):
            del holder[last]
        elif action == "add" and isinstance(holder, dict):
            holder[draw(KEYS)] = draw(ODD)
        else:
            holder[last] = draw(ODD if draw(st.booleans()) else GARBAGE)
    return tree


def check(arguments, folder, capsys):
    code = main([*arguments, "--dry-run"])
    output = capsys.readouterr()
    assert code in (0, 2), (code, output.err)
    assert "Traceback" not in output.err + output.out and "(--debug shows where)" not in output.err
    if code:
        assert re.search(r"contrastill: .|Error|Usage", output.err), output.err
    assert sorted(os.listdir(folder)) == ["config.yaml", "data.h5"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "data.h5").touch()
    (tmp_path / "config.yaml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@BOUNDED
@given(tree=edited())
def test_edited_configs(folder, capsys, tree):
    (folder / "config.yaml").write_text(
        yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8", errors="surrogatepass"
    )
    check(["train", "config.yaml"], folder, capsys)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_the_edits_start_from_is_sound(folder, capsys, name):
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIGS[name]))
    assert main(["train", "config.yaml", "--dry-run"]) == 0, capsys.readouterr().err


@BOUNDED
@given(content=st.binary(max_size=40) | st.text("{}[]:-&*!|>'\"%@`#\n\t ab1", max_size=30).map(str.encode))
def test_files_that_are_no_config(folder, capsys, content):
    (folder / "config.yaml").write_bytes(content)
    check(["train", "config.yaml"], folder, capsys)


OVERRIDES = st.builds(
    lambda key, equals, value: f"{key}{equals}{value}",
    st.sampled_from(["train.epochs", "train", "data", "data.path", "teachers", "teachers.0", "teachers.7.model",
        "teachers.-1", "objectives.crd", "objectives",
                     "objectives.crd.weight", "student.model", "student", "out", "seed", "seeds", "ensemble.rule",
                     "trackers", "evaluation.layers", "x.y.z", ""]) | KEYS,
    st.sampled_from(["=", "=", "=", "", "==", ":"]),
    st.sampled_from(["", "[", "{", "{a: 1}", "[1,2]", "null", "-5", "1e400", ".nan", "???", "${", "${data}",
        "${oc.env:NONE}", "&a", "*a", "!!python/object:os.system x", "'"])
    | st.text(max_size=6),
)  # fmt: skip


@BOUNDED
@given(
    name=st.sampled_from(["config.yaml"] * 12 + ["", "nothing", ".", "/", "\0", "data.h5"]),
    tree=st.sampled_from(sorted(CONFIGS)),
    overrides=st.lists(OVERRIDES, max_size=2),
)
def test_command_lines(folder, capsys, name, tree, overrides):
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIGS[tree]))
    check(["train", name, *overrides], folder, capsys)
