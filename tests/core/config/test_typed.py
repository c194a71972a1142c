"""What was typed is what is there: text stays text, in overrides and in files; numbers are decimal; what is neither is
refused.
"""

import pytest
import yaml

from contrastill.core.config.loading import dataset_options, load_config, to_yaml
from contrastill.core.config.yaml_values import override_value, read_written
from contrastill.core.errors import UsageError

GIVEN = ["data.name=packed", "data.path=x.h5", "teachers.0.weights=t.safetensors"]
TEXTS = [
    "010",
    "1e3",
    "0012",
    "on",
    "no",
    "yes",
    "1_000",
    "0x10",
    "12:30:00",
    "2024-01-01",
    "1.0",
    "1.10",
    "-1",
    ".5",
    "true",
    "0b1",
]
ODD = [
    "runs/exp #3",
    "runs/a: b",
    "#3",
    "runs/b, c",
    "@x",
    "%d",
    "*x",
    "!x",
    "a # b # c",
    "`x`",
    "x ",
    "100%",
    "runs/[1]",
    "a\\b",
    "- x",
    "? x",
    "it's",
    'a"b',
]


def config(*overrides):
    return load_config("compression/cifar100_crd", [*GIVEN, *overrides])


@pytest.mark.parametrize("text", TEXTS + ODD)
def test_a_field_of_text_is_what_was_typed(text):
    made = config(
        f"out={text}",
        f"data.path={text}",
        f"data.splits.train={text}",
        f"teachers.0.weights={text}",
        f"teachers.0.embedding={text}",
        f"teachers.0.modality={text}",
    )
    teacher = made.teachers[0]
    assert {
        made.out,
        made.data.path,
        made.data.options()["splits"]["train"],
        teacher.weights,
        teacher.embedding,
        teacher.modality,
    } == {text}


@pytest.mark.parametrize("text", TEXTS)
def test_a_field_of_text_in_a_file_and_in_lists_and_mappings(text, tmp_path):
    tree = yaml.safe_load(to_yaml(config()))
    tree |= {"out": "HERE", "trackers": ["HERE"]}
    tree["teachers"][0] |= {"weights": "HERE", "maps": ["HERE", "layer1"]}
    tree["data"]["fields"] = {"HERE": "HERE"}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree).replace("HERE", text))
    made = load_config(str(path))
    assert (made.out, made.trackers, made.teachers[0].weights, made.teachers[0].maps) == (
        text,
        [text],
        text,
        (text, "layer1"),
    )
    assert made.data.options()["fields"] == {text: text}
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(made))
    assert load_config(str(again)) == made
    assert config(f"trackers=[{text}]", f"teachers.0.maps=[{text}, layer1]").trackers == [text]


def test_quotes_references_and_nothing_mean_what_they_do_in_yaml():
    assert config("out='010'").out == config('out="010"').out == "010"
    assert config("out='runs/exp #3'").out == "runs/exp #3"
    assert config("seed=007", "out=runs/${seed}").out == "runs/7"
    assert (
        config("teachers.0.weights=null").teachers[0].weights is None
        and config("teachers.0.weights=").teachers[0].weights is None
    )
    assert "objectives" not in config("objectives.crd=null", "objectives.kd={weight: 1}").objectives


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("train.batch_size", "0100", 100), ("train.batch_size", "1_000", 1000), ("train.batch_size", "0x10", 16),
        ("train.batch_size", "64.0", 64),
        ("train.batch_size", "1e2", 100), ("train.lr", "5e-4", 5e-4), ("train.lr", "010", 10.0),
        ("train.lr", ".5", 0.5), ("train.lr", "1", 1.0), ("train.compile", "on", True),
        ("train.compile", "no", False), ("train.compile", "1", True),
    ],
)  # fmt: skip
def test_numbers_are_decimal(key, text, value):
    section, name = key.split(".")
    assert getattr(getattr(config(f"{key}={text}"), section), name) == value
    assert dataset_options("packed", {"path": "x.h5"}, ["crop_padding=010"]).crop_padding == 10


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batch_size=on", "train.batch_size='on' is not allowed: input should be a valid integer"),
        ("train.epochs=yes", "train.epochs='yes' is not allowed"),
        ("seed=true", "seed='true' is not allowed"),
        ("train.lr=on", "train.lr='on' is not allowed"),
        ("objectives.crd.weight=true", "objectives.crd.weight='true' is not allowed"),
        ("objectives.crd.temperature=true", "objectives.crd.temperature='true' is not allowed"),
        ("objectives.crd.embed_dim=12:30", "objectives.crd.embed_dim='12:30' is not allowed"),
        (
            "train.batch_size=64.5",
            "train.batch_size=64.5 is not allowed: input should be a valid integer, got a number with a "
            "fractional part",
        ),
        ("train.on_nan=off", "train.on_nan='off' is not allowed"),
        ("train.timeout_minutes=12:30:00", "train.timeout_minutes='12:30:00' is not allowed"),
        ("train.milestones=[1,2", "'train.milestones=[1,2' cannot be read: a list or mapping that does not end"),
        ("objectives={kd: 1", "'objectives={kd: 1' cannot be read: a list or mapping that does not end"),
        ("out=null", "out=None is not allowed: input should be a valid string"),
        ("objectives.crd.weight=-1", "objectives.crd.weight=-1 is not allowed: input should be greater than 0"),
        ("objectives.crd.weight=0", "objectives.crd.weight=0 is not allowed: input should be greater than 0"),
        ("objectives.crd.weight=half", "objectives.crd.weight='half' is not allowed: input should be a valid number"),
        ("cache.prediction=0", "cache.prediction=0 is not allowed: input should be 'all' or greater than 0"),
        ("cache.logits=some", "cache.logits='some' is not allowed: input should be 'all' or a valid integer"),
        ("student.resolution=x", "student.resolution='x' is not allowed: input should be a valid integer or a list"),
        ("teachers.0.resolution=[8,0]", "teachers.0.resolution.1=0 is not allowed: input should be greater than 0"),
        (
            "objectives.crd.bias=x",
            "objectives.crd.bias='x' is not allowed: input should be 'released' or 'paper' or a valid number",
        ),
        ("train=[]", "train=[] is not allowed: input should be keys with values, {KEY: VALUE}"),
    ],
)
def test_what_is_no_such_value_is_refused_as_it_was_typed(override, message):
    with pytest.raises(UsageError) as caught:
        config(override)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "duplicate key a"),
        ("a: &x [*x]", "contains itself"),
        ("[a]: 1", "key"),
        ("a: !x 1", "constructor"),
    ],
)
def test_yaml_that_is_none_of_a_config(text, message, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_config(str(path))


def test_merges_blocks_and_aliases_of_yaml():
    tree = read_written("a: &a {x: 010, y: 1}\nb: {<<: *a, y: 2}\nc: |\n  010\nd: !!str 010\n")
    assert tree["b"]["x"].text == "010" and tree["b"]["y"].value == 2 and tree["c"] == "010\n" and tree["d"] == "010"
    assert override_value("[010, 'a # b']")[0].value == 10


@pytest.mark.parametrize("text", ["010", "runs/exp #3", "on", "1e3"])
def test_the_command_of_a_config_repeats_it(text):
    import shlex

    config = load_config("teachers/rooms", ["student.model=resnet8", f"out={text}"])
    contrastill, train, name, *overrides = shlex.split(config.command)
    assert (contrastill, train) == ("contrastill", "train") and load_config(name, overrides) == config
