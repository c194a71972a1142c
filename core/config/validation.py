"""Checks a tree of values against the schema, the options of every registered class included; nothing is built."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ..errors import UsageError, device_hint, looked_in, names_beside, nearest
from ..home import expanded
from ..metric_names import refuse_columns
from ..plugins import import_plugins, requested_plugins
from ..recognition import recognised, unknown_layout
from ..registry import DATASETS, MODALITIES, MODELS, OBJECTIVES, PYTHON_PREFIX, TEACHER_AGGREGATIONS, model_builder
from ..run import Run
from ..seeds import each_seed, members
from ..value_scale import note_once
from .schema import DataConfig, EnsembleConfig, ObjectiveConfig, OpenSection, RunConfig
from .yaml_values import for_schema, read_resolved, values_of

log = logging.getLogger(__name__)


def validate(values: Mapping[str, Any], *, trains: bool = True) -> RunConfig:
    """Check a tree of values, the options of every registered class included; nothing is built.

    Args:
        values: The tree.
        trains: Whether it is to be trained; else an objective of a package that is not installed here has a line, as
            its student needs none.

    Raises:
        UsageError: One sentence that names the key, the value and what is allowed.
    """
    config = checked(RunConfig, _with_models_of_runs(values), "")
    if trains:
        refuse_columns(config.objectives)
    config.imports = list(dict.fromkeys([*config.imports, *requested_plugins()]))
    missing: UsageError | None = None
    for module in config.imports:
        try:
            import_plugins([module])
        except UsageError as error:
            if trains or not isinstance(error.__cause__, ModuleNotFoundError):
                raise
            missing = error.with_traceback(None)  # which would hold on to all that calls this
    try:
        _look_up(config, missing)
    except UsageError as error:
        if missing is None:
            raise
        raise UsageError(f"{error}; {missing}") from missing
    return config


def _look_up(config: RunConfig, missing: UsageError | None) -> None:
    """Check what a config names against the registries; where a package is ``missing``, an objective may be unknown."""
    config.teachers = each_seed(config.teachers)
    if not config.objectives:
        raise UsageError("objectives is empty: name at least one, such as objectives.cross_entropy.weight=1")
    for label, entry in config.objectives.items():
        entry.name = entry.name or label
        if missing is not None and entry.name not in OBJECTIVES:
            note_once(f"objective {entry.name} is not known here, and taken to train the student's logits: {missing}")
            continue
        objective = OBJECTIVES[entry.name]
        _keep(entry, checked(objective.Options, entry.options(), f"objectives.{label}.", ObjectiveConfig))
        entry.weight = objective.default_weight if entry.weight is None else entry.weight
        entry.warmup = objective.default_warmup if entry.warmup is None else entry.warmup
        if entry.rule is not None:
            TEACHER_AGGREGATIONS[entry.rule]
        if objective.needs_teacher and not config.teachers:
            raise UsageError(
                f"objectives.{label} compares with a teacher, and teachers is empty: add teachers.0.model=… "
                "teachers.0.weights=…"
            )
    _keep(
        config.ensemble,
        checked(
            TEACHER_AGGREGATIONS[config.ensemble.rule].Options, config.ensemble.options(), "ensemble.", EnsembleConfig
        ),
    )
    validate_data(config.data)
    # A teacher that was an object of Python is refused where it is built: to evaluate or export a student of it nobody
    # needs it.
    keys = [*(f"teachers.{number}" for number in range(len(config.teachers))), "student"]
    for key, network in zip(keys, [*config.teachers, config.student], strict=True):
        if key == "student" or not network.model.startswith(PYTHON_PREFIX):
            model_builder(network.model, network.weights, f"{key}.weights")
    _name_plugins(config)


def _with_models_of_runs(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tree with the model of each network that has none but whose weights are of a run, which says it."""
    teachers = values.get("teachers")
    for network in [*(teachers if isinstance(teachers, list) else ()), values.get("student")]:
        weights = values_of(network.get("weights")) if isinstance(network, dict) and "model" not in network else None
        if isinstance(weights, str):
            path = expanded(weights)
            runs = members(path)
            file = Run(runs[0] if runs else path).config
            if file.is_file():
                network["model"] = read_resolved(file)["student"]["model"]
    return values


def _name_plugins(config: RunConfig) -> None:
    """Name under ``imports`` the modules of a user's own that registered what the config names, so that other processes
    find it too; what was registered in a script cannot be found.
    """
    names = [entry.name or label for label, entry in config.objectives.items()]
    entries: list[Any] = [OBJECTIVES[name] for name in names if name in OBJECTIVES]
    rules = {config.ensemble.rule, *(entry.rule for entry in config.objectives.values() if entry.rule is not None)}
    entries += [TEACHER_AGGREGATIONS[rule] for rule in sorted(rules)]
    if config.data.name and not config.data.name.startswith(PYTHON_PREFIX):
        entries.append(DATASETS[config.data.name])
    for network in [*config.teachers, config.student]:
        if not network.model.startswith(PYTHON_PREFIX):
            entries.append(MODELS[network.model])
        if network.modality in MODALITIES:
            entries.append(getattr(MODALITIES[network.modality], "function", None))
    own = __name__.partition(".")[0]
    for entry in entries:
        module = getattr(entry, "__module__", own)
        if module.partition(".")[0] == own or any(f"{module}.".startswith(f"{name}.") for name in config.imports):
            continue
        if module == "__main__":
            log.warning(
                "%s is registered in the script itself, so other commands will not find it: move it to a module",
                entry.__qualname__,
            )
        else:
            config.imports.append(module)


def validate_data(data: DataConfig) -> DataConfig:
    """The same section with its name, found by the path where it is not given, and all options of that data set."""
    made_in_python = (data.name or "").startswith(PYTHON_PREFIX)
    if made_in_python and data.name not in DATASETS:
        if data.path is None:
            return data  # an error where it is opened; to cost or export a student it is not
        # Other data for a student of a data set that was made in Python, whose options they do not have.
        data.name, data.__pydantic_extra__ = None, {}
    data.name = data.name or _recognise(data.path)
    path = {} if data.path is None else {"path": data.path}
    try:
        options = checked(DATASETS[data.name].Options, {**path, **data.options()}, "data.", DataConfig)
    except UsageError as error:
        raise of_another_kind(data) or _without_path(data) or error from error
    _keep(data, options)
    return data


def of_another_kind(data: DataConfig) -> UsageError | None:
    """The error for a path of another kind of data than ``data.name`` says; None where it is not known to be one."""
    if data.path is None or not os.path.exists(data.path) or data.name not in DATASETS:
        return None
    names = recognised(data.path)
    if not names or data.name in names:
        return None
    return UsageError(
        f"data.path={data.path} is data of the kind {' or '.join(names)}, and data.name is {data.name}: name both, and "
        f"no option of {data.name}, as 'data={{name: {names[0]}, path: {data.path}}}'"
    )


def _without_path(data: DataConfig) -> UsageError | None:
    """The error for a path beside data that have none, as those that are rendered; None where there is no such."""
    if data.name is None or data.path is None or "path" in DATASETS[data.name].Options.model_fields:
        return None
    made = "is rendered" if data.name == "rooms" else "reads no files"
    return UsageError(
        f"data.name={data.name} {made} and takes no data.path: for the data of {data.path} name their kind, and no "
        f"option of {data.name}, as 'data={{name: image_folder, path: {data.path}}}'"
    )


def _keep(section: OpenSection, options: BaseModel) -> None:
    """Put the validated options, defaults included, where the raw ones were."""
    for name, value in options.model_dump(mode="json").items():
        setattr(section, name, value)


def _recognise(path: str | None) -> str:
    """The dataset that says the path is its own."""
    if path is None:
        raise UsageError(f"data.name is not set, nor data.path: name one of {', '.join(DATASETS)}")
    if not os.path.exists(path):
        raise UsageError(
            f"data.path={path} does not exist{looked_in(path)}: "
            f"{nearest(path, names_beside(path), 'name a file or a folder that is there')}"
        )
    names = recognised(path)
    if len(names) != 1:
        kind = f"could be {' or '.join(names)}" if names else unknown_layout(path)
        raise UsageError(
            f"data.path={path} {kind}: say which with data.name=, one of {', '.join(names or DATASETS)}"
            f"{'' if names else ', or of a package of yours (--import MY_PACKAGE)'}"
        )
    return names[0]


def checked(schema: type[BaseModel], values: Any, prefix: str, section: type[BaseModel] | None = None) -> Any:
    """Validate against a schema; pydantic's first error becomes one sentence.

    Args:
        schema: Of the whole config, or of a registered class's own options.
        values: What is checked.
        prefix: Where in the config they stand, with a dot behind.
        section: Of options, the open section that they stand in, whose keys are known there too.
    """
    if section is not None and "extra" not in schema.model_config:
        # pydantic's own models drop keys that they do not know.
        schema = type(
            schema.__name__, (schema,), {"model_config": {"extra": "forbid"}, "__module__": schema.__module__}
        )
    try:
        return schema.model_validate(for_schema(schema, values))
    except ValidationError as error:
        # A key with a slip of the pen often leaves the right one missing.
        problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] == "missing")
    first = _of_one_value([_of_length(problem, problems, schema) for problem in problems], values)
    key = prefix + ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        known = sorted({*_keys_at(schema, first["loc"][:-1]), *(section.model_fields if section else ())})
        elsewhere = [
            f"{section_name}.{name}"
            for section_name, field in RunConfig.model_fields.items()
            if name in getattr(field.annotation, "model_fields", {}) and f"{section_name}.{name}" != key
        ]
        hint = device_hint(name) or (
            f"did you mean {' or '.join(elsewhere)}?"
            if elsewhere
            else nearest(name, known, f"known here are {', '.join(known) or 'no keys'}")
        )
        raise UsageError(f"{key} is not a key of the config: {hint}")
    if first["type"] == "missing":
        raise UsageError(f"{key} is not set: add {key}=… to the command or the config")
    message = _plain(first["msg"])
    if first["type"] == "literal_error" and isinstance(first["input"], str):
        allowed = re.findall("'([^']+)'", first["ctx"]["expected"])
        message = f"{message}; {nearest(first['input'], allowed, '')}".removesuffix("; ")
    if str(first["input"]).lower() == "none" and _may_be_null(schema, first["loc"]):
        message += "; null stands for none"
    raise UsageError(
        f"{key.rstrip('.') or 'config'}={first['input']!r} is not allowed: {message[0].lower()}{message[1:]}"
    )


def _of_length(problem: Mapping[str, Any], problems: Sequence[Mapping[str, Any]], schema: Any) -> Mapping[str, Any]:
    """One of pydantic's errors; where a list of fixed length has too few values or too many, an error of the whole
    list, with what its values are.
    """
    location, given = problem["loc"], problem["input"]
    if problem["type"] == "missing" and isinstance(given, (list, tuple)):
        location = location[:-1]
        # All places that lack a value have an error.
        length = 1 + max(
            other["loc"][-1] for other in problems if other["type"] == "missing" and other["loc"][:-1] == location
        )
    elif problem["type"] == "too_long" and problem["ctx"]["field_type"] == "Tuple":
        length = problem["ctx"]["max_length"]
    else:
        return problem
    field = schema.model_fields.get(location[0]) if len(location) == 1 else None
    what = f": {field.description.partition(';')[0]}" if field is not None and field.description else ""
    message = f"Input should be {length} values, not {len(given)}{what}"
    return {**problem, "loc": location, "type": "tuple_length", "msg": message}


def _of_one_value(problems: Sequence[Mapping[str, Any]], values: Any) -> Mapping[str, Any]:
    """The first of pydantic's errors; where a value may be of several kinds and is of none, their messages as one,
    located by the keys of the config alone.

    Args:
        problems: Of one validation; of a value of several kinds each names its kind in ``loc``.
        values: What was validated.
    """
    depth = _known_depth(problems[0], values)
    if depth == len(problems[0]["loc"]):
        return problems[0]
    key = problems[0]["loc"][:depth]
    kinds = [problem for problem in problems if problem["loc"][:depth] == key and len(problem["loc"]) > depth]
    # Of a list and a number, an entry of the list is to blame if it was a list.
    inside = [problem for problem in kinds if len(problem["loc"]) > depth + 1 and problem["type"] != "missing"]
    if inside:
        return {**inside[0], "loc": (*key, *inside[0]["loc"][depth + 1 :])}
    if all(problem["type"] == "missing" for problem in kinds):
        return problems[0]
    first, *others = dict.fromkeys(_plain(problem["msg"]) for problem in kinds if problem["type"] != "missing")
    message = " or ".join([first, *(other.removeprefix("Input should be ") for other in others)])
    return {**problems[0], "loc": key, "type": "several_kinds", "msg": message}


def _plain(message: str) -> str:
    """A message of pydantic's without the words of its own."""
    message = re.sub(", unable to parse string.*", "", message.removeprefix("Value error, "))
    message = re.sub("a valid (list|tuple)$", "a list", message)
    return re.sub("a valid dictionary( or instance of .*)?$", "keys with values, {KEY: VALUE}", message)


def _known_depth(problem: Mapping[str, Any], values: Any) -> int:
    """How many parts of an error's location are keys and places of the values; the next is the name of a kind."""
    location = problem["loc"]
    for depth, part in enumerate(location):
        if isinstance(values, Mapping) and (part in values or problem["type"] == "missing"):
            values = values.get(part)
        elif isinstance(values, (list, tuple)) and isinstance(part, int) and part < len(values):
            values = values[part]
        else:
            return depth
    return len(location)


def _section_at(schema: Any, location: Iterable[Any]) -> type[BaseModel] | None:
    """The section that a pydantic error's location points into, if it is one."""
    for part in location:
        field = schema.model_fields.get(part) if isinstance(schema, type) and issubclass(schema, BaseModel) else None
        annotation = field.annotation if field else schema
        inner = [
            argument
            for argument in getattr(annotation, "__args__", ())
            if isinstance(argument, type) and issubclass(argument, BaseModel)
        ]
        schema = inner[0] if inner else annotation
    return schema if isinstance(schema, type) and issubclass(schema, BaseModel) else None


def _keys_at(schema: Any, location: Iterable[Any]) -> list[str]:
    section = _section_at(schema, location)
    return [] if section is None else sorted(section.model_fields)


def _may_be_null(schema: Any, location: Sequence[Any]) -> bool:
    section = _section_at(schema, location[:-1])
    field = None if section is None else section.model_fields.get(location[-1])
    return field is not None and type(None) in get_args(field.annotation)
