"""Reads the outputs of modules inside a network during one forward pass, by their names, without editing it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from .errors import ContrastillError, UsageError
from .outputs import described, part_of

INPUT, NHWC = "input:", "nhwc:"
"""What may stand before a module's name: its first input in the place of its output; channels that come last."""

OUTPUT = "output:"
"""What the module itself returns; a path in a dict, dataclass or tuple may follow: ``output:logits``."""

HIDDEN = (f"{OUTPUT}hidden_states", f"{OUTPUT}reshaped_hidden_states")
"""What transformers' modules return only where it is asked for."""

INTERMEDIATES, PRE_LOGITS = "forward_intermediates:", "forward_head:pre_logits"
"""What timm's own methods return: a feature map, whose index follows, and the pooled features before the classifier."""


class Tapping:
    """Hooks on a module for the length of one forward pass, and the tensors they saw."""

    def __init__(self, module: nn.Module, names: list[str], network: str) -> None:
        self._module, self._names, self._network = module, names, network
        self._seen: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}
        self._handles: list = []

    def __enter__(self) -> Tapping:
        for name in hooked(self._names):
            module = self._module.get_submodule(module_of(name))
            if name.startswith(INPUT):
                handle = module.register_forward_pre_hook(
                    lambda _, args, kwargs, name=name: self._see(name, [*args, *kwargs.values()][0]), with_kwargs=True
                )
            else:
                handle = module.register_forward_hook(lambda _, args, output, name=name: self._see(name, output))
            self._handles.append(handle)
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def run(self, images: Tensor) -> object:
        """One forward pass; returns what the module returns."""
        try:
            output, values = run(self._module, self._names, images)
        except AssertionError as error:  # what timm says of an index
            if not any(name.startswith(INTERMEDIATES) for name in self._names):
                raise
            raise UsageError(
                f"{self._network} does not give the maps of its taps {', '.join(self._names)}: "
                f"{' '.join(str(error).split())}"
            ) from error
        for name, value in values.items():
            self._see(name, value)
        return output

    def __getitem__(self, name: str) -> Tensor:
        value = self._seen[name]
        return value.permute(0, 3, 1, 2) if name.startswith(NHWC) and value.ndim == 4 else value

    def _see(self, name: str, value: object) -> None:
        if name in self._seen:
            raise ContrastillError(
                f"the tapped module {name} of {self._network} runs twice in one forward: tap one that runs once"
            )
        if not isinstance(value, Tensor):
            raise UsageError(
                f"the tap {name} of {self._network} gives a {type(value).__name__}, not a tensor: tap a module "
                "inside it"
            )
        self._seen[name] = value
        self._versions[name] = _version(value)

    def check(self) -> None:
        """Raise if a tapped module did not run, or if what it gave was overwritten, as by an in-place ReLU."""
        for name in self._names:
            if name not in self._seen:
                raise ContrastillError(
                    f"the tapped module {name} of {self._network} did not run in this forward: tap one that does"
                )
            if _version(self._seen[name]) != self._versions[name]:
                raise ContrastillError(
                    f"what the tap {name} of {self._network} gives is changed in place afterwards: tap the module "
                    "that changes it"
                )


def run(module: nn.Module, names: Iterable[str], images: Tensor) -> tuple[object, dict[str, Tensor]]:
    """What a module returns and what those taps give that need no hook, in one forward pass.

    timm's ``forward`` is its ``forward_head`` of its ``forward_features``, and its ``forward_intermediates`` returns
    the same features with the maps.

    Args:
        module: With timm's methods, where a tap is one of them.
        names: Taps.
        images: (B, C, H, W).
    """
    names = list(names)
    if not any(name.startswith((INTERMEDIATES, PRE_LOGITS)) for name in names):
        output = call(module, images, names)
        return output, _parts(output, names, module)
    network: Any = module
    values: dict[str, Tensor] = {}
    indices = sorted({int(name.removeprefix(INTERMEDIATES)) for name in names if name.startswith(INTERMEDIATES)})
    if indices:
        features, maps = network.forward_intermediates(images, indices=indices, output_fmt="NCHW")
        values |= {f"{INTERMEDIATES}{index}": value for index, value in zip(indices, maps, strict=True)}
    else:
        features = network.forward_features(images)
    if PRE_LOGITS in names:
        values[PRE_LOGITS] = network.forward_head(features, pre_logits=True)
    output = network.forward_head(features)
    return output, values | _parts(output, names, module)


def image_side(config: Any) -> int | tuple[int, int] | None:
    """The size of the images that a config of transformers is of, if it says one."""
    # Of a classifier beside a text model, as CLIP's and SigLIP's, the config of the images is a part.
    size = getattr(config, "image_size", None) or getattr(getattr(config, "vision_config", None), "image_size", None)
    return tuple(size) if isinstance(size, (list, tuple)) else size


def call(module: nn.Module, images: Tensor, names: Iterable[str] = ()) -> Any:
    """What a module returns; of transformers' modules with the hidden states that taps read, and with positions for
    images of another size than its config has, where its class interpolates them.

    Raises:
        UsageError: A module of transformers does not take images of this size.
    """
    config = getattr(module, "config", None)
    if config is None:
        return module(images)
    options = {}
    if any(name.startswith(HIDDEN) for name in names) and hasattr(config, "output_hidden_states"):
        options["output_hidden_states"] = True
    own = image_side(config)
    size = (own, own) if isinstance(own, int) else own
    if size is not None and size != tuple(images.shape[2:]) and _interpolates(type(module)):
        options["interpolate_pos_encoding"] = True
    try:
        return module(images, **options)
    except ValueError as error:  # what transformers says of a size
        if not hasattr(config, "model_type"):
            raise
        raise UsageError(
            f"{type(module).__name__} does not take images {tuple(images.shape[1:])}: {' '.join(str(error).split())}: "
            f"{f'set resolution={own}' if own else 'choose another resolution'}"
        ) from error


def answer(module: nn.Module, images: Tensor) -> Tensor:
    """What a module with ``taps`` answers, as it was trained and is evaluated: its logits (B, C); of one without logits
    its prediction (B, C, H, W), or embedding.

    Raises:
        UsageError: It returns no tensor, and its taps name none.
        ContrastillError: The tapped module did not run, ran twice, or its tensor was changed in place afterwards.
    """
    taps: Any = getattr(module, "taps", None)
    if (name := answer_tap(taps)) is not None:
        return read_tap(module, name, images)
    embedding: Any = getattr(taps, "embedding", None)
    output = call(module, images, [embedding] if is_part(embedding) else [])
    if isinstance(output, Tensor):
        return output
    if not is_part(embedding):
        raise UsageError(f"{type(module).__name__} returns {described(output)}: name its logits with taps")
    return part_of(output, embedding.removeprefix(OUTPUT), type(module).__name__)


def read_tap(module: nn.Module, name: str, images: Tensor) -> Tensor:
    """What one tap gives in a forward pass, raising as :class:`Tapping` does."""
    with Tapping(module, [name], type(module).__name__) as tapped:
        tapped.run(images)
    tapped.check()
    return tapped[name]


def answer_tap(taps: Any) -> str | None:
    """The tap that gives a module's answer; None where that is what the module itself returns."""
    tap = getattr(taps, "prediction" if getattr(taps, "dense", False) else "logits", None)
    return tap if isinstance(tap, str) and tap != OUTPUT else None


def is_part(tap: object) -> bool:
    """Whether a tap is a part of what the module returns."""
    return isinstance(tap, str) and tap.startswith(OUTPUT) and tap != OUTPUT


def _parts(output: object, names: Iterable[str], module: nn.Module) -> dict[str, Any]:
    network = type(module).__name__
    return {
        name: part_of(output, name.removeprefix(OUTPUT), network) if is_part(name) else output
        for name in names
        if name.startswith(OUTPUT)
    }


_INTERPOLATE: dict[type, bool] = {}


def _interpolates(kind: type[nn.Module]) -> bool:
    """Whether a class of modules takes ``interpolate_pos_encoding``; by a dict, which torch.compile sees through."""
    if kind not in _INTERPOLATE:
        _INTERPOLATE[kind] = "interpolate_pos_encoding" in inspect.signature(kind.forward).parameters
    return _INTERPOLATE[kind]


def hooked(names: Iterable[str]) -> list[str]:
    """The taps that are read by a hook on a module."""
    return [name for name in names if not name.startswith((OUTPUT, INTERMEDIATES, PRE_LOGITS))]


def module_of(tap: str) -> str:
    return tap.removeprefix(INPUT).removeprefix(NHWC)


def _version(value: Tensor) -> int:
    """How often a tensor was changed in place; inference tensors don't count."""
    return 0 if value.is_inference() else value._version
