"""Builders of networks of a user's own with a mistake."""

import pytest
from torch import nn

from contrastill.core.errors import ContrastillError
from contrastill.models.builder_checks import built_by, check_entry

OPTIONS = {"num_classes": 4, "in_chans": 3}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, "is an int: define a function NAME.num_classes, in_chans."),
        (nn.Linear(2, 2), "is a network, not its builder"),
        (lambda: None, "takes .., and is called with .num_classes, in_chans., by name"),
        (lambda classes, channels: None, "takes .classes, channels., and is called with .num_classes, in_chans., by"),
        (lambda num_classes, in_chans, depth: None, "missing a required argument: 'depth'"),
    ],
)
def test_what_cannot_build_a_network_is_refused_as_it_is_registered(entry, message):
    with pytest.raises(ContrastillError, match=rf"model mine \(.*\) {message}|model mine .*{message}"):
        check_entry("mine", entry)


class Unfinished(nn.Module):
    def __init__(self, num_classes, in_chans):
        self.num_classes = num_classes


ONE = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (lambda num_classes, in_chans: None, "returns None: let it return a network"),
        (lambda num_classes, in_chans: nn.Linear, "returns the class Linear: let it return a network"),
        (
            lambda num_classes, in_chans: {}[num_classes],
            r"\(num_classes=4, in_chans=3\), fails: KeyError: 4",
        ),
        (Unfinished, r"Unfinished\): its __init__ does not call super\(\).__init__\(\)"),
        (lambda num_classes, in_chans: ONE, "returns one network twice: make a new one"),
    ],
)
def test_what_a_builder_returns_wrongly_is_refused(builder, message):
    with pytest.raises(ContrastillError, match=message):
        for _ in range(2):
            built_by("mine", builder, OPTIONS)


@pytest.mark.parametrize(
    "builder", [lambda **options: nn.Linear(2, 2), lambda in_chans, num_classes=10, depth=3: nn.Linear(2, 2)]
)
def test_what_builds_a_network_passes(builder):
    check_entry("mine", builder)
    assert isinstance(built_by("mine", builder, OPTIONS), nn.Linear)
