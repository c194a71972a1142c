"""A student that answers in its teacher's space, so that what was trained on the teacher's features runs on it as it
is.
"""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from ..core.arguments import Positive, checked
from ..core.errors import UsageError
from ..core.loaded_network import as_network
from ..core.representation import Network, Taps
from ..core.tapping import Tapping
from ..core.torch_settings import own_settings
from ..models.build import plain_student
from ..objectives.maps import resize_map
from .adaptors import ADAPTORS, Adaptor, load_adaptors

Size = tuple[Positive, Positive]


class AdaptedStudent(nn.Module):
    """A student's own module with an adaptor behind its representation.

    Args:
        student: Its preprocessing is left to the caller.
        adaptor: Towards the teacher.
        map_size: Height and width of the map; None: the student's own.

    Shape:
        - images: (B, C, H, W), as the student's module takes them
        - returns a dict: embedding (B, D_t), map (B, C_t, h, w); what the adaptor has no head for is not there.
    """

    def __init__(self, student: Network, adaptor: Adaptor, map_size: Size | None = None) -> None:
        super().__init__()
        self.student, self.adaptor, self.map_size = student, adaptor, map_size

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        student, needs = self.student, self.adaptor.needs
        with Tapping(student.module, student.taps.names(needs), type(student.module).__name__) as tapped:
            output = tapped.run(images)
        tapped.check()
        answer = self.adaptor(student.read(needs, output, tapped, images, required=True))
        parts = {} if answer.embedding is None else {"embedding": answer.embedding}
        if answer.maps:
            # After the adaptor's head, as in its training.
            parts["map"] = answer.maps[0] if self.map_size is None else _at_size(answer.maps[0], self.map_size)
        return parts


@checked
class InTeacherSpace(Network):
    """A network that reads the student's modality and answers with the teacher's embedding and map.

    A head that was trained on the teacher's features, a linear probe, a decoder, a retrieval index, runs on it
    unchanged: ``head(network(batch).maps[0])``. Of the teacher's maps there is the one that the adaptor was trained
    towards (``pair``), at place 0. Logits there are none.

    Args:
        student: With the taps that it had in the training.
        adaptor: From :func:`~contrastill.load_adaptors`, trained with this student.
        map_size: (height, width) that the map is brought to, such as the teacher's own: by averaging where it is
            smaller than the student's, else by bilinear interpolation. None leaves the student's.

    Shape:
        - batch: has the student's modality, (B, C, H, W)
        - returns a representation: embedding (B, D_t), and one map (B, C_t, h, w); what the adaptor has no head for is
          not there.

    Raises:
        UsageError: The student has no tap for what the adaptor reads.

    Example:
        >>> import torch
        >>> from contrastill.models.build import build_network
        >>> student = build_network("resnet8", num_classes=5, modality="depth", mean=(2.0,), std=(1.0,))
        >>> adaptor = Adaptor(summary=(64, 12), dense=(64, 20))
        >>> network = InTeacherSpace(student, adaptor, map_size=(7, 7)).eval()
        >>> head = nn.Conv2d(20, 3, 1)  # of the user, trained on the teacher's map
        >>> answer = network({"depth": torch.rand(2, 1, 32, 32)})
        >>> head(answer.maps[0]).shape, answer.embedding.shape
        (torch.Size([2, 3, 7, 7]), torch.Size([2, 12]))
    """

    def __init__(self, student: Network, adaptor: Adaptor, *, map_size: Size | None = None) -> None:
        student.parts(adaptor.needs)
        taps = Taps(
            embedding="output:embedding" if "embedding" in adaptor.needs else None,
            maps=("output:map",) if "maps" in adaptor.needs else (),
        )
        module = AdaptedStudent(student, adaptor, map_size)
        super().__init__(module, taps=taps, preprocess=student.preprocess, modality=student.modality)

    def _way_to(self, part: str) -> str:
        return {
            "embedding": "its adaptor was trained with objectives.agglomerate.summary=false",
            "maps": "its adaptor was trained with objectives.agglomerate.dense=false",
        }.get(part, "a student answers in its teacher's space by embedding and map alone")


@checked
@own_settings(device=False)
def in_teacher_space(run: str | os.PathLike, teacher: int = 0, *, map_size: Size | None = None) -> InTeacherSpace:
    """The student of a run, answering in the space of one of its teachers; frozen, on the CPU.

    Args:
        run: A run folder with an objective agglomerate.
        teacher: Number of the teacher in the run's config, from 0.
        map_size: As :class:`InTeacherSpace` takes it.

    Returns:
        Reads batches of the student's modality, in the values that its training had.

    Raises:
        UsageError: No such run, no adaptors in it, or none towards this teacher.
        ContrastillError: A file is damaged.

    Example:
        A head that was trained on features of the RGB teacher runs on the depth student::

            network = contrastill.in_teacher_space("runs/depth_student", map_size=(16, 16))
            answer = network({"depth": metres})               # (B, 1, H, W)
            labels = head(answer.maps[0]).argmax(1)           # what took the teacher's map
            classes = classifier(answer.embedding).argmax(1)  # what took the teacher's embedding
    """
    student = as_network(plain_student(run))
    network = InTeacherSpace(student, adaptor_of(run, teacher), map_size=map_size)
    network.freeze(check_every_batch=True)
    return network


def adaptor_of(run: str | os.PathLike, teacher: int = 0, part: str | None = None) -> Adaptor:
    """The adaptor of a run towards one of its teachers; of several objectives' the one that gives most.

    Args:
        run: Its folder.
        teacher: The teacher's number, from 0.
        part: ``embedding`` or ``maps``, which it has to give; None: any.

    Raises:
        UsageError: There is none.
    """
    adaptors = adaptors_of(run)
    numbers = sorted({adaptor.number for adaptor in adaptors if adaptor.number is not None})
    of_teacher = [adaptor for adaptor in adaptors if adaptor.number == teacher]
    if not of_teacher:
        listed = ", ".join(map(str, numbers))
        raise UsageError(f"{os.fspath(run)} has no adaptor towards teacher {teacher}: it has those towards {listed}")
    suitable = [adaptor for adaptor in of_teacher if part is None or part in adaptor.needs]
    if not suitable:
        option = {"embedding": "summary", "maps": "dense"}[str(part)]
        raise UsageError(
            f"the adaptor of {os.fspath(run)} towards teacher {teacher} gives no {part}: train it with "
            f"objectives.agglomerate.{option}=true"
        )
    return max(suitable, key=lambda adaptor: len(adaptor.needs))


def adaptors_of(run: str | os.PathLike) -> list[Adaptor]:
    """All adaptors of a run.

    Raises:
        UsageError: It has none.
    """
    if not Path(run, ADAPTORS).is_file():
        raise UsageError(
            f"{os.fspath(run)} has no {ADAPTORS}, which a finished run has whose student learns its teacher's space: "
            "train it with objectives.agglomerate={}"
        )
    return load_adaptors(run)


def _at_size(features: Tensor, size: Size) -> Tensor:
    """A map averaged where it becomes smaller, and interpolated where it becomes larger."""
    height, width = features.shape[2:]
    smaller = resize_map(features, (min(height, size[0]), min(width, size[1])))
    if tuple(smaller.shape[2:]) == tuple(size):
        return smaller
    return F.interpolate(smaller, size=size, mode="bilinear", align_corners=False)
