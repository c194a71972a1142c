"""The CRD loss: two embeddings, two banks and the NCE criterion."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..arguments import Positive, checked
from ..deferred import DeferredUpdates
from ..distributed import rank, world_size
from ..errors import UsageError
from .criterion import Criterion, Critic, NegativeSums, Workspace, normalise
from .critic_settings import BankSettings
from .embedding import Embedding
from .memory_bank import MemoryBank, check_index
from .negative_sums import explicit_negative_sums
from .negatives import MODES, SAMPLERS, Groups
from .options import (
    DTYPES,
    INITS,
    MEMORIES,
    PLACEMENTS,
    TEACHER_MAPS,
    as_index,
    as_targets,
    check_choices,
    choose_negatives,
    count_samples,
    negatives_origin,
)
from .sharding import Alone, Shard, Together
from .teacher_map import TeacherMap, all_finite

log = logging.getLogger(__name__)


@checked
class CRDLoss(BankSettings, DeferredUpdates):
    """Contrastive representation distillation (Tian et al., ICLR 2020, eq. 17–18).

    Each sample's student embedding is scored against the teacher's bank and its teacher embedding against the
    student's; with s the scores and h = sigmoid(s/τ − b), the loss is −log h(own row) − Σ_K log(1 − h(negative)),
    averaged over the batch and added over both sides. Scores are read first; then, in training mode, the rows move
    towards the embeddings.

    Args:
        student_dim: Length of the student's embedding.
        teacher_dim: Length of the teacher's embedding.
        targets: (M,) classes of all training samples.
        num_samples: M, where there are no ``targets``.
        embed_dim: D, length of a bank's row.
        num_negatives: K; None is min(16384, the smallest number of eligible rows).
        negatives: ``"sampled"``: K rows for each anchor, without replacement. ``"shared"``: one set of K rows for the
            batch. ``"all"``: the expectation over all eligible rows, weighted as K. ``"auto"``: ``negatives_reason``
            says.
        negatives_from: ``"other_class"``, ``"other_sample"`` or None: other_class where ``targets`` are given, else
            other_sample.
        temperature: τ of the critic. With ``bias="released"`` the positive's probability cannot pass .98 at 0.07, .48
            at 0.1, .01 at 0.2.
        bank_momentum: Share of its old value that a row keeps. ``"visits"``: min(½, (n − 1)/n) at the n-th visit of its
            sample, so that the first one replaces the row, whatever it began as, and the second averages both. The
            number of visits is part of the state.
        bank_init: What rows begin as: ``"random"``, noise; ``"teacher_outputs"``, once :meth:`prepare` was called: the
            teacher's, what its map makes of its embeddings before the first step; the student's, the same rows, as a
            positive pair is to be near.
        teacher_map: g^T: ``"learned"``, linear; ``"whitened"``, once :meth:`prepare` was called: the D principal
            directions of the teacher's embeddings, each
            with deviation 1. That is fixed: the teacher's rows never age, and the teacher's side of the loss, whose
                rows are the student's, trains nothing.
        bias: b: ``"released"``, log K + 1/(2Dτ²), is what the released code estimates from its first batch;
            ``"paper"``, log(K/M), is eq. 18 as printed; or a number. The default was decided by measurement: at K =
            1024 and one short schedule ``"paper"`` ended 6 points lower (docs/results.md).
        seed: Of the rows, of their order and of every draw.
        bank_placement: ``"replicated"``: each process holds all rows. ``"sharded"``: each holds M/n of them and scores
            the anchors of all ranks against these; all ranks must then call the loss and its state_dict together.
        bank_dtype: Of the rows: ``"fp32"``, ``"fp16"`` or ``"bf16"``. What is written to them is worked out in float32.
        bank_memory: ``"device"``, or ``"host"``: pinned memory of the host, copied over as it is scored, for banks
            larger than a GPU; each step then waits for the device.

    Attributes:
        embed_student, embed_teacher: The linear maps with normalisation; they train with the student. ``embed_teacher``
            is a fixed :class:`~contrastill.core.crd.teacher_map.TeacherMap` with ``teacher_map="whitened"``.
        bank: ``bank.student`` and ``bank.teacher``, (M, D) copies in sample order; ``bank.visits``, (M,), where they
            are counted.
        temperature, bias, bank_momentum: May be set at any step; ``bias``, b as a float, follows the temperature where
            it is worked out from it.
        negatives: The rule in use; ``negatives_reason`` says in one line which and why.
        logs: Of the last call, detached and on the device: ``mi_bound_student`` and ``mi_bound_teacher``, log K − (loss
            of one side), which bound the mutual information from below (often below zero); ``score_student`` and
            ``score_teacher`` with negatives from other classes, where that is a score and no bound.

    Shape:
        - student: (B, student_dim) - teacher: (B, teacher_dim) - index: (B,) int64 in [0, M)
        - rows: (B, K) int64 in [0, M), negatives given by hand; as many as K, own class or not, and each counts as
          often as named.
        - returns a scalar, whose gradient reaches both embeddings, as either may train: hand over a teacher's by
          ``detach()`` where its network is not frozen. Objectives do that themselves.

    Raises:
        UsageError: (a ValueError) ``targets`` is None and ``negatives_from="other_class"``; a class without eligible
            rows; more negatives than eligible rows; an index out of range (on a GPU: a device-side assertion, to spare
            a synchronisation).

    Example:
        >>> crd = CRDLoss(64, 256, targets=torch.randint(100, (50_000,)))
        >>> loss = crd(torch.randn(8, 64), torch.randn(8, 256), torch.arange(8))
        >>> loss.backward()
        >>> crd.bank.student.shape
        torch.Size([50000, 128])
    """

    def __init__(
        self,
        student_dim: Positive,
        teacher_dim: Positive,
        *,
        targets: Tensor | Sequence[Any] | None = None,
        num_samples: int | None = None,
        embed_dim: Positive = 128,
        num_negatives: Positive | None = None,
        negatives: Literal["auto", "all", "shared", "sampled"] = "auto",
        negatives_from: Literal["other_class", "other_sample"] | None = None,
        temperature: float = 0.07,
        bank_momentum: float | Literal["visits"] = 0.5,
        bias: Literal["released", "paper"] | float = "released",
        seed: int = 0,
        bank_placement: Literal["replicated", "sharded"] = "replicated",
        bank_dtype: Literal["fp32", "fp16", "bf16"] = "fp32",
        bank_memory: Literal["device", "host"] = "device",
        bank_init: Literal["random", "teacher_outputs"] = "random",
        teacher_map: Literal["learned", "whitened"] = "learned",
    ) -> None:
        super().__init__()
        check_choices(
            negatives=(negatives, MODES),
            bank_placement=(bank_placement, PLACEMENTS),
            bank_dtype=(bank_dtype, DTYPES),
            bank_memory=(bank_memory, MEMORIES),
            bank_init=(bank_init, INITS),
            teacher_map=(teacher_map, TEACHER_MAPS),
        )
        targets = as_targets(targets)
        num_samples, origin = count_samples(targets, num_samples), negatives_origin(negatives_from, targets)
        self.num_samples, self.embed_dim = num_samples, embed_dim
        self._of_bank: dict[str, Any] = {"count_visits": bank_momentum == "visits"}
        self.bank_momentum = bank_momentum
        self.bank_init, self.teacher_map = bank_init, teacher_map
        self.negatives_from = origin
        self.embed_student = Embedding(student_dim, embed_dim)
        self.embed_teacher = self._new_teacher_map(teacher_dim)
        groups = Groups(targets if origin == "other_class" else None, num_samples)
        self.negatives: str = negatives
        self.negatives_reason = f"{negatives}: asked for"
        if negatives == "auto":
            self.negatives, self.negatives_reason = choose_negatives(
                num_samples, num_negatives or min(16384, groups.eligible)
            )
            log.info("CRD negatives %s", self.negatives_reason)
        rule = SAMPLERS[self.negatives]
        shard = Shard(rank(), world_size()) if bank_placement == "sharded" else Shard()
        self.rule = rule(groups, num_negatives, int(seed), shard)
        self.set_critic(temperature, bias)
        self._of_bank |= {
            "seed": self.seed,
            "shard": shard,
            "dtype": DTYPES[bank_dtype],
            "on_host": bank_memory == "host",
        }
        self.bank = self._new_bank(rule.order(groups, self.seed), ("student", "teacher"))
        self.draws, self._drew = 0, False
        self._workspace = Workspace()
        self.logs: dict[str, Tensor] = {}
        self.note_built()

    def prepare(self, samples: Sequence[Tensor] = (), batches: Sequence[Iterable[tuple[Tensor, Tensor]]] = ()) -> None:
        """Before the first step: measure the teacher's fixed map, and begin the rows as its outputs; what the options
        do not ask for is not looked at.

        Args:
            samples: For ``teacher_map="whitened"``, the teacher's embeddings (n, teacher_dim) of n ≥ 2 samples from all
                over the training set; of each teacher where there are several.
            batches: For ``bank_init="teacher_outputs"``, index (b,) and embeddings (b, teacher_dim) until each training
                sample was there once, the same on every process; of each teacher where there are several.

        Raises:
            UsageError: What an option asks for is not given for each teacher, or fits no teacher.
            ContrastillError: An embedding that a row is to begin as is no finite number.
        """
        maps = self._teacher_maps()
        for name, needed, sequence in (
            ("samples", self.teacher_map == "whitened", samples),
            ("batches", self.bank_init == "teacher_outputs", batches),
        ):
            if needed and len(sequence) != len(maps):
                raise UsageError(
                    f"prepare needs {name} of each of the {len(maps)} teachers, not of {len(sequence)}: "
                    "see its arguments"
                )
        if self.teacher_map == "whitened":
            for embed, sample in zip(maps, samples, strict=True):
                embed.measure(sample)
        if self.bank_init == "teacher_outputs":
            self.bank.start([_mapped(embed, own) for embed, own in zip(maps, batches, strict=True)])

    def forward(self, student: Tensor, teacher: Tensor, index: Tensor, rows: Tensor | None = None) -> Tensor:
        return self.per_sample(student, teacher, index, rows).mean()

    def per_sample(self, student: Tensor, teacher: Tensor, index: Tensor, rows: Tensor | None = None) -> Tensor:
        """The loss of each sample, both sides added: (B,); the banks are updated as by ``forward``, which returns the
        mean.
        """
        index = as_index(index, (student, teacher), next(self.embed_student.parameters()))
        self._check(student, teacher, index, rows)
        self._check_started()
        # Anchor side 0 meets bank 0, the student's rows: it is the teacher's embedding.
        projected = torch.stack((self.embed_teacher.project(teacher), self.embed_student.project(student)))
        exchange = self._exchange(index)
        batch = self.rule.anchors(exchange.index, self.bank.places(exchange.index))
        bank = self.bank.rows.detach()
        critic = Critic(self.temperature, self.bias, self.bank.radius)
        positives = self.bank.read(batch.place, index.device)

        def negatives(sums: NegativeSums) -> Tensor | None:
            if rows is not None:
                explicit_negative_sums(bank, rows, self.bank.place, sums)
                return None
            return self.rule(batch, bank, sums, self.draws)

        sides, anchors = Criterion.apply(projected, positives, critic, self._workspace, exchange, negatives)
        if self.training:
            self._drew |= rows is None
            self.write(index, anchors.flip(0))
        with torch.no_grad():
            name = "mi_bound" if self.negatives_from == "other_sample" else "score"
            bound = math.log(self.num_negatives) - sides.detach().mean(1)
            self.logs = {f"{name}_student": bound[1], f"{name}_teacher": bound[0]}
        return sides.sum(0)

    def _new_teacher_map(self, dim: int) -> Embedding | TeacherMap:
        return (
            TeacherMap(dim, self.embed_dim, kind="whitened")
            if self.teacher_map == "whitened"
            else Embedding(dim, self.embed_dim)
        )

    def _teacher_maps(self) -> Sequence[Any]:
        return [self.embed_teacher]

    def _new_bank(self, place: Tensor | None, sides: Sequence[str]) -> MemoryBank:
        return MemoryBank(self.num_samples, self.embed_dim, place=place, sides=sides, **self._of_bank)

    def _exchange(self, index: Tensor, teachers: int = 1) -> Alone | Together:
        """Which processes score the anchors of these samples, which are ``teachers`` times a batch."""
        if self.bank.shard.world == 1:
            return Alone(index)
        return Together(index, teachers * self._pass_capacity.of(len(index) // teachers, index.device))

    def _write(self, index: Tensor, rows: Tensor) -> None:
        self.draws, self._drew = self.draws + self._drew, False
        self.bank.update(index, rows, self.bank_momentum)

    def rollback(self) -> None:
        super().rollback()
        self._drew = False

    def _check(self, student: Tensor, teacher: Tensor, index: Tensor, rows: Tensor | None) -> None:
        for name, features, layer in (
            ("student", student, self.embed_student),
            ("teacher", teacher, self.embed_teacher),
        ):
            if features.ndim != 2 or features.shape[1] != layer.in_features:
                raise UsageError(
                    f"the {name}'s embedding must be (B, {layer.in_features}), not {tuple(features.shape)}"
                )
        if index.shape != (len(student),) or len(teacher) != len(student) or not len(student):
            raise UsageError(
                f"student, teacher and index must agree in B ≥ 1: {tuple(student.shape)}, {tuple(teacher.shape)} "
                f"and {tuple(index.shape)}"
            )
        check_index(index, self.num_samples, "index")
        if rows is not None:
            if rows.shape != (len(index), self.num_negatives):
                raise UsageError(f"rows must be (B, K) = {(len(index), self.num_negatives)}, not {tuple(rows.shape)}")
            check_index(rows, self.num_samples, "rows: row")
            if self.bank.shard.world > 1:
                raise UsageError(
                    "rows given by hand are scored where all rows are: leave them out, or take "
                    "bank_placement='replicated'"
                )

    def _check_started(self) -> None:
        if self.training and self.bank_init == "teacher_outputs" and not self.bank.started:
            raise UsageError(
                "bank_init='teacher_outputs' begins the rows as the teacher's embeddings, and none were shown: call "
                "prepare(batches=[…]) before the first step, or transfer.prepare(loader), or take bank_init='random'"
            )

    def get_extra_state(self) -> Tensor:
        """Seed and number of the next draw: all that the draws depend on."""
        return torch.tensor([self.seed, self.draws], dtype=torch.int64)

    def set_extra_state(self, state: Tensor) -> None:
        seed, draws = (int(value) for value in state)
        if seed != self.seed and self.rule.random_order:
            raise UsageError(
                f"this state is of seed={seed}, whose windows of rows are others than those of seed={self.seed}: build "
                f"the loss with seed={seed}"
            )
        self.draws, self.rule.seed = draws, seed


@torch.no_grad()
def _mapped(embed: Embedding | TeacherMap, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows (b, D) in place of a teacher's embeddings (b, d)."""
    like = next(itertools.chain(embed.parameters(), embed.buffers()))
    for index, values in all_finite(batches):
        yield index, normalise(embed.project(values.to(like)))[0]
