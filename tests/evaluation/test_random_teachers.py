"""A teacher without weights is in every evaluation the random network that it was in the training."""

import json

import pytest
import torch

import contrastill
from contrastill.cli.main import main
from contrastill.core.config.loading import load_config
from contrastill.core.fingerprint import weights_hash
from contrastill.core.run import Run
from contrastill.core.run_data import other_teachers
from contrastill.core.run_weights import RANDOM, WeightsRecord
from contrastill.evaluation.networks import EvaluatedNetworks
from contrastill.training.data import open_split
from contrastill.training.networks import build_networks


@pytest.fixture(scope="module")
def trained(four_classes, tmp_path_factory):
    """A teacher that was trained."""
    path = tmp_path_factory.mktemp("teacher")
    contrastill.distill(None, "resnet8", str(four_classes), out=path, epochs=1, batch_size=16, quiet=True)
    return path


@pytest.fixture(scope="module")
def overrides(four_classes, trained):
    """Of a run of a trained teacher between two random ones."""
    return [
        f"data.path={four_classes}",
        f"teachers=[{{model: resnet8}}, {{model: resnet8, weights: {trained}}}, {{model: resnet14}}]",
        "student.model=resnet8",
        "objectives.kd.weight=1",
        "objectives.crd=null",
        "train.epochs=1",
        "train.batch_size=16",
        "seed=3",
    ]


@pytest.fixture(scope="module")
def run(overrides, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    assert main(["train", "compression/cifar100_crd", *overrides, f"out={out}", "-q"]) == 0
    return Run(out)


def evaluated(run, *overrides):
    torch.rand(5)  # what was drawn before does not count
    return EvaluatedNetworks(run, load_config(str(run.config), overrides, trains=False))


def hashes(networks):
    return [weights_hash(network.module) for network in networks]


def test_random_teachers_are_those_of_the_training_bit_for_bit(run):
    config = load_config(str(run.config))
    splits = {name: open_split(config, name) for name in ("train", "test")}
    built = hashes(build_networks(config, splits, {}).teachers)
    recorded = WeightsRecord(run).read()
    assert [recorded[f"teachers.{number}"].hash for number in range(3)] == built and len({*built}) == 3
    assert [recorded[f"teachers.{number}"].source == RANDOM for number in range(3)] == [True, False, True]
    for more in ([], [], ["seed=8"]):
        networks = evaluated(run, *more)
        assert hashes(networks.teacher(number).network for number in range(3)) == built
        # The seed of an evaluation is that of its heads.
        assert not networks.suffix()


def test_another_network_in_place_of_a_teacher_leaves_the_others_as_they_were(run, trained):
    own = [WeightsRecord(run).read()[f"teachers.{number}"].hash for number in range(3)]
    networks = evaluated(run, "teachers.0.model=resnet14")
    now = hashes(networks.teacher(number).network for number in range(3))
    assert now[1:] == own[1:] and now[0] != own[0] and networks.suffix()
    networks = evaluated(run, f"teachers.0.weights={trained}")
    now = hashes(networks.teacher(number).network for number in range(3))
    assert now == [own[1], *own[1:]] and networks.suffix()


def test_evaluations_agree_and_one_without_its_network_is_refused(run, capsys, tmp_path):
    rows = []
    for _ in range(2):
        assert main(["evaluate", str(run.path), "--teachers", "--json"]) == 0
        rows.append(json.loads(capsys.readouterr().out))
    assert rows[0] == rows[1] and len(rows[0]) == 4
    record = run.weights.read_text()
    entries = json.loads(record)
    entries["teachers.2"]["hash"] = "0" * 16
    run.weights.write_text(json.dumps(entries))
    try:
        assert main(["evaluate", str(run.path), "--teachers"]) == 2
        message = "teachers.2 had no weights in the training of"
        assert message in capsys.readouterr().err
        assert main(["evaluate", str(run.path)]) == 0
        capsys.readouterr()
        assert main(["train", str(run.config), f"out={run.path}"]) == 2
        assert "teachers.2 has no weights, and the seed gives it others here than those" in capsys.readouterr().err
    finally:
        run.weights.write_text(record)


def test_equal_random_teachers_are_measured_each(run):
    overrides = {"teachers.2.model": "resnet8"}
    result = contrastill.evaluate_runs([run.path], overrides, teachers=True, progress=False)
    assert [(row.role, row.number) for row in result.rows] == [
        ("student", None), ("teacher", 0), ("teacher", 1), ("teacher", 2)]  # fmt: skip


def test_the_training_prints_that_its_teachers_are_random(overrides, tmp_path, capsys, caplog):
    command = ["train", "compression/cifar100_crd", *overrides, f"out={tmp_path / 'run'}", "seed=4"]
    assert main(command) == 0
    shown = capsys.readouterr().err
    assert "teachers.0 (resnet8) has no weights and is random" in shown and "teachers.2 (resnet14) has no" in shown
    assert "teachers.1 (resnet8) has no weights" not in shown


def test_seeds_with_random_teachers_are_compared(run, overrides, tmp_path):
    out = tmp_path / "other"
    assert main(["train", "compression/cifar100_crd", *overrides, f"out={out}", "seed=5", "-q"]) == 0
    first, second = (WeightsRecord(each).read() for each in (run, Run(out)))
    assert first["teachers.0"].hash != second["teachers.0"].hash
    assert other_teachers(run, Run(out)) == ""


def test_a_run_of_which_some_weights_are_not_recorded_goes_on_with_a_line(run, caplog):
    record = run.weights.read_text()
    entries = json.loads(record)
    del entries["teachers.0"]
    run.weights.write_text(json.dumps(entries))
    try:
        assert main(["train", str(run.config), f"out={run.path}"]) == 0
        assert "whether those of teachers.0 are still the same is not checked" in caplog.text
        entries["teachers.1"]["hash"] = "0" * 16
        del entries["teachers.2"]
        run.weights.write_text(json.dumps(entries))
        assert main(["train", str(run.config), f"out={run.path}", "-q"]) == 2
    finally:
        run.weights.write_text(record)
