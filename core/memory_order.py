"""Networks whose code takes tensors in one order in memory alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .preprocess import is_mapped, is_traced
from .tapping import Tapping

_VIEW = "view size is not compatible with input tensor's size and stride"
"""In what torch says of a ``view`` of a tensor in another order."""


class MemoryOrder:
    """The order in memory of what a module is given: as it is, until a view in its code fails with channels last; then
    its weights and images are contiguous from there on.
    """

    # Of the class too, as networks that were pickled by an earlier version have none of their own.
    _passed: frozenset[bool] = frozenset()

    def __init__(self) -> None:
        self.contiguous = False

    def of(self, images: Tensor) -> Tensor:
        """The images (B, C, H, W) in this order."""
        return images.contiguous() if self.contiguous else images

    def run(self, module: nn.Module, taps: list[str], name: str, images: Tensor) -> tuple[Tapping, object]:
        """What the taps of a module gave, and what it returned.

        Args:
            module: Of a network.
            taps: Names.
            name: The module's, for messages.
            images: (B, C, H, W).
        """
        before = self._before(module, images)
        try:
            with Tapping(module, taps, name) as tapped:
                answer = tapped.run(images)
            if before is not None:
                self._passed |= {module.training}
            return tapped, answer
        except RuntimeError as error:
            if _VIEW not in str(error) or _in_one_order(module, images):
                raise
        if before is not None:
            before()
        self.contiguous = True
        for value in (*module.parameters(), *module.buffers()):
            value.data = value.data.contiguous()
        return self.run(module, taps, name, self.of(images))

    def _before(self, module: nn.Module, images: Tensor) -> Callable[[], None] | None:
        """What puts back, as if there had been no pass, what a pass that fails has counted and drawn; None where it
        will not fail: in a mode of which a pass was whole, or with all in one order.
        """
        # First whether it is traced: torch.compile would compile anew when a mode is added.
        if self.contiguous or is_traced() or is_mapped(images) or module.training in self._passed:
            return None
        if _in_one_order(module, images):
            return None
        from .as_before import AsBefore  # it knows objectives, and they know networks

        counts, state = AsBefore(module.modules()), torch.get_rng_state()
        on = images.device if images.device.type == "cuda" else None
        of_device = None if on is None else torch.cuda.get_rng_state(on)

        def restore() -> None:
            counts.restore()
            torch.set_rng_state(state)
            if on is not None and of_device is not None:
                torch.cuda.set_rng_state(of_device, on)

        return restore


def _in_one_order(module: nn.Module, images: Tensor) -> bool:
    values = chain((images,), module.parameters(), module.buffers())
    return all(is_lazy(value) or value.is_contiguous() for value in values)
