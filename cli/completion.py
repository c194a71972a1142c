"""What the shell offers for arguments: shipped configs, keys and values of configs, runs. It has to answer at once, so
no torch is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

NETWORKS = (
    "MobileNetV2", "ResNet50", "ShuffleV1", "ShuffleV2", "conv5", "efficientnet_lite0", "efficientnet_lite1",
    "efficientnet_lite2", "resnet110", "resnet14",
    "resnet20", "resnet32", "resnet32x4", "resnet44", "resnet56", "resnet8", "resnet8x4", "vgg11", "vgg13", "vgg16",
    "vgg19", "vgg8", "wrn_16_1", "wrn_16_2",
    "wrn_40_1", "wrn_40_2",
)  # fmt: skip
"""The registered networks, whose own modules are not imported for a keystroke; a test compares."""

_FAMILIES = ("timm/", "torchvision/", "hf/")
_REGISTERED = re.compile(r'^@OBJECTIVES\.register\("(\w+)"\)', re.MULTILINE)


def config_names(incomplete: str) -> list[str]:
    """Shipped configs, then YAML files and the folders on the way to them."""
    from ..core.config.loading import shipped_configs

    shipped = [name for name in shipped_configs() if name.startswith(incomplete)]
    return shipped + [text for text, path in _paths(incomplete) if path.is_dir() or path.suffix in (".yaml", ".yml")]


def runs(incomplete: str) -> list[str]:
    """Folders of runs, and the folders on the way to them."""
    matches = []
    for text, path in _paths(incomplete):
        if (path / "config.yaml").is_file():
            matches.append(text.rstrip("/"))
        elif path.is_dir():
            matches.append(text)
    return matches


def networks(incomplete: str) -> list[str]:
    """Runs and networks by name, as contrastill probe and cost take them."""
    return _starting(incomplete, [*NETWORKS, *_FAMILIES]) + runs(incomplete)


def runs_and_overrides(ctx: Any, incomplete: str) -> list[str]:
    """For contrastill evaluate: a run first, then runs and overrides."""
    words = _words_before(ctx, "arguments")
    overrides = overrides_after(words, incomplete) if words else []
    return overrides if "=" in incomplete or words[-1:] == ["="] else [*runs(incomplete), *overrides]


def overrides(ctx: Any, incomplete: str) -> list[str]:
    """``key=value`` of a config."""
    return overrides_after(_words_before(ctx, "overrides"), incomplete)


def _words_before(ctx: Any, name: str) -> list[str]:
    return [str(word) for word in ctx.params.get(name) or ()]


def overrides_after(words: list[str], incomplete: str) -> list[str]:
    """Keys, or the values of one, after the words that are there already.

    bash takes ``key=value`` for three words, of which the last alone is to be completed; other shells for one.
    """
    key, equals, value = incomplete.partition("=")
    if equals:
        return [f"{key}={candidate}" for candidate in _values_so_far(key, value)]
    if words[-1:] == ["="] and len(words) > 1:
        return _values_so_far(words[-2], incomplete)
    if (
        not incomplete and words and "=" not in words[-1]
    ):  # of bash's "key" "=", whose last word click takes for nothing
        return _values_so_far(words[-1], "")
    return _keys(incomplete)


def _values_so_far(key: str, value: str) -> list[str]:
    if key.endswith(".weights"):
        return [*_starting(value, ["pretrained"]), *runs(value)]
    return _starting(value, _values(key))


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _paths(incomplete: str) -> Iterator[tuple[str, Path]]:
    """What is there under a path that is not yet whole; folders end with a slash."""
    folder, _, name = incomplete.rpartition("/")
    where = Path(f"{folder}/").expanduser() if "/" in incomplete else Path()
    if not where.is_dir():
        return
    for path in sorted(where.iterdir()):
        if path.name.startswith(name) and not (path.name.startswith(".") and not name):
            text = f"{folder}/{path.name}" if "/" in incomplete else path.name
            yield (f"{text}/" if path.is_dir() else text), path


def _keys(incomplete: str) -> list[str]:
    """The keys that begin so, one section down. The shell adds a space to a single one, which is wrong after a dot or
    an equals sign: it gets company.
    """
    names = _starting(incomplete, _keys_of(incomplete.rpartition(".")[0]))
    if len(names) == 1 and names[0].endswith("."):
        return _keys(names[0])
    return names + [f"{name}{value}" for name in names if len(names) == 1 for value in _values(name.rstrip("="))[:1]]


def _keys_of(section: str) -> list[str]:
    """The keys of a section, in full; one that holds others ends with a dot."""
    from ..core.config.schema import RunConfig

    if section == "objectives":
        return [f"objectives.{name}." for name in objectives()]
    if section == "teachers":
        return ["teachers.0."]
    fields = getattr(_schema(RunConfig, section), "model_fields", {})
    names = [f"{section}.{name}" if section else name for name in fields]
    return [
        f"{name}."
        if name in ("teachers", "objectives") or hasattr(_schema(RunConfig, name), "model_fields")
        else f"{name}="
        for name in names
    ]


def _values(key: str) -> list[str]:
    """What a key may hold, where the schema lists it; of others its default."""
    from ..core.config.schema import RunConfig

    section, _, name = key.rpartition(".")
    if name == "model":
        return [*NETWORKS, *_FAMILIES]
    field = getattr(_schema(RunConfig, section), "model_fields", {}).get(name)
    if field is None:
        return []
    if field.annotation is bool:
        return ["true", "false"]
    listed = [
        value
        for candidate in [field.annotation, *get_args(field.annotation)]
        for value in get_args(candidate)
        if isinstance(value, str)
    ]
    return listed or ([str(field.default)] if isinstance(field.default, (int, float)) else [])


def _schema(schema: Any, key: str) -> Any:
    """The section of a config that a dotted key names, as its class; an entry of a list or mapping is of the class that
    it holds.
    """
    for part in filter(None, key.split(".")):
        if hasattr(schema, "model_fields"):
            schema = schema.model_fields[part].annotation if part in schema.model_fields else None
        else:
            schema = get_args(schema)[-1] if get_args(schema) else None
    return schema


def objectives() -> list[str]:
    """The shipped objectives, by what their files register."""
    package = Path(__file__).resolve().parent.parent
    files = [
        path for folder in ("objectives", "xmodal", "ensemble") for path in sorted((package / folder).glob("*.py"))
    ]
    return sorted(name for path in files for name in _REGISTERED.findall(path.read_text(encoding="utf-8")))
