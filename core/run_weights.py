"""Which weights a run began with: a digest of each network's in ``weights.json`` of its folder."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from torch import nn

from .atomic import write_text
from .errors import UsageError
from .fingerprint import text_hash, weights_hash
from .run import Run

log = logging.getLogger(__name__)

RANDOM = "random"
"""The source of a teacher without weights: the run's seed gives it those that it has."""

# Of the largest value.
_TOLERANCE = 0.02


@dataclass(frozen=True)
class InitialWeights:
    """The weights of one network at the start of a run.

    Attributes:
        source: The file or run that they are from; ``RANDOM``: none; None: those of a module.
        hash: Stands for their values.
        modules: Of a module that is handed over, stands for what it is built of; None: an older run recorded none.
        answer: Of a teacher that is handed over, a few values of what it returns of given images, which follow from its
            attributes too; None: not recorded.
    """

    source: str | None
    hash: str
    modules: str | None = None
    answer: list[float] | None = None

    @classmethod
    def of(cls, module: nn.Module, source: str | None, answer: list[float] | None = None) -> InitialWeights:
        """Those of a module now."""
        # Text of a module's own may show where in memory its functions are.
        modules = text_hash(re.sub(r" at 0x\w+", "", str(module))) if source is None else None
        return cls(source, weights_hash(module), modules, answer)


def is_same_answer(values: Sequence[float] | None, before: Sequence[float]) -> bool:
    """Whether a module returns what it returned before, but for what devices, precisions and versions of libraries
    change.
    """
    if values is None or len(values) != len(before):
        return False
    largest = max(map(abs, before), default=0.0)
    return max((abs(now - then) for now, then in zip(values, before, strict=True)), default=0.0) <= (
        _TOLERANCE * largest + 1e-6
    )


class WeightsRecord:
    """The file in which a run's folder has them.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self.folder, self.path = run.path, run.weights

    def read(self) -> dict[str, InitialWeights]:
        """By the network's key in the config, such as ``teachers.0``; none of an older run, or of a damaged file."""
        try:
            entries = json.loads(self.path.read_text(encoding="utf-8"))
            return {key: InitialWeights(**entry) for key, entry in entries.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def claim(self, weights: Mapping[str, InitialWeights], *, begun: bool) -> None:
        """Write them, or check that the run began with the same.

        Args:
            weights: Of this training, by the network's key in the config.
            begun: Whether the run has a checkpoint or a student already.

        Raises:
            UsageError: A file of weights is another than it was, or a module is built of others.
        """
        before = self.read()
        if begun and (unknown := [key for key in weights if key not in before]):
            log.warning(
                "%s does not record which weights it began with, so whether those of %s are still the same is not "
                "checked",
                self.folder,
                unknown[0] if not before else " and ".join(unknown),
            )
        for key, now in weights.items():
            if begun and key not in before:
                continue
            there = before[key].modules if begun and key in before else None
            if there is not None and now.modules not in (None, there):
                raise UsageError(
                    f"{key} is built of other layers, or of other sizes, than the module that {self.folder} began "
                    "with: hand over the same network to go on, or choose another out=…"
                )
            answered = before[key].answer if begun and key in before and before[key].hash == now.hash else None
            if answered is not None and not is_same_answer(now.answer, answered):
                raise UsageError(
                    f"{key} has the weights of the teacher that {self.folder} began with and does not answer as it "
                    "did: hand it over with the same arguments, attributes and buffers, or choose another out=…"
                )
            if key not in before or before[key].hash == now.hash:
                continue
            if now.source == RANDOM:
                if begun:
                    raise UsageError(
                        f"{key} has no weights, and the seed gives it others here than those that {self.folder} began "
                        "with: go on with the versions of libraries in its versions.json, or choose another out=…"
                    )
                continue
            if now.source is not None:
                raise UsageError(
                    f"the weights of {key} ({now.source}) changed since {self.folder} began: put the former ones back, "
                    "or choose another out=…"
                )
            if begun:
                # A module that is made anew to go on with a stopped training has random weights until then.
                log.warning(
                    "the student's initial weights are others than those that %s began with, and are not used, as this "
                    "goes on with the training there: choose another out=… to train from them",
                    self.folder,
                )
        # The weights of a module that is trained on are those that it began with.
        entries = {**weights, **(before if begun else {})}
        if entries != before:
            write_text(self.path, json.dumps({key: asdict(entry) for key, entry in entries.items()}, indent=1) + "\n")

    def is_teacher(self, number: int, module: nn.Module) -> bool:
        """Whether a module has the weights of a teacher of the run; of an older run, which recorded none, True."""
        before = self.read().get(f"teachers.{number}")
        return before is None or before.hash == weights_hash(module)

    def check_teacher(self, number: int, module: nn.Module) -> None:
        """Check that a teacher that is loaded anew is the one that the run was trained from.

        Args:
            number: Its place in the config.
            module: It.

        Raises:
            UsageError: It has other weights.
        """
        key = f"teachers.{number}"
        if not self.is_teacher(number, module):
            before = self.read()[key]
            if before.source == RANDOM:
                raise UsageError(
                    f"{key} had no weights in the training of {self.folder}, and the random ones that it had there "
                    "cannot be had again from the seed here, so this is not its teacher: evaluate it with the training "
                    f"data and versions of libraries of the run, name a network with {key}.weights=…, or leave the "
                    "teachers out"
                )
            raise UsageError(
                f"the weights of {key} ({before.source}) changed since {self.folder} was trained, so this is not its "
                f"teacher any more: put the former ones back, name them with {key}.weights=…, or leave the teachers "
                "out"
            )
