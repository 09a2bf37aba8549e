"""Arrays as a safetensors file, written without a copy of all of them together."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .manifest import File
from .storage import Store

_NAMES = {np.dtype(np.int64): "I64", np.dtype(np.int32): "I32"}

Sizes = Mapping[str, tuple[npt.DTypeLike, int]]


def frame(sizes: Sizes) -> tuple[bytes, dict[str, int], int]:
    """(the head of a safetensors file with these arrays, where in the file each begins, the length of the file).

    sizes: {name: (type, length)} of arrays with one dimension. The order is that of the library: larger numbers first, then
    by name.
    """
    order = sorted(sizes, key=lambda name: (-np.dtype(sizes[name][0]).itemsize, name))
    tensors, offset, places = {}, 0, {}
    for name in order:
        dtype, length = np.dtype(sizes[name][0]), sizes[name][1]
        end = offset + length * dtype.itemsize
        tensors[name] = {"dtype": _NAMES[dtype], "shape": [length], "data_offsets": [offset, end]}
        places[name], offset = offset, end
    head = json.dumps(tensors, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    head = len(head).to_bytes(8, "little") + head
    return head, {name: len(head) + place for name, place in places.items()}, len(head) + offset


def parts_of(arrays: Mapping[str, npt.NDArray[Any]]) -> list[memoryview]:
    """The parts of the safetensors file of arrays with one dimension: its head, then the memory of each array."""
    head, places, _ = frame({name: (array.dtype, len(array)) for name, array in arrays.items()})
    ordered = sorted(arrays, key=places.__getitem__)
    # An array without elements has no memory that could be cast.
    found = (np.ascontiguousarray(arrays[name]) for name in ordered if len(arrays[name]))
    return [memoryview(head), *(array.data.cast("B") for array in found)]


def write_parts(store: Store, name: str, parts: Sequence[memoryview]) -> File:
    """Write a file that these parts make up; returns what a manifest says of it."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    store.write_file(name, io.BufferedReader(_Joined(parts)))
    return File(sha256=digest.hexdigest(), bytes=sum(map(len, parts)))


class _Joined(io.RawIOBase):
    """Parts as an open file."""

    def __init__(self, parts: Sequence[memoryview]) -> None:
        self._parts = [part for part in parts if len(part)]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._parts:
            return 0
        size = min(len(buffer), len(self._parts[0]))
        buffer[:size] = self._parts[0][:size]
        self._parts[0] = self._parts[0][size:]
        if not len(self._parts[0]):
            del self._parts[0]
        return size
