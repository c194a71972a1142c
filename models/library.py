"""What the adapters to timm and torchvision share: finding taps, exchanging layers, fetching published weights."""

from __future__ import annotations

import copy
import logging
import math
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ContrastillError, UsageError, nearest
from ..core.modes import modes_of, restore_modes

log = logging.getLogger(__name__)

PATIENCE = 8.0
"""Seconds without an answer after which fetching published weights fails."""


def unknown_network(library: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that the library does not have; it has too many to list."""
    text = f"{library}/{name}"
    hint = nearest(name, known, f"{library}'s list_models() says what there is", prefix=f"{library}/")
    return UsageError(f"model {text!r} does not exist: {hint}")


@contextmanager
def fetching(network: str) -> Iterator[None]:
    """Turn any error of fetching published weights into one sentence, with a timeout for dead connections.

    Raises:
        ContrastillError: They could not be fetched.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    except ContrastillError:
        raise
    except Exception as error:  # each library, and each of its ways to fetch, has errors of its own
        reason = " ".join(str(error).split())
        raise ContrastillError(
            f"the published weights of {network} could not be fetched "
            f"({type(error).__name__}{': ' if reason else ''}{reason[:160]}): "
            "go online once, or fetch the file elsewhere and give it as weights=FILE"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def pair(resolution: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a side or of both."""
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    return height, width


def side(size: Sequence[int]) -> int | tuple[int, int]:
    """One number for a square."""
    height, width = size
    return height if height == width else (height, width)


def new_classifier(module: nn.Module, name: str, num_classes: int) -> None:
    """Put an untrained layer in place of a linear or 1×1 convolutional classifier."""
    old: Any = module.get_submodule(name)
    new: nn.Module
    bias = old.bias is not None
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, num_classes, bias=bias)
    else:
        new = nn.Conv2d(old.in_channels, num_classes, old.kernel_size, bias=bias)
    module.set_submodule(name, new)


def exchange_stem(module: nn.Module, in_chans: int, pretrained: bool) -> None:
    """Another first convolution, with the old one's weights adapted to its channels, or as widely spread as they
    were.
    """
    from timm.models import adapt_input_conv

    name, old = next((name, inner) for name, inner in module.named_modules() if isinstance(inner, nn.Conv2d))
    options: dict[str, Any] = {
        name: getattr(old, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    }
    new = nn.Conv2d(in_chans, old.out_channels, bias=old.bias is not None, **options)
    with torch.no_grad():
        if pretrained:
            new.weight.copy_(adapt_input_conv(in_chans, old.weight))
        else:
            new.weight.normal_(std=old.weight.std().item())
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    module.set_submodule(name, new)


TRACED = 2
"""Images in a trace; other than 1, so that what has no batch is told apart."""


@dataclass
class _Seen:
    """What went into a module and came out of it in one forward pass."""

    runs: int = 0
    order: int = -1
    inputs: Tensor | None = None
    inputs_version: int = 0
    output: Tensor | None = None
    version: int = 0
    pools: bool = False

    @property
    def gives_output(self) -> bool:
        """Ran once, and its output is not changed in place afterwards."""
        return self.runs == 1 and self.output is not None and self.output._version == self.version

    @property
    def gives_input(self) -> bool:
        """The same of its input, where that is one value per channel or averages to it."""
        return (
            self.runs == 1
            and self.inputs is not None
            and self.inputs.ndim in (2, 4)
            and self.inputs._version == self.inputs_version
        )


class Trace:
    """One forward pass of a module in eval mode, and what each of its modules saw.

    A copy runs it on torch's meta device, which keeps shapes and computes nothing; where that fails the module itself
    gets black images.

    Args:
        module: As its library made it.
        shape: (C, H, W) of an image that it takes.
        call: What to call with the module and images in the place of the module.

    Attributes:
        output: What was returned.
    """

    def __init__(
        self,
        module: nn.Module,
        shape: tuple[int, int, int],
        call: Callable[[nn.Module, Tensor], Any] = nn.Module.__call__,
    ) -> None:
        self.shape = shape
        self.seen: dict[str, _Seen] = {}
        self.output: Any = None
        self._module, self._call = module, call
        self._finished = 0
        try:
            memo: dict[int, Tensor] = {
                id(value): nn.Parameter(value.to("meta"), requires_grad=False) for value in module.parameters()
            }
            memo |= {id(value): value.to("meta") for value in module.buffers()}
            self._run(copy.deepcopy(module, memo), torch.empty(TRACED, *shape, device="meta"))
        except Exception as error:  # tensors that are neither parameters nor buffers, values that are read on the host
            log.debug("%s does not run on the meta device: %s", type(module).__name__, error)
            self.seen.clear()
            with torch.random.fork_rng():
                self._run(module, torch.zeros(TRACED, *shape))

    def _run(self, module: nn.Module, images: Tensor) -> None:
        modes = modes_of(module)
        handles = []
        for name, inner in module.named_modules():
            if name:
                handles.append(
                    inner.register_forward_pre_hook(
                        lambda _, args, kwargs, name=name: self._enter(name, (*args, *kwargs.values())),
                        with_kwargs=True,
                    )
                )
                handles.append(
                    inner.register_forward_hook(lambda inner, args, output, name=name: self._leave(name, inner, output))
                )
        try:
            with torch.no_grad():
                self.output = self._call(module.eval(), images)
        finally:
            for handle in handles:
                handle.remove()
            restore_modes(modes)

    def _enter(self, name: str, args: tuple) -> None:
        seen = self.seen.setdefault(name, _Seen())
        if args and isinstance(args[0], Tensor):
            seen.inputs, seen.inputs_version = args[0], args[0]._version

    def _leave(self, name: str, inner: nn.Module, output: object) -> None:
        seen = self.seen.setdefault(name, _Seen())
        self._finished += 1
        seen.runs, seen.order, seen.pools = seen.runs + 1, self._finished, isinstance(inner, nn.AdaptiveAvgPool2d)
        seen.output = output if isinstance(output, Tensor) and output.ndim > 1 and len(output) == TRACED else None
        seen.version = seen.output._version if seen.output is not None else 0

    def gives(self, name: str, value: Tensor) -> bool:
        """Whether a tensor is the very output of a module, and is not changed afterwards."""
        return name in self.seen and self.seen[name].gives_output and self.seen[name].output is value

    def work(self) -> dict[str, tuple[int, list[torch.Size | None]]]:
        """How often each innermost module with weights ran, and shapes of what went in and came out."""
        weighty = {
            name
            for name, inner in self._module.named_modules()
            if not any(True for _ in inner.children()) and inner.state_dict()
        }
        return {
            name: (seen.runs, [None if value is None else value.shape for value in (seen.inputs, seen.output)])
            for name, seen in self.seen.items()
            if name in weighty
        }

    def embedding(self, classifiers: Sequence[str]) -> str | None:
        """The input of the first of these that has one."""
        return next(
            (f"input:{name}" for name in classifiers if name in self.seen and self.seen[name].gives_input), None
        )

    def maps(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of the modules that give feature maps, the last of each scale, or four evenly spaced where all are of
        one.

        A module whose output is changed in place stands for the one that changes it.
        """
        lasting = {name for name in map(self._lasting, names) if name is not None}
        in_order = sorted(lasting, key=lambda name: self.seen[name].order)
        scales = {self._scale(name): name for name in in_order}
        chosen = [*scales.values()]
        if len(scales) == 1 and len(in_order) > 4:
            chosen = [in_order[quarter * len(in_order) // 4 - 1] for quarter in (1, 2, 3, 4)]
        return tuple(f"nhwc:{name}" if self._channels_last(name) else name for name in chosen)

    def indices_of_maps(self, maps: Sequence[object]) -> list[int]:
        """Places of those among several feature maps (B, C, H, W) that :meth:`maps` would choose; of branches of about
        one scale the last of each.
        """
        shapes = {
            place: tuple(value.shape)
            for place, value in enumerate(maps)
            if isinstance(value, Tensor) and value.ndim == 4
        }
        scales = {round(math.log2(self.shape[1] / shape[2])): place for place, shape in shapes.items()}
        branches = {shape: place for place, shape in shapes.items()}
        if len(scales) == 1 and len(branches) > 1:
            return sorted(branches.values())
        if len(scales) == 1 and len(shapes) > 4:
            return [[*shapes][quarter * len(shapes) // 4 - 1] for quarter in (1, 2, 3, 4)]
        return [*scales.values()]

    def all_maps(self, prediction: Tensor | None = None) -> tuple[str, ...]:
        """For each scale the last module that gives a feature map, of the least nested ones.

        Args:
            prediction: What a network answers for each position, which is none.
        """
        depth = {
            name: name.count(".")
            for name, seen in self.seen.items()
            if seen.gives_output and self._is_map(name) and (prediction is None or seen.output is not prediction)
        }
        least: dict[float, int] = {}
        for name, nested in depth.items():
            least[self._scale(name)] = min(nested, least.get(self._scale(name), nested))
        return self.maps(name for name, nested in depth.items() if nested == least[self._scale(name)])

    def _lasting(self, name: str) -> str | None:
        seen = self.seen.get(name)
        if seen is None or seen.output is None or seen.output.ndim not in (3, 4):
            return None
        if seen.gives_output:
            return name
        return next((other for other, its in self.seen.items() if its.gives_output and its.output is seen.output), None)

    def _is_map(self, name: str) -> bool:
        """(B, C, H, W) or (B, H, W, C) before the pooling, in the image's ratio."""
        seen = self.seen[name]
        if seen.output is None or seen.output.ndim != 4 or seen.pools:
            return False
        sides = seen.output.shape[1:]
        ratio = self.shape[1] / self.shape[2]
        # (H, W) last, or before the channels.
        last, first = (width > 1 and abs(height - width * ratio) < 1 for height, width in (sides[1:], sides[:2]))
        # As many channels as rows, of another ratio: the map of strides that differ.
        return last or (first and self._keeps_first_side(name) is not True)

    def _output(self, name: str) -> Tensor:
        """Output of a module that gives one, see :attr:`_Seen.gives_output`."""
        output = self.seen[name].output
        assert output is not None, name
        return output

    def _channels_last(self, name: str) -> bool:
        output, (_, height, width) = self._output(name), self.shape
        if output.ndim != 4 or output.shape[1] * width != output.shape[2] * height:
            return False
        if output.shape[2] * width != output.shape[3] * height:
            return self._keeps_first_side(name) is not True
        # As many channels as rows and columns.
        return self._keeps_first_side(name) is False

    def _keeps_first_side(self, name: str) -> bool | None:
        """Whether a module's output has as many values on its first side for a higher image, as channels are; None
        where that is not known.
        """
        seen = None if self._higher is None else self._higher.seen.get(name)
        return None if seen is None or seen.output is None else seen.output.shape[1] == self._output(name).shape[1]

    @cached_property
    def _higher(self) -> Trace | None:
        """The trace of an image of twice the height; None of a network of one size."""
        channels, height, width = self.shape
        try:
            return Trace(self._module, (channels, 2 * height, width), self._call)
        except Exception as error:
            log.debug("%s takes no higher images: %s", type(self._module).__name__, error)
            return None

    def _scale(self, name: str) -> float:
        """How often the image was halved on the way to a map, rounded: without padding a stage's maps differ by a few
        pixels.
        """
        shape = self._output(name).shape
        if len(shape) == 3:
            return -shape[1]
        return round(math.log2(self.shape[1] / shape[1 if self._channels_last(name) else 2]))
