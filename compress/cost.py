"""What a network costs: parameters, operations, time and bytes; several networks are timed in turn, so that they
compare.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import safetensors.torch
import torch
from torch import Tensor, nn

from ..core.errors import UsageError
from ..core.representation import Network
from ..core.tapping import call
from .operations import count_flops

_WARM_UP = 3
"""Forwards before the first that counts: caches fill, and a GPU's libraries choose their kernels."""

_THREADS_PER_CORE = 8

Size = int | tuple[int, int]
"""A side, or (height, width), in pixels."""


@dataclass(frozen=True)
class Cost:
    """What one network costs.

    Attributes:
        parameters: How many numbers it learnt; shared ones count once.
        flops: Floating-point operations of one image's forward, 2 for each multiply-add, of convolutions and matrix
            products, see :func:`~contrastill.compress.operations.count_flops`; normalisation and activations are left
            out, as torch's counter leaves them out.
        latency_ms: Median time of a batch's forward, in milliseconds.
        latency_quartiles_ms: Between these two lies the middle half of the times.
        images_per_second: Images of a batch by its median time.
        bytes: Size of the weights in a safetensors file, in 32-bit floats.
        batch_size: Images in a batch that was timed.
        input_shape: (C, H, W) of an image.
        device: Where it was timed.
        threads: Threads of the CPU that torch used within an operation.
        flops_per_megapixel: Those of a forward for a million pixels of image, of a network that answers for each
            position; None of others.
    """

    parameters: int
    flops: int
    latency_ms: float
    latency_quartiles_ms: tuple[float, float]
    images_per_second: float
    bytes: int
    batch_size: int
    input_shape: tuple[int, int, int]
    device: str
    threads: int
    flops_per_megapixel: float | None = None

    def relative_to(self, other: Cost) -> dict[str, float]:
        """This one's part of another one's ``parameters``, ``flops``, ``latency`` and ``bytes``."""
        mine, theirs = ((cost.parameters, cost.flops, cost.latency_ms, cost.bytes) for cost in (self, other))
        names = ("parameters", "flops", "latency", "bytes")
        return {name: a / b for name, a, b in zip(names, mine, theirs, strict=True) if b}


def network_cost(
    network: Network,
    size: Size,
    *,
    batch_size: int = 1,
    rounds: int = 30,
    device: str | torch.device = "cpu",
    threads: int | None = None,
) -> Cost:
    """What a network costs; :func:`network_costs` of one network.

    Example:
        >>> from contrastill.models.build import build_network
        >>> cost = network_cost(build_network("resnet20", num_classes=10), 32, rounds=2)
        >>> cost.parameters, cost.flops
        (272474, 81626368)
    """
    return network_costs([network], [size], batch_size=batch_size, rounds=rounds, device=device, threads=threads)[0]


def network_costs(
    networks: Sequence[Network],
    sizes: Sequence[Size],
    *,
    batch_size: int = 1,
    rounds: int = 30,
    device: str | torch.device = "cpu",
    threads: int | None = None,
) -> list[Cost]:
    """What networks cost, timed alternately: each round has one forward of every network, so that a slower minute of
    the machine meets them all.

    A forward takes normalised images to logits, or to a prediction for each position, in eval mode and without
    gradients; preprocessing is left out. The networks stay as they are.

    Args:
        networks: They are copied to the device, all at once.
        sizes: Side, or (height, width), of the images that each one takes.
        batch_size: Images in a batch that is timed.
        rounds: Timed forwards of each network, after a warm-up.
        device: Where to time.
        threads: Threads of the CPU within an operation; None leaves torch's own number.

    Raises:
        UsageError: No such device, a number that is not positive or more than the machine can do, or images of a size
            that a network cannot take; a network with quantised layers.

    Example:
        >>> from contrastill.models.build import build_network
        >>> networks = [build_network(name, num_classes=10) for name in ("resnet20", "resnet8")]
        >>> big, small = network_costs(networks, [32, 32], rounds=2)
        >>> round(small.relative_to(big)["parameters"], 3)
        0.286
    """
    for name, value in (("batch_size", batch_size), ("rounds", rounds), ("threads", 1 if threads is None else threads)):
        if value < 1:
            raise UsageError(f"{name}={value} is not positive: give 1 or more")
    check_threads(threads)
    for network in networks:
        _check_weights(network.module)
    device = _device(device)
    with _threads(threads):
        # On the device one after the other, so that a copy is made of nothing that does not fit there. Under autograd
        # the copies of torch.jit's parameters would be results of an operation.
        with torch.no_grad():
            modules = [deepcopy(network.module).requires_grad_(False).eval().to(device) for network in networks]
        shapes = [
            (len(network.preprocess.mean), *((size, size) if isinstance(size, int) else size))
            for network, size in zip(networks, sizes, strict=True)
        ]
        flops = [
            count_flops(module, _images(module, 1, shape, device))
            for module, shape in zip(modules, shapes, strict=True)
        ]
        times = _times(
            modules,
            [_images(module, batch_size, shape, device) for module, shape in zip(modules, shapes, strict=True)],
            device,
            rounds,
        )
        used = torch.get_num_threads()
    quartiles = (
        torch.tensor(times, dtype=torch.float64)
        .quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), dim=1)
        .T.tolist()
    )
    return [
        Cost(
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            flops=operations,
            latency_ms=1e3 * median,
            latency_quartiles_ms=(1e3 * low, 1e3 * high),
            images_per_second=batch_size / median,
            bytes=_bytes(module),
            batch_size=batch_size,
            input_shape=shape,
            device=str(device),
            threads=used,
            flops_per_megapixel=1e6 * operations / (shape[1] * shape[2]) if network.taps.dense else None,
        )
        for network, module, shape, operations, (low, median, high) in zip(
            networks, modules, shapes, flops, quartiles, strict=True
        )
    ]


def check_threads(threads: int | None) -> None:
    """Refuse threads that the system would not start: torch ends the process then.

    Raises:
        UsageError: There are more than eight for each core.
    """
    cores = os.cpu_count() or 1
    if threads is not None and threads > _THREADS_PER_CORE * cores:
        raise UsageError(
            f"threads={threads} is more than {_THREADS_PER_CORE} for each of the {cores} cores of this machine: give "
            f"1 to {cores}"
        )


def _check_weights(module: nn.Module) -> None:
    """Refuse weights that are no parameters, and of which a file in 32-bit floats cannot hold all."""
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor) or value.is_quantized:
            raise UsageError(
                f"{name} of {type(module).__name__} is of a quantised layer, whose weights are no parameters: measure "
                "the network as it was before (contrastill.compress.operations.count_flops takes this one too)"
            )


def _device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        torch.get_device_module(device).synchronize()
    except (RuntimeError, AssertionError) as error:  # torch's message differs by device
        raise UsageError(
            f"device {name} is not to be had here: give cpu, or the one that this machine has, such as cuda:0"
        ) from error
    return device


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """So many threads within an operation; afterwards as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _images(module: nn.Module, batch_size: int, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Images of zeros as the network takes them: what they show changes neither operations nor time."""
    dtype = next((parameter.dtype for parameter in module.parameters()), torch.float32)
    try:
        return torch.zeros(batch_size, *shape, device=device, dtype=dtype)
    except (RuntimeError, TypeError, OverflowError) as error:  # torch's error differs by device and size
        raise _too_large(batch_size, shape, device) from error


def _too_large(batch_size: int, shape: tuple[int, ...], device: torch.device) -> UsageError:
    return UsageError(
        f"a batch of {batch_size} image{'s' * (batch_size > 1)} of {'×'.join(map(str, shape))} does not go through the "
        f"network in the memory of {device}: give a smaller batch_size, or smaller images by size"
    )


@torch.inference_mode()
def _times(
    modules: Sequence[nn.Module], batches: Sequence[Tensor], device: torch.device, rounds: int
) -> list[list[float]]:
    """Seconds of each round for each module."""
    wait = torch.get_device_module(device).synchronize  # on the CPU nothing is waited for
    times: list[list[float]] = [[] for _ in modules]
    for number in range(_WARM_UP + rounds):
        for module, images, measured in zip(modules, batches, times, strict=True):
            wait()
            began = time.perf_counter()
            try:
                call(module, images)
                wait()
            except RuntimeError as error:  # one image did go through
                raise _too_large(len(images), tuple(images.shape[1:]), device) from error
            if number >= _WARM_UP:
                measured.append(time.perf_counter() - began)
    return times


def _bytes(module: nn.Module) -> int:
    # A copy of each, because safetensors refuses tensors that share memory (tied weights).
    state = {
        name: value.to("cpu", torch.float32 if value.is_floating_point() else value.dtype, copy=True).contiguous()
        for name, value in module.state_dict().items()
    }
    return len(safetensors.torch.save(state, metadata={}))
