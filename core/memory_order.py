"""Networks whose code takes tensors in one order in memory alone."""

from __future__ import annotations

from torch import Tensor, nn

from .tapping import Tapping

_VIEW = "view size is not compatible with input tensor's size and stride"
"""In what torch says of a ``view`` of a tensor in another order."""


class MemoryOrder:
    """The order in memory of what a module is given: as it is, until a view in its code fails with channels last; then
    its weights and images are contiguous from there on.
    """

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
        try:
            with Tapping(module, taps, name) as tapped:
                return tapped, tapped.run(images)
        except RuntimeError as error:
            values = [*module.parameters(), *module.buffers()]
            if _VIEW not in str(error) or all(value.is_contiguous() for value in (images, *values)):
                raise
        self.contiguous = True
        for value in values:
            value.data = value.data.contiguous()
        return self.run(module, taps, name, self.of(images))
