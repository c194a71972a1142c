"""One entry of a list of classes: a name, several, or a record with a name among other fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from .arguments import plain_number


def class_record(entry: Any) -> Mapping[str, Any] | None:
    """The fields of an entry that describes a class, as torchvision's ``Cityscapes.classes`` have; None of a name."""
    if isinstance(entry, Mapping):
        return entry
    if isinstance(entry, tuple) and hasattr(entry, "_asdict"):
        return entry._asdict()
    return vars(entry) if is_dataclass(entry) and hasattr(entry, "__dict__") else None


def class_text(name: Any) -> str:
    """A class's name; empty where it has none: None, NaN, blanks, a list of other things."""
    record = class_record(name)
    if record is not None:
        name = record.get("name")
    if isinstance(name, (tuple, list)):
        # Numbers beside a name are no other names of it.
        numbers = any(isinstance(plain_number(one), (int, float)) and one == one for one in name)
        return "" if numbers else ", ".join(filter(None, map(class_text, name)))
    name = plain_number(name)
    if name is None or name != name:
        return ""
    text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
    return text if text.strip() else ""
