"""CRD between positions of feature maps, for paired sets that are too small for one vector a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..core.crd import Embedding, critic_bias
from ..core.errors import UsageError
from ..core.nce import Critic, pair_loss
from ..core.objective import Objective, Setting, batch_targets
from ..core.registry import OBJECTIVES
from ..core.representation import Representation
from ..objectives.crd import CriticOptions
from ..objectives.maps import Pairs, from_the_end, map_pairs, meet


@OBJECTIVES.register("dense_crd")
class DenseCRD(Objective):
    """The criterion of CRD with positions of maps in the place of pooled embeddings (Tian et al., ICLR 2020, section 4.2).

    **local_local**: each position of the student's map against each of the teacher's, after both were averaged to the smaller
    grid; the same cell of the same sample is the positive. **local_global**: each position of one network's map
    against the other's pooled embedding, both ways; positions of the same sample are positives, as the paper contrasts on NYU-Depth.

    All rows are those of the batch, live on both sides: a stale bank would hold what another crop showed at a position. The teacher's
    channels are first brought to one scale, so that the loudest do not decide what its embedding sees.

    Args:
        local_dims: (student's, teacher's) channels of each pair of maps.
        pooled_dims: (student's, teacher's) length of the embeddings; only local_global reads them.
        pairs: (student's map, teacher's map) places; their losses are added.
        pairing: ``"local_local"``, ``"local_global"`` or ``"both"``, their sum.
        embed_dim: D.
        num_negatives: K, weight of an anchor's negatives; None is how many rows of another kind a batch has, of a local_global one its other samples.
        negatives_from: ``"other_sample"``; ``"other_position"``: the sample's own other positions too, in local_local;
            ``"other_class"``: of samples with another label.
        temperature: τ.
        bias: b, as in :class:`~contrastill.CRDLoss`, with the negatives of the batch for K.
        positions: Most rows that a batch may come to, on which time and memory depend quadratically; larger maps are averaged to fewer cells.
        standardize: Whether each of the teacher's channels has mean 0 and deviation 1 over the batch.

    Shape:
        - maps (B, C_i, H_i, W_i) and, for local_global, embeddings (B, D_i); batch["index"] (B,) - returns a scalar.

    Raises:
        UsageError: A side has no such map; labels are asked for and the data has none; a batch of one sample.
    """

    class Options(CriticOptions):
        pairs: Pairs | None = Field(None, description="[student's map, teacher's map] places, from 0 or from the end; left out: the last two of each")
        pairing: Literal["local_local", "local_global", "both"] = Field("local_local", description="what is contrasted with what")
        negatives_from: Literal["other_sample", "other_position", "other_class"] = Field(  # type: ignore[assignment]  # another set of answers
            "other_position", description="other_position: of the sample itself as well, which teaches where things are"
        )
        temperature: float = Field(0.1, gt=0, description="τ of the critic (no unit)")
        positions: int = Field(2560, gt=0, description="most positions of a batch, all samples together; larger maps are averaged to fewer cells")
        standardize: bool = Field(True, description="bring each of the teacher's channels to mean 0 and deviation 1 over the batch")

    needs = frozenset({"maps", "embedding"})

    def __init__(
        self,
        local_dims: Sequence[tuple[int, int]],
        pooled_dims: tuple[int, int] | None = None,
        pairs: Pairs = ((-1, -1),),
        pairing: str = "local_local",
        *,
        embed_dim: int = 128,
        num_negatives: int | None = None,
        negatives_from: str = "other_position",
        temperature: float = 0.1,
        bias: str | float = "released",
        positions: int = 2560,
        standardize: bool = True,
    ) -> None:
        super().__init__()
        self.positions = positions
        self.pairs, self.pairing, self.negatives_from = pairs, pairing, negatives_from
        self.num_negatives, self.temperature, self.bias, self.embed_dim = num_negatives, temperature, bias, embed_dim
        self.needs = frozenset({"maps"} if pairing == "local_local" else {"maps", "embedding"})

        def sides(dims: tuple[int, int]) -> nn.ModuleList:
            scale = nn.BatchNorm1d(dims[1], affine=False, track_running_stats=False) if standardize else nn.Identity()
            return nn.ModuleList((Embedding(dims[0], embed_dim), nn.Sequential(scale, Embedding(dims[1], embed_dim))))

        self.local: Sequence[nn.ModuleList] = nn.ModuleList(sides(dims) for dims in local_dims)  # type: ignore[assignment]
        self.pooled = None if pairing == "local_local" else sides(pooled_dims)

    @classmethod
    def build(cls, options: Options, setting: Setting) -> DenseCRD:
        if options.negatives_from == "other_class" and setting.targets is None:
            raise UsageError("objectives.dense_crd.negatives_from=other_class needs labels, and this data has none: take other_position or other_sample")
        pairs = map_pairs("dense_crd", options.pairs, setting, default=from_the_end(setting, 2) or ((-1, -1),))
        student, teacher = setting.student, setting.teacher
        dims = [(student.map_shapes[ours][0], teacher.map_shapes[theirs][0]) for ours, theirs in pairs]
        return cls(dims, (student.embedding_dim, teacher.embedding_dim), **{**dict(options), "pairs": pairs})

    def forward(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        if len(batch["index"]) < 2:
            raise UsageError("objective dense_crd takes its negatives from the batch, and this one has one sample: use another train.batch_size")
        kin, losses = self._kin(batch), []
        pooled = None if self.pooled is None else [embed(said.embedding) for embed, said in zip(self.pooled, (student, teacher), strict=True)]
        for sides, (ours, theirs) in zip(self.local, self.pairs, strict=True):
            maps = meet(student.maps[ours], teacher.maps[theirs], max(1, self.positions // len(batch["index"])))
            # (B·P, D): a position a row, sample by sample.
            local = [embed(features.flatten(2).transpose(1, 2).flatten(0, 1)) for embed, features in zip(sides, maps, strict=True)]
            if self.pairing != "local_global":
                losses.append(self._local_local(local[0], local[1], kin))
            if pooled is not None:
                losses += [self._local_global(local[0], pooled[1], kin), self._local_global(local[1], pooled[0], kin)]
        return torch.stack(losses).sum()

    def _kin(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, B) bool: pairs of samples that are no negatives of each other; a sample that is in the batch twice is its own kin."""
        label = batch_targets(batch, "dense_crd") if self.negatives_from == "other_class" else batch["index"]
        return label[:, None] == label

    def _local_local(self, ours: Tensor, theirs: Tensor, kin: Tensor) -> Tensor:
        cells = len(ours) // len(kin)
        own = torch.arange(len(ours), device=ours.device)
        if self.negatives_from == "other_position":
            kin = kin & ~torch.eye(len(kin), dtype=torch.bool, device=kin.device)
        excluded = kin.repeat_interleave(cells, 0).repeat_interleave(cells, 1)
        excluded.diagonal().fill_(True)
        return self._loss(ours, theirs, (own, own), excluded)

    def _local_global(self, local: Tensor, pooled: Tensor, kin: Tensor) -> Tensor:
        cells = len(local) // len(kin)
        own = torch.arange(len(kin), device=kin.device).repeat_interleave(cells)
        return self._loss(local, pooled, (torch.arange(len(local), device=kin.device), own), kin.repeat_interleave(cells, 0))

    def _loss(self, anchors: Tensor, others: Tensor, positive: tuple[Tensor, Tensor], excluded: Tensor) -> Tensor:
        count = self.num_negatives or max(1, len(others) - 1)
        bias = critic_bias(self.bias, count, len(others), self.embed_dim, self.temperature)
        return pair_loss(anchors, others, positive, excluded, Critic(self.temperature, bias, 1.0), count)
