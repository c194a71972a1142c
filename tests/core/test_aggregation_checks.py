"""Rules of a user's own with a mistake: one sentence as they are registered, built or called."""

import pytest
import torch
from torch import nn

from contrastill import KD, Representation, TeacherAggregation
from contrastill.core.aggregation_checks import build_rule, check_entry
from contrastill.core.errors import ContrastillError
from contrastill.core.term import Term


def rule(**body):
    return type("Mine", (TeacherAggregation,), {"forward": lambda self, o, s, t, b: o[0](s, t[0], b), **body})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (lambda losses: sum(losses), "is a function: register a class, class NAME.contrastill.TeacherAggregation."),
        (nn.Linear, "is the class Linear: register a class"),
        (type("Mine", (TeacherAggregation,), {}), "has no forward: define forward.self, objectives, student"),
        (rule(forward=lambda self, losses: 0), "forward takes .losses., and is called with .objectives, student"),
        (rule(chosen=lambda self: [0]), "chosen takes .., and is called with .count."),
        (rule(teacher_needs="logits"), "teacher_needs 'logits': give a set"),
        (rule(Options=None), "has no Options"),
    ],
)
def test_what_cannot_be_a_rule_is_refused_as_it_is_registered(entry, message):
    with pytest.raises(ContrastillError, match=rf"rule mine \(.*\).*{message}"):
        check_entry("mine", entry)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"build": classmethod(lambda cls, *parts: None)}, "build returns None: return a rule, as cls"),
        ({"__init__": lambda self: None}, r"__init__ does not call super\(\).__init__\(\)"),
        ({"__init__": lambda self, cap: None}, "fails: TypeError: .*'cap'; define __init__ with its options"),
    ],
)
def test_what_is_built_wrongly_is_refused_with_its_class(body, message):
    mine = rule(**body)
    check_entry("mine", mine)
    with pytest.raises(ContrastillError, match=message):
        build_rule("mine", mine, mine.Options(), "kd", KD, [])


def weighing(weights):
    def forward(self, objectives, student, teachers, batch):
        self.weights = weights
        return objectives[0](student, teachers[0], batch)

    return rule(forward=forward)


@pytest.mark.parametrize(
    ("mine", "message"),
    [
        (rule(forward=lambda self, *parts: None), "Mine.forward returns a NoneType"),
        (rule(forward=lambda self, *parts: 1.0), "Mine.forward returns a float"),
        (
            rule(forward=lambda self, *parts: torch.ones(2)),
            r"forward returns a tensor of shape \(2,\).* add it up",
        ),
        (rule(forward=lambda self, objectives, *parts: objectives.nothing), "rule Mine of .* fails: AttributeError"),
        (rule(chosen=lambda self, count: None), "chosen returns None: return the numbers of the teachers"),
        (rule(chosen=lambda self, count: [2]), r"chosen returns \[2\].*from 0 to 1"),
        (weighing(torch.ones(2, 3)), r"weights of shape \(2, 3\): keep one for each of the 2 teachers"),
        (weighing(0.5), "weights that are a float"),
    ],
)
def test_what_a_rule_returns_wrongly_is_refused_with_its_class(mine, message):
    term, outputs = Term([KD(), KD()], rule=mine()), Representation(logits=torch.randn(3, 4, requires_grad=True))
    with pytest.raises(ContrastillError, match=message):
        term.chosen(2)
        term(outputs, [outputs, outputs], {})
        term.logs()


def test_a_rule_that_does_its_work_passes():
    mine = weighing([0.5, 0.5])
    check_entry("mine", mine)
    term = Term([KD(), KD()], rule=build_rule("mine", mine, mine.Options(), "kd", KD, []))
    outputs = Representation(logits=torch.randn(3, 4, requires_grad=True))
    assert term(outputs, [outputs, outputs], {}).ndim == 0 and term.logs()["weight.1"] == 0.5
