"""What a loss can be computed from: tensors and factors, checked before anything is broadcast or divided."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UsageError
from .input_values import values_can_be_read
from .logit_kind import are_probabilities
from .loss_parts import check_maps_read
from .representation import PARTS, Representation
from .value_scale import note_once

_PLURAL = frozenset({"logits", "maps"})


def check_factors(name: str, **factors: float) -> None:
    """Refuse factors of a loss's parts that are all 0: it would be 0 whatever the networks return.

    Args:
        name: The objective's class, for the message.
        factors: By name.

    Raises:
        UsageError: All are 0.
    """
    if not any(factors.values()):
        shown = " and ".join(f"{factor}=0" for factor in factors)
        raise UsageError(f"{name} is 0 for all networks with {shown}: give one of them a number above 0")


def check_tensors(
    name: str,
    needs: Collection[str],
    same_classes: bool,
    student: Any,
    teachers: Sequence[Any],
    *,
    per_class: bool = False,
) -> None:
    """Refuse outputs that cannot be compared sample by sample; reads shapes and types alone.

    Args:
        name: The objective's class, for the message.
        needs: The parts that it reads, of ``logits``, ``embedding``, ``maps``.
        same_classes: Whether it compares logits (B, C) class by class.
        per_class: Whether it takes no softmax of them, so that a single one says something.
        student: The student's outputs.
        teachers: Each teacher's, None for none.

    Raises:
        UsageError: Other numbers of samples, other classes, no samples, another rank, integers.
    """
    sides = [("student", student), *(("teacher", teacher) for teacher in teachers)]
    first: Tensor | None = None
    for role, outputs in sides:
        if not isinstance(outputs, Representation):
            continue
        for part in sorted(needs):
            values = getattr(outputs, part)
            for value in values if part == "maps" else (values,):
                if value is None:
                    continue
                _check_tensor(name, role, part, value, same_classes)
                if same_classes and part == "logits" and not per_class:
                    check_softmax(name, role, value)
                first = value if first is None else first
                if len(value) != len(first):
                    raise UsageError(
                        f"{name}: the {role}'s {part} {be(part)} of {len(value)} samples and the student's of "
                        f"{len(first)}: pass outputs for the same batch"
                    )
                if value.device != first.device:
                    raise UsageError(
                        f"{name}: the {role}'s {part} {be(part)} on {value.device} and the student's on "
                        f"{first.device}: move them to one device"
                    )
                if same_classes and part == "prediction" and value.shape[1] != first.shape[1]:
                    raise UsageError(
                        f"{name} compares predictions class by class, and the teacher's are {tuple(value.shape)} where "
                        f"the student's are {tuple(first.shape)}: give both the same classes"
                    )
                if same_classes and part == "logits" and value.shape != first.shape:
                    raise UsageError(
                        f"{name} compares logits class by class, and the teacher's are {tuple(value.shape)} where the "
                        f"student's are {tuple(first.shape)}: give both the same classes, or use a loss on embeddings"
                    )


def _check_tensor(name: str, role: str, part: str, value: Any, same_classes: bool) -> None:
    if not isinstance(value, Tensor):
        raise UsageError(f"{name}: the {role}'s {part} {be(part)} of type {type(value).__name__}: pass tensors")
    check_floats(f"{name}: the {role}'s {part} {be(part)}", value)
    rank = {"embedding": 2, "maps": 4, "prediction": 4, "logits": 2 if same_classes else None}[part]
    if rank is not None and value.ndim != rank:
        shape = {"embedding": "(B, D)", "logits": "(B, C)"}.get(part, "(B, C, H, W)")
        raise UsageError(f"{name}: the {role}'s {part} {have(part)} shape {tuple(value.shape)}: pass {shape}")
    if value.ndim == 0 or len(value) == 0:
        raise UsageError(f"{name}: the {role}'s {part} {be(part)} of no samples: skip empty batches")
    if not value.numel():
        raise UsageError(
            f"{name}: the {role}'s {part} {have(part)} shape {tuple(value.shape)}, without a value: check its sides"
        )


def be(part: str) -> str:
    """The verb after the name of a part of a representation."""
    return "are" if part in _PLURAL else "is"


def have(part: str) -> str:
    """The same of what it has."""
    return "have" if part in _PLURAL else "has"


def hold(parts: Collection[str]) -> str:
    """The same of what one or more of them hold."""
    return "hold" if len(parts) > 1 or {*parts} & _PLURAL else "holds"


def check_floats(what: str, value: Tensor) -> None:
    """Refuse tensors that are no dense floating-point numbers; ``what`` begins the message, as "the logits are"."""
    if not value.is_floating_point():
        raise UsageError(f"{what} {value.dtype}: pass floating-point numbers")
    if value.is_nested:
        raise UsageError(f"{what} nested (torch.nested): pass dense ones, all of one length")
    if value.layout != torch.strided:
        raise UsageError(f"{what} {value.layout}: pass dense ones, as to_dense() gives")


def check_softmax(name: str, role: str, logits: Tensor) -> None:
    """Refuse logits without a side for classes, and a single one, whose softmax is 1 whatever it is."""
    if logits.ndim < 2:
        raise UsageError(f"{name}: the {role}'s logits have shape {tuple(logits.shape)}: pass (B, C)")
    if logits.shape[1] < 2:
        raise UsageError(
            f"{name} takes the softmax of the {role}'s logits, and it has one, which is always sure: give the network "
            "2 outputs, one for each class"
        )


def check_two_outputs(objective: str, role: str, outputs: int | None) -> None:
    """Refuse a single logit, whose softmax is 1 whatever it is, so that the loss is 0 and nothing is learnt.

    Args:
        objective: Its name, for the message.
        role: ``"student"`` or ``"teacher"``.
        outputs: Length of its logits; None where it has none.

    Raises:
        UsageError: It is 1.
    """
    if outputs == 1:
        raise UsageError(
            f"objective {objective} takes the softmax of the {role}'s logits, and it has one, which is always "
            "sure: give the network 2 outputs, one for each class"
        )


MASKED = "give finite ones, such as -1e4 as the logit of a class that is masked"
"""What to do about outputs that are not finite."""


def not_finite(outputs: Any) -> list[str]:
    """The parts of a network's outputs that hold infinite or NaN values; none of outputs that are not there."""
    if not isinstance(outputs, Representation):
        return []
    parts = {part: values if part == "maps" else (values,) for part in PARTS for values in [getattr(outputs, part)]}
    return [
        part
        for part, values in parts.items()
        if any(value is not None and not bool(value.isfinite().all()) for value in values)
    ]


def check_teachers_finite(name: str, loss: Tensor, teachers: Sequence[Any]) -> None:
    """Refuse teacher outputs that make a loss NaN or infinite; values are read on the CPU alone.

    Args:
        name: The objective's class, for the message.
        loss: Its scalar.
        teachers: Each teacher's outputs, None for none.

    Raises:
        UsageError: The loss is no finite number, and a teacher's outputs are not finite.
    """
    if torch.compiler.is_compiling() or loss.device.type != "cpu" or bool(loss.isfinite().all()):
        return
    for teacher in teachers:
        if parts := not_finite(teacher):
            raise UsageError(
                f"{name} is no finite number, as the teacher's {' and '.join(parts)} {hold(parts)} infinite or NaN "
                f"values: {MASKED}"
            )


def note_probabilities(objective: Any, student: Any, teachers: Sequence[Any]) -> None:
    """Say of the first batch of a loop of one's own that what an objective reads as logits are probabilities."""
    if torch.compiler.is_compiling() or "logits" not in objective.needs or objective.per_class:
        return
    if vars(objective).get("_looked"):
        return
    objective._looked = True
    for role, outputs in (("student", student), *(("teacher", teacher) for teacher in teachers)):
        logits = outputs.logits if isinstance(outputs, Representation) else None
        if isinstance(logits, Tensor) and logits.ndim == 2 and values_can_be_read(logits) and are_probabilities(logits):
            note_once(
                f"{type(objective).__name__} reads logits, and the {role}'s are probabilities (each row is "
                "non-negative and sums to 1), so the softmax is taken twice: pass what comes before it"
            )


def check_samples(name: str, student: Any, least: int) -> None:
    """Refuse a batch of fewer than ``least`` samples in a loop of one's own; in a training the passes are checked."""
    tensors = student.tensors() if isinstance(student, Representation) else ()
    if tensors and len(tensors[0]) < least:
        raise UsageError(
            f"{name} compares the samples of a batch with each other and needs {least} or more, and this one has "
            f"{len(tensors[0])}: raise the batch size, or drop_last=True in the loader"
        )


def check_built_for(objective: Any, student: Any, teachers: Sequence[Any]) -> list[Any]:
    """Refuse maps that are not there and channels that the objective was not built for; reads shapes alone.

    Args:
        objective: With ``pairs`` or ``pair``, where it compares maps, and ``channels``.
        student: The student's outputs.
        teachers: Each teacher's, None for none.

    Returns:
        The teachers' outputs, without a gradient.

    Raises:
        UsageError: A side has no such map, or other channels.
    """
    name, pair = type(objective).__name__, getattr(objective, "pair", None)
    pairs = getattr(objective, "pairs", None) if pair is None else (pair,)
    if pairs is not None and not len(pairs):
        raise UsageError(f"{name} compares no maps: name (student's map, teacher's map) in pairs")
    pairs = pairs or ()
    for teacher in teachers:
        if not isinstance(student, Representation) or not isinstance(teacher, Representation):
            continue
        for side, outputs, place in (("student", student, 0), ("teacher", teacher, 1)):
            if outputs.maps and all(getattr(outputs, part) is None for part in objective.needs):
                check_maps_read(objective, side)
            for each in pairs:
                if not -len(outputs.maps) <= each[place] < len(outputs.maps):
                    raise UsageError(
                        f"{name} compares map {each[place]} of the {side}, which has {len(outputs.maps)}, counted "
                        "from 0: pass more maps, or name others in pairs"
                    )
        compared = [(student.maps[ours], teacher.maps[theirs]) for ours, theirs in pairs]
        if "embedding" in objective.needs:
            compared.append((student.require_embedding(), teacher.require_embedding()))
        if objective.channels and len(objective.channels) != len(compared):
            raise UsageError(f"{name} has channels of {len(objective.channels)} pairs and compares {len(compared)}")
        for tensors, channels in zip(compared, objective.channels, strict=False):
            own = tuple(tensor.shape[1] for tensor in tensors)
            if own != tuple(channels):
                raise UsageError(
                    f"{name} was built for {channels[0]} channels of the student and {channels[1]} of the teacher, "
                    f"and they have {own[0]} and {own[1]}: build it with these"
                )
    return [_frozen(teacher) for teacher in teachers]


def _frozen(outputs: Any) -> Any:
    """Outputs without a gradient: a teacher does not learn from the student."""
    if not isinstance(outputs, Representation):
        return outputs
    if any(value.is_inference() for value in outputs.tensors()):
        outputs = outputs.map(usable)
    return outputs.map(Tensor.detach) if any(value.requires_grad for value in outputs.tensors()) else outputs


def usable(values: Tensor) -> Tensor:
    """The values, or a copy of those made under ``torch.inference_mode()``, which autograd refuses to keep."""
    return values.clone() if values.is_inference() and not torch.is_inference_mode_enabled() else values


def in_own_precision(objective: nn.Module, outputs: Any) -> Any:
    """Outputs in the precision of what an objective's own weights are, where no autocast brings both together.

    Raises:
        UsageError: They are on another device than the weights.
    """
    own = next((weight for weight in objective.parameters() if weight.is_floating_point()), None)
    if own is None or not isinstance(outputs, Representation):
        return outputs
    for value in outputs.tensors():
        if value.device != own.device:
            raise UsageError(
                f"{type(objective).__name__} has weights on {own.device}, and outputs are on {value.device}: "
                "move it there, as loss.to(device) does, before the optimiser is made"
            )
    # Autocast takes halves and float32 alike, and leaves float64 alone.
    mixed = torch.is_autocast_enabled(own.device.type) and own.dtype != torch.float64
    if all(value.dtype == own.dtype or (mixed and value.dtype != torch.float64) for value in outputs.tensors()):
        return outputs
    return outputs.map(lambda value: value.to(own.dtype))


def check_losses(objective: str, losses: Any, student: Any) -> Tensor:
    """What an objective's ``per_sample`` returned, if it is a loss of each sample of the student's outputs, (B,).

    Raises:
        UsageError: It is not.
    """
    losses = check_loss(f"{objective}.per_sample", losses, "the loss of each sample, (B,)")
    tensors = student.tensors() if isinstance(student, Representation) else ()
    if losses.ndim != 1 or (tensors and len(losses) != len(tensors[0])):
        here = f" here ({len(tensors[0])},);" if tensors else ""
        raise UsageError(
            f"{objective}.per_sample returns a tensor of shape {tuple(losses.shape)}: it returns the loss of each "
            f"sample, (B,);{here} define forward for a loss that is no mean over samples"
        )
    return losses


def check_loss(function: str, loss: Any, what: str = "the loss of the batch, a scalar") -> Tensor:
    """What an objective's ``function`` returned, if it is a tensor of floating-point numbers.

    Raises:
        UsageError: It is not; ``what`` says what is returned by right.
    """
    if isinstance(loss, Tensor) and loss.is_floating_point():
        return loss
    kind = f"a tensor of {loss.dtype}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
    raise UsageError(
        f"{function} returns {kind}: it returns {what}, as a tensor; "
        "other values for metrics.jsonl are kept in self.logs"
    )
