"""The attributes of a packed file: names of classes, and single numbers or texts, however a tool stores them."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from ...core.errors import UsageError


def decoded(text: str | bytes, where: str) -> str:
    """A name as it is stored.

    Args:
        text: Bytes, or what h5py makes of them.
        where: It is stored, for the message.

    Raises:
        UsageError: Its bytes are no UTF-8. HDF5 knows no other charset, so that any would be a guess.
    """
    # h5py hands out text of variable length as str, in which a byte that is no UTF-8 is a lone surrogate.
    stored = bytes(text) if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    try:
        return stored.decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{where} has the name {stored!r}, whose bytes are no UTF-8, so that its letters are not known: write the "
            "names as str, which h5py stores as UTF-8"
        ) from error


def class_names(file: h5py.Group, attribute: str = "classes") -> list[str] | None:
    """The attribute ``classes`` of a file or group, or another one, as strings; None where there is none.

    Raises:
        UsageError: It is one text or number, and no list of names, or a name is no UTF-8.
    """
    names, where = file.attrs.get(attribute), f"{file.file.filename}: the attribute {attribute}"
    if names is not None and np.ndim(names) != 1:
        shown = str(names)[:40]
        raise UsageError(
            f"{where} is {shown!r}, and should be a list of names: write it as file.attrs[{attribute!r}] = ['a', 'b']"
        )
    return None if names is None else [decoded(n, where) if isinstance(n, (str, bytes)) else str(n) for n in names]


def single_value(group: h5py.Group, attribute: str) -> Any:
    """An attribute that holds one text or number, in an array of one too, as MATLAB writes it: a str or float; another
    one as it is, None where there is none.
    """
    value = group.attrs.get(attribute)
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, str):
        return str(value)
    # By its digits: 0.001 of 32 bits is 0.001.
    return float(str(value)) if isinstance(value, (np.integer, np.floating)) else value
