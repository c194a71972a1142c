"""Short hashes that stand for a network, a text or tensors: equal hashes are taken for equal contents."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .representation import PARTS, Network


@dataclass(frozen=True)
class NetworkFingerprint:
    """What a network's outputs depend on.

    Attributes:
        properties: By name: ``architecture``, ``weights`` (a hash), ``preprocessing``, ``modality``, ``precision``,
            ``class_map``.
        taps: By part of the representation, the modules it is read from.
    """

    properties: dict[str, str]
    taps: dict[str, str]

    def hash(self, parts: Collection[str]) -> str:
        """16 hexadecimal digits.

        Args:
            parts: Parts of the representation that count; other parts' taps do not.
        """
        return text_hash(str([self.properties, [(part, self.taps[part]) for part in sorted(parts)]]))


def network_fingerprint(network: Network) -> NetworkFingerprint:
    """The fingerprint of a network's weights, preprocessing and taps."""
    return NetworkFingerprint(
        {
            "architecture": f"{type(network.module).__name__} {text_hash(str(network.module))}",
            "weights": state_hash(network.state_dict()),
            "preprocessing": str(network.preprocess) + ("" if network.preprocess.colours else ", values as stored"),
            "modality": network.modality,
            "precision": str(network.precision or torch.float32).removeprefix("torch."),
            "class_map": "none" if network.classes is None else str(network.classes.tolist()),
        },
        {part: str(getattr(network.taps, part)) for part in PARTS},
    )


def weights_hash(module: nn.Module) -> str:
    """16 hexadecimal digits that stand for a module's state dict; of quantised layers the numbers and
    scales; what is no tensor counts by its text.
    """
    return state_hash(module.state_dict())


def state_hash(state: Mapping[str, Any]) -> str:
    """As :func:`weights_hash`, of a state dict."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode())
        _update(digest, value)
    return digest.hexdigest()[:16]


def _update(digest: Any, value: Any) -> None:
    """Of a packed parameter of a quantised layer all its tensors: a text shows the first and the last numbers alone."""
    if isinstance(value, (tuple, list)):
        for part in value:
            _update(digest, part)
    elif isinstance(value, Tensor) and value.is_quantized:
        digest.update(f"{value.dtype} {_scales(value)}".encode() + _bytes(value.int_repr()))
    else:
        digest.update(_bytes(value) if isinstance(value, Tensor) else str(value).encode())


def _scales(value: Tensor) -> str:
    if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return f"{value.q_scale()} {value.q_zero_point()}"
    scales = value.q_per_channel_scales().tolist(), value.q_per_channel_zero_points().tolist()
    return f"{value.q_per_channel_axis()} {scales}"


def text_hash(text: str) -> str:
    """16 hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def tensors_hash(header: str, values: Sequence[Tensor]) -> str:
    """16 hexadecimal digits that stand for a header and for tensors with their shapes and dtypes.

    Example:
        >>> tensors_hash("one", [torch.zeros(2)]) == tensors_hash("one", [torch.zeros(2).double()])
        False
    """
    digest = hashlib.sha256(f"{header} {[(tuple(value.shape), value.dtype) for value in values]}".encode())
    for value in values:
        digest.update(_bytes(value))
    return digest.hexdigest()[:16]


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
