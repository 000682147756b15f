"""Arrays of numbers in files of MATLAB, version 5 (`save -v7` or `-v6`), in plain NumPy.

SciPy's reader can crash the process on a damaged file.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flossing.errors import UnreadableFileError
from flossing.support.foreign_files import refuse_foreign

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_COMPLEX, _FIRST_CLASS, _LAST_CLASS = 0x0800, 6, 15
# By MATLAB's numbers of types of stored values.
_TYPES = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
_LARGEST = 2**30
"""Bytes up to which compressed arrays are unpacked, all together."""


class _Element(NamedTuple):
    kind: int
    data: memoryview


def matlab_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the real, dense arrays of numbers in a file by name; other variables are skipped.

    Raises:
        UnreadableFileError: the file is damaged, of another version, or would fill the memory.
    """
    refuse_foreign(path)
    content = path.read_bytes()
    if content.startswith(b"MATLAB 7.3"):
        raise UnreadableFileError(
            f"{str(path)!r} is of MATLAB's version 7.3, which is HDF5: save it in MATLAB with "
            "save('weights.mat', 'W', '-v7'), and pass that file"
        )
    try:
        return dict(_arrays(content))
    # Of a damaged file, whatever NumPy and zlib raise.
    except Exception as error:
        raise UnreadableFileError(
            f"{str(path)!r} is damaged, or not a file of MATLAB ({error}): save it again with "
            "save('weights.mat', 'W', '-v7')"
        ) from error


def _arrays(content: bytes) -> Iterator[tuple[str, NDArray[Any]]]:
    marks = {b"IM": "<", b"MI": ">"}
    order = marks.get(content[_HEADER - 2 : _HEADER])
    if order is None:
        raise ValueError("no header of version 5")
    room = _LARGEST
    for element in _elements(memoryview(content)[_HEADER:], order):
        inner = element
        if element.kind == _COMPRESSED:
            unpacked = zlib.decompressobj().decompress(element.data, room)
            if len(unpacked) == room:
                raise ValueError(f"it unpacks to {_LARGEST:,} bytes or more")
            room -= len(unpacked)
            inner = next(_elements(memoryview(unpacked), order))
        if inner.kind == _MATRIX and (found := _matrix(inner.data, order)):
            yield found


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    start = 0
    while start < len(data):
        kind, size = (int(each) for each in np.frombuffer(data, f"{order}u4", 2, start))
        # Up to four bytes stand in the tag itself, with their number above the type.
        if kind >> 16:
            yield _checked(kind & 0xFFFF, data[start + 4 : start + 8], kind >> 16)
            start += 8
            continue
        yield _checked(kind, data[start + 8 : start + 8 + size], size)
        start += 8 + (size if kind == _COMPRESSED else -(-size // 8) * 8)


def _checked(kind: int, data: memoryview, size: int) -> _Element:
    if len(data) < size:
        raise ValueError("it ends within an array")
    return _Element(kind, data[:size])


def _matrix(data: memoryview, order: str) -> tuple[str, NDArray[Any]] | None:
    elements = _elements(data, order)
    flags = int(np.frombuffer(next(elements).data, f"{order}u4")[0])
    if not _FIRST_CLASS <= flags & 0xFF <= _LAST_CLASS or flags & _COMPLEX:
        return None
    shape = [int(size) for size in np.frombuffer(next(elements).data, f"{order}i4")]
    name = bytes(next(elements).data).decode("ascii")
    stored = next(elements)
    values = np.frombuffer(stored.data, order + _TYPES[stored.kind]).reshape(shape, order="F")
    # MATLAB stores whole numbers in short types; single precision is told by the class.
    return name, values.astype(np.float32 if flags & 0xFF == _FIRST_CLASS + 1 else np.float64)
