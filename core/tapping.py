"""Reading what modules inside a network say during one forward, by their names, without editing it."""

from __future__ import annotations

from torch import Tensor, nn

from .errors import ContrastillError, UsageError

INPUT, NHWC = "input:", "nhwc:"
"""What may stand before a module's name: its first input in the place of its output; channels that come last."""


class Tapping:
    """Hooks on a module for the length of one forward pass, and the tensors they saw."""

    def __init__(self, module: nn.Module, names: list[str], network: str) -> None:
        self._module, self._names, self._network = module, names, network
        self._seen: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}
        self._handles: list = []

    def __enter__(self) -> Tapping:
        for name in self._names:
            module = self._module.get_submodule(module_of(name))
            if name.startswith(INPUT):
                handle = module.register_forward_pre_hook(lambda _, args, kwargs, name=name: self._see(name, [*args, *kwargs.values()][0]), with_kwargs=True)
            else:
                handle = module.register_forward_hook(lambda _, args, output, name=name: self._see(name, output))
            self._handles.append(handle)
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def __getitem__(self, name: str) -> Tensor:
        value = self._seen[name]
        return value.permute(0, 3, 1, 2) if name.startswith(NHWC) and value.ndim == 4 else value

    def _see(self, name: str, value: object) -> None:
        if name in self._seen:
            raise ContrastillError(f"the tapped module {name} of {self._network} runs twice in one forward: tap one that runs once")
        if not isinstance(value, Tensor):
            raise UsageError(f"the tap {name} of {self._network} gives a {type(value).__name__}, not a tensor: tap a module inside it")
        self._seen[name] = value
        self._versions[name] = _version(value)

    def check(self) -> None:
        """Raise if a tapped module did not run, or if what it gave was overwritten, as by an in-place ReLU."""
        for name in self._names:
            if name not in self._seen:
                raise ContrastillError(f"the tapped module {name} of {self._network} did not run in this forward: tap one that does")
            if _version(self._seen[name]) != self._versions[name]:
                raise ContrastillError(f"what the tap {name} of {self._network} gives is changed in place afterwards: tap the module that changes it")


def module_of(tap: str) -> str:
    return tap.removeprefix(INPUT).removeprefix(NHWC)


def _version(value: Tensor) -> int:
    """How often a tensor was changed in place; inference tensors don't count."""
    return 0 if value.is_inference() else value._version
