"""A decorator and a dictionary: what a config may call by name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import UsageError, article, unknown_name
from .plugins import import_entry_points, imported_plugins
from .user_code import first_line, is_own, module_spec, origin

if TYPE_CHECKING:
    from .aggregation import TeacherAggregation
    from .objective import Objective

T = TypeVar("T")

PYTHON_PREFIX = "python:"
"""Begins the name by which a config calls an object that was made in Python."""


_OF_A_MODULE = (
    "in Python, contrastill.load_student(RUN, module=…) loads a trained student, which contrastill.linear_probe and "
    "probe_networks([STUDENT], DATA) measure, and contrastill.export_student(RUN, FILE, module=…) exports it; "
)


class Registry(Mapping[str, T]):
    """Names of one kind of thing and what they stand for.

    Args:
        kind: What the names are, as an error message calls it: ``"objective"``.

    Attributes:
        packages: Full names of packages whose modules register themselves when imported. They are imported the first
            time a name is looked up, so a new entry is one new file; the package's root fills the list.
        checks: Full name of the module whose ``check_entry(name, entry)`` refuses what cannot be such an entry; called
            for a user's own alone. The package's root sets it.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.packages: list[str] = []
        self.checks: str | None = None
        self._entries: dict[str, T] = {}
        self._specs: dict[str, Any] = {}
        self._families: dict[str, Callable[[str], T]] = {}
        self._temporary: dict[str, T] = {}
        self._lock = threading.RLock()
        self._discovering = self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: enter the decorated class or function under ``name``.

        Raises:
            UsageError: Another entry has that name, or it cannot be such an entry, see ``checks``.
        """

        self._check_name(name)

        def enter(entry: T) -> T:
            if not is_own(entry) and self.checks is not None:
                importlib.import_module(self.checks).check_entry(name, entry)
            other = self._entries.get(name)
            if other is not None and other is not entry:
                self._check_again(name, other, entry)
            self._entries[name], self._specs[name] = entry, module_spec(entry)
            return entry

        return enter

    def _check_again(self, name: str, other: T, entry: T) -> None:
        """Refuse a second entry of one name; the same definition again, as of a notebook's cell that is run twice, or
        of a module that is reloaded, takes the place of the first.
        """
        if is_own(entry) or origin(other) != origin(entry):
            both = sorted(origin(each) for each in (other, entry))
        else:
            lines = [first_line(each) for each in (other, entry)]
            spec = module_spec(entry)
            if spec is None or spec is not self._specs.get(name) or None in lines or lines[0] == lines[1]:
                return
            both = [f"{origin(entry)} (line {line})" for line in lines]
        raise UsageError(f"{self.kind} {name!r} is defined twice, by {' and '.join(both)}: rename one of them")

    def _check_name(self, name: object) -> None:
        """Refuse what no config can call an entry by."""
        if callable(name):
            raise UsageError(f'{origin(name)} is registered without a name: write .register("NAME") above it')
        if not isinstance(name, str) or not name.strip():
            raise UsageError(f"{name!r} is no name of {article(self.kind)}: register it under a text")
        prefix, slash, _ = name.partition("/")
        if name.startswith(PYTHON_PREFIX) or (slash and prefix in self._families):
            reserved = f"{prefix}/" if slash else PYTHON_PREFIX
            raise UsageError(f"{self.kind} {name!r} has a name that begins with {reserved}, which is taken: rename it")

    def register_family(self, prefix: str) -> Callable[[Callable[[str], T]], Callable[[str], T]]:
        """Decorator: the decorated function answers for every name ``prefix/NAME``.

        It is called with NAME and returns the entry, or raises UsageError if there is none; its names are not iterated
        over.
        """

        def enter(resolve: Callable[[str], T]) -> Callable[[str], T]:
            if self._families.setdefault(prefix, resolve) is not resolve:
                raise UsageError(f"two families of {self.kind}s are called {prefix!r}: rename one of them")
            return resolve

        return enter

    def of_family(self, name: str) -> bool:
        """Whether a family answers for the name."""
        self._discover()
        prefix, slash, _ = name.partition("/")
        return bool(slash) and prefix in self._families

    @contextmanager
    def temporarily(self, name: str, entry: T) -> Iterator[None]:
        """Within it, :func:`object_name` stands for an object that was made in Python; afterwards the name is refused,
        as no config can make it.
        """
        self._temporary[name] = entry
        try:
            yield
        finally:
            self._temporary.pop(name, None)  # two equal ones have one name

    def __getitem__(self, name: str) -> T:
        if name.startswith(PYTHON_PREFIX):
            if name in self._temporary:
                return self._temporary[name]
            raise UsageError(
                f"{self.kind} {name.removeprefix(PYTHON_PREFIX)!r} was an object in Python, which no config can make: "
                + ("" if self.kind != "model" else _OF_A_MODULE)
                + f"pass it to contrastill.distill again, or register a {self.kind} of your own, as "
                "docs/guides/own.md shows"
            )
        self._discover()
        prefix, slash, rest = name.partition("/")
        if slash and prefix in self._families:
            return self._families[prefix](rest)
        if name not in self._entries:
            known = [*self._entries, *(f"{family}/{rest or 'NAME'}" for family in self._families)]
            others = (
                "and what a package of yours registers once it is imported (imports=[MY_PACKAGE], --import MY_PACKAGE)"
            )
            # An error in a variable would hold on to this frame, and with it to all that calls.
            message = str(unknown_name(self.kind, name, known, others))
            empty = sorted(module for module in imported_plugins() if not _registers(module))
            if empty:
                message += f" ({' and '.join(empty)} was imported, and nothing in it is registered)"
            raise UsageError(message)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        if name.startswith(PYTHON_PREFIX):
            return name in self._temporary
        self._discover()
        prefix, slash, rest = name.partition("/")
        if not (slash and prefix in self._families):
            return name in self._entries
        try:
            return self._families[prefix](rest) is not None
        except UsageError:
            return False

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._entries))

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __len__(self) -> int:
        self._discover()
        return len(self._entries)

    def _discover(self) -> None:
        if self._discovered:
            return
        with self._lock:  # the modules may look names up themselves; other threads wait until all are imported
            if self._discovering:
                return
            self._discovering = True
            try:
                for name in self.packages:
                    package = importlib.import_module(name)
                    for module in pkgutil.iter_modules(package.__path__):
                        importlib.import_module(f"{name}.{module.name}")
                import_entry_points()
                for entered in self._entries:  # before the families were known
                    self._check_name(entered)
                self._discovered = True
            finally:
                self._discovering = False


def object_name(thing: object, *, mark: str = "") -> str:
    """What a config calls an object that was made in Python: its class, and what tells it from others of that class."""
    kind = type(thing)
    return f"{PYTHON_PREFIX}{kind.__module__}.{kind.__qualname__}{mark and '@'}{mark}"


def short_name(name: str) -> str:
    """The name, of an object made in Python the class alone."""
    if not name.startswith(PYTHON_PREFIX):
        return name
    plain = name.removeprefix(PYTHON_PREFIX)
    return plain.rpartition("@")[0].rpartition(".")[2] or plain.rpartition(".")[2]


OBJECTIVES: Registry[type[Objective]] = Registry("objective")
TEACHER_AGGREGATIONS: Registry[type[TeacherAggregation]] = Registry("rule of an ensemble")
DATASETS: Registry[Any] = Registry("dataset")
MODELS: Registry[Callable[..., Any]] = Registry("model")
MODALITIES: Registry[Any] = Registry("modality")


def _registers(module: str) -> bool:
    """Whether an entry of any registry is of a module or one below it."""
    registries: tuple[Registry[Any], ...] = (OBJECTIVES, TEACHER_AGGREGATIONS, DATASETS, MODELS, MODALITIES)
    return any(
        f"{origin(entry)}.".startswith(f"{module}.") for registry in registries for entry in registry._entries.values()
    )


PRETRAINED = "pretrained"
"""In the place of a file of weights: those that a network's library publishes."""


def has_option(builder: Callable, option: str) -> bool:
    """Whether a builder has a parameter of that name, as those of networks with published weights have
    ``pretrained``.
    """
    return option in inspect.signature(builder).parameters


def model_builder(name: str, weights: object = None, key: str = "weights") -> Callable:
    """The builder of a network that is to have these weights; nothing is built or opened.

    Args:
        name: Of the network.
        weights: A path, or ``"pretrained"``.
        key: What names the weights, as ``student.weights``, for the message.

    Raises:
        UsageError: There is no such network, or it has no published weights and they are asked for.
    """
    builder = MODELS[name]
    if weights == PRETRAINED and not (has_option(builder, PRETRAINED) and getattr(builder, "published", True)):
        raise UsageError(
            f"{name} has no published weights, and {key} is {PRETRAINED}: set {key} to a run folder or a file, leave "
            "it out for random ones, or name another network, of timm/, torchvision/ or hf/"
        )
    return builder
