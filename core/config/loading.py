"""The typed tree of a run. Errors name the key, the value and what is allowed.

OmegaConf reads the YAML and applies the overrides, pydantic validates. Nothing is built here. The file knows no
objective, dataset or network: each registered class brings the schema of its own options.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..errors import UsageError, names_beside, nearest
from ..home import expanded
from ..plugins import requested_plugins
from ..recognition import recognised
from ..registry import DATASETS, PYTHON_PREFIX
from .schema import DataConfig, RunConfig
from .stated import Given, given_below, plain
from .validation import checked, validate, validate_data
from .yaml_values import joined, override_value, read_written, texts_of, values_of, yaml_problem

_OF_ONE_CHOICE = {"schedule": ("step", ("milestones", "gamma")), "optimizer": ("sgd", ("nesterov",))}
_NAMING = ("data", "data.name", "data.path")
_MEASURED = "evaluation.data"


def configs_folder() -> Path:
    """Where the shipped configs are."""
    return Path(__file__).resolve().parent.parent.parent / "configs"


def shipped_configs() -> list[str]:
    """Names of the shipped configs of runs: ``compression/cifar100_crd``; those in accelerate/ are for
    ``accelerate launch``.
    """
    names = (path.relative_to(configs_folder()).with_suffix("") for path in configs_folder().rglob("*.yaml"))
    return sorted(str(name) for name in names if name.parts[0] != "accelerate")


def find_config(name: str) -> Path:
    """The file of a config, given by a path or by a shipped name.

    Raises:
        UsageError: There is no such config; the nearest names are in the message.
    """
    for path in (Path(expanded(name)), configs_folder() / f"{name}.yaml"):
        if path.is_file():
            return path
    if "=" in name and not name.endswith((".yaml", ".yml")):
        raise UsageError(
            f"the first argument is a config, a YAML file or a shipped one, and {name!r} is an override: name the "
            "config "
            "before it, such as teachers/image_folder"
        )
    known = shipped_configs()
    hint = nearest(
        name,
        [*known, *(path for path in names_beside(name) if path.endswith((".yaml", ".yml")))],
        f"the shipped ones are {', '.join(known)}",
    )
    raise UsageError(f"config {name!r} is neither a file nor a shipped config: {hint}")


def load_config(name: str, overrides: Iterable[str] = (), *, trains: bool = True) -> RunConfig:
    """Read a config, apply ``key.path=value`` overrides and validate; nothing is built. ``config.command`` is the
    ``contrastill train`` that does the same.

    Args:
        name: Path of a YAML file, or name of a shipped config.
        overrides: ``train.epochs=10``, ``teachers.0.weights=runs/teacher``; a list grows by its next number,
            and null takes an entry away.
        trains: As :func:`~.validation.validate` takes it.

    Raises:
        UsageError: Unreadable YAML, an unknown key or name, a value that is not allowed or not set.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    name, overrides = expanded(name), list(overrides)
    path = find_config(name)
    changes = dict(override.partition("=")[::2] for override in overrides)
    try:
        written = read_written(path.read_text(encoding="utf-8"))
        if not isinstance(written, (dict, type(None))):
            raise UsageError(f"config {path} is not a mapping of data, teachers, student, objectives and train")
        written = _without_python_data(written or {}, overrides)
        _check_other_data(written, changes, name)
        tree = _Tree(_without_unread(written, changes))
        for override in overrides:
            tree.override(override)
        missing = sorted(OmegaConf.missing_keys(tree.values))
        if missing:
            raise UsageError(f"{_dotted(missing[0])} is not set: add {_dotted(missing[0])}=… to the command")
        values = tree.container()
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError, OSError) as error:
        if (key := _dotted(getattr(error, "full_key", None) or "")) in changes:
            raise UsageError(
                f"'{key}={changes[key]}' cannot be read: {yaml_problem(error)}; name a key that the config states, or "
                "write the value itself"
            ) from error
        raise UsageError(f"config {path} cannot be read: {yaml_problem(error)}") from error
    values.setdefault("out", os.path.join("runs", os.path.splitext(name)[0] if not Path(name).is_file() else path.stem))
    config = validate({str(key): value for key, value in values.items()}, trains=trains)
    plugins = (word for module in requested_plugins() for word in ("--import", module))
    config._command = shlex.join(["contrastill", "train", name, *overrides, *plugins])
    return config


def _without_python_data(written: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The config of a run whose data set was made in Python, where an override names other data: without that section,
    but for what the test view is, as far as those data have such options.
    """
    data = written.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    named = {key: value for key, _, value in (override.partition("=") for override in overrides) if key in _NAMING}
    if not isinstance(data, dict) or not named or not str(values_of(name)).startswith(PYTHON_PREFIX):
        return written
    if "data" in named:
        return {**written, "data": {}}
    kinds = [named["data.name"]] if "data.name" in named else recognised(expanded(named["data.path"]))
    fields = DATASETS[kinds[0]].Options.model_fields if len(kinds) == 1 and kinds[0] in DATASETS else {}
    view = {key: data[key] for key in ("size", "crop") if key in fields and data.get(key) is not None}
    return {**written, "data": view}


def _check_other_data(written: Mapping[str, Any], changes: Mapping[str, str], config: str) -> None:
    """Complain where an override names another data set than a config, whose other keys of data that one has not: of
    all of them at once, with what leaves them out.

    Args:
        written: The config.
        changes: Values of the overrides by their keys, as text.
        config: Its name.

    Raises:
        UsageError: There are such keys.
    """
    data, name = written.get("data"), changes.get("data.name")
    before = str(values_of(data.get("name"))) if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or before in (None, "None", name) or name is None or name not in DATASETS:
        return
    fields = {"name", *DATASETS[name].Options.model_fields}
    own = {key: value for key, value in changes.items() if key.startswith("data.")}
    unknown = [f"data.{key}" for key in data if key not in fields and f"data.{key}" not in own]
    evaluation = written.get("evaluation")
    measured = evaluation.get("data") if isinstance(evaluation, Mapping) else None
    if (
        isinstance(measured, Mapping)
        and "name" not in measured
        and not any(key.startswith(_MEASURED) for key in changes)
    ):
        unknown += [f"{_MEASURED}.{key}" for key in measured if key not in fields]
    if unknown:
        section = [f"{key.removeprefix('data.')}: {value}" for key, value in own.items() if key.count(".") == 1]
        section += ["path: …"] if "path" in fields and "data.path" not in own else []
        more = f" {_MEASURED}={{}}" if any(key.startswith(_MEASURED) for key in unknown) else ""
        is_of = "is of" if len(unknown) == 1 else "are of"
        raise UsageError(
            f"{', '.join(unknown)} of config {config} {is_of} data.name={before}, and {name} has no such key: write "
            f"'data={{{', '.join(section)}}}'{more} in the place of data.name={name}, which leaves the config's out"
        )


def _without_unread(values: Mapping[str, Any], changes: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config without the keys of ``train`` that belong to another schedule or optimiser than an override names: they
    are no longer read, and who overrides did not write them.
    """
    train = values.get("train")
    unread = {
        key
        for choice, (reads, keys) in _OF_ONE_CHOICE.items()
        if f"train.{choice}" in changes and changes[f"train.{choice}"] != reads
        for key in keys
    }
    if not unread or not isinstance(train, Mapping):
        return values
    return {**values, "train": {key: value for key, value in train.items() if key not in unread}}


def make_config(values: Mapping[str, Any], overrides: Mapping[str, Any], command: str | None = None) -> RunConfig:
    """A config from values in Python; nothing is built.

    Args:
        values: A tree as a file would have it.
        overrides: Values by dotted keys, on top of it: ``{"train.epochs": 10}``.
        command: The call that they come from, for ``config.command``.

    Raises:
        UsageError: An unknown key or name, a value that is not allowed or not set.
    """
    config = validate(with_values(values, overrides))
    config._command = command
    return config


def make_data_config(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> DataConfig:
    """The section ``data`` alone, see :func:`make_config`; keys of ``overrides`` are those below ``data``."""
    return validate_data(checked(DataConfig, with_values(values, overrides), "data."))


def with_values(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> Any:
    """A tree of values with those of dotted keys on top of it, as :func:`make_config` takes them; not validated."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    key = ""
    try:
        tree = OmegaConf.create(plain(_without_unread(values, overrides)))
        before: list[Given] = []
        for key, value in overrides.items():
            value = plain(value)
            for one, inner in [(key, value), *given_below(before, key, value)]:
                _put(tree, one, inner)
            before.append((key, value))
    except OmegaConfBaseException as error:
        what = f"{key}={overrides[key]!r} is no value" if key else "the values given are no config"
        raise UsageError(
            f"{what}: {str(error).splitlines()[0]}; pass numbers, text, lists and dicts of them"
        ) from error
    return OmegaConf.to_container(tree)


def dataset_options(name: str, values: Mapping[str, Any], overrides: Iterable[str] = ()) -> BaseModel:
    """The validated options of a registered data set, for commands that need no whole config.

    Args:
        values: Options by name.
        overrides: ``key=value`` on top of them: ``size=[240,320]``, ``fields.depth=depth_mm``.

    Raises:
        UsageError: An unknown key, a value that is not allowed or not set.
    """
    tree = _Tree(dict(values))
    for override in overrides:
        tree.override(override)
    return checked(DATASETS[name].Options, tree.container(), "")


def _dotted(key: str) -> str:
    """OmegaConf's ``teachers[0].weights`` as an override is written: ``teachers.0.weights``."""
    return key.replace("[", ".").replace("]", "")


class _Tree:
    """A config of values, and the same one of texts: OmegaConf holds plain values alone, and only the schema knows
    which fields are text.

    Args:
        written: Of :func:`~.written.read_written`, or plain values.
    """

    def __init__(self, written: Mapping[str, Any]) -> None:
        from omegaconf import OmegaConf

        self._before: list[Given] = []
        self.values, self.texts = OmegaConf.create(values_of(written)), OmegaConf.create(texts_of(written))

    def override(self, override: str) -> None:
        """Apply one ``key.path=value``; merging a dotlist would fail on lists, so it is an update."""
        from omegaconf.errors import OmegaConfBaseException
        from yaml import YAMLError

        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UsageError(f"{override!r} is no override: write key=value, such as train.epochs=10")
        try:
            value = override_value(text) if text else None
            for one, inner in [(key, value), *given_below(self._before, key, value)]:
                _put(self.values, one, values_of(inner))
                _put(self.texts, one, texts_of(inner))
        except (OmegaConfBaseException, YAMLError) as error:
            reason = (
                "a list or mapping that does not end, or is no YAML"
                if isinstance(error, YAMLError)
                else str(error).splitlines()[0]
            )
            raise UsageError(f"{override!r} cannot be read: {reason}") from error
        self._before.append((key, value))

    def container(self) -> dict[str, Any]:
        """Values with their texts, all references resolved."""
        from omegaconf import OmegaConf

        return joined(
            OmegaConf.to_container(self.values, resolve=True), OmegaConf.to_container(self.texts, resolve=True)
        )


def _put(tree: Any, key: str, value: Any) -> None:
    """Set a dotted key in place; a list grows by its next number."""
    from omegaconf import ListConfig, OmegaConf

    parent, _, last = key.rpartition(".")
    holder = OmegaConf.select(tree, parent) if parent else tree
    if isinstance(holder, ListConfig):
        if not last.isdigit() or int(last) > len(holder):
            raise UsageError(
                f"{key} is not in the config: {parent} is a list of {len(holder)}, numbered from 0, and "
                f"{parent}.{len(holder)} adds one"
            )
        if int(last) == len(holder):
            holder.append(value)
            return
    elif parent and parent.rpartition(".")[2].isdigit() and holder is None:
        _put(tree, parent, {})
    OmegaConf.update(tree, key, value, merge=False, force_add=True)


def to_yaml(config: RunConfig) -> str:
    """The resolved config as YAML: what --dry-run prints and a run keeps as config.yaml."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(plain(config.model_dump())))
