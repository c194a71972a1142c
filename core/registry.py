"""A decorator and a dictionary: what a config may call by name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import UsageError, unknown_name

if TYPE_CHECKING:
    from .aggregation import TeacherAggregation
    from .objective import Objective

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Names of one kind of thing and what they stand for.

    Args:
        kind: What the names are, as an error message says it: ``"objective"``.
        packages: Subpackages of contrastill whose modules register themselves when imported; they are
            imported the first time a name is looked up, so a new entry is one new file.
    """

    def __init__(self, kind: str, *packages: str) -> None:
        self.kind = kind
        self._packages = packages
        self._entries: dict[str, T] = {}
        self._families: dict[str, Callable[[str], T]] = {}
        self._lent: dict[str, T] = {}
        self._lock = threading.RLock()
        self._discovering = self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: enter the decorated class or function under ``name``."""

        def enter(entry: T) -> T:
            if name in self._entries and self._entries[name] is not entry:
                raise ValueError(f"two {self.kind}s are called {name!r}")
            self._entries[name] = entry
            return entry

        return enter

    def register_family(self, prefix: str) -> Callable[[Callable[[str], T]], Callable[[str], T]]:
        """Decorator: the decorated function answers for every name ``prefix/NAME``.

        It is given NAME and returns the entry, or raises UsageError if there is none; what it knows is not iterated
        over.
        """

        def enter(resolve: Callable[[str], T]) -> Callable[[str], T]:
            if self._families.setdefault(prefix, resolve) is not resolve:
                raise ValueError(f"two families of {self.kind}s are called {prefix!r}")
            return resolve

        return enter

    @contextmanager
    def lend(self, name: str, entry: T) -> Iterator[None]:
        """Within it, :func:`own_name` stands for an object that was made in Python; afterwards the name is refused, as
        no config can make it.
        """
        self._lent[name] = entry
        try:
            yield
        finally:
            self._lent.pop(name, None)  # two equal ones have one name

    def __getitem__(self, name: str) -> T:
        if name.startswith(OWN):
            if name in self._lent:
                return self._lent[name]
            raise UsageError(
                f"{self.kind} {name.removeprefix(OWN)!r} was an object in Python, which no config can make: hand "
                "it to contrastill.distill again "
                f"(a trained student to contrastill.load_student, as module=…), or register a {self.kind} of your "
                "own, as docs/guides/own.md shows"
            )
        self._discover()
        prefix, slash, rest = name.partition("/")
        if slash and prefix in self._families:
            return self._families[prefix](rest)
        if name not in self._entries:
            raise unknown_name(
                self.kind, name, [*self._entries, *(f"{family}/{rest or 'NAME'}" for family in self._families)]
            )
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and self[name] is not None
        except UsageError:
            return False

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        self._discover()
        return len(self._entries)

    def _discover(self) -> None:
        if self._discovered:
            return
        with (
            self._lock
        ):  # the modules that are imported may look names up themselves; other threads wait until all are there
            if self._discovering:
                return
            self._discovering = True
            # Relative to this package's parent, so that the tree works under whatever name it was installed.
            for name in self._packages:
                package = importlib.import_module(f"..{name}", __package__)
                for module in pkgutil.iter_modules(package.__path__):
                    importlib.import_module(f"{package.__name__}.{module.name}")
            self._discovered = True


OWN = "python:"
"""Begins the name that a config calls an object by which was made in Python."""


def own_name(thing: object, *, mark: str = "") -> str:
    """What a config calls an object that was made in Python: its class, and what tells it from others of that class."""
    kind = type(thing)
    return f"{OWN}{kind.__module__}.{kind.__qualname__}{mark and '@'}{mark}"


def short_name(name: str) -> str:
    """The name, of an object made in Python the class alone."""
    return (
        name.removeprefix(OWN).rpartition("@")[0].rpartition(".")[2] or name.rpartition(".")[2]
        if name.startswith(OWN)
        else name
    )


OBJECTIVES: Registry[type[Objective]] = Registry("objective", "objectives", "xmodal", "ensemble")
TEACHER_AGGREGATIONS: Registry[type[TeacherAggregation]] = Registry("rule of an ensemble", "ensemble")
DATASETS: Registry[Any] = Registry("dataset", "datasets")
MODELS: Registry[Callable[..., Any]] = Registry("model", "models")
MODALITIES: Registry[Any] = Registry("modality", "xmodal")

PRETRAINED = "pretrained"
"""In the place of a file of weights: those that a network's library publishes."""


def takes(builder: Callable, option: str) -> bool:
    """Whether a builder has a parameter of that name, as those of networks with published weights have
    ``pretrained``.
    """
    return option in inspect.signature(builder).parameters


def model_builder(name: str, weights: object = None) -> Callable:
    """The builder of a network that is to have these weights; nothing is built or opened.

    Raises:
        UsageError: There is no such network, or it has no published weights and they are asked for.
    """
    builder = MODELS[name]
    if weights == PRETRAINED and not takes(builder, PRETRAINED):
        raise UsageError(
            f"{name} has no published weights: give a run folder or a file under weights, or leave them out"
        )
    return builder
