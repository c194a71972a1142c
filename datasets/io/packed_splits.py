"""Which groups of a packed file make up a split, and which fields and labels of them are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import h5py
import torch
from pydantic import AfterValidator

from ...core.errors import UsageError
from .file_views import LABELS
from .folders import tell_of_unread
from .views import PaddedImages

USUAL_GROUPS = {"train": "train", "test": "test"}


def _of_both(splits: dict[str, str | list[str] | None]) -> dict[str, str | list[str] | None]:
    """With the usual name of a split that is not named: data.splits.test=null says nothing of the training split."""
    if unknown := [name for name in splits if name not in USUAL_GROUPS]:
        raise ValueError(f"{', '.join(unknown)} is no split: the names are train and test")
    return {**USUAL_GROUPS, **splits}


GroupNames = Annotated[dict[str, str | list[str] | None], AfterValidator(_of_both)]


def group_names(splits: Mapping[str, str | list[str] | None], split: str) -> list[str]:
    """The groups that make a split; none where it is said that there is none."""
    names = splits.get(split)
    return [names] if isinstance(names, str) else list(names or ())


def split_group(file: h5py.File, name: str, split: str) -> h5py.Group:
    """A group of a split.

    Raises:
        UsageError: The file has none of the name, or it is a link to nothing.
    """
    groups = [key for key, item in file.items() if isinstance(item, h5py.Group)]
    if name in groups:
        return file[name]
    link = file.get(name, getlink=True) if name in file.keys() else None
    if isinstance(link, (h5py.ExternalLink, h5py.SoftLink)) and file.get(name) is None:
        target = f"{getattr(link, 'filename', '')} {link.path}".strip()
        raise UsageError(
            f"{file.filename}: the split {name} is a link to {target}, which is not there: put it back, or copy the "
            "group into the file"
        )
    if groups:
        raise UsageError(
            f"{file.filename} has no split (group) {name!r}: it has {', '.join(groups)}; choose with "
            f"data.splits.{split}=NAME"
        )
    raise UsageError(
        f"{file.filename} has no groups, but {', '.join(file) or 'nothing'} at its root: it needs one for each split, "
        "with rgb and target in it, which h5py makes by file.move('x_train', 'train/rgb'), file.move('y_train', "
        "'train/target') and the same for test"
    )


def tell_of_groups(file: h5py.File, options: Any) -> None:
    """Log the groups with samples that are in no split, unless the splits were named."""
    default = type(options).model_fields["splits"].default
    if options.splits != default:
        return
    fields, splits = {*options.fields.values()}, [name for each in default for name in group_names(default, each)]
    groups = [name for name in file if name not in splits and isinstance(file.get(name), h5py.Group)]
    tell_of_unread(file.filename, [name for name in groups if fields & file[name].keys()], splits)


def lacks_labels(file: h5py.File, name: str, options: Any) -> bool:
    """Whether a group has no field of label maps, where another one of the splits has it: it is unlabelled."""
    field = options.fields.get(LABELS)
    if field is None or not isinstance(file.get(name), h5py.Group) or field in file[name] or len(options.fields) == 1:
        return False
    others = [other for split in options.splits for other in group_names(options.splits, split)]
    return any(isinstance(file.get(other), h5py.Group) and field in file[other] for other in others)


def keep_labels(labels: PaddedImages | None, fraction: float) -> None:
    """Take the label maps of all but a share of the labelled samples away, in place; those that stay are evenly
    spaced.

    Args:
        labels: Label maps, 0 unlabelled; None: the samples have none.
        fraction: In (0, 1].

    Raises:
        UsageError: None would stay, or there are none.
    """
    if fraction == 1:
        return
    if labels is None:
        raise UsageError(
            f"data.label_fraction={fraction:g} keeps a share of the label maps, and none are read: name them in "
            "data.fields as semantics, or leave it out (data.limit takes a number of the samples)"
        )
    labelled = labels.interior.flatten(1).any(1).nonzero()[:, 0]
    count = round(fraction * len(labelled))
    if not count:
        raise UsageError(
            f"data.label_fraction={fraction:g} leaves none of {len(labelled)} label maps: take a larger share"
        )
    stays = labelled[torch.arange(count) * len(labelled) // count]
    dropped = torch.ones(len(labels.storage), dtype=torch.bool)
    dropped[stays] = False
    labels.storage[dropped] = 0


def unread_fields(groups: Sequence[h5py.Group], fields: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Fields of images in all groups of a split that are not read, and the fields by modality that would read each
    too.
    """
    images = [
        name
        for name in groups[0]
        if all(isinstance(item := group.get(name), h5py.Dataset) and item.ndim in (3, 4) for group in groups)
    ]
    return {name: {**fields, name: name} for name in images if name not in (*fields, *fields.values())}
