"""What shows in the first step of an objective of a user's own: outputs that it changes, weights that never train."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .errors import UsageError
from .representation import Representation
from .user_code import is_own
from .value_scale import note_once

_MOST = 1000
"""Items of a list or a dict that are looked at."""


class FirstStep:
    """Outputs, batch and weights as an objective gets them, compared with what it leaves.

    Args:
        what: Names the objective in messages.
        objectives: One for each teacher.
        student: The student's outputs.
        teachers: Each teacher's, None for none.
        batch: The batch.
    """

    def __init__(
        self,
        what: str,
        objectives: Sequence[nn.Module],
        student: Representation,
        teachers: Sequence[Representation | None],
        batch: Mapping[str, Any],
    ) -> None:
        self.what, self.objectives, self.student = what, objectives, student
        self._tensors = [
            *_named("the student's", "student", student),
            *(
                pair
                for teacher in teachers
                if teacher is not None
                for pair in _named("the teacher's", "teacher", teacher)
            ),
            *((f"the batch's {name}", f'batch["{name}"]', value) for name, value in batch.items()),
        ]
        self._versions = [_version(value) for _, _, value in self._tensors]
        self._weights = {id(weight) for _, weight in self._trainable()}
        self._leaves = [*graph_leaves(student.tensors()), *(weight for _, weight in self._trainable())]
        self._gradients = [_gradient(leaf) for leaf in self._leaves]

    def check(self, loss: Tensor) -> None:
        """Refuse what was changed or made in the step; a loss that does not reach the student has a line.

        Raises:
            UsageError: A tensor that others read was changed in place, a weight was first made in this step, or weights
                have a gradient before the training differentiates the loss.
        """
        for (words, code, value), version in zip(self._tensors, self._versions, strict=True):
            if _version(value) != version:
                raise UsageError(
                    f"{self.what} changes {words} in place, and other objectives and the metrics read them too: write "
                    f"t = {code} - …, which makes a new tensor, instead of t -= …, or {code}.clone() first"
                )
        for name, weight in self._trainable():
            if id(weight) not in self._weights:
                raise UsageError(
                    f"{self.what} makes {name} in its first step, after the optimiser was made, so it never trains: "
                    "make it in __init__; the classmethod build(options, setting) knows the dimensions"
                )
        if [_gradient(leaf) for leaf in self._leaves] != self._gradients:
            raise UsageError(
                f"{self.what} calls backward() itself, and the training differentiates the loss after it, so the "
                "gradient would count twice: return the loss alone; torch.autograd.grad gives gradients to compute with"
            )
        outputs = [value for value in self.student.tensors() if value.requires_grad]
        if outputs and loss.requires_grad and not _depends_on(loss, outputs):
            note_once(
                f"{self.what} reaches none of the student's outputs by its gradient in the first step, so its own "
                "weights alone learn from it: leave out detach() if the student is to learn"
            )

    def _trainable(self) -> Iterator[tuple[str, Tensor]]:
        for objective in self.objectives:
            yield from objective.named_parameters()
            yield from hidden_weights(objective)


def _named(words: str, code: str, outputs: Representation) -> Iterator[tuple[str, str, Tensor]]:
    for part in ("logits", "embedding", "prediction"):
        if (value := getattr(outputs, part)) is not None:
            yield f"{words} {part}", f"{code}.{part}", value
    for place, value in enumerate(outputs.maps):
        yield f"{words} maps", f"{code}.maps[{place}]", value


def _version(value: Any) -> int:
    """How often a tensor was changed in place; those of inference mode cannot be, and do not count it."""
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


def _gradient(leaf: Tensor) -> tuple[int, int] | None:
    """What tells later whether a gradient was added."""
    return None if leaf.grad is None else (id(leaf.grad), _version(leaf.grad))


def graph_leaves(outputs: Iterable[Tensor]) -> Iterator[Tensor]:
    """The weights that outputs were computed from, by their graph."""
    outputs = [value for value in outputs if value.requires_grad]
    yield from (value for value in outputs if value.is_leaf)
    for node in _nodes(value.grad_fn for value in outputs):
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            yield leaf


def _nodes(first: Iterable[Any]) -> Iterator[Any]:
    """All nodes of a graph, from these on."""
    seen = {*first} - {None}
    remaining = [*seen]
    while remaining:
        node = remaining.pop()
        yield node
        following = {each for each, _ in getattr(node, "next_functions", ()) if each is not None} - seen
        seen |= following
        remaining.extend(following)


def _depends_on(loss: Tensor, outputs: Sequence[Tensor]) -> bool:
    """Whether a loss was computed from one of the outputs, by its graph: nothing is differentiated."""
    leaves = {id(value) for value in outputs}
    nodes = {value.grad_fn for value in outputs} - {None}
    return any(node in nodes or id(getattr(node, "variable", None)) in leaves for node in _nodes([loss.grad_fn]))


def hidden_weights(objective: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights that torch does not find in the modules of a user's own, with the attribute that holds them: in a plain
    list, tuple, set or dict, and tensors with a gradient that are no Parameter.
    """
    own = {id(weight) for weight in objective.parameters()}
    for prefix, module in objective.named_modules():
        # Of torch and of contrastill are as they should be.
        if is_own(type(module)) or type(module).__module__.partition(".")[0] == "torch":
            continue
        for attribute, value in vars(module).items():
            if attribute in ("_parameters", "_modules"):
                continue
            for weight in _weights(value, 3):
                if id(weight) not in own:
                    name = next((key for key, buffer in module._buffers.items() if buffer is weight), attribute)
                    yield f"{prefix}.{name}".lstrip("."), weight


def _weights(value: Any, depth: int) -> Iterator[Tensor]:
    if isinstance(value, nn.Module):
        yield from (weight for weight in value.parameters() if weight.requires_grad)
    elif isinstance(value, Tensor):
        if value.is_leaf and value.requires_grad:
            yield value
    elif depth and isinstance(value, (list, tuple, set, Mapping)):
        for each in islice(value.values() if isinstance(value, Mapping) else value, _MOST):
            yield from _weights(each, depth - 1)


def check_trains(what: str, objectives: Iterable[nn.Module], trained: Iterable[Tensor]) -> None:
    """Refuse weights of an objective of a user's own that no optimiser finds, or whose size is not known yet.

    Args:
        what: Names the objective in the message.
        objectives: One for each teacher.
        trained: The weights of student and objectives, which may also be kept elsewhere.

    Raises:
        UsageError: There are such weights.
    """
    known = {id(weight) for weight in trained}
    for objective in objectives:
        if is_own(type(objective)):
            continue
        for name, weight in objective.named_parameters():
            if is_lazy(weight):
                raise UsageError(
                    f"{what} has {name} of a lazy module, whose size is not known as the optimiser is made: give its "
                    "size; the classmethod build(options, setting) knows the dimensions"
                )
        for name, hidden in hidden_weights(objective):
            if id(hidden) not in known:
                tensor = isinstance(getattr(objective, name, None), Tensor)
                way_out = "make it an nn.Parameter" if tensor else "use nn.ModuleList, ModuleDict or ParameterList"
                raise UsageError(
                    f"{what} has weights in {name} that never train, as torch does not find them there: {way_out}, or "
                    "requires_grad_(False) where they are to stay"
                )


def first_step_due(objective: nn.Module) -> bool:
    """Whether the first step of this objective is looked at: of a user's own, while gradients are computed."""
    return not is_own(type(objective)) and torch.is_grad_enabled() and not torch.compiler.is_compiling()
