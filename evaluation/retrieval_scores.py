"""What an evaluation's retrieval across modalities comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RetrievalScores:
    """How often a student's embedding, in the space of a teacher, is nearest to the teacher's of the same sample, see
    :class:`~contrastill.probe.retrieval.RetrievalResult`.

    Attributes:
        teacher: The teacher's architecture; ``number`` is its place under ``teachers``.
        modalities: The student's and the teacher's.
        recall: k -> per cent, from the student to the teacher.
        reverse: The same, from the teacher to the student.
        chance: The same of a random order.
    """

    teacher: str
    number: int
    modalities: tuple[str, str]
    recall: Mapping[int, float]
    reverse: Mapping[int, float]
    chance: Mapping[int, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what is k -> per cent has text as keys, as JSON does."""
        recalls = {
            name: {str(k): value for k, value in getattr(self, name).items()}
            for name in ("recall", "reverse", "chance")
        }
        return {"teacher": self.teacher, "number": self.number, "modalities": [*self.modalities], **recalls}

    def lines(self, common: Mapping[str, str]) -> list[dict[str, str]]:
        """A line of the table a direction, and one of chance, by column."""
        tasks = retrieval_tasks(self.modalities, self.number)
        lines = [
            {**common, "task": task, **_recalls(values)}
            for task, values in zip(tasks, (self.recall, self.reverse), strict=True)
        ]
        return [*lines, {**common, "network": "chance", "parameters": "", "task": "retrieval", **_recalls(self.chance)}]


def retrieval_tasks(modalities: Sequence[str], number: int) -> tuple[str, str]:
    """What retrieval is called, from the student to a teacher and back.

    Args:
        modalities: The student's and the teacher's.
        number: The teacher's place under ``teachers``; several may read one modality.

    Example:
        >>> retrieval_tasks(("grey", "rgb"), 1)
        ('retrieval, grey → rgb of teacher 1', 'retrieval, rgb of teacher 1 → grey')
    """
    student, teacher = modalities
    student = f"{student} of the student" if student == teacher else student
    teacher = f"{teacher} of teacher {number}"
    return f"retrieval, {student} → {teacher}", f"retrieval, {teacher} → {student}"


def _recalls(values: Mapping[int, float]) -> dict[str, str]:
    return {f"R@{k} %": f"{value:.2f}" for k, value in values.items()}
