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
from ..core.run_data import differing_fact
from ..datasets.io.fingerprint import fingerprint
from ..training.data import open_split
from ..training.held_out import without_validation

_OF_THE_FILES = ("depth_unit", "intrinsics", "void", "vectors")
_READ = ("fields", "folders", "modalities", "semantic_names", "target", "image", "label")
"""Options that name what is read of a sample: an evaluation may read more than the training did."""
_OF_VIEWS = ("crop", "crop_padding", "scale", "flip", "color_jitter", "transforms")
_OF_TRAINING = ("train", "train_samples", "train_split", "fold", "label_fraction", "splits.train")
"""Options that leave the test samples as they are, of the views and of the samples that are trained on."""
_MAY_MOVE_TESTS = ("crop", "train", "splits")
"""Options that give other test samples in some data sets: resized as the crop asks for, or held out of a split or
group that is trained on.
"""


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
    return any(
        name not in OBJECTIVES or "prediction" in OBJECTIVES[name].needs_with(entry.options())
        for name, entry in named_objectives(config)
    )


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
                if name == "train" and split is not None:
                    split, _ = without_validation(split, own)  # what it trained on is what it recorded
        except ContrastillError as error:
            return f"{location(own)} is not as it was when {run.path} was trained: {error}"
        facts = {} if split is None else data_facts(split)
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


def suffix_of(
    run: Run,
    own: RunConfig,
    now: DataConfig,
    splits: Mapping[str, Any],
    *,
    tasks: Collection[str] = ("accuracy",),
    replaced: bool = False,
) -> str:
    """What stands in the names of an evaluation's files for other data than the run's own; of these, or a copy of
    them, nothing. Of tasks that train a head, other samples that it is trained on are other data too.

    Args:
        run: The run.
        own: Its own config.
        now: The data that it is evaluated on.
        splits: The opened ones that are measured or trained on, by name; None for one that is not.
        tasks: What is measured.
        replaced: Whether there are others at the run's own path, see :func:`replaced_data`.
    """
    before, facts = evaluation_data(own).data, ""
    if replaced:
        facts = json.dumps([data_facts(split) for split in splits.values() if split is not None])
    elif (now.name, now.path) == (before.name, before.path):
        if not other_samples(before, now, tasks) and not _tests_are_moved(own, before, now):
            return ""
    elif all(_is_recorded(run, own, name, split) for name, split in splits.items() if split is not None):
        return ""
    name = short_name(str(now.name)) if now.path is None else Path(now.path).stem
    return f"-{name}-{text_hash(str(now.model_dump(mode='json')) + facts)[:6]}"


def _is_recorded(run: Run, own: RunConfig, name: str, split: Any) -> bool:
    """Whether a split elsewhere is a copy of the one that the run's training recorded."""
    if (recorded := run.data_facts().get(name)) is None:
        return False
    try:
        part = without_validation(split, own)[0] if name == "train" else split
    except ContrastillError:  # of so few samples that nothing can be set apart
        return False
    return recorded == compared_facts(recorded, data_facts(part))


def _tests_are_moved(own: RunConfig, before: DataConfig, now: DataConfig) -> bool:
    """Whether an option that most data sets have for training alone gives other test samples: seen on the split."""
    config, tree = own.model_dump(), before.model_dump(mode="json")
    changed = {key: value for key, value in now.model_dump(mode="json").items() if key in _MAY_MOVE_TESTS}
    if all(tree.get(key) == value for key, value in changed.items()):
        return False
    facts = []
    try:
        with unlogged():
            for data in (tree, {**tree, **changed}):
                split = open_split(validate({**config, "data": data}, trains=False), "test")
                facts.append(None if split is None else data_facts(split))
    except ContrastillError:  # of which one cannot be read, the other has other samples
        return True
    return facts[0] != facts[1]


def other_samples(own: DataConfig, now: DataConfig, tasks: Collection[str] = ("accuracy",)) -> list[str]:
    """The options by which other samples come of the same files, such as ``scene_seed``.

    Args:
        own: The data that they are compared with.
        now: The data.
        tasks: Of an evaluation: a head is trained on samples of the training split, for segmentation on their views.
    """
    unread: tuple[str, ...] = (*_OF_VIEWS, *_OF_TRAINING)
    if {*tasks} - {"accuracy", "retrieval"}:
        unread = () if "segmentation" in tasks else _OF_VIEWS
    before, after = (flatten(data.model_dump(mode="json"), plain_lists=True) for data in (own, now))
    return [
        key for key, value in after.items() if key not in unread and _differs(key, before.get(key), value, now.name)
    ]


def _differs(key: str, before: Any, value: Any, name: str | None) -> bool:
    """Whether an option has another value, by which other samples come."""
    if value == before or not changes_results(f"data.{key}", name):
        return False
    return not (key.partition(".")[0] in _READ and _reads_more(before, value))


def measured_elsewhere(run: Run, trained: DataConfig, own: DataConfig, measures: Mapping[str, Any]) -> str:
    """By what the data of measures in a run's folder are not its own, in words; empty where nothing says so, as of a
    file of an earlier version that records little.

    Args:
        run: The run.
        trained: The data of its config.
        own: Those that its config measures on.
        measures: The contents of the file: the section ``data`` that was measured, and the ``facts`` of its test split.
    """
    before, after = (
        flatten(values, plain_lists=True) for values in (own.model_dump(mode="json"), dict(measures["data"]))
    )
    moved = next((key for key in ("name", "path") if before.get(key) != after.get(key)), "")
    unread = (*_OF_VIEWS, *_OF_TRAINING)
    differing = (
        key
        for key, value in after.items()
        if key in before and key not in unread and _differs(key, before[key], value, own.name)
    )
    if not moved and (key := next(differing, "")):
        return f"data.{key}"
    facts, recorded = measures.get("facts"), run.data_facts().get("test")
    if own == trained and isinstance(facts, Mapping) and isinstance(recorded, Mapping):
        return f"{fact} of test" if (fact := differing_fact(recorded, facts)) else ""
    return f"data.{moved}" if moved else ""


def _reads_more(before: Any, after: Any) -> bool:
    """Whether nothing was read before, or all of it still is."""
    return before is None or (isinstance(before, list) and isinstance(after, list) and {*before} <= {*after})


def data_facts(split: Any) -> dict[str, Any]:
    """The fingerprint of a split as a file holds it."""
    return json.loads(json.dumps(fingerprint(split)))


def _merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(tree[key], value) if isinstance(value, dict) and isinstance(tree.get(key), dict) else value
        for key, value in changes.items()
    }
    return {**tree, **both}


def share_of_maps(data: DataConfig, fraction: float) -> float:
    """Share of all label maps, of which ``data.label_fraction`` may have left a part, that a fraction is."""
    share = data.options().get("label_fraction")
    return fraction if share is None else round(fraction * share, 6)
