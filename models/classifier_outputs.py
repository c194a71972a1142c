"""Which of several tensors that a module returns is what its classifier gives: seen in which of them change with the
output of a linear layer.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..core.outputs import tensors
from ..core.tapping import call
from .library import Trace

# A classifier is among the last layers; each costs a forward pass.
_LAST = 8


def classifier_output(module: nn.Module, trace: Trace, paths: Sequence[str]) -> str:
    """The path of the output that the last linear layer gives; of parallel classifiers in a tuple, as auxiliary ones
    are, the first.

    Args:
        module: Stays as it is.
        trace: Of a forward pass of it.
        paths: Of several outputs (B, C).

    Raises:
        LookupError: Several or none may be it.
    """
    changed = _changed_by_layers(module, trace, paths)
    last = {path: next((layer for layer in changed if path in changed[layer]), None) for path in paths}
    there = dict(tensors(trace.output))

    def is_classifier(path: str) -> bool:
        layer = last[path]
        if layer is None:
            return False
        # What goes on through another linear layer are features.
        if any(last[other] != layer for other in changed[layer]):
            return False
        # Of logits and what is computed of them, as probabilities, the logits.
        return len(changed[layer]) == 1 or there[path] is trace.seen[layer].output

    heads = [path for path in paths if is_classifier(path)]
    numbered = all(path.rpartition(".")[2].isdigit() for path in paths)
    if len(heads) > 1 and not numbered:
        heads = [path for path in heads if "aux" not in path.lower()]
    if not heads or (len(heads) > 1 and not numbered):
        raise LookupError
    return heads[0]


def _changed_by_layers(module: nn.Module, trace: Trace, paths: Sequence[str]) -> dict[str, set[str]]:
    """The paths of the outputs that change with that of a linear layer, the last layers first."""
    linear = {name for name, inner in module.named_modules() if isinstance(inner, nn.Linear)}
    ran = sorted((name for name in trace.seen if name in linear), key=lambda name: -trace.seen[name].order)
    own = copy.deepcopy(module).cpu().eval()
    plain = _outputs(own, trace.shape, paths)
    changed: dict[str, set[str]] = {}
    for name in ran[:_LAST]:
        handle = own.get_submodule(name).register_forward_hook(lambda _, args, output: output + _noise(output))
        outputs = _outputs(own, trace.shape, paths)
        handle.remove()
        changed[name] = {path for path in paths if not torch.equal(outputs[path], plain[path])}
    return changed


def _noise(output: Tensor) -> Tensor:
    # Other for each value: a softmax does not see what is added to all.
    return torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)


def _outputs(module: nn.Module, shape: tuple[int, ...], paths: Sequence[str]) -> dict[str, Tensor]:
    """Of two random images, the same each time."""
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        there = dict(tensors(call(module, images)))
    return {path: there[path].nan_to_num() for path in paths}
