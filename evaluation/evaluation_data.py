"""The data that runs are evaluated on, and names that a config has."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..core.config.marks import changes_results
from ..core.config.schema import DataConfig, ObjectiveConfig, RunConfig
from ..core.config.validation import validate
from ..core.data_facts import compared_facts
from ..core.errors import ContrastillError
from ..core.fingerprint import text_hash
from ..core.registry import DATASETS, OBJECTIVES, short_name
from ..core.representation import Network
from ..core.run import Run, flatten
from ..datasets.io.fingerprint import fingerprint
from ..training.data import open_split

_OF_THE_FILES = ("depth_unit", "intrinsics", "void", "vectors")
_READ = ("fields", "folders", "modalities", "semantic_names", "target", "image", "label")
"""Options that name what is read of a sample: an evaluation may read more than the training did."""
_OF_TRAINING = ("crop", "crop_padding", "scale", "flip", "color_jitter", "transforms", "train", "train_samples",
    "train_split", "fold", "label_fraction", "splits.train")  # fmt: skip
"""Options that leave the test samples as they are."""


def location(config: RunConfig) -> str:
    """Path of the data, or the name of a data set without one."""
    return config.data.path or str(config.data.name)


def input_text(network: Network, split: Any) -> str:
    """What a network reads of a split, as ``rgb 32×32``; without a size where nothing gives it."""
    side = network.preprocess.resolution
    shape = (side, side) if isinstance(side, int) else side or [*split.modalities.get(network.modality, ())][1:]
    return " ".join([network.modality, *(["×".join(map(str, shape))] if shape else [])])


def named_objectives(config: RunConfig) -> list[tuple[str, ObjectiveConfig]]:
    """Registered name and settings of each objective."""
    return [(entry.name or label, entry) for label, entry in config.objectives.items()]


def objectives_read_prediction(config: RunConfig) -> bool:
    """Whether an objective reads a prediction of each position, as one of a package that is not installed here may."""
    names = (name for name, _ in named_objectives(config))
    return any(name not in OBJECTIVES or "prediction" in OBJECTIVES[name].needs for name in names)


def evaluation_data(config: RunConfig) -> RunConfig:
    """The config with ``evaluation.data`` merged over ``data``; alone, where it names another kind of data set."""
    changes = config.evaluation.data
    if not changes:
        return config
    own = config.data.model_dump(mode="json")
    merged = dict(changes) if changes.get("name", own["name"]) != own["name"] else _merged(own, changes)
    return validate({**config.model_dump(), "data": merged}, trains=False)


def carried_settings(run: DataConfig, now: DataConfig, given: Collection[str]) -> list[str]:
    """Settings that say how the files of a run's data are to be read, where other files are read by them too.

    Args:
        run: The run's own data.
        now: The data that it is evaluated on.
        given: Keys of ``data`` that were set for these.

    Returns:
        Each as ``data.depth_unit=mm``; none where the path is the same.
    """
    if now.path == run.path or now.name != run.name or now.name is None or now.name not in DATASETS:
        return []
    defaults, values = DATASETS[now.name].Options.model_fields, now.options()
    return [
        f"data.{key}={values[key]}"
        for key in _OF_THE_FILES
        if key in values and key not in given and values[key] != defaults[key].default
    ]


def data_keys(overrides: Sequence[str]) -> set[str]:
    """The keys below ``data`` that ``key=value`` overrides set."""
    keys = (override.partition("=")[0] for override in overrides)
    return {key.removeprefix("data.") for key in keys if key.startswith("data.")}


def replaced_data(run: Run, own: RunConfig, now: DataConfig, splits: Mapping[str, Any]) -> str:
    """A sentence about data at the run's own path that are no longer those of its training; empty where they are, where
    the training recorded nothing of them, or where others were named.

    Args:
        run: The run.
        own: Its own config.
        now: The data that were opened.
        splits: Them, by name.
    """
    recorded = run.data_facts()
    if (now.name, now.path) != (own.data.name, own.data.path):
        return ""
    # Other fields, splits or targets of the same files differ from what was recorded, and are meant to.
    same = now.model_dump(mode="json") == own.data.model_dump(mode="json")
    for name, opened in splits.items():
        if opened is None or not isinstance(before := recorded.get(name), dict):
            continue
        try:
            with unlogged():
                split = opened if same else open_split(own, name)
        except ContrastillError as error:
            return f"{location(own)} is not as it was when {run.path} was trained: {error}"
        facts = {} if split is None else _facts(split)
        # A fact that only one of them has is of another version.
        differ = [fact for fact in before if fact in facts and facts[fact] != before[fact]]
        if differ:
            return (
                f"the data of {location(own)} are no longer those that {run.path} was trained with ({differ[0]} of "
                f"{name} differ): what is measured on them is no number of the run's own data"
            )
    return ""


@contextmanager
def unlogged() -> Iterator[None]:
    """Within it nothing below an error is logged: lines about data that are opened to be compared, such as how many
    samples they hold out, would stand beside numbers that are measured on others.
    """
    logger = logging.getLogger(__name__.partition(".")[0])
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def training_samples(run: Run, own: DataConfig, now: DataConfig) -> str:
    """A sentence about a larger share of the run's own data than its training held out; empty of other data."""
    if (now.name, now.path) != (own.name, own.path) or now.name is None:
        return ""
    before, after = own.options().get("test_fraction"), now.options().get("test_fraction")
    if before is None or after is None or after <= before:
        return ""
    return (
        f"{run.path} was trained with data.test_fraction={before:g} of the same data, so with {after:g} training "
        "samples are measured too: name other data with data.path=…"
    )


def suffix_of(run: Run, own: DataConfig, now: DataConfig, test: Any, *, replaced: bool = False) -> str:
    """What stands in the names of an evaluation's files for other data than the run's own; of these, or a copy of
    them, nothing.

    Args:
        run: The run.
        own: The data of its own config.
        now: The data that it is evaluated on.
        test: Their opened test split.
        replaced: Whether there are others at the run's own path, see :func:`replaced_data`.
    """
    facts = ""
    if replaced:
        facts = json.dumps(_facts(test))
    elif (now.name, now.path) == (own.name, own.path):
        if not _other_samples(own, now):
            return ""
    elif (recorded := run.data_facts().get("test")) is not None and recorded == compared_facts(recorded, _facts(test)):
        return ""
    name = short_name(str(now.name)) if now.path is None else Path(now.path).stem
    return f"-{name}-{text_hash(str(now.model_dump(mode='json')) + facts)[:6]}"


def _other_samples(own: DataConfig, now: DataConfig) -> list[str]:
    """The options by which other test samples come of the same files, such as ``scene_seed``."""
    before, after = (flatten(data.model_dump(mode="json"), plain_lists=True) for data in (own, now))
    return [
        key
        for key, value in after.items()
        if value != before.get(key)
        and changes_results(f"data.{key}", now.name)
        and key not in _OF_TRAINING
        and not (key.partition(".")[0] in _READ and _reads_more(before.get(key), value))
    ]


def _reads_more(before: Any, after: Any) -> bool:
    """Whether nothing was read before, or all of it still is."""
    return before is None or (isinstance(before, list) and isinstance(after, list) and {*before} <= {*after})


def _facts(split: Any) -> dict[str, Any]:
    """The fingerprint of a split as a file holds it."""
    return json.loads(json.dumps(fingerprint(split)))


def _merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(tree[key], value) if isinstance(value, dict) and isinstance(tree.get(key), dict) else value
        for key, value in changes.items()
    }
    return {**tree, **both}
