"""Whether the logits of a run's student were trained: by an objective that reads them, or with the weights that it
started from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..core.config.yaml_values import read_resolved
from ..core.errors import ContrastillError
from ..core.registry import OBJECTIVES, PRETRAINED
from ..core.run import Run
from ..core.weights import find_weights
from .recipe import recipe_of

_PUBLISHED = 1000
"""Classes of ImageNet, which published classifiers tell apart."""


def reads_logits(objectives: Mapping[str, Mapping[str, Any] | None]) -> bool:
    """Whether one of these objectives reads logits or a prediction, as one of a package that is not installed here is
    taken to.

    Args:
        objectives: Their entries in a config, by their labels.
    """
    named = [((entry or {}).get("name") or label, entry or {}) for label, entry in objectives.items()]
    return any(
        name not in OBJECTIVES or OBJECTIVES[name].needs_with(entry) & {"logits", "prediction"} for name, entry in named
    )


def untrained_logits(run: str | os.PathLike, recipe: Mapping[str, Any]) -> str:
    """A clause about the logits of a run's own student that nothing has trained; empty where they were trained, or
    where the folder has no config that says how.

    Args:
        run: The run's folder.
        recipe: Of its student.
    """
    file = Run(run).config
    if not file.is_file():
        return ""
    try:
        config = read_resolved(file)
        objectives = config["objectives"]
        trained = reads_logits(objectives)
        student = config.get("student") or {}
    except (ContrastillError, KeyError, AttributeError):  # a config that was damaged: whoever needs it complains
        return ""
    if trained or _came_with_weights(student, recipe):
        return ""
    return f"the logits of the student of {run} were not trained, as none of {', '.join(objectives)} reads them"


def _came_with_weights(student: Mapping[str, Any], recipe: Mapping[str, Any]) -> bool:
    """Whether a student's classifier is that of the weights which it started from: a student whose data have other
    classes than its weights gets a new one, as one of published weights does.
    """
    weights = student.get("weights")
    if weights in (None, PRETRAINED):
        # Libraries keep a published classifier where the data have as many classes.
        return weights is not None and recipe.get("num_classes") == _PUBLISHED
    before: Mapping[str, Any] = {}
    with suppress(ContrastillError):  # the file may be gone
        before = recipe_of(find_weights(weights), str(student.get("model")))
    if before.get("num_classes", recipe.get("num_classes")) != recipe.get("num_classes"):
        return False
    own, names = before.get("classes"), recipe.get("classes")
    return own is None or names is None or sorted(map(str, own)) == sorted(map(str, names))
