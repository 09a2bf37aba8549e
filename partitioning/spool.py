"""Columns of numbers that are too long for the memory: what a spool holds beyond its limit goes to temporary files.

The files have no names (they are removed as soon as they are open), so a process that dies leaves none behind.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .errors import InputError

MEMORY_BYTES = 192 << 20
"""What the columns of a spool hold in memory together."""

Array = npt.NDArray[Any]


class Spool:
    """Makes columns, and closes those that are left when it is closed."""

    def __init__(self, folder: str | None = None, memory: int = MEMORY_BYTES) -> None:
        """folder: for the temporary files; None: the system's, which the environment variable TMPDIR names. memory: in
        bytes; 0 puts all into files."""
        self.folder = folder or tempfile.gettempdir()
        self.memory = memory
        self.held = 0
        """The bytes in memory now."""
        self.on_disk = self.most_on_disk = 0
        """The bytes in files now, and the most there have been."""
        self._columns: set[Column] = set()

    def column(self, dtype: npt.DTypeLike) -> Column:
        """A new column, which is empty."""
        column = Column(self, np.dtype(dtype))
        self._columns.add(column)
        return column

    def open(self) -> BinaryIO:
        """A temporary file without a name.

        Raises:
            InputError: the folder cannot be written.
        """
        with self.errors():
            # Not buffered: an error of the disk is then raised by the write that meets it.
            return tempfile.TemporaryFile(dir=self.folder, buffering=0, prefix="unlearnrec-")

    def write(self, file: BinaryIO, offset: int, data: memoryview) -> None:
        """Write data at a place of a file.

        Raises:
            InputError: the disk is full, or fails.
        """
        with self.errors():
            while len(data):
                done = os.pwrite(file.fileno(), data, offset)
                data, offset = data[done:], offset + done

    def spilled(self, bytes_: int) -> None:
        """Count bytes of files; below zero for a file that is closed."""
        self.on_disk += bytes_
        self.most_on_disk = max(self.most_on_disk, self.on_disk)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn errors of the disk into InputError."""
        try:
            yield
        except OSError as error:
            advice = "It must be a folder that you may write to"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                advice = (
                    f"After {self.on_disk / 1e9:.1f} GB of temporary files it is full; docs/ingest.md says how much is "
                    "needed. Make room there"
                )
            raise InputError(
                f"temporary folder {self.folder}: {error.strerror or error}. {advice}, or name another one with "
                "partitioning.spool or the environment variable TMPDIR"
            ) from error

    def forget(self, column: Column) -> None:
        """A column was closed."""
        self._columns.discard(column)

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for column in list(self._columns):
            column.close()


class Column:
    """A column of numbers of one type that grows at its end. `Spool.column` makes them."""

    def __init__(self, spool: Spool, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._spool = spool
        self._parts: list[Array] = []
        self._file: BinaryIO | None = None
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, values: Array) -> None:
        """Put values [n] at the end.

        Raises:
            InputError: the disk is full, or fails.
        """
        values = np.ascontiguousarray(values, dtype=self.dtype)
        if not len(values):
            return
        if self._file is None and self._spool.held + values.nbytes > self._spool.memory:
            self._file = self._spool.open()
            parts, self._parts, self._length = self._parts, [], 0
            for part in parts:
                self._spool.held -= part.nbytes
                self._store(part)
        if self._file is None:
            if values.base is not None:
                values = values.copy()  # a view would keep the whole array that it is a part of
            self._parts.append(values)
            self._spool.held += values.nbytes
            self._length += len(values)
        else:
            self._store(values)

    def read(self, first: int = 0, end: int | None = None) -> Array:
        """The values from `first` up to `end`. They must not be changed.

        Raises:
            InputError: the disk fails.
        """
        end = self._length if end is None else end
        if self._file is None:
            if len(self._parts) > 1:
                self._parts = [np.concatenate(self._parts)]
            return self._parts[0][first:end] if self._parts else np.empty(0, dtype=self.dtype)
        values = np.empty(end - first, dtype=self.dtype)
        view, place = values.data.cast("B"), first * self.dtype.itemsize
        with self._spool.errors():
            while len(view):
                done = os.preadv(self._file.fileno(), [view], place)
                if not done:
                    raise OSError(errno.EIO, f"a temporary file ends at byte {place}")
                view, place = view[done:], place + done
        return values

    def close(self) -> None:
        """Give the memory or the file back. The column is empty then."""
        self._spool.held -= sum(part.nbytes for part in self._parts)
        if self._file is not None:
            self._file.close()
            self._spool.spilled(-self._length * self.dtype.itemsize)
        self._parts, self._file, self._length = [], None, 0
        self._spool.forget(self)

    def _store(self, values: Array) -> None:
        assert self._file is not None
        self._spool.write(self._file, self._length * self.dtype.itemsize, values.data.cast("B"))
        self._length += len(values)
        self._spool.spilled(values.nbytes)
