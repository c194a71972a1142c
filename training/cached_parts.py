"""Whether what is cached of teachers' outputs is enough for the objectives that read them."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.config.schema import CacheConfig
from ..core.errors import UsageError
from ..core.term import Term


def check_cached_parts(terms: Mapping[str, Term], config: CacheConfig) -> None:
    """Refuse to cache the largest values alone for an objective that reads all.

    Args:
        terms: Of the loss, by their labels.
        config: What is cached.

    Raises:
        UsageError: A term reads all logits, or all channels of a prediction, otherwise than by their softmax.
    """
    for label, term in terms.items():
        objective = term.objectives[0]
        whole = objective.whole_prediction and "prediction" in objective.needs
        if config.prediction != "all" and whole:
            raise UsageError(
                f"cache.prediction={config.prediction} keeps the largest of each position, and objective {label} "
                "compares all: set cache.prediction=all"
            )
        # The others share what the softmax leaves to them, which says nothing of the sigmoid of each.
        reads_all = objective.whole_logits or objective.per_class
        if config.logits != "all" and objective.needs_teacher and "logits" in objective.needs and reads_all:
            read = "each class on its own" if objective.per_class else "standardised logits of all classes"
            raise UsageError(
                f"cache.logits={config.logits} keeps the largest of each sample and the probability of all others "
                f"together, and objective {label} reads {read}: set cache.logits=all"
            )
