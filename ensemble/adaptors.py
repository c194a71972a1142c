"""Heads by which one student answers in the space of each of its teachers, and the file that holds them beside the
student.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..core.arguments import checked
from ..core.errors import ContrastillError, UsageError
from ..core.representation import Representation
from ..core.torch_settings import own_settings
from ..core.transfer import Transfer
from ..core.weights import load_state_dict, read_metadata, save_state_dict
from .balance import Balance

ADAPTORS = "adaptors.safetensors"

_METADATA = "contrastill"
_SUMS = ("count", "total", "products", "_extra_state")
"""What a balance needs only while it is estimated."""

Dims = tuple[int, int]


class Adaptor(nn.Module):
    """The head towards one teacher: from what the student says to what that teacher would say (AM-RADIO: Ranzinger et
    al., CVPR 2024).

    A perceptron with one hidden layer for the embedding, and one for the channels of a map, the same at each position.
    They learn in the balanced space of the teacher's features (:class:`~contrastill.ensemble.balance.Balance`); called,
    the adaptor answers in the teacher's own.

    Args:
        summary: (student's, teacher's) length of the embedding; None leaves embeddings out.
        dense: (student's, teacher's) channels of the map; None leaves maps out.
        hidden: Length of the hidden layers; None is the larger of the two dimensions.
        balance: As :class:`~contrastill.ensemble.balance.Balance` takes it, each of both its own.
        pair: (student's map, teacher's map) places.
        estimate_steps: Of the balances.

    Attributes:
        teacher: Name of the teacher's network; ``number`` is its place under ``teachers``, ``term`` that of its
            objective. Only of loaded ones.
        needs: What it reads of the student.

    Shape:
        - student.embedding (B, D_s), student.maps[pair[0]] (B, C_s, h, w)
        - returns a representation: embedding (B, D_t), and one map (B, C_t, h, w); what it has no head for is not
          there.

    Example:
        >>> import torch
        >>> adaptor = Adaptor(summary=(8, 12), dense=(4, 20)).eval()
        >>> outputs = adaptor(Representation(embedding=torch.randn(2, 8), maps=(torch.randn(2, 4, 7, 5),)))
        >>> outputs.embedding.shape, outputs.maps[0].shape
        (torch.Size([2, 12]), torch.Size([2, 20, 7, 5]))
    """

    def __init__(
        self,
        summary: Dims | None = None,
        dense: Dims | None = None,
        *,
        hidden: int | None = None,
        balance: str = "phi_s",
        pair: tuple[int, int] = (-1, -1),
        estimate_steps: int = 32,
    ) -> None:
        super().__init__()
        self.recipe = {"summary": summary, "dense": dense, "hidden": hidden, "balance": balance, "pair": tuple(pair)}
        self.pair = tuple(pair)
        self.needs = frozenset({"embedding"} if summary else ()) | frozenset({"maps"} if dense else ())
        self.summary = None if summary is None else _head(*summary, hidden)
        self.summary_balance = None if summary is None else Balance(summary[1], balance, estimate_steps)
        self.dense = None if dense is None else _head(*dense, hidden)
        self.dense_balance = None if dense is None else Balance(dense[1], balance, estimate_steps)
        self.teacher: str | None = None
        self.number: int | None = None
        self.term: str | None = None

    def forward(self, student: Representation) -> Representation:
        outputs = Representation()
        if self.summary is not None and self.summary_balance is not None:
            outputs.embedding = self.summary_balance.inverse(self.summary(student.embedding))
        if self.dense is not None and self.dense_balance is not None:
            outputs.maps = (self.dense_balance.inverse(self.on_map(student.maps[self.pair[0]])).movedim(-1, 1),)
        return outputs

    def on_map(self, features: Tensor) -> Tensor:
        """The dense head at each position, in the balanced space and with channels last: (B, C_s, h, w) -> (B, h, w,
        C_t).
        """
        assert self.dense is not None, "this adaptor was built without dense"
        return self.dense(features.movedim(1, -1))


def _head(inputs: int, outputs: int, hidden: int | None) -> nn.Sequential:
    hidden = hidden or max(inputs, outputs)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, outputs))


def save_adaptors(transfer: Transfer, path: str | os.PathLike) -> bool:
    """Write the adaptors of all a transfer's objectives into one file, whole or not at all; nothing where it has none.

    Args:
        transfer: After its training.
        path: The file.

    Returns:
        Whether there were any.
    """
    tensors: dict[str, Tensor] = {}
    adaptors: list[dict[str, Any]] = []
    for term, name in ((term, name) for name, term in transfer.terms.items()):
        for number, objective in enumerate(term.objectives):
            adaptor = getattr(objective, "adaptor", None)
            if not isinstance(adaptor, Adaptor):
                continue
            state = {key: value for key, value in adaptor.state_dict().items() if key.rpartition(".")[2] not in _SUMS}
            tensors |= {f"{len(adaptors)}.{key}": value for key, value in state.items()}
            model = transfer.teacher_names[number]
            adaptors.append({"term": name, "number": number, "teacher": model, **adaptor.recipe})
    if adaptors:
        save_state_dict(tensors, path, metadata={_METADATA: json.dumps({"adaptors": adaptors})})
    return bool(adaptors)


@checked
@own_settings(device=False)
def load_adaptors(run: str | os.PathLike) -> list[Adaptor]:
    """The adaptors that a run trained beside its student, one for each teacher, in eval mode on the CPU.

    Args:
        run: A run folder with an objective agglomerate, or the ``adaptors.safetensors`` in one.

    Returns:
        In the order of the config: objective by objective, and in each teacher by teacher.

    Raises:
        UsageError: There is no such file.
        ContrastillError: The file is damaged, or was not written by a run.

    Example:
        Each adaptor takes what the student says, as a :class:`~contrastill.Network` reads it off::

            student = contrastill.load_student(run)
            network = contrastill.Network(student, taps=student.taps, preprocess=student.preprocess).eval()
            for adaptor in contrastill.load_adaptors(run):
                answer = adaptor(network({"rgb": images}, adaptor.needs))
    """
    path = Path(run) / ADAPTORS if Path(run).is_dir() else Path(run)
    if not path.is_file():
        raise UsageError(f"{path} does not exist: adaptors are written by a finished run with an objective agglomerate")
    try:
        headers = json.loads(read_metadata(path)[_METADATA])["adaptors"]
    except (KeyError, ValueError) as error:
        raise ContrastillError(
            f"{path} does not say which adaptors it holds: only the {ADAPTORS} that a run wrote can be loaded"
        ) from error
    state, adaptors = load_state_dict(path), []
    for place, about in enumerate(headers):
        own = {key.removeprefix(f"{place}."): value for key, value in state.items() if key.startswith(f"{place}.")}
        adaptors.append(_loaded(about, own, path))
    return adaptors


def _loaded(about: dict[str, Any], state: dict[str, Tensor], path: Path) -> Adaptor:
    """One adaptor from its line of the header and its tensors."""
    named = {key: about.get(key) for key in ("term", "number", "teacher")}
    try:
        adaptor = Adaptor(**{key: value for key, value in about.items() if key not in named}, estimate_steps=0)
        missing, unexpected = adaptor.load_state_dict(state, strict=False)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ContrastillError(
            f"{path} is damaged: teacher {named['number']} is not what its header says ({str(error).splitlines()[0]})"
        ) from error
    if differing := [*unexpected, *(key for key in missing if key.rpartition(".")[2] not in _SUMS)]:
        raise ContrastillError(
            f"{path} is damaged: the tensors of teacher {named['number']} are not those of its header, such as "
            f"{differing[0]}"
        )
    for key, value in named.items():
        setattr(adaptor, key, value)
    return adaptor.requires_grad_(False).eval()
