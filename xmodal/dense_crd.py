"""CRD between positions of feature maps, for paired sets that are too small for one vector a sample."""

from __future__ import annotations

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
from ..objectives.maps import map_pairs, meet


@OBJECTIVES.register("dense_crd")
class DenseCRD(Objective):
    """The criterion of CRD with positions of maps in the place of pooled embeddings (Tian et al., ICLR 2020, section 4.2).

    **local_local**: each position of the student's map against each of the teacher's, after both were averaged to the smaller
    grid; the same cell of the same sample is the positive. **local_global**: each position of one network's map
    against the other's pooled embedding, both ways; positions of the same sample are positives, as the paper contrasts on NYU-Depth.

    All rows are those of the batch, live on both sides: a stale bank would hold what another crop showed at a position.

    Args:
        dims: (student's map, teacher's map, student's embedding, teacher's embedding) lengths; the last two are only
            read by local_global.
        pair: (student's map, teacher's map) places.
        pairing: ``"local_local"``, ``"local_global"`` or ``"both"``, their sum.
        embed_dim: D.
        num_negatives: K, weight of an anchor's negatives; None is how many there are.
        negatives_from: ``"other_sample"``; ``"other_position"``: the sample's own other positions too, in local_local;
            ``"other_class"``: of samples with another label.
        temperature: τ.
        bias: b, as in :class:`~contrastill.CRDLoss`, with the negatives of a full batch for K.

    Shape:
        - maps (B, C_i, H_i, W_i) and, for local_global, embeddings (B, D_i); batch["index"] (B,) - returns a scalar.

    Raises:
        UsageError: A side has no such map; labels are asked for and the data has none; a batch of one sample.
    """

    class Options(CriticOptions):
        pair: tuple[int, int] = Field((-1, -1), description="[student's map, teacher's map] places, from 0 or from the end")
        pairing: Literal["local_local", "local_global", "both"] = Field("local_local", description="what is contrasted with what")
        negatives_from: Literal["other_sample", "other_position", "other_class"] = Field(
            "other_position", description="other_position: of the sample itself as well, which teaches where things are"
        )
        temperature: float = Field(0.07, gt=0, description="τ of the critic (no unit)")

    needs = frozenset({"maps", "embedding"})

    def __init__(
        self,
        dims: tuple[int, int, int | None, int | None],
        pair: tuple[int, int] = (-1, -1),
        pairing: str = "local_local",
        *,
        embed_dim: int = 128,
        num_negatives: int | None = None,
        negatives_from: str = "other_position",
        temperature: float = 0.07,
        bias: str | float = "released",
    ) -> None:
        super().__init__()
        self.pair, self.pairing, self.negatives_from = pair, pairing, negatives_from
        self.num_negatives, self.temperature, self.bias, self.embed_dim = num_negatives, temperature, bias, embed_dim
        self.needs = frozenset({"maps"} if pairing == "local_local" else {"maps", "embedding"})
        self.local = nn.ModuleList(Embedding(dim, embed_dim) for dim in dims[:2])
        self.pooled = nn.ModuleList(Embedding(dim, embed_dim) for dim in dims[2:] if pairing != "local_local")

    @classmethod
    def build(cls, options: Options, setting: Setting) -> DenseCRD:
        if options.negatives_from == "other_class" and setting.targets is None:
            raise UsageError("objectives.dense_crd.negatives_from=other_class needs labels, and this data has none: take other_position or other_sample")
        (pair,) = map_pairs("dense_crd", (options.pair,), setting, default=(options.pair,))
        student, teacher = setting.student, setting.teacher
        dims = (student.map_shapes[pair[0]][0], teacher.map_shapes[pair[1]][0], student.embedding_dim, teacher.embedding_dim)
        values = {name: value for name, value in dict(options).items() if name not in ("pair", "pairing")}
        return cls(dims, pair, options.pairing, **values)

    def forward(self, student: Representation, teacher: Representation, batch: dict[str, Tensor]) -> Tensor:
        if len(batch["index"]) < 2:
            raise UsageError("objective dense_crd takes its negatives from the batch, and this one has one sample: use another train.batch_size")
        maps = meet(student.maps[self.pair[0]], teacher.maps[self.pair[1]])
        # (B, P, D): a position a row.
        ours, theirs = (embed(features.flatten(2).transpose(1, 2)) for embed, features in zip(self.local, maps, strict=True))
        kin = self._kin(batch)
        losses = []
        if self.pairing != "local_global":
            losses.append(self._local_local(ours, theirs, kin))
        if self.pairing != "local_local":
            pooled = [embed(said.embedding) for embed, said in zip(self.pooled, (student, teacher), strict=True)]
            losses += [self._local_global(ours, pooled[1], kin), self._local_global(theirs, pooled[0], kin)]
        return torch.stack(losses).sum()

    def _kin(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, B) bool: pairs of samples that are no negatives of each other; a sample that is in the batch twice is its own kin."""
        label = batch_targets(batch, "dense_crd") if self.negatives_from == "other_class" else batch["index"]
        return label[:, None] == label

    def _local_local(self, ours: Tensor, theirs: Tensor, kin: Tensor) -> Tensor:
        batch, cells, _ = ours.shape
        own = torch.eye(batch * cells, dtype=torch.bool, device=ours.device)
        negative = ~kin.repeat_interleave(cells, 0).repeat_interleave(cells, 1)
        if self.negatives_from == "other_position":
            same_sample = torch.eye(batch, dtype=torch.bool, device=ours.device).repeat_interleave(cells, 0).repeat_interleave(cells, 1)
            negative = negative | same_sample & ~own
        return self._loss(ours.flatten(0, 1), theirs.flatten(0, 1), own, negative)

    def _local_global(self, local: Tensor, pooled: Tensor, kin: Tensor) -> Tensor:
        batch, cells, _ = local.shape
        own = torch.eye(batch, dtype=torch.bool, device=local.device)
        return self._loss(local.flatten(0, 1), pooled, own.repeat_interleave(cells, 0), ~kin.repeat_interleave(cells, 0))

    def _loss(self, anchors: Tensor, others: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        count = self.num_negatives or max(1, len(others) - 1)
        bias = critic_bias(self.bias, count, len(others), self.embed_dim, self.temperature)
        # Under autocast the product would lose the digits that τ magnifies.
        with torch.autocast(anchors.device.type, enabled=False):
            return pair_loss(anchors @ others.T, positive, negative, Critic(self.temperature, bias, 1.0), self.num_negatives)
