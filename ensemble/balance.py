"""How a teacher's features are brought to one scale, so that none of several teachers drowns the others."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from ..core.errors import ContrastillError, UsageError, unknown_name
from .hadamard import equal_diagonal_rotation

KINDS = ("none", "per_channel", "phi_s")

_CONSTANT = 1e-10  # share of the mean variance below which a channel's own is rounding


class Balance(nn.Module):
    """An invertible affine map after which each channel of a teacher's features has mean 0 and variance 1.

    ``"per_channel"`` divides each channel by its own deviation. ``"phi_s"`` (PHI-S: Ranzinger et al., 2024) is x' = R
    Uᵀ (x − μ) / φ, with U the eigenvectors of the covariance, R the rotation after which all channels vary alike, and
    φ² the mean eigenvalue: distances keep their ratios, for nothing but one scalar stretches them. ``"none"`` leaves
        features as they are.

    Mean and covariance are summed up in training mode over the first calls, over all processes; the map is made anew at
    calls 1, 2, 4, 8, … and at the last one, and then stays. A channel that does not vary is only shifted. Nothing is
    learnt by gradient.

    Args of a call:
        is_padding: (B,) bool: whether the samples stand for an empty share, and count for nothing in the sums.

    Args:
        dim: D, number of channels.
        kind: One of ``KINDS``.
        estimate_steps: Calls that are summed up; 0 for a map whose state is loaded, which then needs no room for sums.

    Attributes:
        calls: Calls summed up so far.

    Shape:
        - x: (..., D) - returns (..., D), in float32 at least.

    Raises:
        UsageError: An unknown kind, or features of another length.
        ContrastillError: Features that are no finite numbers.

    Example:
        >>> balance = Balance(12)
        >>> features = torch.randn(64, 12) @ torch.randn(12, 12)
        >>> balance(features).var(0, correction=0).allclose(torch.ones(12), atol=1e-4)
        True
        >>> balance.inverse(balance.eval()(features)).allclose(features, atol=1e-4)
        True
    """

    mean: Tensor
    scale: Tensor
    rotation: Tensor | None
    count: Tensor
    total: Tensor
    products: Tensor

    def __init__(self, dim: int, kind: str = "phi_s", estimate_steps: int = 32) -> None:
        super().__init__()
        if kind not in KINDS:
            raise unknown_name("balance", kind, KINDS)
        self.dim, self.kind, self.estimate_steps, self.calls = dim, kind, 0 if kind == "none" else estimate_steps, 0
        turns, scales = kind == "phi_s", kind != "none"

        def buffer(name: str, value: Tensor, present: bool) -> None:
            self.register_buffer(name, value.double() if present else None)

        buffer("mean", torch.zeros(dim), scales)
        buffer("scale", torch.ones(() if turns else (dim,)), scales)
        buffer("rotation", torch.eye(dim), turns)
        buffer("count", torch.zeros(()), self.estimate_steps > 0)
        buffer("total", torch.zeros(dim), self.estimate_steps > 0)
        buffer("products", torch.zeros((dim, dim) if turns else (dim,)), self.estimate_steps > 0)

    def forward(self, x: Tensor, is_padding: Tensor | None = None) -> Tensor:
        if x.shape[-1] != self.dim:
            raise UsageError(f"these features have {x.shape[-1]} channels, and the balance was made for {self.dim}")
        if self.training and self.calls < self.estimate_steps:
            self._estimate(x.detach(), is_padding)
        if self.kind == "none":
            return x
        # Half precision has too few digits to take the mean away from what is far from zero.
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            x = (x - self.mean.to(x.dtype)) / self.scale.to(x.dtype)
            return x if self.rotation is None else x @ self.rotation.to(x.dtype).T

    def inverse(self, x: Tensor) -> Tensor:
        """From the balanced space back to the teacher's own: (..., D) -> (..., D)."""
        if self.kind == "none":
            return x
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            x = x if self.rotation is None else x @ self.rotation.to(x.dtype)
            return x * self.scale.to(x.dtype) + self.mean.to(x.dtype)

    @torch.no_grad()
    def _estimate(self, x: Tensor, is_padding: Tensor | None) -> None:
        """Add a call to the sums, and make the map anew where it is due."""
        with torch.autocast(x.device.type, enabled=False):
            rows = x.reshape(-1, self.dim).double()
            products = rows.square().sum(0) if self.rotation is None else rows.T @ rows
            sums = torch.cat([torch.full_like(self.count, len(rows)).view(1), rows.sum(0), products.flatten()])
            if is_padding is not None:
                sums = sums * (~is_padding).any()
            if _several():
                distributed.all_reduce(sums)
            self.count += sums[0]
            self.total += sums[1 : self.dim + 1]
            self.products += sums[self.dim + 1 :].view_as(products)
            self.calls += 1
            if self.calls & (self.calls - 1) == 0 or self.calls == self.estimate_steps:
                self._solve()

    def _solve(self) -> None:
        """The map from the sums."""
        if not bool(torch.isfinite(self.total).all() & torch.isfinite(self.products).all()):
            raise ContrastillError(
                "a teacher's features are not all finite numbers: check its weights, its mean and its std, and "
                "take train.precision=bf16 or fp32 in the place of fp16"
            )
        self.mean.copy_(self.total / self.count)
        if self.rotation is None:
            variance = (self.products / self.count - self.mean.square()).clamp_min(0)
            self.scale.copy_(_deviation(torch.where(variance > _CONSTANT * variance.mean(), variance, variance.mean())))
        else:
            covariance = self.products / self.count - torch.outer(self.mean, self.mean)
            eigenvalues, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
            eigenvalues = eigenvalues.clamp_min(0)
            self.rotation.copy_(equal_diagonal_rotation(eigenvalues) @ vectors.T)
            self.scale.copy_(_deviation(eigenvalues.mean()))
        if _several():
            # Equal sums may have eigenvectors of other signs on another machine.
            for value in (self.mean, self.scale, *([] if self.rotation is None else [self.rotation])):
                distributed.broadcast(value, src=0)

    def get_extra_state(self) -> Tensor:
        """Calls summed up so far."""
        return torch.tensor(self.calls)

    def set_extra_state(self, state: Tensor) -> None:
        self.calls = int(state)


def _deviation(variance: Tensor) -> Tensor:
    """The root of a variance; 1 where there is none, so that it can be divided by."""
    return torch.where(variance > 0, variance, 1.0).sqrt()


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
