"""The tables of ``contrastill probe``: a row for each network, a column for each data set and layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core.table import Table


def tables_of(result: dict[str, Any]) -> list[Table]:
    """The linear probe and each further measure as a table.

    Args:
        result: The contents of probe.json.
    """
    rows = result["rows"]
    spread = ", mean ± standard deviation over folds" if all("std" in row for row in rows) else ", with 95 % intervals"
    both = any("std" in row for row in rows) and not all("std" in row for row in rows)
    spread = ", with 95 % intervals, on folds mean ± standard deviation" if both else spread
    tables = [_table(result, f"linear probe ({result['protocol']}): top-1 %{spread}", _accuracy)]
    first = rows[0]
    if "knn" in first:
        tables.append(
            _table(
                result,
                f"{_neighbours(rows)}, weighted cosine: top-1 %{spread}",
                lambda row: _accuracy(row["knn"]),
                (lambda row: f", k={row['knn']['k']}") if _numbers_differ(rows) else None,
            )
        )
    if "logme" in first:
        tables.append(
            _table(
                result,
                "LogME, nats per sample (higher is better, within a data set)",
                lambda row: f"{row['logme']:.4f}",
            )
        )
    for place, shot in enumerate(first.get("shots", ())):

        def cell(row: dict[str, Any], place: int = place) -> str:
            return f"{row['shots'][place]['mean']:.1f} ± {row['shots'][place]['std']:.1f}"

        many = f"{shot['shots']} labelled sample{'s' * (shot['shots'] > 1)} per class"
        tables.append(_table(result, f"{many}: top-1 %, mean ± standard deviation over {shot['draws']} draws", cell))
    if result["correlation"]:
        tables.append(_correlations(result))
    return tables


def network_labels(result: dict[str, Any]) -> dict[str, str]:
    """Network -> its name in a table: of a run that had not ended with the checkpoint that was measured."""
    return {network["name"]: label_of(network["name"], str(network.get("weights"))) for network in result["networks"]}


def label_of(name: str, weights: str) -> str:
    """``runs/kd, checkpoint after step 3``; a name without such weights as it is."""
    return f"{name}, {weights}" if weights.startswith("checkpoint after") else name


def markdown(result: dict[str, Any]) -> str:
    """The same as a page of Markdown."""
    parts = ["# Linear probes", ""]
    for data in result["data"]:
        folds = f", {data['folds']} folds" if "folds" in data else ""
        short = "" if data["short"] == data["name"] else f"{data['short']}, "
        parts.append(
            f"- {short}`{data['name']}`: {data['classes']} classes, {data['train']:,} training samples{folds}, "
            f"{data['test']:,} test samples"
        )
    for network in result["networks"]:
        parts.append(
            f"- `{network['name']}`{network_labels(result)[network['name']].removeprefix(network['name'])}: "
            f"{network['model']}, {network['parameters']:,} parameters, reads {network['modality']}"
        )
    parts.append(f"- maps are averaged to {result['spatial']} × {result['spatial']} positions; seed {result['seed']}")
    for table in tables_of(result):
        parts += ["", table.to_markdown().rstrip()]
    parts += ["", *(f"![{name}]({name})" for name in (path.rpartition("/")[2] for path in result["pictures"]))]
    return "\n".join(parts).rstrip() + "\n"


def _table(
    result: dict[str, Any],
    title: str,
    cell: Callable[[dict[str, Any]], str],
    heading: Callable[[dict[str, Any]], str] | None = None,
) -> Table:
    """A table of the rows.

    Args:
        result: The contents of probe.json.
        title: Its own.
        cell: Text of a row.
        heading: What the heading of a row's column says beside data and layer.
    """
    cells = {(row["network"], row["data"], row["layer"]): cell(row) for row in result["rows"]}
    columns = column_keys(result["rows"], [data["name"] for data in result["data"]])
    names = network_labels(result)
    rows = [[names[name], *(cells.get((name, *column), "") for column in columns)] for name in names]
    short = _short(result)
    beside = {(row["data"], row["layer"]): heading(row) if heading else "" for row in result["rows"]}
    heads = (f"{short[data]}, {layer}{beside[data, layer]}" for data, layer in columns)
    return Table(title, ["network", *heads], rows)


def _numbers_differ(rows: list[dict[str, Any]]) -> bool:
    return len({row["knn"]["k"] for row in rows}) > 1


def _neighbours(rows: list[dict[str, Any]]) -> str:
    """``20 nearest neighbours``; without the number where that differs, as small data have fewer samples."""
    if _numbers_differ(rows):
        return "k nearest neighbours"
    number = rows[0]["knn"]["k"]
    return f"{number} nearest neighbour{'s' * (number > 1)}"


def column_keys(rows: list[dict[str, Any]], data: list[str]) -> list[tuple[str, str]]:
    """(data set, layer) of every column: the maps of the network that has the most, then what comes after them."""
    return [(name, layer) for name in data for layer in in_depth({row["layer"] for row in rows if row["data"] == name})]


def in_depth(layers: set[str]) -> list[str]:
    """Layers in the order of a forward pass."""
    ends = ("embedding", "logits")
    return sorted(
        layers, key=lambda layer: (ends.index(layer), 0) if layer in ends else (-1, int(layer.rpartition(".")[2]))
    )


def _accuracy(row: dict[str, Any]) -> str:
    return (
        f"{row['top1']:.1f} ± {row['std']:.1f}"
        if "std" in row
        else f"{row['top1']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"
    )


def _correlations(result: dict[str, Any]) -> Table:
    means = {
        (entry["network"], entry["data"]): f"{entry['mean_absolute_difference']:.4f}" for entry in result["correlation"]
    }
    data = [entry["name"] for entry in result["data"]]
    names = network_labels(result)
    rows = [[names[network], *(means.get((network, name), "") for name in data)] for network in names]
    title = (
        "correlations of class logits: mean absolute difference between "
        f"{result['correlation'][0]['teacher']} and the network"
    )
    return Table(title, ["network", *_short(result).values()], rows)


def _short(result: dict[str, Any]) -> dict[str, str]:
    """Data set -> its name in a column."""
    return {data["name"]: data["short"] for data in result["data"]}
