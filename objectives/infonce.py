"""InfoNCE, the softmax over one positive and its negatives, as the alternative to CRD's criterion (van den Oord et al.,
2018).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..core.arguments import Positive
from ..core.crd.embedding import Embedding
from ..core.deferred import DeferredUpdates
from ..core.errors import UsageError
from ..core.loss_labels import batch_index, batch_targets
from ..core.objective import Objective, Options, Setting, check_classes_differ, check_pass
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from .embeddings import embedding_dims
from .precision import full_precision

# The kind of a slot that was never written: no class and no sample has this number.
EMPTY = torch.iinfo(torch.int64).min
# The kind of a sample of which nothing is known but that it is another than all the rest.
UNKNOWN = torch.iinfo(torch.int64).max


@OBJECTIVES.register("infonce")
class InfoNCE(Objective):
    """−log softmax of the own pair's s·t/τ among those with other samples, mean of student→teacher and teacher→student
    (van den Oord et al., 2018, eq. 4).

    Negatives are the other samples of the batch (of this process); with ``negatives="queue"`` the student's embedding
    also meets earlier embeddings of the teacher, first in, first out (as in MoCo: He et al., CVPR 2020). They were made
    by the linear map as it was then. Neither needs to know how many samples there are: with other_sample it also takes
    batches of a stream without ``index``, each sample a new one.

    Args:
        student_dim: Length of the student's embedding.
        teacher_dim: Length of the teacher's embedding.
        embed_dim: D, length of both after a linear map and normalisation.
        temperature: τ.
        negatives: ``"batch"`` or ``"queue"``.
        queue_size: Q, slots of the queue.
        negatives_from: ``"other_class"``: pairs of one class are no negatives; ``"other_sample"``: only those of one
            sample are none.

    Attributes:
        logs: ``mi_bound``, log N − loss with N the candidates, the positive included: a lower bound of the mutual
            information, where negatives are other samples.

    Shape:
        - student.embedding: (B, student_dim) - teacher.embedding: (B, teacher_dim) - batch["index"] if there is one, or
          batch["target"] with other_class: (B,) int64
        - returns a scalar.

    Raises:
        UsageError: A batch of one sample without a queue; other_class, and the data has no labels, or one class;
            (``build``) a side has no embedding.

    Example:
        >>> infonce = InfoNCE(8, 16, negatives="queue", queue_size=32)
        >>> student, teacher = (Representation(embedding=torch.randn(4, dim)) for dim in (8, 16))
        >>> infonce(student, teacher, {"index": torch.arange(4)}).backward()
        >>> infonce.queue.pointer
        tensor(4)
    """

    class Options(Options):  # type: ignore[misc, unused-ignore]  # of a cold mypy cache
        embed_dim: int = Field(128, gt=0, description="D, length of both embeddings")
        temperature: float = Field(0.07, gt=0, description="τ of the softmax (no unit)")
        negatives: Literal["batch", "queue"] = Field(
            "batch", description="the other samples of the batch, or also earlier embeddings of the teacher"
        )
        queue_size: int = Field(
            4096, gt=0, description="number of earlier embeddings in the queue, with negatives=queue"
        )
        negatives_from: Literal["other_class", "other_sample"] | None = Field(
            None, description="default: other_class where there are labels"
        )

    needs = frozenset({"embedding"})
    # That of CRD, in whose place it stands.
    default_weight = 0.8
    fixed = frozenset({"negatives_from"})  # the queue stores classes, or samples

    def __init__(
        self,
        student_dim: Positive,
        teacher_dim: Positive,
        *,
        embed_dim: Positive = 128,
        temperature: float = 0.07,
        negatives: Literal["batch", "queue"] = "batch",
        queue_size: Positive = 4096,
        negatives_from: Literal["other_class", "other_sample"] = "other_sample",
    ) -> None:
        super().__init__()
        self.temperature, self.negatives_from = temperature, negatives_from
        self.channels = [(student_dim, teacher_dim)]
        self.embed_student, self.embed_teacher = Embedding(student_dim, embed_dim), Embedding(teacher_dim, embed_dim)
        self.queue = Queue(queue_size, embed_dim) if negatives == "queue" else None

    @classmethod
    def build(cls, options: Options, setting: Setting) -> InfoNCE:
        if options.negatives_from == "other_class" and setting.targets is None:
            raise UsageError(
                "objectives.infonce.negatives_from=other_class needs labels, and this data has none: take other_sample"
            )
        origin = options.negatives_from or ("other_sample" if setting.targets is None else "other_class")
        if origin == "other_class":
            check_classes_differ("infonce", setting.targets)
        if options.negatives == "batch":
            check_pass("infonce", setting)
        return cls(*embedding_dims("infonce", setting), **{**dict(options), "negatives_from": origin})

    def per_sample(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        """The loss of each sample (B,), half from either direction; in training the teacher's embeddings then enter the
        queue.
        """
        samples = len(student.require_embedding())
        kind = (
            batch_targets(batch, "infonce", samples=samples)
            if self.negatives_from == "other_class"
            else _samples(batch, samples)
        )
        if self.queue is None and len(kind) < 2:
            raise UsageError(
                "objective infonce takes its negatives from the batch, and this one has one sample: use another "
                "train.batch_size"
            )
        # Under autocast the product would lose the digits that 1/τ magnifies.
        with full_precision(
            self.embed_student(student.require_embedding()), self.embed_teacher(teacher.require_embedding())
        ) as (
            ours,
            theirs,
        ):
            candidates, kinds = (theirs, kind) if self.queue is None else self.queue.after(theirs, kind)
            scores = ours @ candidates.T / self.temperature
        # (B, B + Q); a sample is no negative of its kind, nor of itself if it is in the batch twice.
        excluded = ((kind[:, None] == kinds) & (kinds != UNKNOWN)) | (kinds == EMPTY)
        excluded.diagonal().fill_(False)
        scores = scores.masked_fill(excluded, -math.inf)
        size = len(kind)
        own = torch.arange(size, device=scores.device)
        to_teacher, to_student = (F.cross_entropy(rows, own, reduction="none") for rows in (scores, scores[:, :size].T))
        if self.negatives_from == "other_sample":
            self.logs = {"mi_bound": self._bound(excluded, to_teacher.detach(), to_student.detach())}
        if self.queue is not None and self.training:
            self.queue.push(theirs.detach(), kind)
        return (to_teacher + to_student) / 2

    @staticmethod
    def _bound(excluded: Tensor, to_teacher: Tensor, to_student: Tensor) -> Tensor:
        counts = (~excluded).sum(1), (~excluded[:, : len(to_student)]).sum(0)
        return torch.stack(
            [(count.log() - loss).mean() for count, loss in zip(counts, (to_teacher, to_student), strict=True)]
        ).mean()


def _samples(batch: dict[str, Tensor], count: int) -> Tensor:
    """(B,) which sample each is, from the batch's ``index`` if it has one."""
    if "index" in batch:
        return batch_index(batch, "infonce", count)
    return torch.full((count,), UNKNOWN, device=next(iter(batch.values())).device if batch else None)


class Queue(DeferredUpdates):
    """The last Q embeddings and their kinds, first in, first out; equal on all ranks, which write what all of them saw,
    in rank order.

    Args:
        size: Q.
        dim: D.

    Attributes:
        rows: (Q, D).
        kind: (Q,) int64, class or sample of each row; ``EMPTY`` in slots that were never written.
        pointer: () int64, the slot that is written next.

    Example:
        >>> queue = Queue(3, 2)
        >>> for step in range(2):
        ...     queue.push(torch.ones(2, 2), torch.tensor([2 * step, 2 * step + 1]))
        >>> queue.kind, queue.pointer
        (tensor([3, 1, 2]), tensor(1))
    """

    rows: Tensor
    kind: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, dim))
        self.register_buffer("kind", torch.full((size,), EMPTY))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def after(self, rows: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (B, D) and kinds (B,), then the queue's: (B + Q, D) and (B + Q,). They are copies: a later
        push does not reach them.
        """
        return torch.cat((rows, self.rows.to(rows.dtype))), torch.cat((kind, self.kind))

    def push(self, rows: Tensor, kind: Tensor) -> None:
        """Write rows (B, D) and kinds (B,) over the oldest; of more than Q rows the last Q."""
        self.write(kind, rows[None])

    def _write(self, index: Tensor, rows: Tensor) -> None:
        # Copies that fill up a short share go first, so that what is real stays in order; counted back from the end,
        # they fall before the pointer.
        real = index >= 0
        order = torch.argsort(real, stable=True)[-len(self.rows) :]
        count = real.sum()
        step = torch.arange(-len(order), 0, device=order.device) + count
        slots = (self.pointer + step) % len(self.rows)
        keep = step < 0
        self.rows.index_copy_(
            0, slots, torch.where(keep[:, None], self.rows[slots], rows[0, order].to(self.rows.dtype))
        )
        self.kind.index_copy_(0, slots, torch.where(keep, self.kind[slots], index[order].to(self.kind.dtype)))
        self.pointer.copy_((self.pointer + count) % len(self.rows))
