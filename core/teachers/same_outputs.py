"""Whether outputs of different times and places are those of one network."""

from __future__ import annotations

import torch
from torch import Tensor

from ..representation import Network, Representation

# How far two computations of one network may be apart by their rounding alone, as a share of a sample's norm: bf16 3 %
# in 110 layers (Network.compute_in), fp16 and TF32, in which a GPU convolves float32, 1 %.
_ROUNDING = {torch.float32: 1e-2, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def precision_of(network: Network, device: torch.device) -> torch.dtype:
    """The precision a network computes in: its own, or that of the caller's autocast."""
    if network.precision is not None:
        return network.precision
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32


def same_outputs(one: Representation, other: Representation, precision: torch.dtype = torch.float32) -> bool:
    """Whether two representations of a batch are those of one network, up to the rounding of another device, batch or
    version.

    Args:
        one, other: Of the same samples and with the same parts.
        precision: In which they were computed.
    """
    return all(near(ours, theirs, precision) for ours, theirs in zip(one.tensors(), other.tensors(), strict=True))


def near(ours: Tensor, theirs: Tensor, precision: torch.dtype = torch.float32) -> bool:
    """:func:`same_outputs` of one part, (B, …) each."""
    share = _ROUNDING.get(precision, 1e-2)
    if ours.shape != theirs.shape:
        return False
    ours, theirs = ours.flatten(1).double().cpu(), theirs.flatten(1).double().cpu()
    if not torch.equal(ours.isfinite(), theirs.isfinite()):
        return False
    ours, theirs = ours.nan_to_num(0.0, 0.0, 0.0), theirs.nan_to_num(0.0, 0.0, 0.0)
    # A sample whose values all but vanish is measured by the others.
    norms = torch.maximum(ours.norm(dim=1), theirs.norm(dim=1))
    return bool(((ours - theirs).norm(dim=1) <= share * torch.maximum(norms, norms.mean() / 10)).all())
