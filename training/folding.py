"""BatchNorm of a frozen network folded into the convolution before it: one pass over memory less for each."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from ..core.representation import Network
from ..core.representation_spec import evaluating
from ..core.tapping import INPUT, hooked, module_of

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
_FOLDED: WeakSet[Network] = WeakSet()
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def fold_batchnorm(network: Network, batch: Mapping[str, Tensor]) -> list[str]:
    """Fold each BatchNorm of a teacher into the convolution whose output it alone reads (Jacob et al., CVPR 2018,
    section 3.2).

    With scale = γ/√(σ² + ε), in float64: weight ← scale·weight, bias ← scale·(bias − μ) + β; an identity takes the
    BatchNorm's place, or the activation that is part of it. Which belong together is seen in one forward by hooks. Then
    logits, embedding and maps on ``batch`` are compared with those of before: no value may differ by more than 1e-4 of
    the largest one of its tensor. Folds that change more, as where something reads a convolution's output unseen by
    hooks, are taken back, and a warning names them.

    A folded network has other weights and modules: it does not load the unfolded one's file, and
        :func:`~contrastill.core.fingerprint.network_fingerprint` of it is another, so
    outputs of a folded teacher are never taken for those of the unfolded one.

    Args:
        network: Changed in place; in training its BatchNorms would be missed, so it should be one that is frozen.
        batch: A few samples, as ``network`` takes them.

    Returns:
        Names of the BatchNorms that were folded, as the network's own module calls them.

    Example:
        >>> module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> from contrastill.core.representation import Preprocess, Taps
        >>> network = Network(module, taps=Taps(embedding="3"), preprocess=Preprocess((0.5,) * 3, (0.25,) * 3))
        >>> fold_batchnorm(network, {"rgb": torch.rand(2, 3, 8, 8)})
        ['1']
        >>> module[1]
        Identity()
    """
    with evaluating(network):
        before = _outputs(network, batch)
        # Where a network gives nothing that is compared, nothing shows that a fold leaves it as it was.
        pairs = _pairs(network, batch) if before else []
        for pair in pairs:
            pair.fold()
        if not _agrees(before, network, batch):
            for pair in pairs:
                pair.undo()
            pairs = _one_by_one(pairs, before, network, batch)
    _FOLDED.add(network)
    names = [pair.norm_name for pair in pairs]
    there = sum(isinstance(module, _NORMS) for module in network.module.modules())
    log.info("%s: %d BatchNorms folded, %d left as they are", type(network.module).__name__, len(names), there)
    return names


def is_folded(network: Network) -> bool:
    """Whether :func:`fold_batchnorm` was called with a network, whatever it could fold."""
    return network in _FOLDED


@dataclass
class _Pair:
    """A convolution and the BatchNorm that alone reads its output."""

    root: nn.Module
    norm_name: str
    convolution: Any
    norm: Any

    def fold(self) -> None:
        convolution, norm = self.convolution, self.norm
        self._weight, self._bias = convolution.weight, convolution.bias
        zero, one = torch.zeros_like(norm.running_mean), torch.ones_like(norm.running_mean)
        gamma, beta, bias = (
            default if value is None else value
            for value, default in ((norm.weight, one), (norm.bias, zero), (convolution.bias, zero))
        )
        # Of the parameters; the products are rounded once, at the end.
        scale = gamma.double() / (norm.running_var.double() + norm.eps).sqrt()
        weight = convolution.weight.double() * scale.view(-1, *[1] * (convolution.weight.ndim - 1))
        for name, value in (
            ("weight", weight),
            ("bias", (bias.double() - norm.running_mean.double()) * scale + beta.double()),
        ):
            setattr(
                convolution, name, nn.Parameter(value.to(self._weight.dtype), requires_grad=self._weight.requires_grad)
            )
        # A BatchNorm with parts of its own, as timm's with its activation, leaves these behind, under their names.
        parts = OrderedDict(norm.named_children())
        self.root.set_submodule(self.norm_name, nn.Sequential(parts) if parts else nn.Identity())

    def undo(self) -> None:
        self.convolution.weight, self.convolution.bias = self._weight, self._bias
        self.root.set_submodule(self.norm_name, self.norm)


def _one_by_one(pairs: list[_Pair], before: list[Tensor], network: Network, batch: Mapping[str, Tensor]) -> list[_Pair]:
    """Fold what changes nothing; returns it."""
    folded, unfolded = [], []
    for pair in pairs:
        pair.fold()
        if _agrees(before, network, batch):
            folded.append(pair)
        else:
            pair.undo()
            unfolded.append(pair.norm_name)
    log.warning(
        "%s: folding %s would change what the network says, so that is left out",
        type(network.module).__name__,
        ", ".join(unfolded),
    )
    return folded


@dataclass
class _Trace:
    """Who made and who read each tensor in one forward."""

    made_by: dict[int, tuple[nn.Module, int]] = field(default_factory=dict)
    read_by: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    reads: dict[str, tuple[Tensor, int]] = field(default_factory=dict)
    runs: Counter = field(default_factory=Counter)
    # A number of a tensor is its own only while the tensor lives.
    alive: list[Tensor] = field(default_factory=list)


def _pairs(network: Network, batch: Mapping[str, Tensor]) -> list[_Pair]:
    """The pairs that one forward shows."""
    trace, root = _Trace(), network.module
    taps = hooked(network.taps.names())
    tapped = {module_of(tap) for tap in taps if not tap.startswith(INPUT)}
    tapped_inputs = {module_of(tap) for tap in taps if tap.startswith(INPUT)}

    def before(name: str, args: tuple, kwargs: dict) -> None:
        tensors = _tensors([*args, *kwargs.values()])
        for tensor in tensors:
            trace.read_by[id(tensor)] += [name, "a tap"] if name in tapped_inputs else [name]
        if len(tensors) == 1:
            trace.reads[name] = tensors[0], tensors[0]._version
        trace.alive += tensors

    def after(name: str, module: nn.Module, output: object) -> None:
        trace.runs[name] += 1
        for tensor in _tensors([output]):
            if name in tapped:
                trace.read_by[id(tensor)].append("a tap")
            if isinstance(module, _CONVOLUTIONS):
                trace.made_by[id(tensor)] = module, tensor._version
                trace.runs[id(module)] += 1
            trace.alive.append(tensor)

    handles = []
    for name, module in root.named_modules():
        # What is compiled to TorchScript takes no such hooks; its parts stay as they are.
        if name and not isinstance(module, torch.jit.ScriptModule):
            handles.append(
                module.register_forward_pre_hook(
                    lambda _, args, kwargs, name=name: before(name, args, kwargs), with_kwargs=True
                )
            )
            handles.append(
                module.register_forward_hook(lambda module, _, output, name=name: after(name, module, output))
            )
    try:
        network(batch)
    finally:
        for handle in handles:
            handle.remove()
    owners = Counter(id(parameter) for _, parameter in root.named_parameters(remove_duplicate=False))
    pairs = []
    for name, module in root.named_modules():
        if not isinstance(module, _NORMS) or module.running_mean is None or name not in trace.reads:
            continue
        tensor, version = trace.reads[name]
        convolution, written = trace.made_by.get(id(tensor), (None, -1))
        alone = trace.read_by[id(tensor)] == [name] and trace.runs[name] == 1 and written == version
        if (
            convolution is not None
            and alone
            and trace.runs[id(convolution)] == 1
            and owners[id(convolution.weight)] == 1
        ):
            pairs.append(_Pair(root, name, convolution, module))
    return pairs


def _tensors(values: object) -> list[Tensor]:
    """All tensors in nested lists, tuples and dictionaries."""
    if isinstance(values, Tensor):
        return [values]
    inner = values.values() if isinstance(values, dict) else values if isinstance(values, (list, tuple)) else ()
    return [tensor for value in inner for tensor in _tensors(value)]


def _outputs(network: Network, batch: Mapping[str, Tensor]) -> list[Tensor]:
    return [*network(batch).tensors()]


def _agrees(before: list[Tensor], network: Network, batch: Mapping[str, Tensor]) -> bool:
    """Whether the network still has the same outputs; not if it no longer runs, as one that asks its BatchNorm for its
    weights.
    """
    try:
        after = _outputs(network, batch)
    except AttributeError:
        return False
    return all(
        bool((new - old).abs().max() <= TOLERANCE * old.abs().max()) for old, new in zip(before, after, strict=True)
    )
