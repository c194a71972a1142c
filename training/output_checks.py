"""What the outputs of a run's networks are: where an embedding is read, and whether logits are logits."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.config.schema import RunConfig
from ..core.errors import UsageError
from ..core.registry import PYTHON_PREFIX
from ..core.representation import RepresentationSpec
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
        if spec.probabilities and "logits" in needs:
            raise UsageError(
                f"{who} returns probabilities (each row sums to 1), and objectives take the softmax of logits: leave "
                "the softmax at its end out"
            )
