"""Segmentation on top of an encoder, frozen or trained along: what its feature maps are worth for classes of pixels."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UsageError, unknown_name
from ..core.memory_layout import channels_last
from ..core.modes import modes_of, restore_modes
from ..core.representation import Network
from ..core.representation_spec import describe
from ..models.decoders import HEADS, Head
from .features import copied
from .labels import labelled_part
from .maps import KeptMaps, batches_of, keep_maps, labelled_frames, shuffled_rows
from .pixel_measures import confusion_of, measures_of, pixel_targets

MODES = ("frozen", "fine_tuned", "scratch")
_WARMUP = 0.05  # of all steps
_ENCODER_SHARE = 0.1  # of the learning rate that a fine-tuned encoder gets


@dataclass(frozen=True)
class SegmentationResult:
    """How well classes of pixels were found, in per cent, over all labelled pixels of the test split at the labels'
    resolution.

    Attributes:
        pixel_accuracy: Share of the pixels that got their class.
        mean_accuracy: The same for each class that occurs in the labels, averaged.
        miou: Intersection over union, averaged over the classes that occur in labels or predictions.
        per_class_iou: Of classes 1…C; NaN for a class that occurs in neither.
        num_train: Training frames whose labels were used.
        num_test: Test frames.
        seconds: What it took, training included.
    """

    pixel_accuracy: float
    mean_accuracy: float
    miou: float
    per_class_iou: tuple[float, ...]
    num_train: int
    num_test: int
    seconds: float


class Segmenter(nn.Module):
    """An encoder and a head on its maps.

    Shape:
        - batch: has the encoder's modality
        - returns (B, num_classes, height, width) for ``size`` = (height, width); channel c is class c + 1, as 0 is
          unlabelled.
    """

    def __init__(self, encoder: Network, head: Head) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, batch: Mapping[str, Tensor], size: Sequence[int]) -> Tensor:
        return self.head(self.encoder(batch, ("maps",)).maps, size)

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Tensor], size: Sequence[int]) -> Tensor:
        """Label maps (B, 1, height, width) int64 in 1…C, in eval mode; the training flags are put back."""
        modes = modes_of(self)
        predictions = self.eval()(batch, size).argmax(1, keepdim=True) + 1
        restore_modes(modes)
        return predictions


def segment(
    network: Network,
    train: Any,
    test: Any,
    *,
    num_classes: int,
    head: str = "linear",
    mode: str = "frozen",
    label_fraction: float = 1.0,
    epochs: int = 30,
    batch_size: int = 16,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    seed: int = 0,
    device: torch.device | str = "cpu",
    labels: str = "semantics",
    frames: Tensor | None = None,
    progress: bool = False,
) -> tuple[SegmentationResult, Segmenter]:
    """Train a head for classes of pixels on an encoder's maps and measure it once on the test split.

    The encoder is a copy: ``network`` is as before afterwards. With the frozen encoder the maps of the training frames
    as they are stored are computed once and cached; beyond 2 GB they are computed in each epoch, from the split's
    training views. Otherwise training views are what encoder and head learn from. Frames without a labelled pixel are
    left out. A part of the labels gets as many steps as all of them would.

    Args:
        network: Any tapped network with maps.
        train: Has ``num_samples`` and ``loader(batch_size=, device=, seed=, train=)``, and ``targets`` if it has
            classes of whole frames.
        test: The same.
        num_classes: C; label maps hold 1…C, and 0, −1 or −100 where there is no label, which neither the loss nor the
            measures see. Of the product's own data sets 255 is 0 by then (``data.void``).
        head: ``"linear"``: a linear classifier of each pixel. ``"unet"``, ``"fpn"``: a small decoder.
        mode: ``"frozen"``: only the head learns. ``"fine_tuned"``: the encoder too, at a tenth of ``lr``.
            ``"scratch"``: at ``lr``.
        label_fraction: Share of the training frames with a labelled pixel that is used, stratified by
            ``train.targets``.
        epochs: Passes over the labelled training frames.
        batch_size: Frames of a step; an epoch's last, shorter batch is dropped.
        lr: Learning rate of AdamW at its highest; it rises in the first steps and falls as a cosine. A linear head,
            whose problem is convex, learns at 30 times this rate.
        weight_decay: Of all trained parameters.
        seed: Of the head's weights, the part, the order and the views.
        device: Where to compute.
        labels: Key of the label maps in a batch, (B, 1, H, W).
        frames: int64, rising positions of the training frames with a labelled pixel, as
            :func:`~contrastill.probe.maps.labelled_frames` gives them; None: they are looked for, in a pass.
        progress: Whether to draw a bar on stderr.

    Returns:
        The measures, and encoder and head as they were trained, in eval mode.

    Raises:
        UsageError: An unknown head or mode, no label maps, labels beyond ``num_classes``, no maps, a part of fewer than
            two labelled frames.
    """
    began = time.perf_counter()
    for kind, name, known in (("head", head, HEADS), ("mode", mode, MODES)):
        if name not in known:
            raise unknown_name(kind, name, known)
    if num_classes < 1:
        raise UsageError(
            f"no pixel of the label maps ({labels}) is labelled: 0 stands for no label, and classes are 1, 2, … "
            "(if 0 is a class of yours, add 1 to all)"
        )
    device = torch.device(device)
    if frames is None:
        frames = labelled_frames(train.loader(batch_size=batch_size, device=device, seed=seed, train=False), labels)
    if not len(frames):
        raise UsageError(
            f"none of the {train.num_samples} training frames has a labelled pixel ({labels}): name a split with labels"
        )
    targets = getattr(train, "targets", None)
    targets = None if targets is None else torch.as_tensor(targets).cpu()[frames]
    rows = frames[labelled_part(len(frames), targets, label_fraction, seed)]
    if len(rows) < 2:
        raise UsageError(
            f"label_fraction={label_fraction} leaves {len(rows)} of {len(frames)} labelled training frames: take a "
            "larger part"
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = channels_last(_model(network, train, head, num_classes, labels, frozen=mode == "frozen").to(device))
        training = _Training(
            model, train, rows, len(frames), labels, batch_size=batch_size, epochs=epochs, seed=seed, device=device
        )
        training.run(_optimizer(model, mode, lr, weight_decay), progress)
    model.eval()
    confusion = count_confusion(
        model, test.loader(batch_size=batch_size, device=device, seed=seed, train=False), num_classes, labels
    )
    measures = measures_of(confusion)
    return SegmentationResult(
        **measures,
        num_train=len(rows),
        num_test=test.num_samples,
        seconds=round(time.perf_counter() - began, 3),
    ), model


def _model(network: Network, train: Any, head: str, num_classes: int, labels: str, *, frozen: bool) -> Segmenter:
    encoder = copied(network, trainable=not frozen)
    batch = next(iter(train.loader(batch_size=2, device="cpu", seed=0, train=False).epoch(0)))
    return Segmenter(encoder, HEADS[head](describe(encoder.cpu(), batch).map_shapes, num_classes))


def _optimizer(model: Segmenter, mode: str, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    groups = [{"params": list(model.head.parameters()), "lr": lr * model.head.rate}]
    if mode != "frozen":
        groups.append(
            {"params": list(model.encoder.parameters()), "lr": lr * (_ENCODER_SHARE if mode == "fine_tuned" else 1)}
        )
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)


class _Training:
    """The steps of one call of :func:`segment`."""

    def __init__(
        self,
        model: Segmenter,
        split: Any,
        rows: Tensor,
        labelled: int,
        labels: str,
        *,
        batch_size: int,
        epochs: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.model, self.split, self.rows, self.labels = model, split, rows, labels
        self.batch_size, self.epochs, self.seed, self.device = min(batch_size, len(rows)), epochs, seed, device
        # As many as with all the labels, so that fewer labels do not mean less training as well.
        self.steps, self.part = max(1, labelled // batch_size), len(rows) < labelled
        self.cached: KeptMaps | None = None
        if not any(parameter.requires_grad for parameter in model.encoder.parameters()):
            self.cached = keep_maps(
                model, split.loader(batch_size=batch_size, device=device, seed=seed, train=False), rows, labels
            )

    def run(self, optimizer: torch.optim.Optimizer, progress: bool) -> None:
        total = self.epochs * self.steps
        warmup = max(1, round(_WARMUP * total))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / total))
        )
        with _bar(progress, total) as advance:
            for epoch in range(self.epochs):
                self.model.train()
                for logits, target in self._batches(epoch):
                    loss = pixel_loss(logits, target)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    advance()

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits (B, C, H, W) and label maps (B, 1, H, W) of each step of an epoch."""
        if self.cached is not None:
            for picked in shuffled_rows(len(self.rows), self.batch_size, self.steps, self.seed, epoch):
                maps, target = self.cached.batch(picked, self.device)
                yield self.model.head.classify(maps, target.shape[2:]), target
            return
        loader = self.split.loader(batch_size=self.batch_size, device=self.device, seed=self.seed, train=True)
        names = (self.model.encoder.modality, self.labels)
        for batch in batches_of(
            loader, epoch, self.rows, names, self.batch_size, self.steps, self.seed, part=self.part
        ):
            yield self.model(batch, batch[self.labels].shape[2:]), batch[self.labels]


def pixel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy averaged over the labelled pixels; 0 where there are none.

    Shape:
        - logits: (B, C, H, W) - labels: (B, 1, H, W), 0, −1 or −100 unlabelled, else 1…C
        - returns a scalar.

    Raises:
        UsageError: A label beyond C, or another below 0, or labels that are no whole numbers.
    """
    target = pixel_targets(labels, logits.shape[1])
    return F.cross_entropy(logits, target, ignore_index=-1, reduction="sum") / (target >= 0).sum().clamp(min=1)


@torch.no_grad()
def count_confusion(model: Segmenter, loader: Any, num_classes: int, labels: str = "semantics") -> Tensor:
    """(C, C) int64: labelled pixels by their class (row) and the predicted one (column), over the batches of a
    loader.
    """
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for batch in loader.epoch(0):
        target = pixel_targets(batch[labels], num_classes)
        predictions = model.predict(batch, target.shape[1:])[:, 0].long() - 1
        confusion += confusion_of(target.to(predictions.device), predictions, num_classes).cpu()
    return confusion


class _bar:
    """A bar on stderr, or nothing; entered, it gives what is called after each step."""

    def __init__(self, enabled: bool, total: int) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._bar = Progress(console=console, disable=not (enabled and console.is_terminal), transient=True)
        self._task = self._bar.add_task("segmentation", total=total)

    def __enter__(self) -> Any:
        self._bar.start()
        return lambda: self._bar.advance(self._task)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
