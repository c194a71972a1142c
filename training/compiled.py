"""torch.compile for networks whose representation is read off by taps: what is tapped becomes an output of the compiled
function.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ..core.errors import ContrastillError, UsageError
from ..core.representation import Network, Representation
from ..core.tapping import INPUT, NHWC, hooked, module_of, run
from ..core.transfer import Transfer


@contextmanager
def compiled(transfer: Transfer) -> Iterator[None]:
    """Compile student and teachers of a transfer (torch.compile) for as long as the context lasts.

    Modules, their names and their weights stay as they are: checkpoints and an exported student are the same with it
        and without. Losses differ by rounding.

    Args:
        transfer: On its device. Its networks have looked at a batch before, which is when wrong taps are found.

    Raises:
        UsageError: Its teachers answer together, as one batched network.
        ContrastillError: A network cannot be compiled here, such as for want of a C++ compiler; raised when it first
            looks at a batch.

    Example:
        >>> from contrastill.models.build import build_network
        >>> from contrastill.objectives.cross_entropy import CrossEntropy
        >>> transfer = Transfer([], build_network("resnet8", num_classes=10), {"cross_entropy": CrossEntropy()})
        >>> before = list(transfer.state_dict())
        >>> with compiled(transfer):
        ...     list(transfer.state_dict()) == before
        True
    """
    if not transfer.source.separate:
        raise UsageError(
            "train.compile compiles each teacher by itself, and ensemble.batched makes one network of them: "
            "leave out one of the two"
        )
    networks = [*transfer.teachers, transfer.student]
    try:
        for network in networks:
            # Only the method is another: nn.Module's call, state_dict and DDP go on as ever.
            network.forward = partial(_forward, network, {})  # type: ignore[method-assign]
        yield
    finally:
        for network in networks:
            network.__dict__.pop("forward", None)


def _forward(
    network: Network,
    functions: dict[frozenset[str], _Compiled],
    batch: Mapping[str, Tensor],
    needs: Collection[str] | None = None,
) -> Representation:
    """As :meth:`Network.forward`, by a compiled function for each set of needs."""
    asked = network.parts(needs)
    if asked not in functions:
        functions[asked] = _Compiled(
            network.module, network.taps.names(asked), "logits" in asked and network.taps.logits is None
        )
    with torch.set_grad_enabled(torch.is_grad_enabled() and not network._frozen):
        images = network.order.of(network.preprocess(batch[network.modality], once=True, like=network.module))
        output, tapped = functions[asked](images)
        return network.read(asked, output, tapped, images, required=needs is not None)


class _Compiled:
    """A module and some of its taps as one compiled function.

    A hook that is another object in each forward, as the ones of a plain forward are, would be compiled anew each time
    or be taken for the first one. These are made once, and are on the module during a call only.

    Args:
        module: Of a network.
        names: Its taps.
        output: Whether what the module itself returns is asked for. If not, it is no output of the function either, so
            that parameters which only it depends on get no gradient, and not one of zeros that weight decay and DDP
            would take for one.
    """

    def __init__(self, module: nn.Module, names: list[str], output: bool) -> None:
        self._module, self._names, self._output = module, names, output
        self._seen: dict[str, Tensor] = {}
        self._hooks = {
            name: partial(self._see_input if name.startswith(INPUT) else self._see_output, name)
            for name in hooked(names)
        }
        self._function = torch.compile(self._look)
        # Said where CUDA's compiler is installed and no GPU is there, which is nothing to a network that runs on the
        # processor.
        logging.getLogger("torch.utils.cpp_extension").addFilter(_is_not_of_cuda)

    def __call__(self, images: Tensor) -> tuple[object, dict[str, Tensor]]:
        """What the module returns, or None, and what each tap gave."""
        handles = [self._register(name) for name in self._hooks]
        try:
            output, values = self._function(images)
        except RuntimeError as error:
            if (reason := _refusal(error)) is None:
                raise
            name = type(self._module).__name__
            raise ContrastillError(
                f"torch.compile fails on {name} here ({reason}): install what it lacks, or set train.compile=false"
            ) from error
        finally:
            self._seen.clear()
            for handle in handles:
                handle.remove()
        turned = (
            value.permute(0, 3, 1, 2) if name.startswith(NHWC) and value.ndim == 4 else value
            for name, value in zip(self._names, values, strict=True)
        )
        return output, dict(zip(self._names, turned, strict=True))

    def _look(self, images: Tensor) -> tuple[object, list[Tensor]]:
        output, values = run(self._module, self._names, images)
        return output if self._output else None, [
            values[name] if name in values else self._seen[name] for name in self._names
        ]

    def _register(self, name: str) -> torch.utils.hooks.RemovableHandle:
        module, hook = self._module.get_submodule(module_of(name)), self._hooks[name]
        return (
            module.register_forward_pre_hook(hook, with_kwargs=True)
            if name.startswith(INPUT)
            else module.register_forward_hook(hook)
        )

    def _see_input(self, name: str, _: nn.Module, args: tuple, kwargs: dict) -> None:
        self._seen[name] = [*args, *kwargs.values()][0]

    def _see_output(self, name: str, _: nn.Module, args: tuple, output: Tensor) -> None:
        self._seen[name] = output


def _is_not_of_cuda(record: logging.LogRecord) -> bool:
    return "No CUDA runtime is found" not in record.getMessage()


def _refusal(error: RuntimeError) -> str | None:
    """Why the compiler failed, in one line; None for what the network itself raised."""
    # Imported here, as it takes a second.
    from torch._dynamo.exc import TorchDynamoException

    if not isinstance(error, TorchDynamoException):
        return None
    # A backend's own error is wrapped, and what wraps it says only which backend it was.
    error = getattr(error, "inner_exception", error)
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".:")
