"""What the store asks of a place that holds files, and what places share."""

import hashlib
import mmap
import os
import posixpath
from typing import BinaryIO, NamedTuple, Protocol

TEMPORARY = ".tmp-"
"""How the names of temporary files begin."""
PIECE = 16 << 20
"""The number of bytes that are copied or hashed at a time."""


class Details(NamedTuple):
    """The size of a file in bytes, and when it was last written, in seconds since the epoch, by the clock of this machine or
    of the service."""

    bytes: int
    modified: float


class Files(Protocol):
    """A place that holds files. The methods are those of `storage.Store`, which says what they do."""

    def read(self, path: str) -> bytes: ...
    def mapped(self, path: str, folder: str | None) -> memoryview: ...
    def size(self, path: str) -> int: ...
    def write(self, path: str, data: bytes) -> None: ...
    def write_file(self, path: str, file: BinaryIO) -> None: ...
    def create(self, path: str, data: bytes) -> None: ...
    def exists(self, path: str) -> bool: ...
    def details(self, prefix: str) -> dict[str, Details]: ...
    def remove(self, path: str) -> None: ...
    def modified(self, path: str) -> float: ...


def is_temporary(path: str) -> bool:
    """Whether this is the temporary file of a write that is under way, or that a crash ended."""
    return posixpath.basename(path).startswith(TEMPORARY)


def mapped(file: BinaryIO) -> memoryview:
    """The content of an open file, mapped into memory."""
    size = os.fstat(file.fileno()).st_size
    return memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b"")


def digest_of(data: memoryview) -> str:
    """The SHA-256 of a content in hexadecimal, as `Store.sha256`. Pages of a mapped file are let go again."""
    found = hashlib.sha256()
    for start in range(0, len(data), PIECE):
        piece = data[start : start + PIECE]
        found.update(piece)
        if isinstance(data.obj, mmap.mmap):
            data.obj.madvise(mmap.MADV_DONTNEED, start, len(piece))
    return found.hexdigest()
