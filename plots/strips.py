"""Frames in rows: colour, depth, ground truth, and what each of several methods takes the pixels for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .figure import figure

# Fifteen colours that people with any kind of colour vision tell apart (M. Krzywinski), the calmer ones first.
_PALETTE = (
    "#009FFA", "#FFDC3D", "#008169", "#FFCFE2", "#9400E6", "#00DCB5", "#6A0213", "#EF0096",
    "#003C86", "#7CFFFA", "#008607", "#FF71FD", "#F60239", "#00E307", "#68023F",
)  # fmt: skip
_UNLABELLED, _NOT_MEASURED = (0.0, 0.0, 0.0), (0.62, 0.62, 0.62)
_SIDE = 1.55  # inches of a frame's width


@dataclass(frozen=True)
class Strips:
    """n frames and the predictions of several methods for them.

    Attributes:
        labels: (n, H, W) ground truth; 0 and what is below it are unlabelled.
        predictions: Pairs of a method, as the picture shows it, and (n, H, W) classes.
        classes: Names of the values of a label map, the first for 0; None: their numbers.
        rgb: (n, H, W, 3) uint8, or None.
        depth: (n, H, W) floats; 0 or no number is nothing measured; or None.
    """

    labels: np.ndarray
    predictions: Sequence[tuple[str, np.ndarray]]
    classes: Sequence[str] | None = None
    rgb: np.ndarray | None = None
    depth: np.ndarray | None = None


def class_colours(count: int) -> np.ndarray:
    """(count + 1, 3) colours in [0, 1] of the values of a label map: black for 0, then always the same for a class.

    Beyond fifteen classes the colours come again, lighter, then darker: not all of forty can be told apart.
    """
    base = np.array([[int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)] for colour in _PALETTE])
    rounds = [base, 0.45 * base + 0.55, 0.5 * base]
    again = -(-count // (len(base) * len(rounds)))
    return np.concatenate([[_UNLABELLED], *(rounds * max(1, again))])[: count + 1]


def depth_colours(depth: np.ndarray) -> np.ndarray:
    """(H, W) depths as colours (H, W, 3), near dark and far light, each frame over its own range; grey where nothing
    was measured.
    """
    from matplotlib import colormaps

    there = np.isfinite(depth) & (depth > 0)
    low, high = np.percentile(depth[there], [1, 99]) if there.any() else (0.0, 1.0)
    scaled = np.clip((np.where(there, depth, low) - low) / max(high - low, 1e-9), 0, 1)
    return np.where(there[..., None], colormaps["viridis"](scaled)[..., :3], _NOT_MEASURED)


def draw_strips(strips: Strips, path: str | os.PathLike, *, title: str) -> None:
    """Draw a row for each frame and a column for each thing shown of it, with a legend of the classes that occur.

    Args:
        strips: The frames.
        path: The PNG to write.
        title: Above it all: which frames of which data.
    """
    from matplotlib.patches import Patch

    # −1 and −100 stand for no label too, and would count from the end of the colours.
    truth, *predictions = (
        np.maximum(value, 0) for value in (strips.labels, *(prediction for _, prediction in strips.predictions))
    )
    occurring = np.unique(np.concatenate([value.ravel() for value in (truth, *predictions)]))
    colours = class_colours(int(occurring.max()))
    columns: list[tuple[str, Any]] = []
    if strips.rgb is not None:
        columns.append(("RGB", strips.rgb))
    if strips.depth is not None:
        columns.append(("depth", np.stack([depth_colours(frame) for frame in strips.depth])))
    columns.append(("ground truth", colours[truth]))
    columns += [
        (name, colours[prediction]) for (name, _), prediction in zip(strips.predictions, predictions, strict=True)
    ]
    count, height, width = truth.shape
    handles = [
        Patch(facecolor=colours[value], edgecolor="0.5", linewidth=0.5, label=_name(value, strips.classes))
        for value in occurring
    ]
    across = max(2.0, _SIDE * len(columns))
    each = min(len(handles), max(2, int(across / 1.15)))
    lines = -(-len(handles) // each)
    heading = 0.17 * (1 + max(name.count("\n") for name, _ in columns))
    with figure(path, across, count * 0.95 * _SIDE * height / width + heading + 0.2 * lines + 0.55) as drawn:
        drawn.suptitle(title, fontsize=10)
        drawn.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
        for place, axes in np.ndenumerate(drawn.subplots(count, len(columns), squeeze=False)):
            name, images = columns[place[1]]
            axes.imshow(images[place[0]], interpolation="nearest", aspect="equal")
            axes.set_axis_off()
            if place[0] == 0:
                axes.set_title(name, fontsize=8, pad=3)
        drawn.legend(
            handles=handles,
            loc="outside lower center",
            ncols=each,
            fontsize=7.5,
            handlelength=1.1,
            handleheight=1.1,
            columnspacing=1.2,
        )


def _name(value: int, classes: Sequence[str] | None) -> str:
    if value == 0:
        return "unlabelled"
    return classes[value] if classes is not None and value < len(classes) else f"class {value}"
