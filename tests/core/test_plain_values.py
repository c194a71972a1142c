"""Collections of tensors and numbers in attributes, through a checkpoint."""

import json
from collections import Counter, OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from torch import nn

from contrastill.core.plain_state import PlainState
from contrastill.core.plain_values import copied, has_graph, is_collected, is_written, remembered, same


class Part(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value, self.weight = value, nn.Parameter(torch.zeros(1))


WRITTEN = [
    [torch.arange(3), torch.ones(2, dtype=torch.bfloat16)],
    {"a": torch.zeros(()), 3: (1, torch.eye(2))},
    Counter(steps=3),
    defaultdict(int, {"a": 4}),
    defaultdict(list, {0: [torch.ones(1)]}),
    OrderedDict(b=1, a=np.float32(0.1)),
    [np.int64(7), np.bool_(True), np.arange(3.0)],
    np.float64(0.25),
]


@pytest.mark.parametrize("value", WRITTEN)
def test_collections_come_back_as_they_were(value, caplog):
    terms = nn.ModuleDict({"x": Part(None)})
    state = PlainState(terms)
    terms["x"].value = value
    plain, buffers = json.loads(json.dumps(state.changed())), state.changed_buffers()
    other = nn.ModuleDict({"x": Part(None)})
    PlainState(other).load(plain, {name: tensor.clone() for name, tensor in buffers.items()})
    back = other["x"].value
    assert type(back) is type(value) and repr(back) == repr(value)
    assert getattr(back, "default_factory", None) is getattr(value, "default_factory", None)
    assert "is in no checkpoint" not in caplog.text


@pytest.mark.parametrize(
    "value",
    [
        [{1}],
        {"rows": deque([1])},
        defaultdict(lambda: 1, a=2),
        [torch.zeros(1, requires_grad=True)],
        [torch.zeros(2**22), torch.zeros(1)],
        [np.array(["text"])],
    ],
)
def test_what_no_checkpoint_has_is_named(value, caplog):
    terms = nn.ModuleDict({"x": Part(None)})
    state = PlainState(terms)
    terms["x"].value = value
    assert state.changed() == {} and state.changed_buffers() == {}
    assert "value of Part changed in the training and is in no checkpoint" in caplog.text


def test_what_a_student_keeps_of_a_pass_is_no_state(caplog):
    student = Part(None)
    state = PlainState(nn.ModuleDict(), student)
    student.value = [torch.ones(1, requires_grad=True) * 2]
    assert state.changed() == {} and not caplog.text


def test_tensors_that_are_written_to_are_seen_and_copies_share_nothing():
    value = {"rows": [torch.zeros(2)]}
    before, copy = remembered(value), copied(value)
    assert same(before, remembered(value))
    value["rows"][0].add_(1)
    assert not same(before, remembered(value)) and torch.equal(copy["rows"][0], torch.zeros(2))
    value["rows"].append(1)
    assert not same(before, remembered(value))
    assert not same(remembered([1]), remembered((1,))) and not same(remembered({}), remembered(Counter()))


def test_other_objects_are_not_collected():
    itself = []
    itself.append(itself)
    assert not is_collected([nn.Linear(1, 1)]) and not is_collected(itself) and not is_collected(print)
    assert is_collected([]) and is_written([]) and not has_graph([torch.ones(1)])
