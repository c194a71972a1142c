"""mixup and CutMix: training samples that are each made of two, alike for the teachers and the student."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from ..core.config.schema import TrainConfig
from ..core.data import ViewLoader
from ..core.errors import UsageError
from ..core.hashing import hash64, mix, shifted
from ..core.transfer import Transfer
from .balancing import balanced_partners
from .wrapped_loader import WrappedLoader

Batch = dict[str, Tensor]

# Purposes of the hash that no others have: with those of an epoch's order, shares would be sorted by it.
_PARTNERS, _SHARES, _KINDS, _CENTRES, _CLASSES = 31, 32, 33, 34, 36  # 35: the second of _CENTRES
_LABEL_MAPS = "semantics"


class MixedLoader(WrappedLoader):
    """The batches of a loader, each sample mixed with a second one of the training split.

    mixup (Zhang et al., ICLR 2018) takes the mean λ · first + (1 − λ) · second of all values; CutMix (Yun et al.,
    ICCV 2019) puts a rectangle of the second into the first, of a share 1 − λ of its area. λ ~ Beta(α, α), drawn
    for each sample. All modalities of a sample are mixed alike.

    What is drawn is a function of (seed, view, index), and of nothing else where views repeat, so that teacher outputs
    of mixed views may be cached; where they do not, of (seed, epoch, place in the epoch).

    Args:
        loader: Of the training samples.
        partners: The same samples in another order: a loader of the split with another seed.
        seed: Of the run.
        mixup: α of mixup; None: none.
        cutmix: α of CutMix; None: none. With both, each sample is mixed in one of the two ways, by halves.
        targets: (N,) int64, the samples' classes, which are to come equally often as second samples too; None: every
            sample comes as often as any other. Where views do not repeat, ``partners`` decides that.

    Yields (``epoch``, ``in_order``):
        The loader's batches with mixed images of their dtypes; ``mixed_share`` float32 (B,), λ; where there are labels
        ``partner_target`` int64 (B,), the second sample's class, and
        ``partner_label_vector`` (B, C). ``camera`` is left out, and with mixup the label maps
        ``semantics``.
    """

    def __init__(
        self,
        loader: ViewLoader,
        partners: ViewLoader,
        *,
        seed: int,
        mixup: float | None = None,
        cutmix: float | None = None,
        targets: Tensor | None = None,
    ) -> None:
        if loader.num_samples < 2:
            raise UsageError("train.mixup and train.cutmix mix two samples, and the training split has one")
        super().__init__(loader)
        self._partners, self._seed, self._mixup, self._cutmix = partners, seed, mixup, cutmix
        self._targets = None if targets is None else targets.cpu()

    @property
    def unmixed(self) -> ViewLoader:
        """The same samples, none mixed with another."""
        return self._loader

    def epoch(self, k: int, start: int = 0) -> Iterator[Batch]:
        """The batches ``start``, ``start + 1``, … of epoch ``k``."""
        if self.views:
            for batch in self._loader.epoch(k, start):
                yield self._with_partners(batch, k % self.views)
        else:
            for batch, partner in zip(self._loader.epoch(k, start), self._partners.epoch(k, start), strict=True):
                yield self._mix(batch, partner, k)

    def in_order(self, view: int, rows: Tensor | None = None, batch_size: int | None = None) -> Iterator[Batch]:
        """All samples of a view, or some, see :class:`~contrastill.core.data.ViewLoader`."""
        for batch in self._loader.in_order(view, rows, batch_size):
            yield self._with_partners(batch, view)

    def _with_partners(self, batch: Batch, view: int) -> Batch:
        index = batch["index"].cpu()
        drawn = shifted(hash64(index, _PARTNERS, self._seed, view), 8)
        if self._targets is None:
            # One of the others: never the sample itself.
            rows = (index + 1 + drawn % (self.num_samples - 1)) % self.num_samples
        else:
            classes = shifted(hash64(index, _CLASSES, self._seed, view), 8)
            rows = balanced_partners(self._targets, index, classes, drawn)
        return self._mix(batch, next(iter(self._partners.in_order(view, rows, len(rows)))), view)

    def _mix(self, batch: Batch, partner: Batch, view: int) -> Batch:
        index = batch["index"].cpu()
        shares, boxes = self._draw(index, view)
        images = {name: value for name, value in batch.items() if value.ndim == 4}
        if self._mixup is not None:
            images.pop(_LABEL_MAPS, None)
        mixed = {name: _mixed(value, partner[name], shares, boxes) for name, value in images.items()}
        # The area of a rectangle of whole pixels.
        share = shares if boxes is None else torch.where(boxes.isnan().any(1), shares, _kept(boxes, images))
        others = {name: value for name, value in batch.items() if value.ndim != 4 and name != "camera"}
        result = {**others, **mixed, "mixed_share": share.float().to(self.device)}
        return result | {f"partner_{name}": partner[name] for name in ("target", "label_vector") if name in batch}

    def _draw(self, index: Tensor, view: int) -> tuple[Tensor, Tensor | None]:
        """λ of each sample, float64 (B,), and with CutMix its rectangle as shares of the sides (top, bottom, left,
        right), (B, 4), NaN for samples of mixup.
        """
        uniform = _uniform(index, _SHARES, self._seed, view)
        by_mixup = None if self._mixup is None else _beta(uniform, self._mixup)
        if self._cutmix is None:
            assert by_mixup is not None, "the config asks for one of the two"
            return by_mixup, None
        shares = _beta(uniform, self._cutmix)
        centres = torch.stack([_uniform(index, _CENTRES + side, self._seed, view) for side in (0, 1)], 1)
        half = (1 - shares).clamp_min(0).sqrt()[:, None] / 2
        low, high = (centres - half).clamp(0, 1), (centres + half).clamp(0, 1)
        boxes = torch.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], 1)
        if by_mixup is not None:
            cut = _uniform(index, _KINDS, self._seed, view) < 0.5
            shares, boxes = torch.where(cut, shares, by_mixup), boxes.masked_fill(~cut[:, None], torch.nan)
        return shares, boxes


def check_mixing(transfer: Transfer, config: TrainConfig) -> None:
    """Refuse objectives, and rules of ensembles, that need to know which sample an image is.

    Raises:
        UsageError: There is one.
    """
    keys = " and ".join(f"train.{name}" for name in ("mixup", "cutmix") if getattr(config, name) is not None)
    for name, term in transfer.terms.items():
        if not all(objective.takes_mixed for objective in term.objectives):
            if transfer.student.taps.dense:
                raise UsageError(
                    f"{keys} would make an image of two samples, which is for classifiers, and this student answers "
                    f"for each position, by objective {name}: leave {keys} out"
                )
            raise UsageError(
                f"objective {name} compares samples by their number or class, and with {keys} an image is of two "
                f"samples: leave out {keys}, or take kd, wttm or dist in the place of {name}"
            )
        if not term.rule.takes_mixed:
            raise UsageError(
                f"the ensemble rule of objective {name} reads classes, and with {keys} an image has two: leave out "
                f"{keys}, or the rule"
            )


def mixing_facts(config: TrainConfig) -> dict[str, Any]:
    """What mixed samples depend on, by its key in a config; of samples that are not mixed nothing, as in caches of
    releases that could not mix.
    """
    alphas = {f"train.{name}": value for name in ("mixup", "cutmix") if (value := getattr(config, name))}
    return {**alphas, "train.class_balanced": config.class_balanced} if alphas else {}


def mixing_seed(seed: int) -> int:
    """Seed of the loader of the second samples."""
    return mix(seed, 11) % 2**31


def _uniform(index: Tensor, *key: int) -> Tensor:
    """Uniform in (0, 1), float64 (B,)."""
    return (shifted(hash64(index, *key), 12).double() + 0.5) / 2**52


def _beta(uniform: Tensor, alpha: float) -> Tensor:
    """Beta(α, α) by its inverse distribution."""
    return torch.from_numpy(np.asarray(betaincinv(alpha, alpha, uniform.numpy())))


def _mixed(first: Tensor, second: Tensor, shares: Tensor, boxes: Tensor | None) -> Tensor:
    """One modality (B, C, H, W) of both samples, mixed; whole numbers are rounded."""
    blended = None
    if boxes is None or bool(boxes.isnan().any()):
        share = shares.to(first.device, torch.float32).view(-1, 1, 1, 1)
        blended = torch.lerp(second.float(), first.float(), share)
        blended = blended if first.is_floating_point() else blended.round()
        blended = blended.to(first.dtype)
    if boxes is None:
        assert blended is not None, "mixup alone"
        return blended
    inside = _inside(boxes, first.shape[2], first.shape[3]).to(first.device)
    cut = torch.where(inside, second, first)
    return (
        cut if blended is None else torch.where(boxes.isnan().any(1).to(first.device).view(-1, 1, 1, 1), blended, cut)
    )


def _inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Which pixels are in each rectangle: bool (B, 1, H, W); none where it is NaN."""
    sides = (boxes.nan_to_num(0.0) * torch.tensor([height, height, width, width])).round()
    y, x = torch.arange(height), torch.arange(width)
    rows = (y >= sides[:, :1]) & (y < sides[:, 1:2])
    columns = (x >= sides[:, 2:3]) & (x < sides[:, 3:])
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _kept(boxes: Tensor, images: Mapping[str, Tensor]) -> Tensor:
    """The share of the first sample's pixels outside each rectangle, by the first of its modalities."""
    height, width = images["rgb" if "rgb" in images else min(images)].shape[2:]
    return 1 - _inside(boxes, height, width).double().mean((1, 2, 3))
