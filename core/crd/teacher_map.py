"""The map of a frozen teacher's embeddings: learned, or fixed by their own directions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ContrastillError, UsageError
from .criterion import NORM_EPS, widened
from .embedding import Embedding

MAPS = ("learned", "whitened", "none")
# A direction with a smaller share of the largest variance is noise of the arithmetic.
_FLAT = 1e-6
# Kept directions for each of the map's own: the map of K rows costs K · d · D, and those beyond hold little that D
# dimensions could show.
ROWS_PER_DIM = 2


class TeacherMap(nn.Module):
    """(x − mean) / deviation, perhaps in fewer directions, then a linear map and normalisation: (n, d) -> (n, D).

    Embeddings after a ReLU share a large mean: without it all pairs look alike to a map that has not learnt yet. The
        deviation is one number, so that directions keep their weights.

    Args:
        dim: d.
        embed_dim: D.
        kind: ``"learned"``; ``"whitened"``: the D principal directions, each with deviation 1, zeros where d < D;
            ``"none"``: no map, D = d.
        row_variance: Share of the variance that :meth:`reduce` keeps; None: as many directions as twice the map's own
            D, or all as they are where there are no more.

    Attributes:
        in_features: d.
        row_dim: Length of what :meth:`reduce` gives.
        measured: Whether :meth:`measure` was called, here or before the state was saved that it has; ``"whitened"``
            asks for it in training.
    """

    mean: Tensor
    scale: Tensor
    basis: Tensor | None
    whitening: Tensor | None

    def __init__(self, dim: int, embed_dim: int, *, kind: str = "learned", row_variance: float | None = None) -> None:
        super().__init__()
        if kind == "none" and embed_dim != dim:
            raise UsageError(f"teacher_map='none' leaves embeddings {dim} long, not {embed_dim}")
        self.kind, self.in_features, self.embed_dim, self.row_variance, self.row_dim = (
            kind,
            dim,
            embed_dim,
            row_variance,
            dim,
        )
        self.map = Embedding(dim, embed_dim) if kind == "learned" else None
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("whitening", torch.eye(dim, embed_dim) if kind == "whitened" else None)
        self.register_buffer("basis", None, persistent=False)
        self.measured = False

    @torch.no_grad()
    def measure(self, sample: Tensor, *, save_basis: bool = True) -> None:
        """Take mean, deviation and directions of embeddings (n, d), n ≥ 2, leaving out those that are no finite
        numbers.

        Args:
            sample: Embeddings.
            save_basis: Whether a checkpoint holds the kept directions: it must where it holds rows, which mean nothing
                in others.

        Raises:
            UsageError: They are of another length, or fewer than two are finite.
        """
        if sample.ndim != 2 or sample.shape[1] != self.in_features:
            raise UsageError(f"embeddings of the teacher must be (n, {self.in_features}), not {tuple(sample.shape)}")
        values = finite_samples(sample, least=2).cpu().double()  # not every accelerator knows float64
        mean = values.mean(0)
        centred = values - mean
        scale = centred.square().mean().sqrt().clamp_min(1e-12)
        self.mean.copy_(mean)
        self.scale.copy_(scale)
        self.measured = True
        fewer = self.row_variance is not None or (
            self.kind != "none" and self.in_features > ROWS_PER_DIM * self.embed_dim
        )
        if self.kind != "whitened" and not fewer:
            return
        variance, directions = torch.linalg.eigh((centred / scale).T @ (centred / scale) / len(values))
        variance, directions = variance.flip(0).clamp_min(0), directions.flip(1)
        # The sign of a direction is the solver's affair: the largest entry is made positive.
        directions = directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
        keep = variance > _FLAT * variance[0]
        if self.kind == "whitened":
            count = min(self.embed_dim, int(keep.sum()))
            assert self.whitening is not None, "__init__ registers it for this kind"
            self.whitening.zero_()[:, :count] = (directions[:, :count] * variance[:count].rsqrt()).to(self.whitening)
        if fewer:
            share = variance.cumsum(0) / variance.sum().clamp_min(1e-12)
            enough = (
                ROWS_PER_DIM * self.embed_dim
                if self.row_variance is None
                else int((share < self.row_variance - 1e-9).sum()) + 1
            )
            basis = directions[:, : max(1, min(enough, int(keep.sum())))].to(self.mean).contiguous()
            self.register_buffer("basis", basis, persistent=save_basis)
            self.row_dim = basis.shape[1]

    def reduce(self, values: Tensor) -> Tensor:
        """(n, d) -> (n, row_dim): centred, with deviation 1, in the kept directions; the form in which rows are
        kept.
        """
        values = (values.to(self.mean) - self.mean) / self.scale
        return values if self.basis is None else values @ self.basis

    def project(self, values: Tensor) -> Tensor:
        """Embeddings as the teacher gives them (n, d) -> (n, D), before normalisation; outside autocast, as small
        directions are the differences of large values.
        """
        with torch.autocast(values.device.type, enabled=False):
            return self._map(self.reduce(values))

    def forward(self, reduced: Tensor) -> Tensor:
        mapped = widened(self._map(reduced))
        return _Normalised.apply(mapped.clone() if mapped is reduced else mapped)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        basis = state_dict.get(prefix + "basis")
        if basis is not None and basis.ndim == 2 and len(basis) == self.in_features:
            # A map that was measured has them, and one that is new does not.
            self.register_buffer("basis", torch.empty_like(basis, device=self.mean.device))
            self.row_dim = basis.shape[1]
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.measured |= bool((self.mean != 0).any()) or float(self.scale) != 1

    def _map(self, reduced: Tensor) -> Tensor:
        if self.whitening is not None and self.training and not self.measured:
            raise UsageError(
                "teacher_map='whitened' takes its directions from the teacher's embeddings, and none were shown: call "
                "prepare before the first step, as crd.prepare([embeddings]), fresh_crd.prepare(0, embeddings) or "
                "transfer.prepare(loader), or take teacher_map='learned'"
            )
        if self.map is not None:
            weight = self.map.weight if self.basis is None else self.map.weight @ self.basis
            return nn.functional.linear(reduced, weight, self.map.bias)
        if self.whitening is None:
            return reduced if self.basis is None else reduced @ self.basis.T
        # The short product first: of K rows the long one would cost d / row_dim times as much.
        return reduced @ (self.whitening if self.basis is None else self.basis.T @ self.whitening)


def finite_samples(values: Tensor, least: int = 1) -> Tensor:
    """Those of a teacher's outputs (n, …) that are finite numbers.

    Raises:
        UsageError: They are fewer than ``least``.
    """
    finite = values[values.flatten(1).isfinite().all(1)]
    if len(finite) < least:
        raise UsageError(
            f"the teacher's outputs are finite numbers for {len(finite)} of the {len(values)} training samples it "
            f"was shown, and {least} are needed: "
            "look at its weights and at its precision"
        )
    return finite


def all_finite(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batches: index (b,) and a teacher's outputs (b, …).

    Raises:
        ContrastillError: An output is no finite number.
    """
    for index, values in batches:
        bad = ~values.flatten(1).isfinite().all(1)
        if bad.any():
            raise ContrastillError(
                f"the teacher's output for training sample {int(index[bad.to(index.device)][0])} is not a finite "
                "number: "
                "look at that sample, and at the teacher's weights and precision"
            )
        yield index, values


class _Normalised(torch.autograd.Function):
    """Unit vectors (n, D) in place of ``values``; zero stays zero. Of thousands of rows each copy that is not made
    counts.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(values, dim=1, keepdim=True)
        norm = torch.where(norm > NORM_EPS, norm, math.inf)
        ctx.mark_dirty(values.div_(norm))
        ctx.save_for_backward(values, norm)
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        unit, norm = ctx.saved_tensors
        along = torch.bmm(unit[:, None], grad[:, :, None])[:, 0]
        return torch.addcmul(grad, unit, along, value=-1).div_(norm)
