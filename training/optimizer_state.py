"""The state of an optimiser of a run that began before, where other parameters trained."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn


def with_all_parameters(
    state: dict[str, Any], optimizer: torch.optim.Optimizer, missed: Collection[nn.Parameter]
) -> dict[str, Any]:
    """A checkpoint's ``optimizer.state_dict()`` as this optimiser takes it: older versions did not train what has no
    part in eval mode, which begins to with the checkpoint.

    Args:
        state: Of the checkpoint.
        optimizer: New.
        missed: What trains now, and may not have trained then.
    """
    without = {id(parameter) for parameter in missed}
    groups: list[dict[str, Any]] = optimizer.param_groups
    before = [[parameter for parameter in group["params"] if id(parameter) not in without] for group in groups]
    lengths = [len(group["params"]) for group in state["param_groups"]]
    if lengths == [len(group["params"]) for group in groups] or lengths != [len(one) for one in before if one]:
        return state
    numbers = {id(parameter): number for number, parameter in enumerate(p for group in groups for p in group["params"])}
    old = [numbers[id(parameter)] for parameters in before for parameter in parameters]
    saved = iter(state["param_groups"])
    return {
        "state": {old[number]: entry for number, entry in state["state"].items()},
        "param_groups": [
            {**(next(saved) if parameters else group), "params": [numbers[id(one)] for one in group["params"]]}
            for group, parameters in zip(groups, before, strict=True)
        ],
    }
