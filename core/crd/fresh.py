"""Contrast with fresh rows: the teacher's own embeddings are stored and projected at every step, with gradient."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..arguments import Positive, checked
from ..deferred import DeferredState
from ..distributed import AllGather, Capacity, all_gather, rank, world_size
from ..errors import UsageError
from .criterion import widened
from .critic_settings import CriticSettings
from .embedding import Embedding
from .memory_bank import check_index
from .negatives import Groups
from .options import (
    DTYPES,
    MEMORIES,
    PLACEMENTS,
    as_index,
    as_targets,
    check_choices,
    count_samples,
    negatives_origin,
)
from .sharding import Shard
from .teacher_map import MAPS, TeacherMap, all_finite
from .teacher_rows import TeacherRows, take_kept_directions

log = logging.getLogger(__name__)

CRITERIA = ("softmax", "sigmoid", "nce")
STUDENT_ROWS = ("batch", "none")
_FAR_BELOW = -1e30


@checked
class FreshCRDLoss(CriticSettings, DeferredState):
    """Contrast of a student with its teachers in which no row is stale: −log of the share that the own pair has among K
    rows of the teacher, and the reverse in the batch.

    With g_S and g_T the maps, each followed by normalisation, s = g_S(x_i) · g_T(r_j) / τ the score of a sample's
    student embedding x_i and a kept teacher embedding r_j, and t_i the teacher's embedding of the sample itself:

        student → rows     ℓ_i = −s_ii + log( e^{s_ii} + K/n_i · Σ_j e^{s_ij} ),   s_ii = g_S(x_i) · g_T(t_i) / τ
        teacher → batch    the same with t_i as the anchor and the students' embeddings of the batch as rows, without
        the factor

    n_i of the K drawn rows are eligible (of another class, or of another sample). The rows r_j are the frozen teacher's
    own embeddings; g_T maps them **in the step**, and its gradient comes through all of them. A memory bank
    (:class:`~contrastill.CRDLoss`) keeps what g_T made an epoch ago and passes no gradient. The loss is the mean of
    both directions. The ways to draw and to score are those of InfoNCE (van den Oord et al., 2018, eq. 4) and CRD (Tian
    et al., ICLR 2020, eq. 17).

    Args:
        student_dim: Length of the student's embedding.
        teacher_dim: Length of the teacher's, or of each of several teachers': these meet one g_S, and their losses are
            added.
        targets: (M,) classes of all training samples.
        num_samples: M, where there are no ``targets``.
        embed_dim: D.
        num_negatives: K, rows drawn at each step; at most M of them.
        negatives_from: ``"other_class"``, ``"other_sample"`` or None: other_class where ``targets`` are given, else
            other_sample.
        temperature: τ.
        criterion: ``"softmax"``; ``"sigmoid"``, with learned τ and b (SigLIP: Zhai et al., ICCV 2023, section 3);
            ``"nce"``, the criterion of CRD: a weight of K/n_i on each row, at which training diverges where the rows
            carry a gradient and the learning rate is not small.
        bias: b of ``"nce"``, as :class:`~contrastill.CRDLoss` takes it.
        student_rows: ``"batch"``, or ``"none"``: the first direction alone.
        row_gradient: Whether the gradient reaches g_T through the rows. False shows what that is worth; it costs more
            than it saves.
        teacher_map: g_T: ``"learned"``, linear; ``"whitened"``: the D principal directions, each with deviation 1;
            ``"none"``: the teacher's embedding as it is, D its length. The last two are fixed.
        row_variance: Share of the embeddings' variance that the kept rows hold, in as many of their principal
            directions; None: in 2·D of them at most.
        refresh_rows: Whether a row is replaced when its sample is seen again, in another view.
        row_placement, row_dtype, row_memory: As ``bank_placement``, ``bank_dtype`` and ``bank_memory`` of a
            :class:`~contrastill.CRDLoss`.
        seed: Of every draw.

    Attributes:
        embed_student, embed_teacher: g_S, and g_T of each teacher.
        rows: The :class:`~contrastill.core.crd.teacher_rows.TeacherRows` of each teacher.
        logs: Of the last call, detached and on the device: ``mi_bound_student``, log(1 + K) − ℓ, and
            ``mi_bound_teacher``, log of the batch's candidates − ℓ: lower bounds of the mutual information with
            ``softmax`` and negatives from other samples; ``score_student`` and ``score_teacher`` where they are no
            bound.

    Shape:
        - student: (B, student_dim) - teacher: (B, teacher_dim), or one for each of several teachers - index: (B,) int64
          in [0, M)
        - returns a scalar, whose gradient reaches both embeddings, as either may train: hand over a teacher's by
          ``detach()`` where its network is not frozen. Objectives do that themselves.

    Raises:
        UsageError: (a ValueError) As :class:`~contrastill.CRDLoss`; ``student_rows="batch"`` and a batch without two
            samples is none: that direction then counts 0.

    Example:
        >>> crd = FreshCRDLoss(64, 256, targets=torch.randint(100, (50_000,)))
        >>> for step in range(2):
        ...     loss = crd(torch.randn(8, 64), torch.randn(8, 256), torch.arange(8) + 8 * step)
        >>> loss.backward()
        >>> int(crd.rows[0].filled)
        16
    """

    label: Tensor | None
    # The stored rows and what is learned are made from these.
    fixed = frozenset({"num_samples", "embed_dim", "num_negatives", "negatives_from", "criterion"})

    def __init__(
        self,
        student_dim: Positive,
        teacher_dim: Positive | Sequence[Positive],
        *,
        targets: Tensor | Sequence[Any] | None = None,
        num_samples: int | None = None,
        embed_dim: Positive = 128,
        num_negatives: Positive = 4096,
        negatives_from: Literal["other_class", "other_sample"] | None = None,
        temperature: float = 0.07,
        criterion: Literal["softmax", "sigmoid", "nce"] = "softmax",
        bias: Literal["released", "paper"] | float = "released",
        student_rows: Literal["batch", "none"] = "batch",
        row_gradient: bool = True,
        teacher_map: Literal["learned", "whitened", "none"] = "learned",
        row_variance: float | None = None,
        refresh_rows: bool = False,
        row_placement: Literal["replicated", "sharded"] = "replicated",
        row_dtype: Literal["fp32", "fp16", "bf16"] = "fp32",
        row_memory: Literal["device", "host"] = "device",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_choices(
            criterion=(criterion, CRITERIA),
            student_rows=(student_rows, STUDENT_ROWS),
            teacher_map=(teacher_map, MAPS),
            row_placement=(row_placement, PLACEMENTS),
            row_dtype=(row_dtype, DTYPES),
            row_memory=(row_memory, MEMORIES),
        )
        if row_variance is not None and not 0 < row_variance <= 1:
            raise UsageError(f"row_variance is a share of the variance, in (0, 1], not {row_variance}")
        targets = as_targets(targets)
        self.num_samples = count_samples(targets, num_samples)
        self.negatives_from = negatives_origin(negatives_from, targets)
        groups = Groups(targets if self.negatives_from == "other_class" else None, self.num_samples)
        self.register_buffer("label", groups.label, persistent=False)
        teacher_dims = [teacher_dim] if isinstance(teacher_dim, int) else list(teacher_dim)
        if not teacher_dims:
            raise UsageError("teacher_dim is empty: give the length of each teacher's embedding")
        if teacher_map == "none":
            if len({*teacher_dims}) > 1:
                raise UsageError(
                    "teacher_map='none' leaves the teachers' embeddings as they are, and they are of lengths "
                    f"{teacher_dims}: take 'whitened' or 'learned'"
                )
            embed_dim = teacher_dims[0]
        self.embed_dim, self.num_negatives = embed_dim, min(num_negatives, self.num_samples)
        self.criterion, self.student_rows, self.row_gradient = criterion, student_rows, row_gradient
        self.set_critic(temperature, bias)
        self.embed_student = Embedding(student_dim, embed_dim)
        self.embed_teacher: Sequence[TeacherMap] = nn.ModuleList(  # type: ignore[assignment]
            TeacherMap(dim, embed_dim, kind=teacher_map, row_variance=row_variance) for dim in teacher_dims
        )
        shard = Shard(rank(), world_size()) if row_placement == "sharded" else Shard()
        self.rows: Sequence[TeacherRows] = nn.ModuleList(  # type: ignore[assignment]
            TeacherRows(
                self.num_samples,
                dim,
                seed=seed + number,
                shard=shard,
                dtype=DTYPES[row_dtype],
                on_host=row_memory == "host",
                refresh=refresh_rows,
            )
            for number, dim in enumerate(teacher_dims)
        )
        # SigLIP's, from its section 3: log t' = log 10 and b = −10.
        self.log_scale, self.offset = (
            nn.Parameter(torch.tensor(value)) if criterion == "sigmoid" else None for value in (math.log(10.0), -10.0)
        )
        self._capacity, self.logs = Capacity(), dict[str, Tensor]()
        self.register_load_state_dict_pre_hook(take_kept_directions)
        self.note_built()

    def _check_set(self, name: str, value: Any) -> Any:
        if self.criterion == "sigmoid" and name in ("temperature", "bias"):
            raise UsageError(f"criterion='sigmoid' learns its {name}: set log_scale, log 1/τ, or offset, −b, instead")
        return super()._check_set(name, value)

    def prepare(self, number: int, sample: Tensor, batches: Iterable[tuple[Tensor, Tensor]] | None = None) -> None:
        """Before the first step: centre a teacher's embeddings, give them deviation 1, and fill its rows; what is not
        prepared is used as it comes, and rows are filled as samples come.

        Args:
            number: Of the teacher.
            sample: (n, teacher_dim) embeddings from all over the training set, for mean, deviation and principal
                directions.
            batches: index (b,) and embeddings (b, teacher_dim) of all samples, or None.

        Raises:
            UsageError: There is no such teacher, its embeddings are of another length, or a sample is lacking.
            ContrastillError: An embedding among ``batches`` is no finite number.
        """
        if not 0 <= number < len(self.rows):
            raise UsageError(f"there is no teacher {number}: this loss was built for {len(self.rows)}, counted from 0")
        embed, rows = self.embed_teacher[number], self.rows[number]
        # Rows that are filled now are in no checkpoint, and neither is the basis that they are filled in.
        embed.measure(sample, save_basis=batches is None or rows.refresh)
        if batches is not None:
            rows.fill(((index, embed.reduce(values)) for index, values in all_finite(batches)), embed.row_dim)
        elif embed.row_dim != rows.dim:
            rows.resize(embed.row_dim)

    def forward(self, student: Tensor, teacher: Tensor | Sequence[Tensor], index: Tensor) -> Tensor:
        return self.per_sample(student, teacher, index).mean()

    def per_sample(self, student: Tensor, teacher: Tensor | Sequence[Tensor], index: Tensor) -> Tensor:
        """The loss of each sample, of all teachers together: (B,)."""
        teachers = [teacher] if isinstance(teacher, Tensor) else list(teacher)
        index = as_index(index, (student, *teachers), next(self.embed_student.parameters()))
        self._check(student, teachers, index)
        index = index.long()
        group = index if self.label is None else self.label[index]
        with torch.autocast(student.device.type, enabled=False):
            ours = self.embed_student(widened(student))
            gathered = self._gather_students(ours, index) if self.student_rows == "batch" else None
            self.logs = {}
            losses = [
                self._towards(number, ours, widened(one), index, group, gathered) for number, one in enumerate(teachers)
            ]
        return torch.stack(losses).sum(0)

    def _towards(
        self,
        number: int,
        ours: Tensor,
        teacher: Tensor,
        index: Tensor,
        group: Tensor,
        gathered: tuple[Tensor, Tensor, Tensor] | None,
    ) -> Tensor:
        """Loss (B,) towards one teacher."""
        embed, store = self.embed_teacher[number], self.rows[number]
        place, sample, drawn = store.draw(self.num_negatives)
        raw = embed.reduce(teacher)
        theirs, rows = embed(raw), embed(store.read(place).to(raw.dtype))
        row_group = sample if self.label is None else self.label[sample]
        excluded = (group[:, None] == row_group) | ~drawn
        there, _ = self._direction(
            ours, theirs, rows if self.row_gradient else rows.detach(), excluded, self.num_negatives
        )
        losses, bounds = [there], {"student": math.log(1 + self.num_negatives) - there.detach().mean()}
        if gathered is not None:
            students, their_group, repeated = gathered
            back, eligible = self._direction(theirs, ours, students, (group[:, None] == their_group) | repeated, None)
            losses.append(back)
            bounds["teacher"] = ((1 + eligible).log() - back.detach()).mean()
        if self.training:
            store.store(index, raw.detach())
        name = "mi_bound" if self.negatives_from == "other_sample" and self.criterion == "softmax" else "score"
        several = f".{number}" if len(self.rows) > 1 else ""
        self.logs |= {f"{name}_{side}{several}": value for side, value in bounds.items()}
        return torch.stack(losses).mean(0)

    def _direction(
        self, anchors: Tensor, partners: Tensor, rows: Tensor, excluded: Tensor, count: int | None
    ) -> tuple[Tensor, Tensor]:
        """Loss (B,) of anchors (B, D) with their own partners (B, D) and rows (n, D), and how many rows (B,) are
        eligible; these count as ``count`` together, or each as one.
        """
        scale: Tensor | float = 1 / self.temperature
        offset: Tensor | float | None = -self.bias if self.criterion == "nce" else None
        if self.log_scale is not None:
            scale, offset = self.log_scale.exp(), self.offset
        anchors, out = anchors * scale, excluded.to(anchors.dtype)
        # One product scores the rows and sets those that are no candidates far below all others; finite, so that an
        # anchor without any has no NaN in its gradient.
        own, scores = (anchors * partners).sum(1), torch.addmm(out, anchors, rows.T, beta=_FAR_BELOW)
        if offset is not None:
            own, scores = own + offset, scores + offset
        eligible = len(rows) - out.sum(1)
        factor = torch.ones_like(eligible) if count is None else count / eligible.clamp_min(1)
        if self.criterion == "softmax":
            # logsumexp in place: its own forward and backward each make copies of all scores.
            largest = scores.detach().amax(1, keepdim=True)
            others = scores.sub_(largest).exp_().sum(1).log() + largest[:, 0]
            return -F.logsigmoid(own - others - factor.log()), eligible
        return -F.logsigmoid(own) + factor * F.softplus(scores, threshold=60).sum(1), eligible

    def _gather_students(self, ours: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The students of all processes, their groups, and which of them are there already: (N, D), (N,), (N,)."""
        if world_size() > 1:
            fill = self._capacity.of(len(index), index.device) - len(index)
            index = all_gather(torch.cat((index, index[:1].expand(fill))))
            ours = AllGather.apply(torch.cat((ours, ours[:1].detach().expand(fill, -1))))
        # A sample that is in the batch twice, or that fills up a short share, is one candidate: the first.
        ordered, origin = torch.sort(index, stable=True)
        repeated = torch.zeros_like(index, dtype=torch.bool)
        repeated[origin[1:]] = ordered[1:] == ordered[:-1]
        return ours, index if self.label is None else self.label[index], repeated

    def defer(self, samples: int, passes: int = 1) -> None:
        super().defer(samples, passes)
        self._capacity = Capacity(-(-samples // passes))
        for rows in self.rows:
            rows.defer(samples, passes)

    def stop_deferring(self) -> None:
        super().stop_deferring()
        self._capacity = Capacity()
        for rows in self.rows:
            rows.stop_deferring()

    def commit(self) -> None:
        """Its rows move on; it has no state beside them."""
        for rows in self.rows:
            rows.commit()

    def rollback(self) -> None:
        """Its rows stay."""
        for rows in self.rows:
            rows.rollback()

    def _check(self, student: Tensor, teachers: Sequence[Tensor], index: Tensor) -> None:
        if len(teachers) != len(self.rows):
            raise UsageError(f"this loss was built for {len(self.rows)} teachers, and there are {len(teachers)}")
        if index.ndim != 1 or not len(index):
            raise UsageError(f"index must be (B,) with B ≥ 1, not {tuple(index.shape)}")
        names = ["the student", *(["the teacher"] if len(teachers) == 1 else ["teacher {}"] * len(teachers))]
        for number, (name, features, embed) in enumerate(
            zip(names, (student, *teachers), (self.embed_student, *self.embed_teacher), strict=True), start=-1
        ):
            if features.shape != (len(index), embed.in_features):
                raise UsageError(
                    f"the embedding of {name.format(number)} must be (B, {embed.in_features}), B = {len(index)} "
                    f"as in index, not {tuple(features.shape)}"
                )
        check_index(index, self.num_samples, "index")
