"""YAML that keeps how a value was written: a field of text gets ``010``, ``1e3`` or ``no`` as it stands, and a number
is never octal or a time of day.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from yaml import SafeLoader, YAMLError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ..errors import UsageError

_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"yes|Yes|YES|true|True|TRUE|on|On|ON")
_FALSE = re.compile(r"no|No|NO|false|False|FALSE|off|Off|OFF")
_INT = re.compile(r"[-+]?[0-9][0-9_]*")
_BASED = re.compile(r"[-+]?0(x[0-9a-fA-F_]+|o[0-7_]+|b[01_]+)")
_FLOAT = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True)
class Written:
    """A number or a truth value, and the text that it was written as.

    Attributes:
        value: ``8``
        text: ``"008"``
    """

    value: Any
    text: str


def read_written(text: str) -> Any:
    """A YAML document of mappings, lists, texts, None and :class:`Written`.

    Keys are text, and whole numbers without quotes are numbers.

    Raises:
        YAMLError: It is no YAML, has a key twice or more than one document.
    """
    loader = SafeLoader(text)
    try:
        node = loader.get_single_node()
        return None if node is None else _construct(loader, node, ())
    finally:
        loader.dispose()


def yaml_problem(error: Exception) -> str:
    """What is wrong and in which line, as YAML's own first line leaves that out."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return str(error).splitlines()[0]
    problem = " ".join(filter(None, (getattr(error, "context", None), getattr(error, "problem", None))))
    tab = ": YAML is indented by spaces, not by tabs" if "'\\t'" in problem else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}{tab}"


def read_resolved(path: Path) -> dict[str, Any]:
    """The config of a run, as its folder keeps it.

    Raises:
        UsageError: The file is damaged.
    """
    try:
        tree = values_of(read_written(path.read_text(encoding="utf-8")))
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"config {path} cannot be read: {yaml_problem(error)}") from error
    if not isinstance(tree, dict) or not tree:
        raise UsageError(f"config {path} cannot be read: it holds no settings of a run")
    return tree


def override_value(text: str) -> Any:
    """What follows ``key=``: YAML in one line; what is neither quoted, a list, a mapping nor a number is the text
    itself, with # and : in it.

    Raises:
        YAMLError: A list or a mapping that is no YAML.
    """
    try:
        value = read_written(f"value: {text}")["value"]
        quoted = text.strip()[:1] in ("'", '"')
    except YAMLError:
        if text.lstrip()[:1] in ("[", "{"):
            raise
        return text
    if isinstance(value, Written):
        return Written(value.value, text)
    # What begins with # is nothing to YAML.
    return (
        text
        if not quoted and (isinstance(value, str) or (value is None and not _NULL.fullmatch(text.strip())))
        else value
    )


def parse_scalar(text: str) -> Any:
    """A plain scalar's value: YAML 1.1's words for truth and nothing, decimal numbers, and those that begin with 0x, 0o
    or 0b.

    Example:
        >>> [parse_scalar(text) for text in ("0100", "1e3", "5e-4", "on", "12:30", "2024-01-01", "~")]
        [100, 1000.0, 0.0005, True, '12:30', '2024-01-01', None]
    """
    digits = text.replace("_", "")
    kinds: list[tuple[re.Pattern[str], Callable[[], Any]]] = [
        (_NULL, lambda: None),
        (_TRUE, lambda: True),
        (_FALSE, lambda: False),
        (_INT, lambda: int(digits)),
        (_BASED, lambda: int(digits, 0)),
        (_FLOAT, lambda: float(digits)),
        (_SPECIAL, lambda: float(text.lower().replace(".", ""))),
    ]
    for pattern, value in kinds:
        if pattern.fullmatch(text):
            return value()
    return text


def _construct(loader: SafeLoader, node: Node, above: tuple[Node, ...]) -> Any:
    if node in above:
        raise YAMLError("a value contains itself")
    if isinstance(node, SequenceNode):
        return [_construct(loader, inner, (*above, node)) for inner in node.value]
    if isinstance(node, MappingNode):
        return _mapping(loader, node, (*above, node))
    implicit = loader.resolve(ScalarNode, node.value, (node.style is None, node.style is not None))
    if node.tag != implicit:  # said by a tag
        return loader.construct_object(node, deep=True)
    if node.style is not None:  # quoted, or a block of text
        return node.value
    value = parse_scalar(node.value)
    return Written(value, node.value) if isinstance(value, (bool, int, float)) else value


def _mapping(loader: SafeLoader, node: MappingNode, above: tuple[Node, ...]) -> dict[Any, Any]:
    names = [key.value for key, _ in node.value if isinstance(key, ScalarNode)]
    if len(names) < len(node.value):
        raise YAMLError("a key is a list or a mapping")
    twice = sorted({name for name in names if names.count(name) > 1 and name != "<<"})
    if twice:
        raise YAMLError(f"found duplicate key {twice[0]}")
    loader.flatten_mapping(node)
    return {_key(key): _construct(loader, value, above) for key, value in node.value}


def _key(node: ScalarNode) -> str | int:
    """A key as text, but for a whole number without quotes; :func:`for_schema` makes it text where it can be no
    number.
    """
    number = node.style is None and _INT.fullmatch(node.value) and str(int(node.value.replace("_", ""))) == node.value
    return int(node.value) if number else node.value


def values_of(tree: Any) -> Any:
    """The tree with numbers and truth values in the place of :class:`Written`."""
    return _mapped(tree, lambda leaf: leaf.value)


def texts_of(tree: Any) -> Any:
    """The tree with texts in the place of :class:`Written`."""
    return _mapped(tree, lambda leaf: leaf.text)


def _mapped(tree: Any, leaf: Callable[[Written], Any]) -> Any:
    if isinstance(tree, Mapping):
        return {key: _mapped(value, leaf) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_mapped(value, leaf) for value in tree]
    return leaf(tree) if isinstance(tree, Written) else tree


def joined(values: Any, texts: Any) -> Any:
    """The tree of which :func:`values_of` and :func:`texts_of` are given."""
    if isinstance(values, Mapping) and isinstance(texts, Mapping):
        return {key: joined(value, texts.get(key)) for key, value in values.items()}
    if isinstance(values, list) and isinstance(texts, list) and len(values) == len(texts):
        return [joined(value, text) for value, text in zip(values, texts, strict=True)]
    return Written(values, texts) if isinstance(values, (bool, int, float)) and isinstance(texts, str) else values


def for_schema(annotation: Any, value: Any) -> Any:
    """A tree with the text where the schema has text, and the value elsewhere; what an open section does not know stays
    :class:`Written`.

    Args:
        annotation: A pydantic model, or the annotation of a field.
        value: Of :func:`joined`.
    """
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _for_model(annotation, value)
    annotations = _alternatives(annotation)
    if isinstance(value, Written):
        return _leaf(annotations, value)
    if isinstance(value, bool) and {int, float} & {*annotations} and not {bool, Any, object} & {*annotations}:
        return str(value)  # pydantic would count it as 0 or 1
    if isinstance(value, Mapping):
        model = next((one for one in annotations if isinstance(one, type) and issubclass(one, BaseModel)), None)
        keys, inner = next(
            (get_args(one) for one in annotations if get_origin(one) in (dict, Mapping) and get_args(one)), (Any, Any)
        )
        if model:
            return _for_model(model, value)
        as_text = keys is Any or int not in _alternatives(keys)
        return {str(key) if as_text else key: for_schema(inner, one) for key, one in value.items()}
    if isinstance(value, list):
        sequence = next(
            (one for one in annotations if get_origin(one) in (list, tuple, set, frozenset, Sequence)), None
        )
        inner = [one for one in get_args(sequence) if one is not Ellipsis] or [Any] if sequence is not None else [Any]
        return [for_schema(inner[min(place, len(inner) - 1)], one) for place, one in enumerate(value)]
    return value


def _for_model(model: type[BaseModel], value: Any) -> Any:
    if not isinstance(value, Mapping):
        return values_of(value)
    value = {str(key): one for key, one in value.items()}
    open_section = model.model_config.get("extra") == "allow"
    return {
        key: for_schema(model.model_fields[key].annotation, one)
        if key in model.model_fields
        else one
        if open_section
        else values_of(one)
        for key, one in value.items()
    }


def _leaf(annotations: Sequence[Any], written: Written) -> Any:
    # What is written as one value is none of several.
    single = [one for one in annotations if get_origin(one) not in (list, tuple, set, frozenset, Sequence)]
    if single and all(
        one is str or (get_origin(one) is Literal and all(isinstance(name, str) for name in get_args(one)))
        for one in single
    ):
        return written.text
    if isinstance(written.value, bool) and not any(one is bool or one is Any or one is object for one in annotations):
        # pydantic would count it as 0 or 1.
        return written.text
    return written.value


def _alternatives(annotation: Any) -> list[Any]:
    """What a value may be besides None."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [inner for one in get_args(annotation) if one is not type(None) for inner in _alternatives(one)]
    return [annotation]
