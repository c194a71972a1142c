"""How a part of what a teacher said is kept: in float32 or float16, logits whole or as the k largest of each sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config.schema import CacheConfig
from ..errors import UsageError
from ..representation import PARTS

Fields = dict[str, Tensor]


@dataclass(frozen=True)
class TeacherOutputCodec:
    """Turns a part of a representation into what is kept of it, and back.

    In float32 all is kept as it is. In float16 embedding and maps are rounded, to 2⁻¹¹ of each value. Logits are kept
    as log-probabilities log p = z − log Σ exp z, with
    that sum in float32 beside them: the error of log p is 2⁻¹¹ |log p| at most, so it is least where a class is
        probable.

    With ``top`` = k there are the k largest log-probabilities with their classes (int16, or int32 beyond 32 768
    classes), and the exact logarithm of the mass of all others in float32. Coming back, that mass is spread evenly over
    the others. Under a softmax at T = 1 the k classes keep their probabilities and the others keep their sum r; with C
    classes, KL(teacher ‖ stand-in) = r · (log(C − k) − entropy among the others) ≤ r · log(C − k). At higher
    temperatures the others count for more.

    Args:
        part: ``"logits"``, ``"embedding"`` or ``"maps"``.
        precision: ``"fp32"`` or ``"fp16"``.
        top: How many logits of a sample; None: all.

    Shape:
        - ``pack``: ``logits`` (B, C), ``embedding`` (B, D) or ``maps.i`` (B, C_i, H_i, W_i) by name, any float dtype
        - ``unpack``: the same names and shapes, float32

    Raises:
        UsageError: Not fewer than all logits are asked for with ``top``, or a value is beyond float16.

    Example:
        >>> packing = TeacherOutputCodec("logits", "fp32", top=2)
        >>> logits = torch.tensor([[4.0, 1.0, 3.0, 0.0]])
        >>> back = packing.unpack(packing.pack({"logits": logits}), num_classes=4)["logits"]
        >>> back.softmax(1)[0, [0, 2]].allclose(logits.softmax(1)[0, [0, 2]]), bool(back[0, 1] == back[0, 3])
        (True, True)
    """

    part: str
    precision: str = "fp32"
    top: int | None = None

    def __str__(self) -> str:
        return self.precision if self.top is None else f"{self.top} largest in {self.precision}"

    def pack(self, values: Mapping[str, Tensor]) -> Fields:
        """What is kept of a batch."""
        values = {name: value.float() for name, value in values.items()}
        if self.part == "logits" and self.top is not None:
            return self._largest(values["logits"])
        if self.precision == "fp32":
            return values
        if self.part == "logits":
            sums = values["logits"].logsumexp(1)
            return {"logits": self._rounded("logits", values["logits"] - sums[:, None]), "logits.sums": sums}
        return {name: self._rounded(name, value) for name, value in values.items()}

    def unpack(self, fields: Mapping[str, Tensor], num_classes: int) -> Fields:
        """What the teacher said, from what was kept of it.

        Args:
            fields: What :meth:`pack` gave.
            num_classes: C; of logits alone.
        """
        if "logits.sums" not in fields:
            return {name: value.float() for name, value in fields.items()}
        sums = fields["logits.sums"][:, None]
        if self.top is None:
            return {"logits": fields["logits"].float() + sums}
        logits = (sums + fields["logits.others"][:, None]).expand(-1, num_classes)
        return {"logits": logits.scatter(1, fields["logits.classes"].long(), fields["logits"].float() + sums)}

    def comparable(self, values: Mapping[str, Tensor], fields: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Outputs and what is kept of the same samples, in pairs that are equal up to rounding where they are of one
        network.

        Args:
            values: As :meth:`pack` takes them.
            fields: What was kept.
        """
        if "logits.classes" in fields:
            # At the classes that are kept: two that are nearly equal may change places.
            classes = fields["logits.classes"].long()
            return [
                (values["logits"].float().gather(1, classes), fields["logits"].float() + fields["logits.sums"][:, None])
            ]
        back = self.unpack(fields, 0)
        return [(value.float(), back[name]) for name, value in values.items()]

    def _largest(self, logits: Tensor) -> Fields:
        count = logits.shape[1]
        if self.top >= count:
            raise UsageError(
                f"cache.logits={self.top} keeps the largest of more logits than that, and a teacher has {count}: "
                "set fewer, or cache.logits=all"
            )
        sums = logits.logsumexp(1)
        largest, classes = logits.topk(self.top, dim=1)
        # Summed by themselves: as a difference to the whole, a small rest would be lost in rounding.
        rest = logits.scatter(1, classes, -math.inf).logsumexp(1)
        return {
            "logits": self._rounded("logits", largest - sums[:, None]),
            "logits.classes": classes.to(torch.int16 if count <= 2**15 else torch.int32),
            "logits.sums": sums,
            "logits.others": rest - sums - math.log(count - self.top),
        }

    def _rounded(self, name: str, values: Tensor) -> Tensor:
        if self.precision == "fp32":
            return values
        rounded = values.half()
        if bool((rounded.isinf() & values.isfinite()).any()):
            raise UsageError(
                f"a teacher's {name} has values up to {float(values.abs().max()):.3g}, which float16 cannot hold: "
                "set cache.precision=fp32"
            )
        return rounded


def packings(config: CacheConfig) -> dict[str, TeacherOutputCodec]:
    """How each part is kept as a config has it."""
    return {
        part: TeacherOutputCodec(
            part, config.precision, config.logits if part == "logits" and config.logits != "all" else None
        )
        for part in PARTS
    }
