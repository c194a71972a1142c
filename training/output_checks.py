"""What the outputs of a run's networks are: where an embedding is read, and whether logits are logits."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.config.schema import RunConfig
from ..core.errors import UsageError
from ..core.registry import PYTHON_PREFIX, short_name
from ..core.representation import Network
from ..core.representation_spec import RepresentationSpec
from ..core.transfer import Transfer


def embedding_notes(
    transfer: Transfer, config: RunConfig, student: RepresentationSpec, teachers: Sequence[RepresentationSpec]
) -> list[str]:
    """Where the embedding of each module of the user's own is read, which was found by looking for its classifier."""
    networks = [
        (f"teacher {number}", *pair) for number, pair in enumerate(zip(transfer.teachers, teachers, strict=True))
    ]
    networks = [entry for entry in networks if "embedding" in transfer.teacher_needs]
    networks += [("the student", transfer.student, student)] if "embedding" in transfer.student_needs else []
    models = {id(transfer.student): config.student.model} | {
        id(network): entry.model for network, entry in zip(transfer.teachers, config.teachers, strict=True)
    }
    return [
        f"{who}'s embedding is the {_place(network.taps.embedding)}, {spec.embedding_dim} values"
        for who, network, spec in networks
        if models[id(network)].startswith(PYTHON_PREFIX) and network.taps.embedding and spec.embedding_dim
    ]


def _place(tap: str) -> str:
    """A tap in words: ``input:fc`` is the input of fc."""
    end, _, name = tap.rpartition(":")
    return f"{'input' if end == 'input' else 'output'} of {name or 'the module'}"


def check_output_lengths(config: RunConfig, networks: Sequence[Network], specs: Sequence[RepresentationSpec]) -> None:
    """Complain of networks whose logits are of another length than their config says.

    Args:
        config: Of the run.
        networks: The teachers, then the student.
        specs: Of what each of them returns.

    Raises:
        UsageError: One's are.
    """
    keys = [*(f"teachers.{number}" for number in range(len(config.teachers))), "student"]
    for key, entry, network, spec in zip(keys, [*config.teachers, config.student], networks, specs, strict=True):
        stated, there = network.recipe.get("num_classes"), spec.outputs
        if None not in (stated, there) and stated != there:
            own, each = entry.num_classes == stated, "sample" if spec.prediction_shape is None else "position"
            what = f"{key}.num_classes={stated}" if own else f"{stated} classes are asked of {key}"
            raise UsageError(
                f"{what}, and {short_name(entry.model)} returns {there} logits for each {each}: "
                + (
                    "leave it out, or give the module as many outputs"
                    if entry.model.startswith(PYTHON_PREFIX)
                    else "let its builder take num_classes"
                )
            )


def check_logits(
    transfer: Transfer, config: RunConfig, student: RepresentationSpec, teachers: Sequence[RepresentationSpec]
) -> None:
    """Complain of networks that end in a softmax where an objective takes the softmax of their logits.

    Raises:
        UsageError: One does.
    """
    specs = [("the student", student, transfer.student_needs)]
    specs += [(f"teacher {number}", spec, transfer.teacher_needs) for number, spec in enumerate(teachers)]
    for who, spec, needs in specs:
        if spec.probabilities and needs & {"logits", "prediction"}:
            raise UsageError(
                f"{who} returns probabilities (they sum to 1), and objectives take the softmax of logits: leave "
                "the softmax at its end out"
            )
        if spec.sigmoid and needs & {"logits", "prediction"}:
            raise UsageError(f"{who} ends in a sigmoid, and objectives read logits: leave the sigmoid at its end out")
    _check_kinds(transfer, config)


def _check_kinds(transfer: Transfer, config: RunConfig) -> None:
    """Complain of an objective that reads a teacher's logits in another way than they were trained.

    Raises:
        UsageError: There is one, of a teacher that a run trained.
    """
    for number, teacher in enumerate(transfer.teachers):
        several = teacher.recipe.get("several_classes")
        for label, term in transfer.terms.items():
            objective = term.objectives[0]
            if several is None or not objective.same_classes or objective.per_class == several:
                continue
            trained, read = ("each class on its own", "their softmax") if several else ("one class", "each on its own")
            raise UsageError(
                f"the logits of teacher {number} ({short_name(config.teachers[number].model)}) were trained for "
                f"{trained} of a sample, and objective {label} reads {read}: use "
                f"{'binary_kd' if several else 'kd'}, or an objective that reads embeddings, such as crd"
            )
