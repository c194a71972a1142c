"""What a network said, and the tap that reads it off any module by module name, in one forward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import ContrastillError, UsageError, unknown_name

EVERYTHING = frozenset({"logits", "embedding", "maps"})


@dataclass
class Representation:
    """What a network said about a batch; what nobody asked for is None or empty.

    Attributes:
        logits: (B, C).
        embedding: (B, D), pooled, before the classifier.
        maps: Feature maps, each (B, C_i, H_i, W_i).
    """

    logits: Tensor | None = None
    embedding: Tensor | None = None
    maps: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class RepresentationSpec:
    """Shapes of a representation, without the batch.

    Attributes:
        num_classes: C of the logits.
        embedding_dim: D of the embedding.
        map_shapes: (C_i, H_i, W_i) of each map.
    """

    num_classes: int | None
    embedding_dim: int | None
    map_shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Taps:
    """Where a network is read: ``"avgpool"`` is that module's output, ``"input:fc"`` the input of module fc.

    Attributes:
        embedding: Place of the embedding; a (B, C, H, W) tensor found there is average-pooled.
        maps: Places of the feature maps.
        logits: Place of the logits; None is the network's own output.
    """

    embedding: str | None
    maps: tuple[str, ...] = ()
    logits: str | None = None


@dataclass(frozen=True)
class Preprocess:
    """A network's own normalisation and resolution.

    Attributes:
        mean: Of each channel, of values in [0, 1].
        std: Of each channel, of values in [0, 1].
        resolution: Side in pixels, or (height, width), that images are resized to; None takes them as they come.

    Shape:
        - images: (B, C, H, W), uint8 in 0 … 255 or float in [0, 1] - returns float (B, C, H', W').
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resolution: int | tuple[int, int] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        if images.shape[1] != len(self.mean):
            raise UsageError(f"this network reads {len(self.mean)} channels, and the images have {images.shape[1]}: set its mean, std and modality")
        full = 255.0 if images.dtype == torch.uint8 else 1.0
        images = images if images.is_floating_point() else images.to(torch.get_default_dtype())
        if self.resolution is not None:
            size = (self.resolution,) * 2 if isinstance(self.resolution, int) else tuple(self.resolution)
            if tuple(images.shape[-2:]) != size:
                images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        scale = images.new_tensor([1 / (full * s) for s in self.std]).view(-1, 1, 1)
        shift = images.new_tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)]).view(-1, 1, 1)
        return torch.addcmul(shift, images, scale)


class Network(nn.Module):
    """A network with the modality it reads, its own normalisation and resolution, and the places it is read at.

    The module itself is not edited: hooks stand on the tapped modules only while a forward runs.

    Args:
        module: Any network that takes one image tensor.
        taps: Where it is read.
        preprocess: Its normalisation and resolution; never shared with another network by accident.
        modality: Name of the batch's entry that it reads.

    Raises:
        UsageError: A tapped module does not exist; the message names the nearest ones.
    """

    def __init__(self, module: nn.Module, *, taps: Taps, preprocess: Preprocess, modality: str = "rgb") -> None:
        super().__init__()
        self.module, self.taps, self.preprocess, self.modality = module, taps, preprocess, modality
        self.frozen = False
        names = [name for name, _ in module.named_modules() if name]
        for place in (taps.embedding, taps.logits, *taps.maps):
            if place is not None and place.removeprefix("input:") not in names:
                raise unknown_name(f"module of {type(module).__name__}", place.removeprefix("input:"), names)

    def freeze(self) -> Network:
        """Make it a teacher: eval mode for good, no gradient."""
        self.frozen = True
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> Network:
        return super().train(mode and not self.frozen)

    def forward(self, batch: Mapping[str, Tensor], reads: frozenset[str] = EVERYTHING) -> Representation:
        """Say what is asked for, in one forward of the module.

        Args:
            batch: Holds the modality, (B, C, H, W).
            reads: Out of ``logits``, ``embedding``, ``maps``.

        Raises:
            UsageError: The batch lacks the modality.
            ContrastillError: A tapped module did not run exactly once.
        """
        if self.modality not in batch:
            raise UsageError(f"this network reads {self.modality}, and the data has {', '.join(batch)}: set its modality to one of them")
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self._said(self.preprocess(batch[self.modality]), reads)

    def _said(self, images: Tensor, reads: frozenset[str]) -> Representation:
        taps = self.taps
        places = list(taps.maps) if "maps" in reads else []
        if "embedding" in reads:
            if taps.embedding is None:
                raise UsageError(f"an objective reads the embedding of {type(self.module).__name__}, and no module is named for it: set embedding")
            places.append(taps.embedding)
        if "logits" in reads and taps.logits is not None:
            places.append(taps.logits)
        heard: dict[str, list[Tensor]] = {place: [] for place in places}
        modules = dict(self.module.named_modules())
        handles = []
        try:
            for place, values in heard.items():
                if place.startswith("input:"):
                    handles.append(modules[place.removeprefix("input:")].register_forward_pre_hook(lambda _, inputs, values=values: values.append(inputs[0])))
                else:
                    handles.append(modules[place].register_forward_hook(lambda _, __, output, values=values: values.append(output)))
            output = self.module(images)
        finally:
            for handle in handles:
                handle.remove()
        for place, values in heard.items():
            if len(values) != 1:
                raise ContrastillError(f"module {place} of {type(self.module).__name__} ran {len(values)} times in one forward: tap one that runs once")
        said = {place: values[0] for place, values in heard.items()}
        logits = None
        if "logits" in reads:
            logits = output if taps.logits is None else said[taps.logits]
        return Representation(
            logits=logits,
            embedding=_pooled(said[taps.embedding], taps.embedding) if "embedding" in reads else None,
            maps=tuple(said[place] for place in taps.maps) if "maps" in reads else (),
        )


def _pooled(embedding: Tensor, place: str) -> Tensor:
    """(B, C, H, W) -> (B, C) by the average; (B, D) as it is."""
    if embedding.ndim == 4:
        return embedding.mean((2, 3))
    if embedding.ndim != 2:
        raise UsageError(f"the embedding tapped at {place} must be (B, D) or (B, C, H, W), not {tuple(embedding.shape)}: name another module")
    return embedding


@torch.no_grad()
def describe(network: Network, batch: Mapping[str, Tensor]) -> RepresentationSpec:
    """The shapes a network says about a batch; nothing about the network or torch's generators changes.

    Args:
        network: What is asked.
        batch: Holds the network's modality, (B, C, H, W), any B.
    """
    training = [module for module in network.modules() if module.training]
    network.eval()
    reads = EVERYTHING if network.taps.embedding is not None else EVERYTHING - {"embedding"}
    try:
        with torch.random.fork_rng():
            said = network(batch, reads)
    finally:
        for module in training:
            module.training = True
    return RepresentationSpec(
        num_classes=said.logits.shape[1] if said.logits is not None and said.logits.ndim == 2 else None,
        embedding_dim=None if said.embedding is None else said.embedding.shape[1],
        map_shapes=tuple(tuple(value.shape[1:]) for value in said.maps),
    )
