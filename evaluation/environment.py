"""What is installed, what there is to compute with, and what would stop a training."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ..core.arguments import Paths, checked, path_list
from ..core.errors import ContrastillError, UsageError
from ..core.table import Table, TabularResult
from . import environment_checks
from .data import describe_data
from .environment_checks import Finding

_CHECKS = ("versions", "extras", "devices", "environment", "room", "configs", "weights")
_LENGTH = 200  # of the part of an error that is shown


@dataclass(frozen=True)
class EnvironmentReport(TabularResult):
    """The findings of all checks, in their order."""

    findings: tuple[Finding, ...]

    @property
    def problems(self) -> int:
        """How many would stop a training."""
        return self._counts()["problem"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``contrastill doctor --json`` prints them."""
        return {"problems": self.problems, "findings": [finding.to_dict() for finding in self.findings]}

    def tables(self) -> list[Table]:
        """One row per finding; a subject is named in its first row."""
        rows, before = [], None
        for finding in self.findings:
            subject = "" if finding.subject == before else finding.subject
            rows.append([finding.mark, subject, finding.name, finding.message, finding.advice])
            before = finding.subject
        return [Table("", ("", "subject", "name", "state", "what to do"), rows, [self.summary()])]

    def summary(self) -> str:
        """How many problems and notes there are."""
        counts = self._counts()
        notes = f"{counts['note']} note{'s' * (counts['note'] != 1)}"
        if counts["problem"]:
            return f"{counts['problem']} problem{'s' * (counts['problem'] != 1)}, {notes}"
        return f"nothing stands in a training's way ({notes})"

    def __str__(self) -> str:
        """One line per finding, however long: what a pipe or a log takes."""
        lines = [
            f"{finding.mark:8}{finding.subject}: {finding.name}: {finding.message}"
            + (f" -> {finding.advice}" if finding.advice else "")
            for finding in self.findings
        ]
        return "\n".join([*lines, self.summary()])

    def _counts(self) -> Counter[str]:
        return Counter(finding.mark for finding in self.findings)


@checked
def check_environment(data: Paths = ()) -> EnvironmentReport:
    """Check packages, devices, variables, disk and memory, configs, cached weights, and data; nothing is raised.

    Args:
        data: Files, folders or ``NAME:PATH``; each is read.
    """
    paths = path_list(data, "data", "file", "data.h5") if data else []
    findings: list[Finding] = []
    for name in _CHECKS:
        try:
            findings += getattr(environment_checks, name)()
        except Exception as error:  # what is broken is what the report is for
            message = f"could not be looked at: {_first_words(error)}"
            findings.append(Finding(name, "", "problem", message, "pip install --force-reinstall contrastill"))
    findings += [_data_finding(source) for source in paths]
    return EnvironmentReport(tuple(findings))


def _data_finding(source: str) -> Finding:
    """What data hold, or why they cannot be read."""
    try:
        description = describe_data(source)
    except UsageError as error:
        return Finding("data", source, "problem", str(error))
    except ContrastillError as error:
        message, _, advice = str(error).partition("; ")
        return Finding("data", source, "problem", message, advice)
    except Exception as error:  # whatever a library raises for a damaged file: the report goes on
        return Finding("data", source, "problem", f"cannot be read: {_first_words(error)}", "copy it again")
    summary, splits = description.summary(), description.splits
    ragged = [name for name, split in splits.items() if split.samples is None]
    if not splits:
        return Finding("data", source, "problem", f"{summary}: it has no splits", "pack it again")
    if ragged:
        message = f"{summary}: fields differ in length in {', '.join(ragged)}"
        return Finding("data", source, "problem", message, "pack it again")
    if "test" not in splits:
        return Finding("data", source, "note", summary, "no split is called test: data.splits.test=NAME, or null")
    return Finding("data", source, "ok", summary)


def _first_words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_LENGTH]}"
