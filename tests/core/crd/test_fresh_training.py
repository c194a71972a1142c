"""Trainings with fresh_crd through the command line: when its rows are filled, killed and resumed runs, several
teachers.
"""

import json

import pytest
import torch
from safetensors.torch import load_file

from contrastill.cli.main import main
from contrastill.core.config.loading import load_config
from contrastill.core.errors import UsageError
from contrastill.core.run import Run
from contrastill.core.teachers.live import LiveTeachers
from contrastill.core.teachers.views import LiveTeacherOutputs, TeacherViews
from contrastill.training import engine
from contrastill.training.assemble import assemble

TIMES = ("seconds", "samples_per_second")


def prepared(config):
    """The transfer of a config as the first step finds it."""
    parts = assemble(config)
    parts.transfer.prepare(parts.train)
    return parts.transfer


@pytest.fixture(scope="module")
def teachers(four_classes, tmp_path_factory):
    """Two that differ in seed."""
    root = tmp_path_factory.mktemp("teachers")
    for seed in (0, 1):
        command = [
            "train",
            "teachers/cifar100",
            f"data.path={four_classes}",
            "student.model=resnet8",
            "train.epochs=1",
            f"seed={seed}",
        ]
        assert main([*command, f"out={root / str(seed)}", "-q"]) == 0
    return root


@pytest.fixture(scope="module")
def settings(four_classes, teachers):
    """A training of 2 epochs of 3 batches, a checkpoint every 2 steps."""

    def given(*more, count=1):
        chosen = [
            f"teachers.{n}.{key}" for n in range(count) for key in ("model=resnet8", f"weights={teachers / str(n)}")
        ]
        return ["compression/cifar100_crd", f"data.path={four_classes}", *chosen, "student.model=resnet8",
            "objectives.crd=null", "train.evaluate_every=2",
                "objectives.fresh_crd.num_negatives=12", "train.epochs=2", "train.batch_size=16",
                "train.checkpoint_every_steps=2", *more]  # fmt: skip

    return given


def rows_of(settings, out, *more):
    """The rows before the first step, and the map's mean."""
    name, *overrides = settings(f"out={out}", *more)
    loss = prepared(load_config(name, overrides)).terms["fresh_crd"].objectives[0].loss
    return loss.rows[0], loss.embed_teacher[0]


def test_rows_are_the_same_from_a_live_teacher_and_from_kept_outputs(settings, tmp_path):
    live, embed = rows_of(settings, tmp_path / "run", "objectives.fresh_crd.rows=ahead")
    assert live.complete and int(live.filled) == 48
    values = live.embeddings
    assert values.mean(0).abs().max() < 1e-4 and float(values.square().mean()) == pytest.approx(1, rel=1e-4)
    for more in (
        ["train.views=2"],
        ["train.views=2", f"train.teacher_cache={tmp_path / 'kept'}"],
        ["train.views=2", f"train.teacher_cache={tmp_path / 'kept'}"],
    ):
        for rows in ("auto", "ahead"):
            store, other = rows_of(settings, tmp_path / "run", *more, f"objectives.fresh_crd.rows={rows}")
            assert store.complete and torch.equal(store.place, live.place)
            torch.testing.assert_close(store.embeddings, values, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close((other.mean, other.scale), (embed.mean, embed.scale), rtol=1e-5, atol=1e-6)
    for more in (["objectives.fresh_crd.rows=auto"], ["objectives.fresh_crd.rows=seen", "train.views=2"]):
        seen, other = rows_of(settings, tmp_path / "run", *more)
        assert not seen.complete and int(seen.filled) == 0
        torch.testing.assert_close((other.mean, other.scale), (embed.mean, embed.scale), rtol=1e-5, atol=1e-6)


def same_run(one, other):
    expected, got = (load_file(path / "checkpoints" / "step-00000006" / "model.safetensors") for path in (one, other))
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert value.equal(got[name]), name
    histories = [
        [{key: value for key, value in row.items() if key not in TIMES} for row in Run(path).history()]
        for path in (one, other)
    ]
    assert histories[0] == histories[1]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("seen", ["objectives.fresh_crd.row_variance=0.9"]),
        (
            "ahead",
            [
                "objectives.fresh_crd.rows=ahead",
                "objectives.fresh_crd.criterion=sigmoid",
                "objectives.fresh_crd.row_variance=0.9",
            ],
        ),
        (
            "refreshed",
            ["train.views=2", "objectives.fresh_crd.refresh_rows=true", "objectives.fresh_crd.teacher_map=whitened"],
        ),
    ],
)
def test_a_run_that_died_goes_on_with_the_same_bits(settings, tmp_path, monkeypatch, name, more):
    whole, died = tmp_path / "whole", tmp_path / "died"
    assert main(["train", *settings(*more), f"out={whole}", "-q"]) == 0
    step, calls = engine._Training._step, []

    def dying(*arguments):
        calls.append(1)
        if len(calls) in (3, 6):  # between two epochs' ends, when some rows are filled, and again when all are
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(engine._Training, "_step", dying)
    codes = []
    for _ in range(3):
        try:
            codes.append(main(["train", *settings(*more), f"out={died}", "-q"]))
        except KeyboardInterrupt:
            codes.append(-1)
    assert codes[-1] == 0 and 0 not in codes[:-1] and len(calls) == 8
    same_run(whole, died)
    saved = load_file(died / "checkpoints" / "step-00000006" / "model.safetensors")
    assert any(key.endswith("rows.0.embeddings") for key in saved) == (name != "ahead")
    row = Run(whole).history()[-1]
    assert {"fresh_crd", "fresh_crd/score_student", "fresh_crd/score_teacher"} <= row.keys()
    assert not any("fresh_crd" in key or "embed" in key for key in load_file(whole / "student.safetensors"))


@pytest.mark.parametrize("side", ["shared", "separate"])
def test_two_teachers(settings, tmp_path, side):
    out = tmp_path / "run"
    more = [f"objectives.fresh_crd.student_side={side}", "train.views=1"]
    assert main(["train", *settings(*more, count=2), f"out={out}", "-q"]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    assert {f"fresh_crd/score_{which}.{number}" for which in ("student", "teacher") for number in (0, 1)} <= rows[
        -1
    ].keys()
    assert rows[0]["fresh_crd"] > 0 and rows[-1]["fresh_crd"] < rows[0]["fresh_crd"]
    names = [
        name
        for name in load_file(out / "checkpoints" / "step-00000006" / "model.safetensors")
        if "embed_student.weight" in name
    ]
    assert len(names) == (1 if side == "shared" else 2)


def test_a_rule_of_the_ensemble_takes_teachers_one_by_one(settings, tmp_path, capsys):
    command = ["train", *settings("ensemble.rule=entropy", count=2), f"out={tmp_path / 'run'}", "-q"]
    assert main(command) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert (
        "objective fresh_crd reads all teachers at once" in message and "add objectives.fresh_crd.rule=sum" in message
    )
    assert "or objectives.fresh_crd.student_side=separate" in message and "Traceback" not in message
    for remedy in ("objectives.fresh_crd.rule=sum", "objectives.fresh_crd.student_side=separate"):
        assert main([*command, remedy, "train.epochs=1"]) == 0
        (tmp_path / "run").rename(tmp_path / remedy)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["criterion=triplet"], "criterion"),
        (["num_negatives=0"], "num_negatives"),
        (["temperature=0"], "temperature"),
        (["row_variance=2"], "row_variance"),
        (["rows=never"], "rows"),
        (["teacher_map=none", "student_side=shared", "K=3"], "K"),
    ],
)
def test_wrong_options_are_refused(settings, tmp_path, capsys, more, message):
    assert (
        main(
            [
                "train",
                *settings(*(f"objectives.fresh_crd.{option}" for option in more)),
                f"out={tmp_path / 'run'}",
                "-q",
            ]
        )
        == 2
    )
    stderr = " ".join(capsys.readouterr().err.split())
    assert f"objectives.fresh_crd.{message}" in stderr and "Traceback" not in stderr


def test_data_whose_samples_cannot_be_chosen_are_refused_by_those_that_choose():
    class Stream:
        num_samples = 48

    live = LiveTeacherOutputs(TeacherViews(Stream(), LiveTeachers([])), 0)
    with pytest.raises(UsageError, match=r"give it a method in_order\(view, rows, batch_size\)"):
        live.sample({"embedding"})
