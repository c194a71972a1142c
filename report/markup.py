"""HTML from Python: every text is escaped unless it was built here, so that no name from a file becomes markup."""

from __future__ import annotations

import math
from html import escape
from typing import Any

_VOID = frozenset({"br", "col", "hr", "img", "input", "link", "meta", "wbr"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(tag: str, *children: Any, **attributes: Any) -> Markup:
    """One element with its children, those that are no :class:`Markup` as escaped text; None is left out.

    Args:
        tag: Its name.
        children: Texts, markup, or lists of them.
        attributes: ``class_`` is class, ``data_x`` is data-x; True stands alone, None and False are left out.

    Example:
        >>> element("a", "x < y", href="#1", class_="plain", hidden=False)
        '<a href="#1" class="plain">x &lt; y</a>'
    """
    pairs = (
        (name.rstrip("_").replace("_", "-"), value)
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    text = "".join(f" {name}" if value is True else f' {name}="{escape(str(value))}"' for name, value in pairs)
    return Markup(f"<{tag}{text}>") if tag in _VOID else Markup(f"<{tag}{text}>{join(*children)}</{tag}>")


def join(*children: Any) -> Markup:
    """Children one after the other, as :func:`element` has them.

    Example:
        >>> join("a & b", [element("b", "c"), None])
        'a &amp; b<b>c</b>'
    """
    parts: list[str] = []
    for child in children:
        if isinstance(child, (list, tuple)):
            parts.append(join(*child))
        elif child is not None:
            parts.append(child if isinstance(child, Markup) else escape(str(child)))
    return Markup("".join(parts))


def number(value: Any, form: str = ".2f") -> str:
    """A number as text, with a true minus; a dash where there is none.

    Example:
        >>> number(-1.234, "+.1f"), number(None), number(float("nan"))
        ('−1.2', '–', '–')
    """
    if not is_number(value):
        return "–"
    return f"{value:{form}}".replace("-", "−") if "e" not in f"{value:{form}}" else f"{value:{form}}"


def is_number(value: Any) -> bool:
    """Whether it is a finite number; what a damaged file holds in its place is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
