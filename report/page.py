"""The page: one file with everything in it, which asks nothing of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .markup import Markup, element, join

_HERE = Path(__file__).parent
# Whatever text a file holds, nothing is fetched.
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri "
    "'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Section:
    """A chapter of the page.

    Attributes:
        key: Its anchor.
        title: Its heading.
        body: What stands below.
    """

    key: str
    title: str
    body: Markup


def page(title: str, intro: Markup, sections: Sequence[Section], footer: str) -> str:
    """The whole document.

    Args:
        title: Of the page.
        intro: Below it.
        sections: In their order.
        made: By what and when, the last line.
    """
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    entries = [element("li", element("a", section.title, href=f"#{section.key}")) for section in sections]
    contents = element(
        "nav",
        element("h2", "Contents", id="contents"),
        element("ol", entries),
        aria_labelledby="contents",
        class_="contents",
    )
    top = element(
        "header",
        element(
            "button", "Dark", type="button", id="theme", aria_pressed="false", title="Switch between light and dark"
        ),
        element("h1", title),
        intro,
    )
    chapters = [
        element("section", element("h2", section.title, id=section.key), section.body, aria_labelledby=section.key)
        for section in sections
    ]
    body = element(
        "body",
        element("a", "Skip to the results", href="#main", class_="skip"),
        top,
        contents,
        element("main", chapters, id="main", tabindex=-1),
        element("footer", element("p", footer)),
        element("script", Markup(script)),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="generator", content="contrastill"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Markup(style)),
    )
    return join(Markup("<!doctype html>\n"), element("html", head, body, lang="en"), Markup("\n"))
