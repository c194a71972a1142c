"""How training views are drawn from files: the options that all data sets read by worker processes share."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ...core.config.fields import PLACE, RESUMABLE


class ViewOptions(BaseModel):
    """Options of training views, which move all modalities of a sample alike, and of the processes that read."""

    model_config = ConfigDict(extra="forbid")

    crop: Literal["random_resized", "padded", "none"] = Field(
        "random_resized",
        description="training views: a random part, resized; the whole, shifted by up to an eighth of its sides; "
        "the whole",
    )
    scale: tuple[float, float] = Field(
        (0.35, 1.0), description="least and greatest area of the part in the picture's, for crop=random_resized"
    )
    flip: bool = Field(True, description="mirror half of the training views left to right")
    color_jitter: float = Field(
        0.0,
        ge=0,
        le=1,
        description="brightness, contrast and saturation of rgb change by up to this share in training views; 0: off",
    )
    transforms: list[dict[str, Any]] = Field(
        default_factory=list,
        description="further albumentations transforms of the training views, in order, such as {name: "
        "GaussianBlur, p: 0.2}, or of torchvision, such as {name: torchvision/TrivialAugmentWide}, where there is rgb "
        "alone",
    )
    skip_corrupted: bool = Field(
        False,
        description="the next sample stands in for one whose file is corrupted, up to 1 % of all; each is named "
        "once; false: stop at one",
        json_schema_extra=RESUMABLE,
    )
    workers: int | None = Field(
        None,
        ge=0,
        description="processes that read; 0: the training's own; null: one per CPU, at most 8",
        json_schema_extra=PLACE,
    )
    limit: int | None = Field(
        None, gt=0, description="samples taken of each split, evenly spaced over it, for quick trials; null: all"
    )

    @field_validator("scale")
    @classmethod
    def _is_a_range(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError("scale is a least and a greatest share of the picture's area, such as [0.35, 1.0]")
        return scale


class FileOptions(ViewOptions):
    """Options of data sets of files that are decoded."""

    decoded_cache: str | None = Field(
        None,
        description="folder that each file is kept in once it is decoded: a picture at the size that views need, of "
        "aligned modalities all as stored; data sets and runs may share it",
        json_schema_extra=RESUMABLE,
    )
