"""A store in a dict whose writer can die before or after any write."""

from __future__ import annotations

import hashlib
from typing import Any

from unlearnrec.partitioning.files import Details


class Crash(BaseException):
    """The process ends here; no `except Exception` may hold it up."""


class MemoryStore:
    """What the log, versions and requests need of `partitioning.storage.Store`."""

    root_uri = "memory"

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.crash_at: int | None = None
        """Writes until the crash, in halves: 0 dies before the next write, 1 after it, 2 before the one after."""

    def read(self, name: str) -> bytes:
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.files[name]

    def mapped(self, name: str, folder: str | None = None) -> memoryview:
        return memoryview(self.read(name))

    def size(self, name: str) -> int:
        return len(self.read(name))

    def exists(self, name: str) -> bool:
        return name in self.files

    def list(self, folder: str = "") -> list[str]:
        return sorted(name for name in self.files if name.startswith(f"{folder}/" if folder else ""))

    def details(self, folder: str = "") -> dict[str, Details]:
        return {name: Details(len(self.files[name]), self.modified(name)) for name in MemoryStore.list(self, folder)}

    def modified(self, name: str) -> float:
        self.read(name)
        return 0.0

    def write(self, name: str, data: bytes) -> None:
        self._moment()
        self.files[name] = data
        self._written(name)
        self._moment()

    def write_file(self, name: str, file: Any) -> None:
        self.write(name, file.read())

    def create(self, name: str, data: bytes) -> None:
        self._moment()
        if self.files.setdefault(name, data) is not data:  # one step, whatever other threads do
            raise FileExistsError(name)
        self._written(name)
        self._moment()

    def remove(self, name: str) -> None:
        self._moment()
        if self.files.pop(name, None) is None:
            raise FileNotFoundError(name)
        self._moment()

    def sha256(self, data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    def _written(self, name: str) -> None:
        """It is there, and whoever wrote it has not gone on yet."""

    def _moment(self) -> None:
        if self.crash_at is not None:
            self.crash_at -= 1
            if self.crash_at < 0:
                self.crash_at = None
                raise Crash
