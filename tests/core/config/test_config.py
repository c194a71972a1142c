"""Configs: overrides, defaults, and errors that name the key, the value and what is allowed."""

import subprocess
import sys

import pytest

from contrastill.core.config.loading import load_config, shipped_configs, to_yaml
from contrastill.core.config.validation import validate
from contrastill.core.errors import UsageError

GIVEN = ["data.name=packed", "data.path=x.h5", "teachers.0.weights=t.safetensors"]


def test_the_shipped_configs_are_valid_once_the_user_filled_them():
    assert {"compression/cifar100", "compression/cifar100_crd", "ensemble/cifar100", "teachers/cifar100"} <= set(
        shipped_configs()
    )
    for name in shipped_configs():
        teachers = ["teachers.0.weights=t.safetensors"] if not name.startswith("teachers/") else []
        # A config that says which data it is for has options of theirs.
        given = (
            ["data.name=packed", "data.path=x.h5"] if "cifar100" in name else [] if "rooms" in name else ["data.path=x"]
        )
        config = load_config(name, [*given, *teachers])
        assert config.out == f"runs/{name}"


def test_overrides_reach_lists_numbers_and_take_objectives_out():
    config = load_config(
        "compression/cifar100_crd",
        [
            *GIVEN,
            "train.lr=1e-2",
            "train.epochs=3",
            "objectives.crd=null",
            "objectives.kd.weight=0.9",
            "teachers.1.model=resnet8",
            "teachers.0.model=resnet20",
        ],
    )
    assert config.train.lr == 0.01 and config.train.epochs == 3
    assert list(config.objectives) == ["cross_entropy", "kd"] and config.objectives["kd"].weight == 0.9
    assert [teacher.model for teacher in config.teachers] == ["resnet20", "resnet8"]


def test_weights_default_to_the_published_ones_and_options_to_their_class():
    config = load_config("compression/cifar100_crd", [*GIVEN, "objectives.kd={}"])
    assert config.objectives["kd"].weight == 0.9 and config.objectives["kd"].options() == {
        "temperature": 4.0,
        "standardize": False,
        "full_doubt": 0.0,
    }
    assert config.objectives["crd"].options()["bank_momentum"] == 0.5


def test_one_objective_twice_under_two_labels():
    config = load_config(
        "compression/cifar100_crd",
        [*GIVEN, "objectives.warm.name=kd", "objectives.warm.temperature=8", "objectives.kd.temperature=2"],
    )
    assert config.objectives["warm"].name == config.objectives["kd"].name == "kd"


def test_a_resolved_config_is_a_config(tmp_path):
    first = load_config("compression/cifar100_crd", GIVEN)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(first))
    assert load_config(str(path)) == first


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "data.path is not set: add data.path=…"),
        (["data.path=/nowhere/x.h5"], "teachers.0.weights is not set"),
        (["data.path=/nowhere/x.h5", "teachers.0.weights=t"], "data.path=/nowhere/x.h5 does not exist"),
        ([*GIVEN, "train.epochs=none"], "train.epochs='none' is not allowed"),
        ([*GIVEN, "train.epochs=0"], "train.epochs=0 is not allowed: input should be greater than 0"),
        ([*GIVEN, "train.epoch=3"], "train.epoch is not a key of the config: did you mean epochs"),
        ([*GIVEN, "train.milestones=[150,180]"], "milestones are rising fractions"),
        ([*GIVEN, "student.modle=resnet8"], "student.modle is not a key of the config: did you mean model"),
        ([*GIVEN, "train.device=cuda"], "train.device is not a key of the config: the device is no setting"),
        ([*GIVEN, "student.model=resnet9"], "model 'resnet9' does not exist: did you mean"),
        ([*GIVEN, "objectives.crdd.weight=1"], "objective 'crdd' does not exist: did you mean crd"),
        (
            [*GIVEN, "objectives.crd.temprature=1"],
            "objectives.crd.temprature is not a key of the config: did you mean temperature",
        ),
        ([*GIVEN, "objectives.crd.negatives=some"], "objectives.crd.negatives='some' is not allowed"),
        ([*GIVEN, "objectives.crd=null", "objectives.cross_entropy=null"], "objectives is empty"),
        ([*GIVEN, "objectives.lr.name=kd"], "objective lr is called as another column of metrics.jsonl"),
        ([*GIVEN, "teachers=[]"], "objectives.crd compares with a teacher, and teachers is empty"),
        ([*GIVEN, "data.name=cifar"], "dataset 'cifar' does not exist"),
        ([*GIVEN, "data.pth=x"], "data.pth is not a key of the config: did you mean path"),
        ([*GIVEN, "teachers.3.model=resnet8"], "teachers is a list of 1, numbered from 0, and teachers.1 adds one"),
        (
            [*GIVEN, "data.intrinsics=[30,30]"],
            "data.intrinsics=[30, 30] is not allowed: input should be 4 values, not 2: fx, fy, cx, cy of the frames",
        ),
        ([*GIVEN, "data.intrinsics=[1,2,3,4,5]"], "input should be 4 values, not 5: fx, fy, cx, cy of the frames"),
        ([*GIVEN, "data.void=none"], "data.void='none' is not allowed: input should be"),
        (
            [*GIVEN, "train.lr=${seed}"],
            "'train.lr=${seed}' cannot be read: Interpolation key 'seed' not found; name a key that the config states",
        ),
        ([*GIVEN, "data.void=none"], "; null stands for none"),
        ([*GIVEN, "student.resolution=[8]"], "input should be a valid integer or 2 values, not 1"),
        ([*GIVEN, "train.epochs"], "'train.epochs' is no override"),
        ([*GIVEN, "train={"], "cannot be read"),
    ],
)
def test_errors_are_one_sentence_with_the_way_out(overrides, message):
    with pytest.raises(UsageError) as caught:
        load_config("compression/cifar100_crd", overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_config_and_broken_yaml(tmp_path):
    with pytest.raises(UsageError, match="did you mean compression/cifar100_crd"):
        load_config("compression/cifar100_cdr")
    broken = tmp_path / "broken.yaml"
    broken.write_text("data: [unclosed\n")
    with pytest.raises(UsageError, match="cannot be read"):
        load_config(str(broken))


def test_validate_takes_plain_values():
    config = validate(
        {
            "out": "runs/x",
            "data": {"name": "packed", "path": "x.h5"},
            "student": {"model": "resnet8"},
            "objectives": {"cross_entropy": {}},
        }
    )
    assert config.train.batch_size == 64 and config.objectives["cross_entropy"].weight == 1.0


def test_several_threads_may_look_names_up_first():
    program = """
import threading
from contrastill.core.registry import DATASETS
found = []
threads = [threading.Thread(target=lambda: found.append(DATASETS["packed"].__name__)) for _ in range(4)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
print(found)
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert answer.stdout.strip() == str(["Packed"] * 4), answer.stderr
