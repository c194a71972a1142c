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
    """Complain of networks that end in a softmax, or a sigmoid, where an objective reads logits.

    Raises:
        UsageError: One does.
    """
    sides = [("the student", student, _read_as_logits(transfer, teacher=False))]
    read = _read_as_logits(transfer, teacher=True)
    sides += [(f"teacher {number}", spec, read) for number, spec in enumerate(teachers)]
    for who, spec, labels in sides:
        if labels and (spec.probabilities or spec.sigmoid):
            end = "softmax" if spec.probabilities else "sigmoid"
            what = "returns probabilities (they sum to 1)" if spec.probabilities else "ends in a sigmoid"
            raise UsageError(f"{who} {what}, and objective {labels[0]} reads logits: leave the {end} at its end out")
    _check_kinds(transfer, config)


def _read_as_logits(transfer: Transfer, *, teacher: bool) -> list[str]:
    """The objectives that take what one side answers for logits."""
    labels = []
    for label, term in transfer.terms.items():
        needs = term.teacher_needs if teacher else term.needs & transfer.student_needs
        as_it_is = {"prediction"} if getattr(term.objectives[0], "takes_probabilities", False) else set()
        if needs & {"logits", "prediction"} - as_it_is:
            labels.append(label)
    return labels


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
