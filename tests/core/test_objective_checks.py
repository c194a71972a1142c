"""Objectives of a user's own with a mistake: one sentence as they are registered, built or first called."""

import pydantic
import pytest
import torch
from torch import nn

from contrastill import Objective, Options, Representation, Transfer, UsageError
from contrastill.core.config.schema import ObjectiveConfig
from contrastill.core.config.validation import checked
from contrastill.core.errors import ContrastillError
from contrastill.core.objective import Setting
from contrastill.core.objective_checks import build_objectives, check_entry
from contrastill.core.registry import OBJECTIVES
from contrastill.core.representation import RepresentationSpec
from contrastill.core.term import Term
from contrastill.models.build import build_network

SPEC = RepresentationSpec(4, 8, ())
SETTING = Setting(SPEC, SPEC, 16, None, 0)


def objective(**body):
    return type("Mine", (Objective,), {"per_sample": lambda self, s, t, b: s.logits.mean(1), **body})


class Duck(nn.Module):
    """All that an objective has, and none of its bases."""

    Options, needs, needs_teacher, same_classes, per_class = Options, frozenset({"logits"}), True, False, False
    default_weight, default_warmup, initial_epochs, only_initial, joint = 1.0, 0.0, 0, False, False
    takes_mixed, least_samples, logs = False, 1, {}
    build = classmethod(lambda cls, options, setting: cls())
    build_each = classmethod(lambda cls, options, settings: [cls() for _ in settings])
    prepare = enter = lambda self, given: None
    decomposes = classmethod(lambda cls: False)

    def student_needs(self, stage):
        return self.needs

    def forward(self, *parts):
        return parts[0].logits.mean()

    initial = per_sample = forward


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (lambda student, teacher, batch: 0, "is a function: register a class, class NAME.contrastill.Objective."),
        (nn.Linear, "is the class Linear: register a class"),
        (type("Mine", (Objective,), {"foward": lambda self, s, t, b: 0}), "no loss: .* is foward meant to be one"),
        (type("Mine", (Objective,), {}), "no loss: define per_sample.*, or forward, that of the batch$"),
        (objective(default_weight="two"), "default_weight='two': give a positive number"),
        (objective(default_weight=True), "default_weight=True: give a positive number"),
        (objective(default_weight=float("nan")), "default_weight=nan: give a positive number"),
        (objective(default_warmup=2), "default_warmup=2: give a share of the training"),
        (objective(initial_epochs=-1), "initial_epochs=-1: give a whole number"),
        (objective(needs="logits"), "needs 'logits': give a set of logits, embedding, maps"),
        (objective(takes_mixed="no"), "takes_mixed='no': give True or False"),
        (objective(Options={"power": 2}), "Options that are no pydantic model: define in it class Options"),
        (objective(Options=pydantic.create_model("Options", weight=(float, 1.0))), "an option weight, which is a key"),
        (objective(forward=lambda self, s, t: 0), "forward takes .s, t., and is called with .student, teacher, batch."),
        (objective(prepare=lambda self: 0), "prepare takes .., and is called with .teachers."),
        (objective(build=lambda cls, options, setting: 0), "build is called on the class: write @classmethod above"),
    ],
)
def test_what_cannot_be_an_objective_is_refused_as_it_is_registered(entry, message):
    with pytest.raises(UsageError, match=rf"objective mine \(.*\).*{message}"):
        check_entry("mine", entry)


@pytest.mark.parametrize(
    "entry",
    [
        Duck,
        objective(default_weight=torch.tensor(2.0), needs=["logits"]),
        objective(default_weight=None),
        objective(forward=staticmethod(lambda *parts: parts[0].logits.mean())),
        objective(needs=property(lambda self: frozenset({"logits"}))),
    ],
)
def test_what_does_the_work_of_an_objective_passes(entry):
    check_entry("mine", entry)
    assert len(build_objectives("mine", entry, entry.Options(), [SETTING] * 2)) == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"build": classmethod(lambda cls, o, s: None)}, "build returns None: return an objective, as cls"),
        ({"build_each": classmethod(lambda cls, o, s: [cls()])}, "build_each returns 1 objectives for 2 teacher"),
        ({"build": classmethod(lambda cls, o, s: cls(**{}["x"]))}, "its options, fails: KeyError: 'x' .test_"),
        ({"__init__": lambda self: None}, r"__init__ does not call super\(\).__init__\(\)"),
        ({"__init__": lambda self: setattr(self, "map", nn.Linear(2, 2))}, r"__init__ does not call super\(\)"),
        ({"__init__": lambda self, dim: None, "needs_teacher": False}, "cannot be built from its options .*'dim'"),
    ],
)  # fmt: skip
def test_what_is_built_wrongly_is_refused_with_its_class(body, message):
    mine = objective(**body)
    with pytest.raises(ContrastillError, match=message):
        build_objectives("mine", mine, mine.Options(), [SETTING] * 2)


@pytest.mark.parametrize(
    ("logs", "message"),
    [({"x": "text"}, "that is a str"), ({"x": torch.ones(3)}, r"of shape \(3,\)"), ([1], "logs that are a list")],
)
def test_logs_that_are_no_scalars_are_refused(logs, message):
    term = Term(objective()())
    term.objectives[0].logs = logs
    with pytest.raises(UsageError, match=f"objective Mine has .*{message}"):
        term.logs()


def test_names_and_definitions_of_a_registry():
    with pytest.raises(UsageError, match="Mine is registered without a name: write .register"):
        OBJECTIVES.register(objective())
    with pytest.raises(UsageError, match="python:x' has a name that begins with python:, which is taken"):
        OBJECTIVES.register("python:x")
    first, again = objective(), objective()
    try:
        assert OBJECTIVES.register("mine_again")(first) is first and OBJECTIVES.register("mine_again")(again) is again
        assert OBJECTIVES["mine_again"] is again  # a notebook's cell that is run twice
    finally:
        OBJECTIVES._entries.pop("mine_again", None)


def test_unknown_keys_of_options_that_are_a_plain_model_are_refused():
    plain = pydantic.create_model("Options", power=(float, 2.0))
    with pytest.raises(UsageError, match="objectives.mine.powr is not a key of the config: did you mean power"):
        checked(plain, {"powr": 3.0}, "objectives.mine.", ObjectiveConfig)
    assert checked(plain, {"power": 3.0}, "objectives.mine.", ObjectiveConfig).power == 3.0


def test_a_term_whose_key_torch_cannot_hold_is_refused():
    networks = [build_network("resnet8", num_classes=4) for _ in range(2)]
    for name in ("my.loss", "half"):
        with pytest.raises(UsageError, match=f"cannot be called '{name}': give it another key"):
            Transfer(networks[:1], networks[1], {name: objective()()})


def test_outputs_alone_are_compared_as_before():
    loss = objective()()(Representation(logits=torch.ones(2, 3)), Representation(logits=torch.ones(2, 3)), {})
    assert loss == 1
