"""What objectives on pooled embeddings share."""

from __future__ import annotations

from ..core.errors import UsageError
from ..core.objective import Setting


def embedding_dims(objective: str, setting: Setting) -> tuple[int, int]:
    """Lengths of the student's and of the teacher's pooled embedding, checked.

    Args:
        objective: Its name, for the message.
        setting: With the shapes of both sides.

    Raises:
        UsageError: A side has no embedding.
    """
    dims = []
    for side, spec in (("student", setting.student), ("teacher", setting.require_teacher())):
        if spec.embedding_dim is None:
            raise UsageError(
                f"objective {objective} compares pooled embeddings, and the {side} has none: name the module that "
                "gives it with embedding=MODULE"
            )
        dims.append(spec.embedding_dim)
    return dims[0], dims[1]
