"""Pictures and arrays in the columns of a Hugging Face ``datasets.Dataset``, read by their rows as they are stored."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .aligned_reader import AlignedReader
from .array_files import Content
from .fingerprint import BYTES_READ, FILES_READ, file_digest, file_sizes, listing_hash
from .images import DamagedImage, Picture, reason_of
from .values import LabelRule

_ROWS_AT_ONCE = 1024


class ArrowRows:
    """Contents of some columns by row: pictures as the bytes of their files, which the library's own decoders read, and
    arrays. The dataset's Arrow files are memory-mapped, and opened again in a worker that is spawned.

    Args:
        dataset: A ``datasets.Dataset``; its indices (of ``select``, ``shuffle``, ``filter``) are respected.
        columns: Modality -> column.
        rows: int64 (N,), the dataset's row of each sample.
        where: The data set and split, for messages.
    """

    def __init__(self, dataset: Any, columns: Mapping[str, str], rows: np.ndarray, where: str) -> None:
        self.columns, self.rows, self.where = dict(columns), rows, where
        self._dataset = dataset.select_columns([*dict.fromkeys(columns.values())]).with_format("arrow")

    def __len__(self) -> int:
        return len(self.rows)

    def names(self, index: int) -> dict[str, Path]:
        """What a sample's contents are called in messages."""
        return {name: Path(self.where, column, f"row {self.rows[index]}") for name, column in self.columns.items()}

    def contents(self, index: int) -> dict[str, Content]:
        """Modality -> the bytes of an image file, or an array (H, W) or (H, W, C).

        Raises:
            DamagedImage: A cell is empty, or its file cannot be read.
        """
        table = self._dataset[int(self.rows[index])]
        names = self.names(index)
        return {name: _content(table.column(column), names[name]) for name, column in self.columns.items()}

    def listing(self) -> str:
        """Stands for the sizes of all contents, and for the names of files that are not in the dataset itself.

        The dataset's own fingerprint is of how it came to be (times of change, random for functions that cannot be
        hashed), and not the same in the next process.
        """
        rows = self._stored_rows()
        return "-".join(_listing(self._dataset.data.column(column), rows) for column in self.columns.values())

    def contents_hash(self, modality: str | None = None) -> str | None:
        """Stands for all contents; None of more than 64 MiB, or 5,000 files outside of the table.

        Args:
            modality: That of one column; None: all.
        """
        columns = [column for name, column in self.columns.items() if modality in (None, name)]
        rows = self._stored_rows()
        extents = [_extent(self._dataset.data.column(column), rows) for column in columns]
        num_bytes, num_files = (sum(extent[place] for extent in extents) for place in (0, 1))
        if not columns or num_bytes > BYTES_READ or num_files > FILES_READ:
            return None
        digest = hashlib.blake2b(digest_size=8)
        for begin in range(0, len(self.rows), _ROWS_AT_ONCE):
            table = self._dataset[self.rows[begin : begin + _ROWS_AT_ONCE].tolist()]
            for column in columns:
                for part in _parts(table.column(column)):
                    digest.update(part)
        return digest.hexdigest()

    def _stored_rows(self) -> np.ndarray:
        """The row of each sample in the dataset's table."""
        indices = self._dataset._indices
        return self.rows if indices is None else indices.column(0).to_numpy()[self.rows]


class ArrowPictures:
    """Opens the pictures of one column, the source of a :class:`~.file_splits.FileSplit`."""

    def __init__(self, rows: ArrowRows) -> None:
        self.rows = rows
        (self._name,) = rows.columns

    @property
    def files(self) -> np.ndarray:
        """``row N`` of each sample, bytes (N,)."""
        return np.char.add(b"row ", self.rows.rows.astype(bytes))

    def open(self, row: int) -> Picture:
        """The sample's picture, its header read.

        Raises:
            DamagedImage: It cannot be read.
        """
        content = self.rows.contents(row)[self._name]
        assert isinstance(content, bytes)
        return Picture(self.rows.names(row)[self._name], content)

    def listing(self) -> str:
        return self.rows.listing()

    def contents_hash(self, modality: str | None = None) -> str | None:
        return self.rows.contents_hash()

    def stamp(self, row: int) -> int:
        """0: a table's cells are never replaced."""
        return 0


class ArrowReader(AlignedReader):
    """Reads aligned modalities, each from its column."""

    def __init__(self, rows: ArrowRows, labels: LabelRule) -> None:
        super().__init__([*rows.columns], labels)
        self.rows = rows

    def listing(self) -> str:
        return self.rows.listing()

    def contents_hash(self, modality: str | None = None) -> str | None:
        return self.rows.contents_hash(modality)

    def _paths(self, row: int) -> dict[str, Path]:
        return self.rows.names(row)

    def _contents(self, row: int) -> dict[str, Content]:
        return self.rows.contents(row)


def _content(cells: Any, name: Path) -> Content:
    """The only cell of a column (1,): a picture's bytes or path, alone or in a struct, or an array."""
    if not _is_picture(cells.type):
        if cells.null_count:
            raise DamagedImage(name, "the cell is empty", "filter the row out", "an array")
        return np.array(cells.chunk(0).to_numpy(zero_copy_only=False)[0])
    cell = cells[0].as_py()
    encoded, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, cell)
    if isinstance(encoded, bytes):
        return encoded
    if path is None:
        raise DamagedImage(name, "the cell is empty", "filter the row out")
    if "://" in path:
        raise DamagedImage(name, f"it is at {path}", "load the data set with its files")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise DamagedImage(name, f"{path}: {reason_of(error)}") from error


def _is_picture(kind: Any) -> bool:
    """Whether cells of an Arrow type are bytes or paths, and no arrays."""
    import pyarrow.types as types

    is_bytes, is_text = types.is_binary(kind) or types.is_large_binary(kind), types.is_string(kind)
    return types.is_struct(kind) or is_bytes or is_text or types.is_large_string(kind)


def _listing(cells: Any, rows: np.ndarray) -> str:
    """Stands for the contents of a column's ``rows``."""
    kind = cells.type
    if not _is_picture(kind):
        return listing_hash(np.array([str(kind)], np.bytes_), [len(rows)])
    files, sizes = _files_and_sizes(cells, rows)
    # Of a file the name alone, as a copy elsewhere is the same data.
    return listing_hash(np.array([os.path.basename(path) for path in files] or [b""]), sizes)


def _files_and_sizes(cells: Any, rows: np.ndarray) -> tuple[list[bytes], np.ndarray]:
    """The paths of a column's pictures that are in files of their own, and the size of each picture, int64 (N,)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = cells.type
    encoded = paths = None
    if pa.types.is_struct(kind):
        fields = {kind.field(place).name for place in range(kind.num_fields)}
        encoded = pc.struct_field(cells, "bytes") if "bytes" in fields else None
        paths = pc.struct_field(cells, "path") if "path" in fields else None
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        paths = cells
    else:
        encoded = cells
    sizes = np.full(len(cells), -1, np.int64)
    if encoded is not None:
        sizes = pc.fill_null(pc.binary_length(encoded), -1).to_numpy().astype(np.int64)
    sizes = sizes[rows]
    places = np.flatnonzero(sizes < 0)
    files: list[bytes] = []
    if paths is not None and len(places):
        files = [os.fsencode(path or "") for path in paths.take(pa.array(rows[places])).to_pylist()]
        sizes[places] = file_sizes(b"", np.array(files))
    return files, sizes


def _extent(cells: Any, rows: np.ndarray) -> tuple[int, int]:
    """How many bytes the contents of a column's ``rows`` have, and how many files of their own."""
    if not _is_picture(cells.type):
        return cells.nbytes * len(rows) // max(1, len(cells)), 0
    files, sizes = _files_and_sizes(cells, rows)
    return int(sizes.clip(0).sum()), len(files)


def _parts(cells: Any) -> Iterator[bytes]:
    """The contents of a column's cells, the same however the table is cut in pieces."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if _is_picture(cells.type):
        for cell in cells.to_pylist():
            encoded, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, cell)
            yield encoded if isinstance(encoded, bytes) else f"{0 if path is None else file_digest(path):016x}".encode()
        return
    values = pa.concat_arrays([getattr(chunk, "storage", chunk) for chunk in cells.chunks])
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    while any(is_list(values.type) for is_list in lists):
        yield np.asarray(pc.fill_null(pc.list_value_length(values), -1), np.int64).tobytes()
        values = values.flatten()
    numbers = values.to_numpy(zero_copy_only=False)
    yield numbers.tobytes() if numbers.dtype != object else repr(values.to_pylist()).encode()
