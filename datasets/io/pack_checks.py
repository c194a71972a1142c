"""What of opened splits one packed file cannot hold, or would leave out."""

from __future__ import annotations

import logging

from ...core.data import Split
from ...core.errors import UsageError
from .modality_folders import usual_modality
from .split_agreement import check_splits

log = logging.getLogger(__name__)


def check_all_fields(source: str, opened: dict[str, Split]) -> None:
    """Refuse to leave out fields of images that nobody chose among (UsageError)."""
    unread = [*dict.fromkeys(field for split in opened.values() for field in getattr(split, "unread", ()))]
    if not unread:
        return
    read = {modality: modality for split in opened.values() for modality in split.modalities}
    named = {usual if (usual := usual_modality(field)) and usual not in read else field: field for field in unread}
    every, few = (", ".join(f"{key}: {field}" for key, field in fields.items()) for fields in ({**read, **named}, read))
    raise UsageError(
        f"{source} has the fields {', '.join(unread)} too, which would be left out: give 'fields={{{every}}}' after "
        f"OUT to pack them, or 'fields={{{few}}}' to leave them out"
    )


def check_one_file(name: str, opened: dict[str, Split]) -> None:
    """Refuse splits that one file cannot describe, and log a number of classes that it does not keep.

    Raises:
        UsageError: Their values mean different things, or their cameras differ.
    """
    check_splits(opened.get("train"), opened.get("test"))
    intrinsics = {key: split.camera.intrinsics for key, split in opened.items() if getattr(split, "camera", None)}
    if len({*intrinsics.values()}) > 1:
        shown = " and ".join(f"{key} {values or 'has none'}" for key, values in intrinsics.items())
        raise UsageError(
            f"the splits of {name} have cameras of different intrinsics ({shown}), and a packed file has one set for "
            "all: set data.intrinsics, or pack each split into a file of its own, with --split"
        )
    counts = [split.num_classes or 0 for split in opened.values()]
    seen = [int(split.targets.max()) + 1 for split in opened.values() if split.targets is not None]
    stating = ("classes", "label_vectors")
    stated = any(getattr(split, key, None) is not None for split in opened.values() for key in stating)
    if seen and not stated and max(seen) < max(counts):
        log.warning(
            "%s has %d classes without names, and the samples to be packed are of the first %d, which is how many the "
            "packed file will have: a packed file says how many there are by its attribute classes alone, the list of "
            "their names",
            name,
            max(counts),
            max(seen),
        )
