"""Where each sample of tar shards lies: read once from the tars' headers, and stored in a file for the next time."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import h5py
import numpy as np

from ...core.atomic import atomic_write
from ...core.errors import ContrastillError
from ...core.value_scale import note_once
from .file_loader import default_workers
from .images import IMAGE_SUFFIXES

log = logging.getLogger(__name__)

_IMAGES = tuple(suffix[1:] for suffix in IMAGE_SUFFIXES)
_LARGEST = np.iinfo(np.int64).max
# Of what an index file holds; another number makes all of them stale.
_FORMAT = 4
_READ = (*_IMAGES, "cls", "json")
_LINKS = "symbolic links and other members that are no files"
_KEYS = "keys with neither an image nor a class"
_FOLLOW = "pack the file that a link names, as tar --dereference does"
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class TarIndex:
    """The samples of a list of shards, in the order of shards and of members within each.

    Attributes:
        files: (N,) bytes, name of each sample's image in its tar.
        shard: (N,) int64, place of its tar in the list.
        offset, size: (N,) int64, where the image's bytes begin in the tar, and how many there are.
        target: (N,) int64, its class.
    """

    files: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    def take(self, rows: Sequence[int]) -> TarIndex:
        """These samples alone, in this order."""
        return TarIndex(*(getattr(self, field.name)[np.asarray(rows, dtype=np.int64)] for field in fields(self)))


def tar_index(shards: Sequence[Path], cache: Path | None = None) -> TarIndex:
    """The index of these shards: the stored one if it is up to date, else a new one, which is then stored.

    Args:
        shards: Uncompressed tars.
        cache: Folder of the index if it cannot be stored beside the first shard.

    Raises:
        ContrastillError: A tar is cut off or damaged; a key has no class, no image, or two of one.
    """
    print_, name = fingerprint(shards)
    folders = [shards[0].parent, *([cache] if cache else [])]
    for folder in folders:
        if (known := _read(folder / name, print_)) is not None:
            index, note = known
            _tell(note)
            return index
    log.info("reading the headers of %d shards of %s", len(shards), shards[0].parent)
    with ThreadPoolExecutor(max_workers=default_workers()) as pool:
        parts = list(pool.map(_members, shards))
    samples = [(number, *sample) for number, (part, _) in enumerate(parts) for sample in part]
    note = _passed_over(dict(zip(shards, (counts for _, counts in parts), strict=True)))
    _tell(note)
    numbers = np.array([(number, *rest) for number, _, *rest in samples], dtype=np.int64).reshape(-1, 4).T
    index = TarIndex(
        np.array([os.fsencode(file) for _, file, *_ in samples], dtype=np.bytes_), *np.ascontiguousarray(numbers)
    )
    for folder in folders:
        try:
            _write(folder / name, print_, index, note)
            return index
        except OSError as error:
            reason = str(error)
    log.warning(
        "the index of %s could not be stored (%s) and is rebuilt each time: name a folder for it with data.cache",
        shards[0].parent,
        reason,
    )
    return index


def fingerprint(shards: Sequence[Path]) -> tuple[str, str]:
    """What changes with the shards' names, sizes and times of change; and the name of their index, which changes with
    their names alone.
    """
    names = [shard.name for shard in shards]
    stats = [shard.stat() for shard in shards]
    described = json.dumps(
        [_FORMAT, [(name, stat.st_size, stat.st_mtime_ns) for name, stat in zip(names, stats, strict=True)]]
    )
    place = json.dumps(
        [os.path.relpath(shard, shards[0].parent) for shard in shards] + [str(shards[0].parent.resolve())]
    )
    return _digest(described), f"contrastill-{_digest(place)[:12]}.index.h5"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _passed_over(counts: Mapping[Path, Counter[str]]) -> str:
    """What of the shards is not read, a line for each kind; empty where all is."""
    lines = []
    for what, way in ((_KEYS, ""), (_LINKS, f"; {_FOLLOW}")):
        shards = [shard for shard, of_shard in counts.items() if of_shard[what]]
        if shards:
            others = f" and {len(shards) - 1} more" if len(shards) > 1 else ""
            total = sum(counts[shard][what] for shard in shards)
            lines.append(f"{shards[0]}{others}: {what} are passed over: {total}{way}")
    return "\n".join(lines)


def _tell(note: str) -> None:
    """Log what is not read, also where the index is a stored one."""
    for line in note.splitlines():
        note_once(line)


def _read(path: Path, print_: str) -> tuple[TarIndex, str] | None:
    """A stored index, and what of the shards is not read; None where there is none, or of other shards, or a damaged
    one.
    """
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("fingerprint") != print_:
                return None
            index = TarIndex(*(file[field.name][:] for field in fields(TarIndex)))
            return index, os.fsdecode(bytes(file["passed_over"][:]))
    except (OSError, KeyError, RuntimeError):
        return None


def _write(path: Path, print_: str, index: TarIndex, note: str) -> None:
    """Several processes may write it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["fingerprint"] = print_
        # Bytes, as the name of a folder may be no text.
        file["passed_over"] = np.frombuffer(os.fsencode(note), dtype=np.uint8)
        for field in fields(index):
            file.create_dataset(field.name, data=getattr(index, field.name), compression="gzip", shuffle=True)


def _members(path: Path) -> tuple[list[tuple[str, int, int, int]], Counter[str]]:
    """(name of the image, offset, size, class) of each key of one tar, in the order of their first members; and how
    much is not read.
    """
    images: dict[str, tuple[str, int, int]] = {}
    targets: dict[str, int] = {}
    order: dict[str, None] = {}
    # Keys whose only files of a kind that is read have another dot before it, and those without any.
    dotted: dict[str, str] = {}
    others: set[str] = set()
    classes: set[str] = set()
    origins: dict[str, str] = {}
    # Keys with a member that would be read if it were a file.
    links: dict[str, str] = {}
    passed_over = Counter[str]()
    try:
        with open(path, "rb") as file:
            for tar, member, content in _files(path, file):
                key, kind = _split(member.name)
                if not (key and kind):
                    continue
                if content is None:
                    if kind in _READ:
                        links[key] = member.name
                        passed_over[_LINKS] += 1
                    continue
                if kind not in _READ:
                    others.add(key)
                    if kind.rpartition(".")[2] in (*_IMAGES, "cls"):
                        dotted.setdefault(key, member.name)
                    continue
                order[key] = None
                if kind in _IMAGES:
                    if key in images:
                        raise ContrastillError(
                            f"{path} holds two images of the key {key}, {images[key][0]} and {member.name}: leave "
                            "one in it"
                        )
                    images[key] = (member.name, content.offset_data, content.size)
                elif (target := _target(path, member.name, kind, _content(tar, content))) is not None:
                    if kind == "cls" and key in classes:
                        raise ContrastillError(
                            f"{path} holds two classes of the key {key}, the second is {member.name}: leave one in it"
                        )
                    classes |= {key} if kind == "cls" else set()
                    if targets.setdefault(key, target) != target:
                        raise ContrastillError(
                            f"{path}: the key {key} is of class {targets[key]} by {origins[key]} and of class {target} "
                            f"by {member.name}: correct one of them, or take it out"
                        )
                    origins[key] = member.name
    except (tarfile.TarError, EOFError, OSError) as error:
        if way := _compressed(path):
            raise ContrastillError(
                f"{path} is compressed, and samples are read by their place in a plain tar: {way}"
            ) from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ContrastillError(
            f"{path} cannot be read as an uncompressed tar ({reason}): copy it again, or remove it"
        ) from error
    for key, member_name in dotted.items():
        if key not in images:
            raise ContrastillError(
                f"{path}: {member_name} is of the key {key} and of the kind {_split(member_name)[1]}, as "
                "WebDataset parts a file name at its first dot, "
                "and the key has no image: take the other dots out of the file names"
            )
    passed_over[_KEYS] = len(others - order.keys() - links.keys())
    for key in order:
        link = f"; {links[key]} is a link or no plain file: {_FOLLOW}" if key in links else ""
        if key not in images:
            raise ContrastillError(
                f"{path}: the key {key} has a class and no image ({', '.join(_IMAGES)}): add it, or remove the key"
                f"{link}"
            )
        if key not in targets:
            raise ContrastillError(
                f"{path}: the key {key} has no class: add {key}.cls with a whole number, or {key}.json with one "
                f"under label{link}"
            )
    return [(*images[key], targets[key]) for key in order], passed_over


def _files(path: Path, file: BinaryIO) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo, tarfile.TarInfo | None]]:
    """(tar, member, the member with its content) of all that is no folder: a hard link's content is that of an earlier
    member, and None what is no file. Tars that were joined one after the other, as by ``cat``, are all read.

    Raises:
        tarfile.TarError: It is cut off or damaged.
    """
    contents: dict[str, tarfile.TarInfo] = {}
    begin: int | None = 0
    while begin is not None:
        file.seek(begin)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isdir():
                    continue
                content = None
                if member.islnk():
                    content = contents.get(posixpath.normpath(member.linkname))
                elif member.isreg() and not member.issparse():
                    content = member
                if content is not None:
                    contents[posixpath.normpath(member.name)] = content
                yield tar, member, content
            end = tar.offset
        _check_end(path, end)
        begin = _next_part(file, end)


def _next_part(file: BinaryIO, end: int) -> int | None:
    """Where a further tar begins behind the end of one; None where zeros alone follow."""
    file.seek(end)
    while chunk := file.read(1 << 20):
        if zeros := chunk.lstrip(b"\0"):
            place = end + len(chunk) - len(zeros)
            return place - (place - end) % tarfile.BLOCKSIZE
        end += len(chunk)
    return None


def _compressed(path: Path) -> str:
    """How a compressed file is unpacked; empty where it is none."""
    try:
        with open(path, "rb") as file:
            begin = file.read(6)
    except OSError:
        return ""
    tools = (tool for magic, tool in _COMPRESSED.items() if begin.startswith(magic))
    return next((f"{tool} -dc < {path.name} > plain.tar, and mv plain.tar {path.name}" for tool in tools), "")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None:  # a link to nothing; other members are files
        raise tarfile.ReadError(f"{member.name} is no file")
    return file.read()


def _check_end(path: Path, end: int) -> None:
    """A tar ends in zeros: tarfile takes a header that is missing or damaged for the end and says nothing."""
    with open(path, "rb") as file:
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
    if block != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(
            f"{'damaged header at' if len(block) == tarfile.BLOCKSIZE else 'truncated, no end of archive at'} "
            f"byte {end}"
        )


def _split(name: str) -> tuple[str, str]:
    """Key and ending of a member, parted at the first dot of its file name, as WebDataset does; no key for what is
    hidden.
    """
    parts = PurePosixPath(name)
    stem, _, kind = parts.name.partition(".")
    hidden = not stem or (stem.startswith("__") and stem.endswith("__"))
    return ("" if hidden else str(parts.with_name(stem))), kind.lower()


def _target(path: Path, name: str, kind: str, content: bytes) -> int | None:
    """The class that a member says; None where it is a .json that says none."""
    try:
        # int() itself would take 1_0 for ten.
        value = json.loads(content) if kind == "json" else int(content.decode("ascii").replace("_", "x"))
        if kind == "json":
            value = value.get("label") if isinstance(value, dict) else None
            if value is None:
                return None
    except ValueError:
        value = None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
        shown = content[:40].decode("utf-8", "replace").strip()
        raise ContrastillError(f"{path}: {name} says {shown!r}, which is no class: a class is a whole number from 0 on")
    return value
