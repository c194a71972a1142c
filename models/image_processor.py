"""Normalisation and resolution out of ``preprocessor_config.json``, as transformers' image processors read it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from ..core.errors import ContrastillError
from ..core.representation import Preprocess
from ..core.tapping import image_side
from .library import side

log = logging.getLogger(__name__)

_WARNED: set[str | None] = set()
_FILES = ("preprocessor_config.json", "processor_config.json")


def published_preprocess(name: str | None, config: Any, *, warn: bool, local: bool = False) -> Preprocess:
    """The preprocessing of a network of transformers, for images in [0, 1].

    What its file leaves out is as in the class of image processor for its type of network.

    Args:
        name: Folder or repository; None reads no file.
        config: Of the network.
        warn: Whether a missing file is worth a line.
        local: Whether nothing is fetched.

    Raises:
        ContrastillError: ``local``, and there is no file.
    """
    values = _read(name, local)
    if values is None and local:
        raise ContrastillError(f"{name} has no preprocessor_config.json here")
    default = _defaults(config)
    if values is None and warn and name not in _WARNED:
        _WARNED.add(name)
        log.warning(
            "hf/%s has no preprocessor_config.json: it is normalised as transformers does by default for %s; give mean "
            "and std for others",
            name,
            config.model_type,
        )
    own_size = image_side(config)
    if values is None and own_size:
        default |= {"size": own_size, "do_center_crop": False, "do_resize": True}
    values = {**default, **(values or {})}
    channels = getattr(config, "num_channels", 3)
    normalises = values.get("do_normalize", True) and values.get("image_mean") and values.get("image_std")
    mean = _channels(values["image_mean"], channels) if normalises else (0.0,) * channels
    std = _channels(values["image_std"], channels) if normalises else (1.0,) * channels
    # It divides bytes, which are here in [0, 1] already.
    factor = 255 * values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 255.0
    if values.get("rescale_offset") and values.get("do_rescale", True):
        mean = tuple(value + 1 for value in mean)
    if abs(factor - 1) > 1e-6:
        mean, std = tuple(value / factor for value in mean), tuple(value / factor for value in std)
    return Preprocess(mean, std, _resolution(values))


def reads_bgr(name: str, config: Any) -> bool:
    """Whether a network was trained on images with blue first."""
    return bool({**_defaults(config), **(_read(name, True) or {})}.get("do_flip_channel_order"))


def read_json(path: Path) -> dict[str, Any]:
    """A dict in a JSON file.

    Raises:
        ContrastillError: The file is damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ContrastillError(f"{path} cannot be read as JSON ({error}): copy or save it again") from error
    if not isinstance(values, dict):
        raise ContrastillError(f"{path} holds no dict: copy or save it again")
    return values


def _read(name: str | None, local: bool) -> dict[str, Any] | None:
    if not name:
        return None
    folder = Path(name).expanduser()
    for file in _FILES:
        path: Path | None = folder / file
        if not folder.is_dir():
            path = _of_hub(name, file, local)
        if path is not None and path.is_file():
            values = read_json(path)
            return values.get("image_processor", values if file == _FILES[0] else None)
    return None


def _of_hub(name: str, file: str, local: bool) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, file, local_files_only=local))
    except (EntryNotFoundError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        log.debug("%s of %s: %s", file, name, error)
        return None


def _defaults(config: Any) -> dict[str, Any]:
    """What the class of image processor for a type of network has by itself."""
    import transformers
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    kind = config.model_type.removesuffix("_vision_model")
    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(config.model_type) or IMAGE_PROCESSOR_MAPPING_NAMES.get(kind) or {}
    for name in names.values() if isinstance(names, dict) else names:
        try:
            processor = getattr(transformers, name)
        except (AttributeError, ImportError, TypeError):
            continue
        keys = (
            "image_mean", "image_std", "size", "crop_size", "do_center_crop", "do_resize", "do_flip_channel_order",
        )  # fmt: skip
        own = {key: getattr(processor, key) for key in keys if getattr(processor, key, None) is not None}
        for key in ("do_normalize", "do_rescale"):
            # In these classes None is no.
            own[key] = bool(getattr(processor, key, True))
        return own
    return {}


def _channels(values: Any, channels: int) -> tuple[float, ...]:
    values = [values] * channels if isinstance(values, (int, float)) else values
    return tuple(float(value) for value in values)


def _resolution(values: dict[str, Any]) -> int | tuple[int, int] | None:
    """(height, width) of what the network gets; without a crop the shorter side of a square."""
    cropped = values.get("do_center_crop") and values.get("crop_size")
    size = values["crop_size"] if cropped else values.get("size") if values.get("do_resize", True) else None
    if isinstance(size, (int, float)):
        return int(size)
    if isinstance(size, (list, tuple)):
        return side([int(each) for each in size])
    if not isinstance(size, dict):
        return None
    if "height" in size and "width" in size:
        return side((size["height"], size["width"]))
    return size.get("shortest_edge")
