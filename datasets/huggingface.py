"""``huggingface``: data sets of Hugging Face's library ``datasets``: saved to disk, in parquet files, on the Hub, or
loaded already.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from ..core.errors import ContrastillError, UsageError
from ..core.registry import DATASETS
from .io.file_splits import FileSplit, PairSplit
from .io.folders import is_free, split_folders, tell_of_unread, walk
from .io.shared_samples import warn_of_shared_samples
from .io.table_columns import is_of_library, is_readable
from .io.table_splits import TableOptions, TableSplits, test_name, train_name
from .io.unnamed_splits import pair_of_splits

_WAYS = (
    "name a folder that save_to_disk wrote, a folder of parquet files, or a data set of the Hub, with a network or "
    "downloaded before"
)


@DATASETS.register("huggingface")
class HuggingFace:
    """A data set of Hugging Face ``datasets``: a folder of ``save_to_disk``, a folder of parquet files, or the name of
    one on the Hub.

    Parquet files may lie in the folder, or in folders ``train`` and ``test`` there. A row is a sample, and its
    ``index`` the row's place. Pictures are decoded from their stored bytes as files are: 16 bits stay 16 bits, palettes
    of label maps stay numbers, EXIF's rotation is applied; views are those of ``image_folder`` for rgb alone, and of
    ``paired_folder`` for several columns. Classes are those of the ClassLabel in its order, of texts the sorted ones,
    or whole numbers without names. Without a split to test on, a tenth of the rows is held out, by a hash of the row's
    number.

    Raises:
        UsageError: No such data set, split or column, rows without a label, a class that only the test split has.
        ContrastillError: The library is not installed, a picture is damaged.
    """

    class Options(TableOptions):
        path: str = Field(description="the folder, or the name of a data set of the Hub, such as uoft-cs/cifar10")
        config: str | None = Field(None, description="configuration (subset) of a data set that has several")
        revision: str | None = Field(
            None, description="branch, tag or commit of a data set of the Hub; null: the newest"
        )

    def __init__(self, options: Options) -> None:
        self.options = options

    @staticmethod
    def recognises(path: str) -> bool:
        """Whether ``path`` is a folder that ``save_to_disk`` wrote, or one of parquet files."""
        root = Path(path)
        return is_free(root) and (_is_saved(root) or any(map(_has_tables, (root, root / "data"))))

    def open(self, split: str) -> FileSplit | PairSplit | None:
        """``"train"`` or ``"test"``, of which a few samples are read. Only ``"train"`` is ever augmented."""
        options = self.options
        datasets = _load(options.path, options.config, options.revision)
        return TableSplits(datasets, options, options.path, holds_out=True).open(split)


class LoadedHuggingFace:
    """Datasets that were loaded by the user, in the place of a registered class.

    Args:
        datasets: Name of a split -> ``datasets.Dataset``.
        holds_out: Whether a tenth of the only split is held out by default.
    """

    Options = TableOptions

    def __init__(self, datasets: Mapping[str, Any], *, holds_out: bool) -> None:
        self.datasets, self.holds_out = datasets, holds_out

    def __call__(self, options: TableOptions) -> TableSplits:
        splits = TableSplits(self.datasets, options, "the Dataset", holds_out=self.holds_out)
        if splits.test not in (None, splits.train):
            warn_of_shared_samples(self.datasets[splits.train], self.datasets[splits.test])
        return splits


def is_streamed(argument: Any) -> bool:
    """Whether an object is an ``IterableDataset`` of the library, or a dict of such."""
    return is_of_library(argument, "IterableDataset", "IterableDatasetDict")


def is_dataset_dict(argument: Any) -> bool:
    """Whether an object is a ``DatasetDict`` of the library."""
    return is_of_library(argument, "DatasetDict")


def usual_pair(datasets: Mapping[str, Any]) -> tuple[Any, Any]:
    """The datasets of a ``DatasetDict`` to train and to test on, by their names; None where there is none to test on.

    Raises:
        UsageError: Their names leave it open.
    """
    where = "the DatasetDict"
    train = train_name(datasets, None, where)
    test = test_name(datasets, train, None, where)
    read = [name for name in (train, test) if name is not None]
    tell_of_unread(where, [name for name in datasets if name not in read], read)
    return datasets[train], None if test is None else datasets[test]


def has_stored_pictures(argument: Any) -> bool:
    """Whether an object is a ``Dataset`` of the library with a column of pictures or arrays, whose rows are not
    formatted or transformed by the user.
    """
    return (
        is_of_library(argument, "Dataset")
        and argument.format["type"] is None
        and any(map(is_readable, argument.features.values()))
    )


def _is_saved(root: Path) -> bool:
    return (root / "dataset_dict.json").is_file() or (
        (root / "state.json").is_file() and (root / "dataset_info.json").is_file()
    )


def _has_tables(root: Path) -> bool:
    """Whether parquet files lie in a folder, or in a folder there for each split."""
    folders = (root, *split_folders(root, "train")) if root.is_dir() else ()
    return any(next(folder.glob("*.parquet"), None) is not None for folder in folders)


def _load(path: str, config: str | None, revision: str | None) -> dict[str, Any]:
    """Name of a split -> dataset.

    Raises:
        UsageError: No such data set, or none that can be loaded.
        ContrastillError: The library is not installed.
    """
    try:
        library: Any = importlib.import_module("datasets")
        load_dataset, load_from_disk = library.load_dataset, library.load_from_disk
    except (ImportError, AttributeError) as error:  # without it, the checkout's root has a folder of that name
        raise ContrastillError("data.name=huggingface needs datasets: pip install 'contrastill[datasets]'") from error
    root = Path(path).expanduser()
    if root.is_file():
        raise UsageError(f"data.path={path} is a file: {_WAYS}")
    try:
        if _is_saved(root):
            loaded = load_from_disk(str(root))
        else:
            loaded = load_dataset(str(root) if root.exists() else path, name=config, revision=revision)
    except Exception as error:  # of the network, the Hub, fsspec, the library, Arrow
        if type(error).__name__ == "DatasetGenerationError" and (cause := _first_cause(error)) is not error:
            raise UsageError(
                f"data.path={path} cannot be loaded by the library datasets ({' '.join(str(cause).split())}): give the "
                "files of all splits the same columns with the same types, and mend or remove damaged ones"
            ) from error
        reason = " ".join(str(error).split()).rstrip(". ") or type(error).__name__
        raise UsageError(f"data.path={path} cannot be loaded by the library datasets ({reason}): {_WAYS}") from error
    if len(loaded) == 1 and not isinstance(loaded, library.Dataset) and not _is_saved(root) and root.is_dir():
        _check_one_split(root)
    return {str(loaded.split or "train"): loaded} if isinstance(loaded, library.Dataset) else dict(loaded)


def _first_cause(error: BaseException) -> BaseException:
    """What an error came of, that says only where it happened."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _check_one_split(root: Path) -> None:
    """Refuse files that the library reads as one split and whose names are those of several: samples to test on would
    be trained on.

    Raises:
        UsageError: There are such.
    """
    files = sorted(path.relative_to(root) for path in walk(root, (".parquet",)))
    names = dict.fromkeys(name for path in files for name in (*path.parts[:-1], path.stem))
    pair = pair_of_splits([*names], short=True)
    if pair:
        raise UsageError(
            f"data.path={root} has {pair[0]} and {pair[1]}, which the library datasets reads as one split: call them "
            "train and test, in lower case, or load them with it and pass (train, test)"
        )
