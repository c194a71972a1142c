"""Whether a module that a run's weights are loaded into answers as the one that was trained: what is an argument of its
class, an attribute, an unsaved buffer or code is no part of the weights.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from ..core.registry import PYTHON_PREFIX
from ..core.run_weights import is_same_answer
from ..core.tapping import call, read_tap
from ..core.user_code import LIBRARIES

log = logging.getLogger(__name__)

KEY = "answer"
_VALUES = 16


def recorded(module: nn.Module, shape: tuple[int, int, int], tap: str | None = None) -> dict[str, Any] | None:
    """A few values of what a module answers to two random images, as a recipe holds them; None where that is no
    tensor, or other values each time.

    Args:
        module: Stays as it is.
        shape: (C, H, W) of an image.
        tap: That gives its answer, see :func:`~contrastill.core.tapping.answer_tap`; None: what it returns.
    """
    values, again = _answer(module, shape, tap), _answer(module, shape, tap, seed=1)
    if values is None or values != again:
        return None
    return {"shape": [*shape], "values": values} | ({} if tap is None else {"tap": tap})


def is_of_a_user(module: nn.Module, builder: object) -> bool:
    """Whether code that makes or runs a module is of neither contrastill nor a library, so that it may change between
    a training and what follows.
    """
    origins = [getattr(builder, "__module__", ""), *(type(inner).__module__ for inner in module.modules())]
    return any(origin.partition(".")[0] not in (__name__.partition(".")[0], *LIBRARIES) for origin in origins)


def warn_of_another(module: nn.Module, recipe: Mapping[str, Any], path: str | PathLike) -> None:
    """Say where a module with the weights of a student does not answer as that did when it was saved.

    Args:
        module: With the weights.
        recipe: Of the student.
        path: Where the weights are from.
    """
    if answers_otherwise(module, recipe):
        log.warning(
            "%s with the weights of %s does not answer as the network that was trained: %s",
            type(module).__name__,
            path,
            "pass module= with the same arguments, attributes and buffers"
            if recipe["model"].startswith(PYTHON_PREFIX)
            else f"what builds {recipe['model']} changed since; put it back as it was, or train it again",
        )


def answers_otherwise(module: nn.Module, recipe: Mapping[str, Any]) -> bool:
    """Whether a module with the weights of a student does not answer as that did when it was saved; the recipes of
    networks of contrastill and of libraries, and those of before, do not say so.
    """
    if (answer := recipe.get(KEY)) is None:
        return False
    return not is_same_answer(_answer(module, tuple(answer["shape"]), answer.get("tap")), answer["values"])


def _answer(module: nn.Module, shape: tuple[int, ...], tap: str | None, seed: int = 0) -> list[float] | None:
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    try:
        # A copy, as a forward pass may change what the module keeps.
        module = copy.deepcopy(module).cpu().float().eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            output: Any = call(module, images) if tap is None else read_tap(module, tap, images)
    except Exception:  # a user's own code may raise anything, and will where the module is used
        return None
    if isinstance(output, Mapping):
        output = next(iter(output.values()), None)
    while isinstance(output, (list, tuple)) and output:
        output = output[0]
    if not isinstance(output, Tensor) or not output.is_floating_point() or not output.numel():
        return None
    values = output.flatten()
    return values[torch.linspace(0, len(values) - 1, min(_VALUES, len(values))).long()].tolist()
