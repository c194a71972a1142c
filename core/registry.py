"""A decorator and a dictionary: what a config may call by name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from .errors import unknown_name

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Names of one kind of thing and what they stand for.

    Args:
        kind: What the names are, as an error message says it: ``"objective"``.
        package: Subpackage of contrastill whose modules register themselves when imported; they are
            imported the first time a name is looked up, so a new entry is one new file.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: enter the decorated class or function under ``name``."""

        def enter(entry: T) -> T:
            if name in self._entries and self._entries[name] is not entry:
                raise ValueError(f"two {self.kind}s are called {name!r}")
            self._entries[name] = entry
            return entry

        return enter

    def __getitem__(self, name: str) -> T:
        self._discover()
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        self._discover()
        return len(self._entries)

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        # Relative to this package's parent, so that the tree works under whatever name it was installed.
        package = importlib.import_module(f"..{self._package}", __package__)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")


OBJECTIVES: Registry[type] = Registry("objective", "objectives")
DATASETS: Registry[type] = Registry("dataset", "datasets")
MODELS: Registry[Callable] = Registry("model", "models")
