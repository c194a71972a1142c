"""CRD between positions of feature maps, for paired sets that are too small for one vector per sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.arguments import Positive
from ..core.crd.criterion import Critic, normalise, pair_loss
from ..core.crd.embedding import Embedding
from ..core.crd.options import check_choices, critic_bias
from ..core.crd.teacher_map import all_finite
from ..core.distributed import world_size
from ..core.errors import UsageError
from ..core.loss_labels import batch_index, batch_targets, check_counted_from_0
from ..core.objective import Objective, Setting, TeacherOutputs, check_classes_differ, check_pass
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from ..objectives.crd import CriticOptions
from ..objectives.embeddings import embedding_dims
from ..objectives.maps import Pairs, common_size, last_pairs, map_pairs, match_spatial_size, resize_map
from .position_rows import ChannelScale, PositionRows, check_rows
from .projectors import PROJECTORS
from .softmax_loss import ExtraRows, softmax_pair_loss

CRITERIA = ("nce", "softmax")


@OBJECTIVES.register("dense_crd")
class DenseCRD(Objective):
    """The criterion of CRD with positions of maps in the place of pooled embeddings (Tian et al., ICLR 2020, section
    4.2).

    **local_local**: each position of the student's map against each of the teacher's, after both were averaged to the
    smaller grid; the same cell of the same sample is the positive. **local_global**: each position of one network's map
    against the other's pooled embedding, both ways; positions of the same sample are positives, as the paper contrasts
    on NYU-Depth.

    All rows are those of the batch, live on both sides: in a bank, a position's row would be that of another crop. The
    teacher's channels are first brought to one scale, so that those of large values do not dominate its embedding.

    With ``num_rows`` a student's position is contrasted with K further positions of the teacher in local_local, of
    other samples. The frozen teacher's own values are stored, which never age, and are mapped in the step, with the
    gradient. A few positions of each sample are stored: ahead where the teacher's outputs are cached (``train.views``),
    else as samples come. A row is of the view in which it was stored, so a sample's own rows are never its negatives,
    for any ``negatives_from``. Several processes store the same rows; the batch's positions are those of a process
    alone.

    Memory and time, beside the networks and for each pair of maps, with N = B · positions of a sample (2560 at most by
    default), C the teacher's channels: scores of N · (N + K) numbers, a few times over (N = 2560, K = 4096: 68 MB
    each), N · (N + K) · D multiplications three times over, and K · C · D for the rows' map; M · row_positions · C
    numbers of 4 bytes for the rows.

    Args:
        local_dims: (student's, teacher's) channels of each pair of maps.
        pooled_dims: (student's, teacher's) length of the embeddings; only local_global reads them.
        pairs: (student's map, teacher's map) places; their losses are added.
        pairing: ``"local_local"``, ``"local_global"`` or ``"both"``, their sum.
        embed_dim: D.
        num_negatives: K, weight of an anchor's negatives; None is how many other rows a batch has, B · P − 1 of P
            positions of a sample, whichever of them are negatives, of a local_global one its other samples.
        negatives_from: ``"other_sample"``; ``"other_position"``: the sample's own other positions too, in local_local;
            ``"other_class"``: of samples with another label.
        temperature: τ.
        bias: b, as in :class:`~contrastill.CRDLoss`, with the negatives of the batch for K.
        positions: Most rows that a batch may come to, on which time and memory depend quadratically; larger maps are
            averaged to fewer cells.
        standardize: Whether each of the teacher's channels has mean 0 and deviation 1: over the batch, or with
            ``num_rows`` over the training set, as :meth:`prepare` measures it.
        criterion: ``"nce"``: both ways added. ``"softmax"``: InfoNCE (van den Oord et al., 2018, eq. 4) and the mean of
            both ways, see :func:`~contrastill.xmodal.softmax_loss.softmax_pair_loss`; it has no ``num_negatives`` and
            no ``bias``.
        num_rows: K, stored positions that are drawn at each step and count as K whatever share of them is eligible; 0
            for none. At most as many as are stored.
        row_positions: Positions of a sample that are stored.
        anchor_weight: Weight of 1 − cos(A x, y) beside the contrast, with A a learned linear map, x a student's
            position and y the teacher's there, standardised: the mean over positions; 0 leaves it out.
        projector: The student's map to its embedding: ``"linear"``, or ``"mlp"``: Linear, BatchNorm over the batch,
            ReLU, Linear, with 2·D in between.
        grids: Height and width at which each pair of maps is compared; None is the smaller of both, as ``positions``
            allows. ``num_rows`` needs one size for rows and batches.
        num_samples: M; ``num_rows`` needs it.
        targets: (M,) classes; ``num_rows`` and other_class need them.
        seed: Of the rows.

    Attributes:
        rows: The :class:`~contrastill.xmodal.position_rows.PositionRows` of each pair of maps; none where ``num_rows``
            is 0.

    Shape:
        - maps (B, C_i, H_i, W_i) and, for local_global, embeddings (B, D_i); batch["index"] (B,) - returns a scalar.

    Raises:
        UsageError: A side has no such map; the options need labels and the data has none; a batch of one sample;
            options that do not go together.
    """

    class Options(CriticOptions):
        pairs: Pairs | None = Field(
            None,
            description="[student's map, teacher's map] places, from 0 or from the end; default: the last two of each",
        )
        pairing: Literal["local_local", "local_global", "both"] = Field(
            "local_local", description="what is contrasted with what"
        )
        negatives_from: Literal["other_sample", "other_position", "other_class"] = Field(  # type: ignore[assignment]
            "other_position", description="other_position: of the sample itself as well, which teaches where things are"
        )
        temperature: float = Field(0.1, gt=0, description="τ of the critic (no unit)")
        positions: int = Field(
            2560,
            gt=0,
            description="most positions of a batch, all samples together; larger maps are averaged to fewer cells",
        )
        standardize: bool = Field(
            True,
            description="bring each of the teacher's channels to mean 0 and deviation 1, over the batch or with "
            "num_rows over the training set",
        )
        criterion: Literal["nce", "softmax"] = Field(
            "nce", description="how a positive is classified against the negatives; softmax: InfoNCE"
        )
        num_rows: int = Field(
            0,
            ge=0,
            description="K, stored positions of the teacher that the student's meet at each step beside the "
            "batch's; needs softmax",
        )
        row_positions: int = Field(4, gt=0, description="positions of a sample that are stored for num_rows")
        anchor_weight: float = Field(
            0.0,
            ge=0,
            description="weight of 1 − cosine between a linear map of the student's position and the teacher's own",
        )
        projector: Literal["linear", "mlp"] = Field("linear", description="the student's map to its embedding")

    needs = frozenset({"maps", "embedding"})
    label: Tensor | None
    fixed = frozenset({"pairing", "embed_dim", "positions", "grids", "criterion", "num_rows", "negatives_from"})

    def __init__(
        self,
        local_dims: Sequence[tuple[Positive, Positive]],
        pooled_dims: tuple[Positive, Positive] | None = None,
        pairs: Pairs = ((-1, -1),),
        pairing: Literal["local_local", "local_global", "both"] = "local_local",
        *,
        embed_dim: int = 128,
        num_negatives: int | None = None,
        negatives_from: Literal["other_sample", "other_position", "other_class"] = "other_position",
        temperature: float = 0.1,
        bias: str | float = "released",
        positions: int = 2560,
        standardize: bool = True,
        criterion: str = "nce",
        num_rows: int = 0,
        row_positions: int = 4,
        anchor_weight: float = 0.0,
        projector: str = "linear",
        grids: Sequence[tuple[int, int]] | None = None,
        num_samples: int | None = None,
        targets: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_choices(criterion=(criterion, CRITERIA), projector=(projector, PROJECTORS))
        if criterion == "softmax" and num_negatives is not None:
            raise UsageError(
                "num_negatives of dense_crd weighs the negatives of criterion=nce, and softmax has no such "
                "weight: leave it out"
            )
        if num_rows:
            check_rows(criterion, pairing, grids, num_samples)
            if negatives_from == "other_class" and targets is None:
                raise UsageError(
                    "negatives_from='other_class' with num_rows needs all classes: pass targets, or 'other_sample'"
                )
            check_counted_from_0(targets if negatives_from == "other_class" else None)
        self.positions = positions
        self.channels = [*local_dims, *([pooled_dims] if pooled_dims and pairing != "local_local" else [])]
        self.pairs, self.pairing, self.negatives_from = pairs, pairing, negatives_from
        self.num_negatives, self.temperature, self.bias, self.embed_dim = num_negatives, temperature, bias, embed_dim
        self.criterion, self.num_rows, self.anchor_weight, self.grids = criterion, num_rows, anchor_weight, grids
        self.fixed = self.fixed if anchor_weight else self.fixed | {"anchor_weight"}  # its maps are not there
        self.needs = frozenset({"maps"} if pairing == "local_local" else {"maps", "embedding"})
        embedding = PROJECTORS[projector]

        def sides(dims: tuple[int, int], extra: bool = False) -> nn.ModuleList:
            scale: nn.Module = nn.Identity()
            if standardize:
                # Rows of other batches need the scale that this batch has.
                scale = (
                    ChannelScale(dims[1]) if extra else nn.BatchNorm1d(dims[1], affine=False, track_running_stats=False)
                )
            return nn.ModuleList((embedding(dims[0], embed_dim), nn.Sequential(scale, Embedding(dims[1], embed_dim))))

        self.local: Sequence[Sequence[Any]] = nn.ModuleList(  # type: ignore[assignment]
            sides(dims, num_rows > 0) for dims in local_dims
        )
        self.pooled = None
        if pairing != "local_local":
            if pooled_dims is None:
                raise UsageError(f"pairing={pairing!r} of dense_crd reads embeddings: pass pooled_dims")
            self.pooled = sides(pooled_dims)
        self.anchors: Sequence[Embedding] = nn.ModuleList(  # type: ignore[assignment]
            Embedding(*dims) for dims in local_dims if anchor_weight
        )
        self.rows: Sequence[PositionRows] = nn.ModuleList()  # type: ignore[assignment]
        if num_rows and num_samples is not None and grids is not None:
            self.rows = nn.ModuleList(  # type: ignore[assignment]
                PositionRows(num_samples, min(row_positions, height * width), dims[1], seed=seed + number)
                for number, (dims, (height, width)) in enumerate(zip(local_dims, grids, strict=True))
            )
            self.register_buffer("label", targets if negatives_from == "other_class" else None, persistent=False)

    @classmethod
    def build(cls, options: Options, setting: Setting) -> DenseCRD:
        if options.negatives_from == "other_class" and setting.targets is None:
            raise UsageError(
                "objectives.dense_crd.negatives_from=other_class needs labels, and this data has none: take "
                "other_position or other_sample"
            )
        if options.negatives_from == "other_class":
            check_classes_differ("dense_crd", setting.targets, "other_position or other_sample")
        check_pass("dense_crd", setting)
        pairs = map_pairs("dense_crd", options.pairs, setting, default=last_pairs(setting, 2) or ((-1, -1),))
        student, teacher = setting.student, setting.require_teacher()
        shapes = [(student.map_shapes[ours], teacher.map_shapes[theirs]) for ours, theirs in pairs]
        dims = [(ours[0], theirs[0]) for ours, theirs in shapes]
        extra: dict[str, Any] = {}
        if options.num_rows:
            most = max(1, options.positions // (setting.pass_samples or 1))
            grids = [common_size(ours[1:], theirs[1:], most) for ours, theirs in shapes]
            extra = {"grids": grids, "num_samples": setting.num_samples, "targets": setting.targets}
            extra["seed"] = setting.seed
        # Of places alone no embedding is read.
        embeddings = None if options.pairing == "local_local" else embedding_dims("dense_crd", setting)
        loss = cls(dims, embeddings, **{**dict(options), "pairs": pairs}, **extra)
        loss.note = f"positions of a share of 1/{world_size()} of each batch" if world_size() > 1 else ""
        return loss

    def prepare(self, teachers: Sequence[TeacherOutputs]) -> None:
        if not self.rows or self.grids is None:
            return
        (outputs,) = teachers
        sample = outputs.sample({"maps"}).maps
        for rows, sides, (_, theirs), grid in zip(self.rows, self.local, self.pairs, self.grids, strict=True):
            scale, _ = sides[1]
            if isinstance(scale, ChannelScale):
                scale.measure(resize_map(sample[theirs], grid))
            if outputs.cached:
                maps = all_finite((index, side.maps[theirs]) for index, side in outputs.all({"maps"}))
                rows.fill(rows.choose(index, resize_map(each, grid)) for index, each in maps)

    def forward(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        if len(batch_index(batch, "dense_crd", len(student.maps[self.pairs[0][0]]))) < 2:
            raise UsageError(
                "objective dense_crd takes its negatives from the batch, and this one has one sample: use "
                "another train.batch_size"
            )
        same_group, losses = self._same_group(batch), []
        pooled = (
            None
            if self.pooled is None
            else [embed(side.require_embedding()) for embed, side in zip(self.pooled, (student, teacher), strict=True)]
        )
        for number, (sides, (ours, theirs)) in enumerate(zip(self.local, self.pairs, strict=True)):
            maps = self._match_maps(number, student.maps[ours], teacher.maps[theirs])
            # (B·P, D): a position a row, sample by sample.
            raw = [features.flatten(2).transpose(1, 2).flatten(0, 1) for features in maps]
            mapped, extra = self._with_rows(number, maps[1], raw[1], batch) if self.rows else (sides[1](raw[1]), None)
            local = (sides[0](raw[0]), mapped)
            if self.pairing != "local_global":
                losses.append(self._local_local(local[0], local[1], same_group, extra))
            if pooled is not None:
                losses += [
                    self._local_global(local[0], pooled[1], same_group),
                    self._local_global(local[1], pooled[0], same_group),
                ]
            if self.anchor_weight:
                scale, _ = sides[1]
                cosine = (self.anchors[number](raw[0]) * normalise(scale(raw[1]))[0]).sum(1)
                losses.append(self.anchor_weight * (1 - cosine.mean()))
        return torch.stack(losses).sum()

    def _match_maps(self, number: int, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        """Both maps of a pair at one height and width."""
        if self.grids is not None:
            return resize_map(ours, self.grids[number]), resize_map(theirs, self.grids[number])
        return match_spatial_size(ours, theirs, max(1, self.positions // len(ours)))

    def _with_rows(self, number: int, maps: Tensor, raw: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, ExtraRows]:
        """The embeddings (B·P, D) of a teacher's positions (B·P, C), and the rows that the student's meet beside them;
        a few of the positions are stored.
        """
        store, index = self.rows[number], batch["index"]
        place, row, drawn = store.draw(self.num_rows)
        sample = store.sample_of(row)
        # One product for the batch's own positions and the rows.
        mapped = self.local[number][1](torch.cat((raw, store.read(place))))
        group, row_group = (
            (index, sample) if self.label is None else (batch_targets(batch, "dense_crd"), self.label[sample])
        )
        if self.training:
            store.store(*store.choose(index, maps))
        return mapped[: len(raw)], ExtraRows(mapped[len(raw) :], (group[:, None] == row_group) | ~drawn, len(place))

    def _same_group(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, B) bool: pairs of samples of one class or sample, which are no negatives of each other."""
        of_class, samples = self.negatives_from == "other_class", len(batch["index"])
        label = batch_targets(batch, "dense_crd", samples=samples) if of_class else batch["index"]
        return label[:, None] == label

    def _local_local(self, ours: Tensor, theirs: Tensor, same_group: Tensor, extra: ExtraRows | None) -> Tensor:
        cells = len(ours) // len(same_group)
        own = torch.arange(len(ours), device=ours.device)
        if self.negatives_from == "other_position":
            same_group = same_group & ~torch.eye(len(same_group), dtype=torch.bool, device=same_group.device)
        excluded = same_group.repeat_interleave(cells, 0).repeat_interleave(cells, 1)
        excluded.diagonal().fill_(True)
        return self._loss(ours, theirs, (own, own), excluded, extra)

    def _local_global(self, local: Tensor, pooled: Tensor, same_group: Tensor) -> Tensor:
        cells = len(local) // len(same_group)
        own = torch.arange(len(same_group), device=same_group.device).repeat_interleave(cells)
        return self._loss(
            local,
            pooled,
            (torch.arange(len(local), device=same_group.device), own),
            same_group.repeat_interleave(cells, 0),
        )

    def _loss(
        self,
        anchors: Tensor,
        others: Tensor,
        positive: tuple[Tensor, Tensor],
        excluded: Tensor,
        extra: ExtraRows | None = None,
    ) -> Tensor:
        if self.criterion == "softmax":
            return softmax_pair_loss(anchors, others, positive, excluded, self.temperature, extra)
        count = self.num_negatives or max(1, len(others) - 1)
        bias = critic_bias(self.bias, count, len(others), self.embed_dim, self.temperature)
        return pair_loss(anchors, others, positive, excluded, Critic(self.temperature, bias, 1.0), count)
