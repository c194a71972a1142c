"""What the build of this site needs beside mkdocs.yml: where the sources are, and docstrings as mkdocstrings reads
them.
"""

from __future__ import annotations

import ast
import re
import tempfile
import tomllib
from pathlib import Path

import griffe
from mkdocs.plugins import event_priority

_ROLE = re.compile(r":(?:class|func|meth|attr|mod):`~?(?:[\w.]*?\.)?(\w+)`")
_links: tempfile.TemporaryDirectory | None = None


@event_priority(100)  # before mkdocstrings reads its options
def on_config(config):
    """Show the sources under the package's name, whatever the checkout is called.

    The root is the package, and datasets/ has no __init__.py, without which griffe looks into no folder. So it is given
    folders of links to the sources.
    """
    global _links
    root = Path(config.config_file_path).resolve().parent
    if _links is None:
        _links = tempfile.TemporaryDirectory(prefix="contrastill-docs-")
        packages = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
            "packages"
        ]
        for package in packages:
            shown = Path(_links.name, *package.split("."))
            shown.mkdir(parents=True, exist_ok=True)
            for path in root.joinpath(*package.split(".")[1:]).glob("*.py"):
                (shown / path.name).symlink_to(path)
            if not (shown / "__init__.py").exists():
                (shown / "__init__.py").touch()
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [_links.name]
    return config


class Docstrings(griffe.Extension):
    """Turns Sphinx's roles into code and the heading ``Example`` into the one that Google style knows; of a pydantic
    field it shows default and description.
    """

    def on_attribute_instance(self, *, node: ast.AST, attr: griffe.Attribute, **_: object) -> None:
        value = getattr(node, "value", None)
        if isinstance(value, ast.Call) and ast.unparse(value.func) == "Field":
            positional = [argument for argument in attr.value.arguments if not isinstance(argument, griffe.ExprKeyword)]
            attr.value = positional[0] if positional else None
            for keyword in value.keywords:
                if keyword.arg == "description" and isinstance(keyword.value, ast.Constant):
                    attr.docstring = griffe.Docstring(keyword.value.value, parent=attr)

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring is not None:
            text = _ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = re.sub(r"(?m)^(\s*)Example:\s*$", r"\1Examples:", text)
