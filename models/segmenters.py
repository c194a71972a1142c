"""``unet/ENCODER``, ``fpn/ENCODER`` and ``linear/ENCODER``: any network of the registry with a decoder on its maps,
which answers for each pixel.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UsageError
from ..core.registry import MODELS
from ..core.representation import Taps
from ..core.tapping import INPUT, NHWC, hooked, module_of, run
from ..core.token_grids import token_map
from .builder_checks import built_by
from .decoders import HEADS, Head
from .file_weights import network_source
from .library import pair

_SIDE = 64
"""Side of the images that the maps of an encoder are measured on, where it takes any."""


class _Seen(dict[str, Tensor]):
    """What hooks saw in a forward pass; torch.export puts other dicts in the place of a module's plain ones."""


class EncoderDecoder(nn.Module):
    """An encoder and a decoder on its maps.

    Args:
        encoder: Takes images (B, C, H, W).
        maps: Taps of its feature maps, see :class:`~contrastill.core.representation.Taps`.
        shape: (C, H, W) of an image that it takes.
        decoder: A key of ``HEADS``.
        num_classes: Channels of the answer.

    Attributes:
        taps: The encoder's maps as ``features.0``, …, and last what the decoder's classifier reads.

    Shape:
        - images: (B, C, H, W), normalised - returns (B, num_classes, H, W).
    """

    def __init__(
        self, encoder: nn.Module, maps: Sequence[str], shape: tuple[int, int, int], decoder: str, num_classes: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self._maps = tuple(maps)
        self._seen = _Seen()
        # Made once: a hook that is another object in each forward would be compiled anew each time.
        for name in hooked(self._maps):
            layer = encoder.get_submodule(module_of(name))
            if name.startswith(INPUT):
                layer.register_forward_pre_hook(partial(_see_input, self._seen, name))
            else:
                layer.register_forward_hook(partial(_see_output, self._seen, name))
        with torch.no_grad(), torch.random.fork_rng():
            measured = self._encode(encoder.eval(), torch.zeros(2, *shape))
        encoder.train()
        self.decoder: Head = HEADS[decoder]([tuple(value.shape[1:]) for value in measured], num_classes)
        self.features = nn.ModuleList(nn.Identity() for _ in measured)

    def forward(self, images: Tensor) -> Tensor:
        maps = [tap(value) for tap, value in zip(self.features, self._encode(self.encoder, images), strict=True)]
        return self.decoder(maps, images.shape[2:])

    def _encode(self, encoder: nn.Module, images: Tensor) -> list[Tensor]:
        _, values = run(encoder, self._maps, images)
        values |= self._seen
        self._seen.clear()
        return [self._laid_out(name, values[name], images) for name in self._maps]

    def _laid_out(self, name: str, value: Tensor, images: Tensor) -> Tensor:
        """A map (B, C, H, W)."""
        if value.ndim == 4:
            return value.permute(0, 3, 1, 2) if name.startswith(NHWC) else value
        laid_out = token_map(value, (images.shape[2], images.shape[3]), self.encoder) if value.ndim == 3 else None
        if laid_out is None:
            raise UsageError(
                f"the map of {type(self.encoder).__name__} at {name} is {tuple(value.shape)}, and a decoder reads "
                "(B, C, H, W): take another encoder"
            )
        return laid_out


def _see_output(seen: dict[str, Tensor], name: str, _: nn.Module, args: Any, output: Tensor) -> None:
    seen[name] = output


def _see_input(seen: dict[str, Tensor], name: str, _: nn.Module, args: Any) -> None:
    seen[name] = args[0]


def _family(decoder: str) -> Callable[[str], Callable[..., nn.Module]]:
    def resolve(name: str) -> Callable[..., nn.Module]:
        encoder_builder = MODELS[name]
        if getattr(encoder_builder, "dense", False):
            raise UsageError(f"{name} answers for each pixel already: take it without {decoder}/")

        def build(num_classes: int | None = None, in_chans: int = 3, **options: Any) -> nn.Module:
            if num_classes is None:
                raise UsageError(f"{decoder}/{name} has no published decoder: set num_classes")
            options |= {"num_classes": num_classes, "in_chans": in_chans}
            encoder: Any = built_by(name, encoder_builder, options)
            source = network_source(encoder, encoder_builder)
            taps: Taps = source.taps
            if not taps.maps:
                raise UsageError(f"{name} gives no feature maps, which a decoder reads: take another encoder")
            embedding = _without_classifier(encoder, taps)
            side = source.preprocess.resolution or getattr(encoder, "published_resolution", None) or _SIDE
            module: Any = EncoderDecoder(encoder, taps.maps, (in_chans, *pair(side)), decoder, num_classes)
            read = module.decoder.reads
            own = () if read is None else (read.replace("input:", "input:decoder."),)
            maps = (*(f"features.{place}" for place in range(len(module.features))), *own)
            module.taps = Taps(embedding=embedding, maps=maps, prediction="output:")
            module.preprocess = source.preprocess
            module.num_logits = num_classes
            module.classifiers = tuple(f"decoder.{layer}" for layer in module.decoder.classifiers)
            return module

        build.__doc__ = f"{name} with the decoder {decoder}."
        build.__signature__ = inspect.signature(encoder_builder)  # type: ignore[attr-defined]
        build.dense = True  # type: ignore[attr-defined]
        build.published = getattr(encoder_builder, "published", True)  # type: ignore[attr-defined]
        build.encoder_name, build.encoder_builder = name, encoder_builder  # type: ignore[attr-defined]
        return build

    resolve.__doc__ = f"The builder of a network of the registry with the decoder {decoder}."
    return resolve


def _without_classifier(encoder: nn.Module, taps: Taps) -> str | None:
    """Take the linear classifier out, which a decoder does not read; returns the tap of its input, the embedding."""
    name = (taps.embedding or "").removeprefix(INPUT)
    if taps.embedding is None or not taps.embedding.startswith(INPUT):
        return None
    if not isinstance(encoder.get_submodule(name), nn.Linear):
        return None
    encoder.set_submodule(name, nn.Identity())
    return f"{INPUT}encoder.{name}"


for _decoder in HEADS:
    MODELS.register_family(_decoder)(_family(_decoder))
