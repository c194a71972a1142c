"""What values of depth and other modalities cannot be as a network is given them: signs, infinities, frames."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import UsageError
from .value_scale import BYTES, UNSIGNED_16, ValueScale, note_once, shown_percent

_SOME = 0.01  # share of the values; fewer are noise of a sensor
_OFF_CENTRE, _NEAR_0 = 0.5, 0.05  # of a frame whose mean is 0


def check_stored(images: Tensor, scale: ValueScale | None, *, notes: bool) -> bool:
    """Refuse values of others than colours that cannot be what the training's were, as they are given, before marks of
    nothing measured are taken out; on a device, whoever reads a value waits.

    Args:
        images: (B, C, H, W).
        scale: Of the training; None: not known.
        notes: Whether to log a line about depth below 0.

    Returns:
        Whether a line about it was logged.

    Raises:
        UsageError: Integers below 0 where the training's have no sign; depth of which nothing is left, as it is below 0
            where it is not 0.
    """
    if not images.numel() or images.dtype in (torch.uint8, torch.bool):
        return False
    depth = scale is not None and scale.unit is not None
    if images.is_floating_point() and images.isinf().any() and (not depth or images.dtype == torch.float16):
        half = images.dtype == torch.float16
        way = ": the highest of float16 is 65504, so give higher ones in float32" if half else ""
        note_once(f"infinite values are taken for not measured, and the network sees the mean there{way}")
    # Of unsigned integers there is none, and torch compares few of them.
    if scale is None or not (images.is_floating_point() or images.dtype.is_signed):
        return False
    below = (images < 0) & (images != -torch.inf)
    count = int(below.sum())
    if not count:
        return False
    if not depth:
        if not images.is_floating_point() and scale.kind in (BYTES, UNSIGNED_16):
            raise UsageError(
                f"images of {images.dtype} go down to {int(images.min())}, and this network was trained on "
                f"{scale.kind.removeprefix('unsigned ')} without a sign, which may have wrapped here: give those, or "
                "floats in their scale"
            )
        return False
    values = images[below]
    # One value is a mark, as −1 of a frame without any surface is.
    if values.min() != values.max() and not (images > 0).any():
        raise UsageError(
            f"depth from {float(values.min()):.3g} to {float(images.nan_to_num(0.0).max()):.3g} is nowhere above 0, "
            f"so all of it is taken for not measured: give {'metres' if scale.metres else 'it'} as in the training, "
            "without a normalisation or another sign"
        )
    if not notes or (share := count / images.numel()) < _SOME:
        return False
    note_once(
        f"depth down to {float(values.min()):.3g} ({shown_percent(share)} of the values are below 0) is taken for not "
        "measured, as 0 is: it is right only if nothing normalised it or turned its sign"
    )
    return True


def note_frames(images: Tensor) -> None:
    """Log a line where frames of a modality that has mean 0 and deviation 1 in each have not, as metres have; where
    nothing was measured is left out; on a device, whoever reads a value waits.
    """
    values = images.float().flatten(1)
    there = values.isfinite()
    count = there.sum(1).clamp_min(1)
    values = values.where(there, 0.0)
    means = values.sum(1) / count
    stds = ((values - means[:, None]).where(there, 0.0).square().sum(1) / count).sqrt()
    # A flat frame is all near 0, and a close one may be of metres below 1.
    far = (means.abs() > _OFF_CENTRE * stds.clamp_max(1)) & (means.abs() > _NEAR_0)
    if bool(far.float().mean() > 0.5):
        note_once(
            "normalized_depth has mean 0 and deviation 1 in each frame, and most of these frames are far from it: give "
            "contrastill.MODALITIES['normalized_depth'].function(depth) of them, as the training did"
        )
