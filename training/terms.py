"""One line of the loss from its part of a config: an objective for each teacher, and the rule that combines them."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.aggregation_checks import build_rule
from ..core.config.schema import RunConfig
from ..core.errors import UsageError
from ..core.objective import Setting
from ..core.objective_checks import build_objectives
from ..core.registry import OBJECTIVES, TEACHER_AGGREGATIONS
from ..core.term import Term


def build_term(config: RunConfig, label: str, settings: Sequence[Setting]) -> Term:
    """One line of the loss, with the rule that combines its teachers.

    Args:
        config: Whose objective it is.
        label: Its key under ``objectives``.
        settings: One for each teacher, or a single one without.

    Raises:
        UsageError: Objective, rule, teachers and data do not fit.
    """
    entry = config.objectives[label]
    objective = OBJECTIVES[entry.name or label]
    options = objective.Options(**entry.options())
    objectives = build_objectives(label, objective, options, settings)
    if not objective.needs_teacher:
        return Term(objectives, entry.weight, warmup=entry.warmup)
    name = entry.rule or config.ensemble.rule
    rule = TEACHER_AGGREGATIONS[name]
    if objectives[0].joint and name != "sum":
        raise UsageError(
            f"objective {label} reads all teachers at once and adds them up, which ensemble.rule={name} does not: "
            f"add objectives.{label}.rule=sum, "
            f"or objectives.{label}.student_side=separate, by which each teacher has an objective of its own"
        )
    # Options beside ensemble.rule are that rule's; another one that an objective names has its defaults.
    chosen = config.ensemble.options() if name == config.ensemble.rule else {}
    combined = build_rule(name, rule, rule.Options(**chosen), label, objective, settings)
    return Term(objectives, entry.weight, combined, entry.warmup)
