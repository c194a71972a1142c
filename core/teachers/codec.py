"""How a part of a teacher's outputs is cached: in float32 or float16, all logits or the k largest of each sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config.schema import CacheConfig
from ..errors import UsageError
from ..representation import PARTS, Representation

Fields = dict[str, Tensor]

_SMALLEST = torch.finfo(torch.float16).smallest_normal


@dataclass(frozen=True)
class TeacherOutputCodec:
    """Encodes one part of a representation as the fields that are cached of it, and decodes them.

    In float32 all is cached as it is. In float16 embedding and maps are rounded, to 2⁻¹¹ of each value, those
    below 2⁻¹⁴ to 2⁻²⁵; samples all of whose values are that small are refused. Logits, and a prediction at
    each of its positions, are cached as log-probabilities log p = z − log Σ exp z, with that sum in float32
    beside them: the error of log p is 2⁻¹¹ |log p| at most, or 2⁻²⁵, so it is least where a class is probable.

    With ``top`` = k there are the k largest log-probabilities with their classes (int16, or int32 beyond 32 768
    classes), and the exact logarithm of the mass of all others in float32. Decoded, that mass is spread evenly over
    the others. Under a softmax at T = 1 the k classes keep their probabilities and the others keep their sum r; with C
    classes, KL(teacher ‖ decoded) = r · (log(C − k) − entropy among the others) ≤ r · log(C − k). At higher
    temperatures the others count for more. A prediction of one channel, a quantity, is cached as a map is.

    Args:
        part: Of a representation.
        precision: ``"fp32"`` or ``"fp16"``.
        top: How many logits of a sample, or of a position of the prediction; None: all.

    Shape:
        - ``encode``: a representation with ``part``, any float dtype -> by name (B, …): ``logits``, ``embedding`` or
          ``maps.0``, ``maps.1`` …, and beside logits (and a prediction) ``logits.sums``, ``logits.classes``,
          ``logits.others``
        - ``decode``: the same shapes as before, float32

    Raises:
        UsageError: ``top`` is not fewer than all logits, a value is beyond float16, or all values of a sample are too
            small for it.

    Example:
        >>> codec = TeacherOutputCodec("logits", "fp32", top=2)
        >>> logits = torch.tensor([[4.0, 1.0, 3.0, 0.0]])
        >>> decoded = codec.decode(codec.encode(Representation(logits)), num_classes=4).logits
        >>> decoded.softmax(1)[0, [0, 2]].allclose(logits.softmax(1)[0, [0, 2]]), bool(decoded[0, 1] == decoded[0, 3])
        (True, True)
    """

    part: str
    precision: str = "fp32"
    top: int | None = None

    def __str__(self) -> str:
        return self.precision if self.top is None else f"{self.top} largest in {self.precision}"

    def encode(self, outputs: Representation) -> Fields:
        """The fields of a batch."""
        values = {
            name: value.float()
            for name, value in zip(self._names(outputs), outputs.only(self.part).tensors(), strict=True)
        }
        of_classes = values.get(self.part) if self.part in ("logits", "prediction") else None
        if of_classes is None or (self.part == "prediction" and of_classes.shape[1] == 1):
            for name, value in values.items():
                self._check_small(name, value)
            return {name: self._rounded(name, value) for name, value in values.items()}
        if self.top is not None:
            return self._largest(of_classes, self.top)
        if self.precision == "fp32":
            return values
        sums = of_classes.logsumexp(1)
        return {self.part: self._rounded(self.part, of_classes - sums[:, None]), f"{self.part}.sums": sums}

    def decode(self, fields: Mapping[str, Tensor], num_classes: int) -> Representation:
        """The part of the representation.

        Args:
            fields: As :meth:`encode` returns them.
            num_classes: C; of logits alone.
        """
        if self.part == "maps":
            return Representation(maps=tuple(fields[f"maps.{place}"].float() for place in range(len(fields))))
        if self.part == "embedding":
            return Representation(embedding=fields["embedding"].float())
        values = fields[self.part].float()
        if f"{self.part}.sums" in fields:
            sums = fields[f"{self.part}.sums"][:, None]
            values = values + sums
            if self.top is not None:
                others = (sums + fields[f"{self.part}.others"][:, None]).expand(-1, num_classes, *values.shape[2:])
                values = others.scatter(1, fields[f"{self.part}.classes"].long(), values)
        return self._as_part(values)

    def comparable(
        self, outputs: Representation, fields: Mapping[str, Tensor]
    ) -> tuple[Representation, Representation]:
        """Outputs and cached fields of the same samples as two representations that are equal up to rounding where they
        are of one network.

        Args:
            outputs: As :meth:`encode` takes them.
            fields: As :meth:`encode` returned them.
        """
        if f"{self.part}.classes" in fields:
            # At the classes that are cached: two that are nearly equal may change places.
            largest = fields[self.part].float() + fields[f"{self.part}.sums"][:, None]
            return outputs.only(self.part).map(
                lambda logits: logits.float().gather(1, fields[f"{self.part}.classes"].long())
            ), self._as_part(largest)
        return outputs.only(self.part).map(Tensor.float), self.decode(fields, 0)

    def _as_part(self, values: Tensor) -> Representation:
        return Representation(prediction=values) if self.part == "prediction" else Representation(logits=values)

    def _names(self, outputs: Representation) -> list[str]:
        return [f"maps.{place}" for place in range(len(outputs.maps))] if self.part == "maps" else [self.part]

    def _largest(self, logits: Tensor, top: int) -> Fields:
        count = logits.shape[1]
        if top >= count:
            raise UsageError(
                f"cache.{self.part}={top} keeps the largest of more logits than that, and a teacher has {count}: "
                f"set fewer, or cache.{self.part}=all"
            )
        sums = logits.logsumexp(1)
        largest, classes = logits.topk(top, dim=1)
        # Summed by themselves: as a difference to the whole, a small rest would be lost in rounding.
        rest = logits.scatter(1, classes, -math.inf).logsumexp(1)
        return {
            self.part: self._rounded(self.part, largest - sums[:, None]),
            f"{self.part}.classes": classes.to(torch.int16 if count <= 2**15 else torch.int32),
            f"{self.part}.sums": sums,
            f"{self.part}.others": rest - sums - math.log(count - top),
        }

    def _check_small(self, name: str, values: Tensor) -> None:
        """Refuse samples all of whose values are too small; of logarithms a small one is as good as 0."""
        if self.precision == "fp32" or not values.numel():
            return
        largest = values.abs().flatten(1).amax(1)
        small = largest[(largest > 0) & (largest < _SMALLEST)]
        if len(small):
            raise UsageError(
                f"a teacher's {name} has samples with no value beyond {float(small.min()):.3g}, and float16 is exact "
                f"to 2⁻¹¹ from {_SMALLEST:.2g} on: set cache.precision=fp32"
            )

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


def codecs(config: CacheConfig) -> dict[str, TeacherOutputCodec]:
    """The codec of each part."""
    largest = {part: top for part in ("logits", "prediction") if (top := getattr(config, part)) != "all"}
    return {part: TeacherOutputCodec(part, config.precision, largest.get(part)) for part in PARTS}
