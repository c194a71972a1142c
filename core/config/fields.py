"""What the schema's sections share: strictness, marks of what depends on a field, and paths."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ..home import expanded


class Section(BaseModel):
    """Part of a config in which unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


PLACE: dict[str, Any] = {"changes_results": False, "resumable": True}
"""Mark of a field that says where and how a training runs: no result depends on it, and a run resumes with another."""
RECORD: dict[str, Any] = {"changes_results": False}
"""Mark of a field that says what is measured and written on the way: nothing that is trained depends on it."""
RESUMABLE: dict[str, Any] = {"resumable": True}
"""Mark of a field with which a run may be resumed though results may depend on it: errors ask for such a change."""


LARGEST_SEED = 2**32 - 1
"""NumPy's generator takes no larger one."""
MOST_CLASSES = 2**24
"""More are identifiers, and no classifier has room for them."""
LONGEST_SIDE = 2**14
"""Of images, in pixels: a single one of longer sides fills a GPU."""
Side = Annotated[int, Field(gt=0, le=LONGEST_SIDE)]


def run_folder(value: str) -> str:
    """The folder of a run, which Python's None does not name."""
    if value in ("None", ""):
        raise ValueError("name the folder that the run is to be written to, such as runs/mine")
    return value


FilePath = Annotated[str, AfterValidator(expanded)]
