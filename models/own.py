"""A module that somebody made elsewhere, in the place of a builder: where its representation is, how it sees."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from ..core.errors import UsageError
from ..core.representation import Network, Preprocess, Taps
from .library import Trace


class OwnNetwork:
    """Stands for the builder of a module that is there already, and hands out copies of it on the CPU.

    Args:
        module: Takes images (B, C, H, W) and returns logits (B, num_logits).
        taps: Where its representation is. What is left out is found by one forward pass: the embedding is the input of the last linear
            layer that runs, the maps are for each size of feature map the last module that gives it.
        preprocess: How it sees.
        shape: (C, H, W) of an image as it is given to the module.
        classes: Names of its logits, where they are known.

    Attributes:
        num_logits: Outputs of the last linear layer that runs; None where there is none.
        classifiers: The name of that layer.

    Raises:
        UsageError: The module cannot be copied, or fails on such an image.
    """

    def __init__(self, module: nn.Module, taps: Taps, preprocess: Preprocess, shape: tuple[int, int, int], classes: Sequence[str] | None = None) -> None:
        self.module, self.preprocess, self.classes = module, preprocess, classes
        try:
            trace = Trace(self(), shape)
        except UsageError:
            raise
        except Exception as error:  # whatever somebody's own code raises
            said = " ".join(str(error).split()) or type(error).__name__
            raise UsageError(f"{type(module).__name__} fails on images {shape} (channels, height, width) of this data: {said}") from error
        linear = {name for name, inner in module.named_modules() if isinstance(inner, nn.Linear)}
        ran = sorted((name for name in linear if name in trace.seen and trace.seen[name].gives_input), key=lambda name: trace.seen[name].order)
        flat = [name for name in ran if trace.seen[name].inputs.ndim == 2][-1:]
        self.classifiers = tuple(flat)
        self.num_logits = module.get_submodule(flat[0]).out_features if flat else None
        self.taps = Taps(taps.embedding or trace.embedding(flat), taps.maps or trace.all_maps(), taps.logits)

    def __call__(self, num_classes: int | None = None, in_chans: int = 3) -> nn.Module:
        try:
            return copy.deepcopy(self.module).cpu()
        except RuntimeError as error:
            raise UsageError(f"{type(self.module).__name__} cannot be copied, and a training leaves what it is given as it was: {error}") from error


def unwrapped(module: nn.Module) -> nn.Module:
    """The module itself in the place of what ``torch.compile``, ``DataParallel`` or ``DistributedDataParallel`` put around it: names of modules and weights are its own."""
    while True:
        if isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            module = inner
        elif isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
        else:
            return module


def given_parts(module: nn.Module) -> tuple[nn.Module, Taps, Preprocess | None, str | None]:
    """A module with the taps, the preprocessing and the modality that came with it, as those of a :class:`~contrastill.Network` do."""
    if isinstance(module, Network):
        return unwrapped(module.module), module.taps, module.preprocess, module.modality
    taps, preprocess = getattr(module, "taps", None), getattr(module, "preprocess", None)
    return module, taps if isinstance(taps, Taps) else Taps(), preprocess if isinstance(preprocess, Preprocess) else None, None


def given_classes(module: nn.Module) -> list[str] | None:
    """Names of a module's logits that came with it, as those of :func:`~contrastill.load_student` and of a :class:`~contrastill.Network` do."""
    names = module.recipe.get("classes") if isinstance(module, Network) else getattr(module, "classes", None)
    return [*names] if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names) else None
