"""The file ``cache.json`` of a folder that ``contrastill cache`` wrote, with the shapes of the teachers' outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ..atomic import write_text
from ..errors import ContrastillError
from ..fingerprint import text_hash
from ..representation import Network
from ..representation_spec import RepresentationSpec, describe
from ..run import writable_folder

SEAL = "cache.json"


def write_seal(root: Path, teachers: Sequence[Network], batch: Mapping[str, Tensor]) -> None:
    """Mark a folder as written by the command alone, and add the shapes of these teachers' outputs.

    Args:
        root: The folder.
        teachers: The networks.
        batch: As :func:`~.representation.describe` takes it.
    """
    specs = {_spec_key(teacher, batch): asdict(describe(teacher, batch)) for teacher in teachers}
    writable_folder(root)
    seal = {"written_by": "contrastill cache", "specs": _read_specs(root) | specs}
    write_text(root / SEAL, json.dumps(seal, indent=1) + "\n")


def sealed_spec(root: str | None, teacher: Network, batch: Mapping[str, Tensor]) -> RepresentationSpec | None:
    """The shapes of a teacher's outputs from a sealed folder, which saves a forward pass; None where it has none.

    Args:
        root: The folder, or None.
        teacher: The network.
        batch: As :func:`~.representation.describe` takes it.
    """
    spec = {} if root is None else _read_specs(Path(root)).get(_spec_key(teacher, batch), {})
    if not spec:
        return None
    tuples = {"map_shapes": tuple(map(tuple, spec["map_shapes"]))}
    tuples |= {"prediction_shape": tuple(shape)} if (shape := spec.get("prediction_shape")) else {}
    return RepresentationSpec(**spec | tuples)


def _read_specs(root: Path) -> dict[str, Any]:
    try:
        return json.loads((root / SEAL).read_text(encoding="utf-8"))["specs"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError) as error:
        raise ContrastillError(
            f"{root / SEAL} is damaged: run contrastill cache again, or remove the file and the teachers look "
            "again where need be"
        ) from error


def _spec_key(teacher: Network, batch: Mapping[str, Tensor]) -> str:
    """Stands for all that shapes depend on: not the weights."""
    classes = None if teacher.classes is None else len(teacher.classes)
    return text_hash(
        str([str(teacher.module), teacher.taps, teacher.preprocess, classes, tuple(batch[teacher.modality].shape[1:])])
    )
