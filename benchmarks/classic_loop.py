"""The classic CRD training loop, written from its description: what the speed of a step and the time to an accuracy are
compared with.

One sample at a time, PIL crops and mirrors, torchvision makes a normalised tensor, and the dataset draws K negatives of
other classes without replacement. A live teacher looks at the batch in float32. The loss gathers K + 1 rows for each
anchor from each bank, multiplies, takes exp(score/τ)/Z with the Z of the first batch, and logarithms of what comes of
it; autograd does the rest. Then the rows move, and SGD steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

TINY = 1e-7


class ClassicDataset(Dataset):
    """Images with K negatives each, drawn where the image is read.

    Args:
        images: (M, H, W, 3) uint8.
        targets: (M,) classes.
        num_negatives: K.
        mean, std: Of the normalisation.
    """

    def __init__(
        self, images: np.ndarray, targets: np.ndarray, num_negatives: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.images, self.targets, self.num_negatives = images, targets, num_negatives
        self.others = {int(label): np.flatnonzero(targets != label) for label in np.unique(targets)}
        size = images.shape[1]
        steps = [
            transforms.RandomCrop(size, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[Tensor, int, int, np.ndarray]:
        """The view, its class, its row, and (K + 1,) rows: its own, then its negatives."""
        target = int(self.targets[place])
        negatives = np.random.choice(self.others[target], self.num_negatives, replace=False)
        return self.transform(Image.fromarray(self.images[place])), target, place, np.concatenate(([place], negatives))


class ClassicCRD(nn.Module):
    """Two embeddings, two banks, scores of gathered rows.

    Args:
        student_dim, teacher_dim: Of the pooled features.
        num_samples: M.
        num_negatives: K.
        embed_dim: D.
        temperature: τ.
        momentum: Share of its old value that a row keeps.
    """

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        num_samples: int,
        num_negatives: int,
        embed_dim: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        super().__init__()
        self.embed = nn.ModuleList([nn.Linear(student_dim, embed_dim), nn.Linear(teacher_dim, embed_dim)])
        limit = (embed_dim / 3) ** -0.5
        self.register_buffer("student_bank", torch.empty(num_samples, embed_dim).uniform_(-limit, limit))
        self.register_buffer("teacher_bank", torch.empty(num_samples, embed_dim).uniform_(-limit, limit))
        self.num_samples, self.num_negatives, self.temperature, self.momentum = (
            num_samples,
            num_negatives,
            temperature,
            momentum,
        )
        self.normaliser: dict[str, Tensor] = {}

    def forward(self, student: Tensor, teacher: Tensor, index: Tensor, rows: Tensor) -> Tensor:
        """Loss of pooled features (B, d) with rows (B, K + 1), the samples' own (B,) first."""
        ours, theirs = (
            F.normalize(embed(features)) for embed, features in zip(self.embed, (student, teacher), strict=True)
        )
        loss = self._side("student", ours, self.teacher_bank, rows) + self._side(
            "teacher", theirs, self.student_bank, rows
        )
        with torch.no_grad():
            for bank, embedding in ((self.student_bank, ours), (self.teacher_bank, theirs)):
                moved = self.momentum * bank.index_select(0, index) + (1 - self.momentum) * embedding
                bank.index_copy_(0, index, F.normalize(moved))
        return loss

    def _side(self, name: str, anchors: Tensor, bank: Tensor, rows: Tensor) -> Tensor:
        gathered = torch.index_select(bank, 0, rows.view(-1)).view(*rows.shape, bank.shape[1])
        scores = torch.exp(torch.bmm(gathered, anchors.unsqueeze(2)).squeeze(2) / self.temperature)
        if name not in self.normaliser:
            self.normaliser[name] = scores.detach().mean() * self.num_samples
        scores = scores / self.normaliser[name]
        noise = self.num_negatives / self.num_samples
        positive = torch.log(scores[:, 0] / (scores[:, 0] + noise + TINY))
        negative = torch.log(noise / (scores[:, 1:] + noise + TINY))
        return -(positive.sum() + negative.sum()) / len(rows)


class ClassicLoop:
    """Student, teacher, loss and SGD, a step at a time.

    Args:
        teacher, student: Plain modules of this package with a classifier ``fc`` whose input is the pooled embedding.
        data: Training images.
        lr, momentum, weight_decay: Of SGD.
        weight: Of CRD in the loss, beside cross-entropy.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        data: ClassicDataset,
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        weight: float = 0.8,
    ) -> None:
        self.teacher, self.student, self.data, self.weight = teacher.eval(), student.train(), data, weight
        self.crd = ClassicCRD(student.fc.in_features, teacher.fc.in_features, len(data), data.num_negatives)
        parameters = [*student.parameters(), *self.crd.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self._pooled: dict[nn.Module, Tensor] = {}
        for network in (teacher, student):
            network.fc.register_forward_pre_hook(
                lambda _, args, network=network: self._pooled.__setitem__(network, args[0])
            )

    def batches(self, order: Sequence[int], batch_size: int = 64) -> Iterator[list[Tensor]]:
        """The batches of an epoch in this order, made in the process itself."""
        return iter(DataLoader(self.data, batch_size=batch_size, sampler=order, num_workers=0))

    def step(self, batch: list[Tensor]) -> Tensor:
        """One optimiser step with the batch; returns its loss."""
        images, targets, index, rows = batch
        logits = self.student(images)
        with torch.no_grad():
            self.teacher(images)
        crd = self.crd(self._pooled[self.student], self._pooled[self.teacher].detach(), index, rows)
        loss = F.cross_entropy(logits, targets) + self.weight * crd
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self._pooled.clear()
        return loss.detach()
