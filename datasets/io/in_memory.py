"""A split whose images are tensors on the device, and the loader of batches of its views."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ...core.errors import UsageError
from ...core.label_vectors import label_fields
from ...core.split_checks import check_targets
from ...core.value_scale import note_once
from .camera import Camera, view_camera
from .channel_order import check_channel_order
from .file_views import LABELS
from .values import RGB, batch_values, mirror_vectors, number_kind, vectors_among
from .views import Draws, PaddedImages, draw_views, epoch_order

Batch = dict[str, Tensor]


class AugmentOptions(BaseModel):
    """How training views are drawn; shared by the data sets in memory."""

    model_config = ConfigDict(extra="forbid")

    crop_padding: int = Field(
        4, ge=0, description="pixels of black border on each side that a training crop may take in; 0: no crop"
    )
    flip: bool = Field(True, description="mirror half of the training views left to right")


class TensorSplit:
    """One split of a data set, all of it in memory.

    Args:
        images: Modality -> its images; all have N samples and one padding.
        targets: int64 (N,), classes in 0..num_classes-1; None for an unlabelled set.
        num_classes: Of the data set, not of this split; None: as many as there are names in ``classes``.
        classes: Their names.
        flip: Whether half of the training views are mirrored.
        camera: Of the modality ``depth``; None: not known.
        semantic_classes: Names of the values of the label maps ``semantics``, the first for unlabelled pixels.
        vectors: Modalities whose values are vectors in the picture's axes; None: those with a usual name, such as
            ``normals``.
        kinds: Modality -> the kind of numbers that it is stored as elsewhere, see :func:`~.values.number_kind`; None:
            as it is here.

    Attributes:
        num_samples: N.
        modalities: Modality -> shape (C, H, W) of one sample.
        unread: Fields of a file that are not read -> the fields by modality that would read them too.

    Raises:
        UsageError: Vectors that cannot be such. Modalities that differ in the number of samples, or in height and width
            while they are cropped; channels that are not last; targets that are no numbers of ``num_classes`` classes.
    """

    def __init__(
        self,
        images: Mapping[str, PaddedImages],
        *,
        targets: Tensor | None = None,
        num_classes: int | None = None,
        classes: list[str] | None = None,
        flip: bool = False,
        camera: Camera | None = None,
        semantic_classes: list[str] | None = None,
        vectors: Sequence[str] | None = None,
        kinds: Mapping[str, str] | None = None,
        label_vectors: Tensor | None = None,
    ) -> None:
        if not images or not all(isinstance(stored, PaddedImages) for stored in images.values()):
            raise UsageError("images are no dict {modality: PaddedImages}: fill the interior of PaddedImages.zeros(…)")
        targets = None if targets is None else torch.as_tensor(targets)
        num_classes = len(classes) if num_classes is None and classes is not None else num_classes
        self.images, self.label_vectors = dict(images), label_vectors
        self.camera, self.semantic_classes = camera, semantic_classes
        self.unread: dict[str, dict[str, str]] = {}
        self.targets, self.num_classes, self.classes, self.flip = targets, num_classes, classes, flip
        self.modalities = {
            name: (stored.storage.shape[3], stored.height, stored.width) for name, stored in self.images.items()
        }
        for name, (channels, height, width) in self.modalities.items():
            where = f"{name} has {channels} channels of {height}×{width} pixels, and images are (N, H, W, C)"
            way = "give channels last, as values.transpose(0, 2, 3, 1)"
            check_channel_order(name, (height, width, channels), where, way, first=False)
        self.vectors = vectors_among(vectors, {name: shape[0] for name, shape in self.modalities.items()})
        self.kinds = {name: number_kind(stored.storage.dtype) for name, stored in self.images.items()} | dict(
            kinds or {}
        )
        self.padding = next(iter(self.images.values())).padding
        counts = {name: len(stored.storage) for name, stored in self.images.items()}
        labels = targets if label_vectors is None else label_vectors
        counts |= {} if labels is None else {"target": len(labels)}
        if len(set(counts.values())) > 1:
            raise UsageError(
                "the fields differ in their number of samples: "
                f"{', '.join(f'{name} {count}' for name, count in counts.items())}"
            )
        sizes = {shape[1:] for shape in self.modalities.values()}
        shown = ", ".join(f"{name} {height}×{width}" for name, (_, height, width) in self.modalities.items())
        if self.padding and len(sizes) > 1:
            raise UsageError(
                f"modalities of different sizes ({shown}) cannot be cropped jointly: set data.crop_padding=0"
            )
        if len(sizes) > 1:
            note_once(
                f"modalities of different sizes ({shown}): each network sees its own, and places in them correspond by "
                "their share of height and width"
            )
        self.num_samples = next(iter(counts.values()))
        if targets is not None:
            check_targets("a TensorSplit", targets, self.num_samples)
            if num_classes is None:
                raise UsageError(
                    "a TensorSplit has targets and no num_classes: give the number of classes of the data set, of "
                    "which one split may lack some, or classes, their names"
                )
            if len(targets) and int(targets.max()) >= num_classes:
                raise UsageError(
                    f"a TensorSplit has the class {int(targets.max())} and num_classes={num_classes}: classes count "
                    "from 0"
                )
        self._on: dict[torch.device, tuple[dict[str, PaddedImages], Tensor | None, Tensor | None]] = {}

    def loader(
        self,
        *,
        batch_size: int,
        device: torch.device | str,
        seed: int = 0,
        train: bool,
        rank: int = 0,
        world: int = 1,
        views: int | None = None,
    ) -> TensorLoader:
        """Batches of this split, see :meth:`contrastill.Split.loader`; the whole split is moved to ``device`` once."""
        return TensorLoader(
            self,
            batch_size=batch_size,
            device=torch.device(device),
            seed=seed,
            train=train,
            rank=rank,
            world=world,
            views=views,
        )

    def on(self, device: torch.device) -> tuple[dict[str, PaddedImages], Tensor | None, Tensor | None]:
        """Images, targets and label vectors on ``device``; moved the first time, shared by all loaders."""
        if device not in self._on:
            images = {name: stored.to(device) for name, stored in self.images.items()}
            targets, vectors = (
                None if labels is None else labels.to(device) for labels in (self.targets, self.label_vectors)
            )
            self._on[device] = images, targets, vectors
        return self._on[device]


class TensorLoader:
    """The batches of a :class:`TensorSplit`: functions of (seed, epoch) and their number in it alone.

    ``len()`` is the number of batches of an epoch, the last, shorter one among them. Where that one has fewer samples
    than there are ranks, the last ranks' slices of it are empty; in training they are padded, see
    :func:`padded_slice`.

    Raises:
        UsageError: batch_size is smaller than the number of ranks.
    """

    def __init__(
        self,
        split: TensorSplit,
        *,
        batch_size: int,
        device: torch.device,
        seed: int,
        train: bool,
        rank: int,
        world: int,
        views: int | None = None,
    ) -> None:
        check_ranks(batch_size, rank, world)
        self.views = views
        self.batch_size, self.device, self.seed, self.train, self.rank, self.world = (
            batch_size,
            device,
            seed,
            train,
            rank,
            world,
        )
        self.num_samples = split.num_samples
        self._images, self._targets, self._label_vectors = split.on(device)
        self._padding, self._flip = (split.padding, split.flip) if train else (0, False)
        self._vectors = split.vectors
        self._intrinsics = split.camera.intrinsics if split.camera else None

    def __len__(self) -> int:
        return math.ceil(self.num_samples / self.batch_size)

    @property
    def targets(self) -> Tensor | None:
        """Classes of all samples, (N,), on the device; None if unlabelled."""
        return self._targets

    def epoch(self, k: int, start: int = 0) -> Iterator[Batch]:
        """This rank's slice of the batches ``start``, ``start + 1``, … of epoch ``k``; in training its views are view
        ``k``, or ``k`` mod ``views``.

        Yields:
            A dict of each modality (B, C, H, W): ``rgb`` and ``semantics`` of the stored dtype, all else float32 in the
            stored unit, with NaN where a crop takes in border (of depth, 0); ``index`` int64 (B,) and, if labelled,
            ``target`` int64 (B,) or ``label_vector`` float32 (B, C) or both;
            ``camera`` float32 (B, 4), fx, fy, cx, cy of each view, if the frames' intrinsics are
            known; ``view`` int64 (B,) if views repeat; ``is_padding``, all true, on the padding of an empty slice.
        """
        if not self.train:
            for rows in rank_slices(self.num_samples, self.batch_size, self.rank, self.world, start):
                images = self._plain(rows)
                index = torch.arange(rows.start, rows.stop, device=self.device)
                yield self._batch(images, index, rows, self._cameras(draw_views(0, 0, index, padding=0, flip=False), 0))
            return
        yield from self._training(epoch_order(self.seed, k, self.num_samples), k, self.rank, self.world, start)

    def in_order(self, view: int, rows: Tensor | None = None, batch_size: int | None = None) -> Iterator[Batch]:
        """The samples ``rows`` (n,), or all in the order of their index, on every rank the same batches: of a training
        loader in view ``view``, else as they are.
        """
        yield from self._training(torch.arange(self.num_samples) if rows is None else rows, view, 0, 1, 0, batch_size)

    def _training(
        self, order: Tensor, k: int, rank: int, world: int, start: int, batch_size: int | None = None
    ) -> Iterator[Batch]:
        view = k % self.views if self.views else k
        # All of an epoch at once: a hash of 50 000 rows costs little more than one of 64.
        draws = draw_views(self.seed, view, order, padding=self._padding, flip=self._flip).to(self.device)
        order = order.to(self.device, non_blocking=True)
        for rank_slice in rank_slices(len(order), batch_size or self.batch_size, rank, world, start):
            rows = padded_slice(rank_slice)
            index = order[rows]
            batch = self._batch(
                self._views(index, draws[rows]), index, index, self._cameras(draws[rows], self._padding)
            )
            yield batch | view_fields(index, view if self.views else None, is_padding=rows != rank_slice)

    def _views(self, index: Tensor, draws: Draws) -> Batch:
        if not self._padding and not self._flip:
            return self._plain(index)
        views = {name: self._batch_values(name, stored.views(index, draws)) for name, stored in self._images.items()}
        if self._padding:
            # A border of zeros is black, unlabelled, no depth; of counts or degrees, 0 is a value like any other.
            unknown = [name for name in views if name not in (RGB, LABELS, "depth")]
            if unknown:
                border = self._images[unknown[0]].border(draws)
                views |= {name: views[name].masked_fill(border, torch.nan) for name in unknown}
        if self._flip:
            views |= {name: mirror_vectors(views[name], draws.flip) for name in self._vectors}
        return views

    def _plain(self, rows: Tensor | slice) -> Batch:
        return {name: self._batch_values(name, stored.plain(rows)) for name, stored in self._images.items()}

    def _batch_values(self, name: str, values: Tensor) -> Tensor:
        """(B, C, H, W), the channels being the last side in memory."""
        return batch_values(name, values.permute(0, 2, 3, 1), self._vectors).permute(0, 3, 1, 2)

    def _cameras(self, draws: Draws, padding: int) -> Batch:
        """The intrinsics of these views, (B, 4), where those of the frames are known."""
        if self._intrinsics is None:
            return {}
        # In pixels of depth's frames: another modality may be of another size.
        frames = self._images.get("depth", next(iter(self._images.values())))
        size = (frames.height, frames.width)
        top, left = draws.dy - padding, draws.dx - padding
        return {
            "camera": view_camera(
                self._intrinsics, top=top, left=left, height=size[0], width=size[1], size=size, flip=draws.flip
            )
        }

    def _batch(self, images: Batch, index: Tensor, rows: Tensor | slice, camera: Batch) -> Batch:
        return {
            **images,
            **camera,
            "index": index,
            **label_fields(self._targets, self._label_vectors, rows),
        }


def check_ranks(batch_size: int, rank: int, world: int) -> None:
    """Check that each rank gets a slice of a batch.

    Raises:
        UsageError: ``batch_size`` is smaller than the number of ranks, or there is no such rank.
    """
    if batch_size < max(1, world):
        raise UsageError(f"batch_size={batch_size} is less than one sample for each of {world} process(es)")
    if not 0 <= rank < world:
        raise UsageError(f"rank={rank} is not among the {world} process(es)")


def rank_slices(num_samples: int, batch_size: int, rank: int, world: int, start: int = 0) -> Iterator[slice]:
    """This rank's slices, in an epoch's order, of the batches ``start``, ``start + 1``, …; split as torch.tensor_split
    does.
    """
    for first in range(start * batch_size, num_samples, batch_size):
        size, longer = divmod(min(batch_size, num_samples - first), world)
        begin = first + rank * size + min(rank, longer)
        yield slice(begin, begin + size + (rank < longer))


def padded_slice(rank_slice: slice) -> slice:
    """The slice itself, or if it is empty the last sample of the batch, as in training every rank takes part in each
    step.

    Of all samples it is the one whose row in a bank may be written once more: by the last rank, and with the value it
    has by then.

    Example:
        >>> [padded_slice(rows) for rank in range(3) for rows in rank_slices(2, 4, rank, 3)]
        [slice(0, 1, None), slice(1, 2, None), slice(1, 2, None)]
    """
    return rank_slice if rank_slice.start < rank_slice.stop else slice(rank_slice.start - 1, rank_slice.stop)


def view_fields(index: Tensor, view: int | None, *, is_padding: bool) -> Batch:
    """Fields (B,) of a training batch: ``view``, the number of a view that repeats; ``is_padding`` on the padding of an
    empty slice.
    """
    fields = {} if view is None else {"view": torch.full_like(index, view)}
    return {**fields, "is_padding": torch.ones_like(index, dtype=torch.bool)} if is_padding else fields
