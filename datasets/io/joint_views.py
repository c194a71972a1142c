"""Views of aligned modalities: whatever moves one of them moves all; what only changes colours is of ``rgb`` alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...core.depth_marks import metres_of
from ...core.errors import ContrastillError, UsageError
from .array_files import of_one_ratio
from .camera import Unit
from .depth_resize import interpolated_depth
from .file_views import LABELS, composed, draw_numbers, draw_part, moved, resized, seed_transforms, shift
from .values import vectors_of_array

_ZERO_OUTSIDE = ("rgb", "depth", LABELS)
_TRIES = 4
_INSIDE = "inside"  # what a further transform takes in from outside has 0 there

Sample = Mapping[str, np.ndarray]
"""Modality -> (H, W) or (H, W, C), all of one ratio of sides, and of one size where views have none of their own;
``rgb`` is uint8 (H, W, 3).
"""


@dataclass(frozen=True)
class Placing:
    """Where in its frame a view lies, before it was resized.

    Attributes:
        top, left: Of its upper left pixel, in pixels of the frame; negative where a border came in.
        height, width: In pixels of the frame.
        flip: Whether it was then mirrored left to right.
    """

    top: float
    left: float
    height: float
    width: float
    flip: bool = False


@dataclass(frozen=True)
class JointViews:
    """How a sample becomes a view of ``size``.

    ``rgb`` is resized bilinearly, antialiased. Metric ``depth`` is interpolated within surfaces, so that what is made
    from its slopes (normals, HHA) sees no steps that are not there, and is the nearest pixel's at edges and holes, see
    :func:`~.depth_resize.interpolated_depth`. Every other modality takes the nearest pixel: a class or a direction must
    not blend with its neighbours, and of relative depth nobody knows what is linear on a plane (depth, disparity, a
    curve of 256 steps) or which value means not measured. Its values are moved and never changed, but for vectors in
    mirrored views. What comes in from outside is 0 of rgb, depth and labels, and NaN, not measured, of all else, whose
    0 may be any value.

    Attributes:
        size: Height and width in pixels; None: as stored.
        crop: Of training views. ``"random_resized"``: a part of random area and of a ratio 3:4 to 4:3 times that of
            ``size``, resized; ``"padded"``: the whole, shifted by up to an eighth of its sides; ``"none"``: the whole.
        scale: Range of the part's area in the frame's, for random_resized.
        flip: Whether half of the training views are mirrored.
        transforms: Further transforms of albumentations: name and arguments of each.
        modalities: Names of what a sample may hold.
        vectors: Names of what holds vectors, x to the right: a mirrored view changes the sign of x.
        depth_unit: Of stored depth; None: not known.
    """

    size: tuple[int, int] | None = None
    crop: Literal["random_resized", "padded", "none"] = "random_resized"
    scale: tuple[float, float] = (0.35, 1.0)
    flip: bool = True
    transforms: list[dict[str, Any]] = field(default_factory=list)
    modalities: tuple[str, ...] = ("rgb", "depth", LABELS)
    vectors: tuple[str, ...] = ()
    depth_unit: Unit | None = None

    draws = staticmethod(draw_numbers)

    def plain(self, sample: Sample) -> dict[str, Tensor]:
        """The whole frame, its ends cut off where it is longer than ``size`` asks: what a network is tested on; (H, W,
        C) each.
        """
        return self._cut(sample, self.full_frame(*self.extent(sample)))

    def extent(self, sample: Sample) -> tuple[int, int]:
        """Height and width of a sample: of the modality with the most pixels where they differ.

        Raises:
            ContrastillError: They differ, and views have no size of their own to bring them to, or their ratios of
                sides differ: their pixels could not belong together.
        """
        sizes = {name: values.shape[:2] for name, values in sample.items()}
        largest = max(sizes.values())
        if any(size != largest and (self.size is None or not of_one_ratio(size, largest)) for size in sizes.values()):
            shown = ", ".join(f"{name} {height}×{width}" for name, (height, width) in sizes.items())
            raise ContrastillError(f"modalities of one sample differ in size ({shown}): bring them to one size first")
        return largest

    def full_frame(self, height: int, width: int) -> Placing:
        """Where the views of :meth:`plain` lie in a frame of this height and width."""
        across, down = (self.size or (height, width))[::-1]
        # Rounded, so that a frame a pixel off the ratio is taken whole.
        h, w = max(1, min(height, round(width * down / across))), max(1, min(width, round(height * across / down)))
        return Placing((height - h) // 2, (width - w) // 2, h, w)

    def view(self, sample: Sample, draws: list[float], seed: int) -> tuple[dict[str, Tensor], Placing]:
        """The drawn view, and where it lies in its frame.

        Args:
            draws: The sample's, from :meth:`draws`.
            seed: Of the further transforms.

        Returns:
            (H, W, C) each, rgb and semantics of the sample's own dtype, float32 of the rest. The further transforms are
            not in the placing: where :attr:`moves` is true, it does not hold.
        """
        height, width = self.extent(sample)
        down, across = self.size or (height, width)
        if self.crop == "random_resized":
            place = Placing(*draw_part(height, width, self.scale, draws[1:], across / down))
            view = self._cut(sample, place)
        else:
            place = self.full_frame(height, width)
            view = self._cut(sample, place)
            if self.crop == "padded":
                y, x = shift((down, across), draws)
                view = {
                    name: moved(values, y, x, 0 if name in _ZERO_OUTSIDE else torch.nan)
                    for name, values in view.items()
                }
                place = Placing(
                    place.top + y * place.height / down,
                    place.left + x * place.width / across,
                    place.height,
                    place.width,
                )
        if self.flip and draws[0] < 0.5:
            view = {name: values.flip(1) for name, values in view.items()}
            for name in self.vectors:
                view[name][:, :, 0].neg_()
            place = Placing(place.top, place.left, place.height, place.width, True)
        return self._transformed(view, seed) if self.transforms else view, place

    @cached_property
    def compose(self) -> Any:
        """albumentations' own, of ``transforms``.

        Raises:
            UsageError: A transform that does not exist, or with arguments it does not take, or that does not keep the
                shape, or that changes values of other modalities than rgb.
        """
        # As stored: a size of no transform's default, so that one that asks for its own is seen.
        size, others = self.size or (61, 83), [name for name in self.modalities if name != "rgb"]
        compose = composed(self.transforms, size, [*others, _INSIDE] if others else [])
        for transform in compose.transforms if others else ():
            _check_moves_alone(transform, size, others)
        return compose

    @property
    def moves(self) -> bool:
        """Whether a further transform moves pixels, so that nobody knows where they came from."""
        if not self.transforms:
            return False
        from albumentations import DualTransform

        return any(isinstance(transform, DualTransform) for transform in self.compose.transforms)

    def _cut(self, sample: Sample, place: Placing) -> dict[str, Tensor]:
        """A rectangle of whole pixels, resized: (H, W, C) each."""
        top, left, height, width = int(place.top), int(place.left), int(place.height), int(place.width)
        extent = self.extent(sample)
        size = self.size or extent
        # Of each of the view's pixels, where the centre lies in the rectangle, and the nearest pixel of the frame.
        centres_down, centres_across = (
            (np.arange(n) + 0.5) * (of / n) for n, of in zip(size, (height, width), strict=True)
        )
        y, x = centres_down.astype(np.int64) + top, centres_across.astype(np.int64) + left
        cut = {}
        for name, values in sample.items():
            # Of a frame with fewer pixels, the same part of the picture.
            down, across = values.shape[0] / extent[0], values.shape[1] / extent[1]
            if name == "rgb":
                first, left_one = round(top * down), round(left * across)
                last, right_one = (
                    max(round((top + height) * down), first + 1),
                    max(round((left + width) * across), left_one + 1),
                )
                # A copy, as of the others: transforms may write to it, and the values may be a cache's.
                cut[name] = resized(torch.from_numpy(values[first:last, left_one:right_one].copy()), *size)
            else:
                rows, columns = y, x
                if values.shape[:2] != extent:
                    rows, columns = (((places + 0.5) * by).astype(np.int64) for places, by in ((y, down), (x, across)))
                # By one index: NumPy takes twice as long by two.
                picked = values.reshape(-1, *values.shape[2:]).take((rows * values.shape[1])[:, None] + columns, axis=0)
                if name == "depth" and picked.ndim == 2 and metres_of(self.depth_unit) is not None:
                    assert self.depth_unit is not None
                    places = (top + centres_down) * down - 0.5, (left + centres_across) * across - 0.5
                    picked = interpolated_depth(values, picked, *places, self.depth_unit)
                picked = picked if picked.ndim == 3 else picked[:, :, None]
                if name != LABELS:
                    picked = vectors_of_array(picked) if name in self.vectors else picked.astype(np.float32, copy=False)
                cut[name] = torch.from_numpy(picked)
        return cut

    def _transformed(self, view: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
        seed_transforms(self.compose, seed)
        # It takes maps without a last side of one, and wants an image even where a sample has none.
        arrays = {
            "image" if name == "rgb" else name: (values[..., 0] if values.shape[2] == 1 else values).numpy(force=True)
            for name, values in view.items()
        }
        arrays = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
        size = next(iter(view.values())).shape[:2]
        arrays.setdefault("image", np.zeros((*size, 3), np.uint8))
        marked = self.moves and view.keys() != {"rgb"}
        if marked:
            arrays[_INSIDE] = np.ones(size, np.uint8)
        transformed = self.compose(**arrays)
        result = {
            name: torch.from_numpy(np.ascontiguousarray(transformed["image" if name == "rgb" else name])).reshape(
                values.shape
            )
            for name, values in view.items()
        }
        if marked:
            outside = torch.from_numpy(np.ascontiguousarray(transformed[_INSIDE])) == 0
            for name in result.keys() - set(_ZERO_OUTSIDE):
                result[name][outside] = torch.nan
        return result


def _check_moves_alone(transform: Any, size: tuple[int, int], others: Sequence[str]) -> None:
    """Complain about a transform that gives masks values of its own, or chooses among their pixels by their values: of
    what is no mask, such as a sensor's values, it would make something else.

    Seen on two maps without equal pixels, of which one is highest where the other is lowest.

    Raises:
        UsageError: It does, or does not run on such maps.
    """
    import albumentations as A

    if not isinstance(transform, A.DualTransform):
        return
    name, (height, width) = type(transform).__name__, size
    changed = getattr(transform, "fill_mask", None) not in (None, 0, 0.0)
    transform, count = copy.deepcopy(transform), height * width
    transform.p = 1.0
    compose = A.Compose([transform], additional_targets={"up": "mask", "down": "mask"}, mask_interpolation=0)
    places = np.random.default_rng(0).permutation(count).reshape(height, width).astype(np.float32)
    sample: dict[str, np.ndarray] = {"image": np.zeros((height, width, 3), np.uint8)}
    sample |= {"up": places + 1, "down": count - places}
    for seed in range(0 if changed else _TRIES):
        seed_transforms(compose, seed)
        try:
            view = compose(**{key: values.copy() for key, values in sample.items()})
        except Exception as error:  # one that needs more than an image and masks
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UsageError(
                f"data.transforms: {name} does not run on {', '.join(others)} beside rgb: {reason}"
            ) from error
        up, down = np.asarray(view["up"], np.float64), np.asarray(view["down"], np.float64)
        changed = changed or up.shape != down.shape or not np.isin(up, np.arange(count + 1)).all()
        changed = changed or not np.array_equal(np.where(up == 0, 0, count + 1 - up), down)
    if changed:
        raise UsageError(
            f"data.transforms: {name}, as it is set here, would change values of {', '.join(others)}, where pixels are "
            "moved alone: take one that moves pixels, or changes colours, and leave out its fill_mask"
        )
