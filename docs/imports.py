"""Who imports whom in the package, read off its sources; as a script, it draws docs/pictures/imports.svg."""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYERS = (
    ("cli",),
    ("report",),
    ("evaluation",),
    ("training",),
    ("compress", "ensemble", "xmodal"),
    ("probe",),
    ("datasets", "models", "objectives", "plots"),
    ("core",),
)
"""Each imports from those behind it alone; those of one layer do not import each other."""

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8a6d00", "#1f6f5c", "#a8402f", "#5b6678", "#000000")


@dataclass(frozen=True)
class Import:
    """One module imports another.

    Attributes:
        importer: Such as ``contrastill.cli.train``.
        imported: A module of the package; of an absolute import the name as it is written.
        when: ``"import"`` where it happens as the importer is imported, ``"call"`` inside a function, ``"never"`` where
            it is for type hints alone.
        relative: Whether it is written with a dot, as it should be.
    """

    importer: str
    imported: str
    when: str
    relative: bool


def modules(root: Path = ROOT) -> dict[str, Path]:
    """The package's modules and their files; of a folder with ``__init__.py`` that file is the module."""
    packages = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    files = [path for package in packages for path in sorted(root.joinpath(*package.split(".")[1:]).glob("*.py"))]
    return {
        ".".join(["contrastill", *path.relative_to(root).with_suffix("").parts]).removesuffix(".__init__"): path
        for path in files
    }


def imports(root: Path = ROOT) -> list[Import]:
    """All imports of the package from itself, each once, however many names it brings."""
    known = modules(root)
    result: dict[Import, None] = {}
    for module, path in known.items():
        package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        for node, when in _statements(ast.parse(path.read_text(encoding="utf-8")), "import"):
            level = getattr(node, "level", 0)
            start = package[: len(package) - level + 1] if level else []
            base = [*start, *(node.module.split(".") if isinstance(node, ast.ImportFrom) and node.module else [])]
            for alias in node.names:
                name = ".".join([*base, alias.name])
                if name.split(".")[0] == "contrastill":
                    result[Import(module, name if name in known else ".".join(base) or name, when, level > 0)] = None
    return list(result)


def _statements(node: ast.AST, when: str) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    """Import statements, and when they are carried out."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.Import | ast.ImportFrom):
            yield inner, when
        elif isinstance(inner, ast.If) and ast.unparse(inner.test) == "TYPE_CHECKING":
            yield from _statements(inner, "never")
        elif isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and when == "import":
            yield from _statements(inner, "call")
        else:
            yield from _statements(inner, when)


def folder(module: str) -> str:
    """The subpackage of a module; the root's own modules have none."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def drawing(imported: list[Import]) -> str:
    """The subpackages from top to bottom and an arc for each that imports another, with the number of its imports;
    dashed where all are inside functions.
    """
    folders = [name for layer in LAYERS for name in layer]
    sizes = Counter(folder(module) for module in modules())
    between = [
        entry
        for entry in imported
        if folder(entry.importer) != folder(entry.imported)
        and {folder(entry.importer), folder(entry.imported)} <= {*folders}
    ]
    counts = Counter((folder(entry.importer), folder(entry.imported)) for entry in between)
    at_once = {(folder(entry.importer), folder(entry.imported)) for entry in between if entry.when != "call"}
    sentences = [f"{importer} imports {other} {count} times" for (importer, other), count in sorted(counts.items())]
    height = 56 * len(folders) + 60
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" role="img" aria-labelledby="t d" '
        'font-family="system-ui, sans-serif" font-size="16">',
        '  <title id="t">Who imports whom</title>',
        f'  <desc id="d">{"; ".join(sentences)}.</desc>',
        f'  <rect x="1" y="1" width="638" height="{height - 2}" rx="12" fill="#f7f8fa" stroke="#8a93a3"/>',
    ]
    middle = {}
    for number, layer in enumerate(LAYERS):
        top = 30 + 56 * folders.index(layer[0])
        lines.append(
            f'  <rect x="16" y="{top}" width="248" height="{56 * len(layer)}" '
            f'fill="{("#e6ebf3", "#f7f8fa")[number % 2]}"/>'
        )
        for name in layer:
            middle[name] = 58 + 56 * folders.index(name)
            lines += [
                f'  <rect x="32" y="{middle[name] - 19}" width="216" height="38" rx="6" fill="#ffffff" '
                'stroke="#5b6678"/>',
                f'  <text x="46" y="{middle[name] + 5}" fill="#1b2430" font-weight="600">{name}</text>',
                f'  <text x="236" y="{middle[name] + 5}" fill="#5b6678" text-anchor="end" '
                f'font-size="13">{sizes[name]} files</text>',
            ]
    for (importer, other), count in sorted(counts.items()):
        # An importer's arcs leave above the middle, what comes in ends below it.
        start, end = middle[importer] - 7, middle[other] + 7
        out = 264 + 46 * (folders.index(other) - folders.index(importer))
        apex, level = 248 + 0.75 * (out - 248), (start + end) / 2
        colour = _COLOURS[folders.index(importer) % len(_COLOURS)]
        dashes = "" if (importer, other) in at_once else ' stroke-dasharray="5 4"'
        lines += [
            f'  <path d="M248 {start} C{out} {start} {out} {end} 254 {end}" fill="none" stroke="{colour}" '
            f'stroke-width="1.5"{dashes}/>',
            f'  <path d="M248 {end} l9 -4.5 v9 z" fill="{colour}"/>',
            f'  <rect x="{apex - 11:g}" y="{level - 9:g}" width="22" height="17" rx="4" fill="#f7f8fa"/>',
            f'  <text x="{apex:g}" y="{level + 4.5:g}" fill="#1b2430" text-anchor="middle" '
            f'font-size="13">{count}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    (ROOT / "docs" / "pictures" / "imports.svg").write_text(drawing(imports()), encoding="utf-8")
