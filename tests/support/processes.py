"""Processes of the model: threads of which one runs at a time, stopped before and after every write to their common store.

Whoever drives them decides who goes on, who dies where he stands, and whose write fails or loses its answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from memory_store import Crash, MemoryStore

from unlearnrec.partitioning.files import Details


class Process:
    """At most one action at a time; stands still at its moments until it is told to go on."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._raise: BaseException | None = None
        self._dead: Crash | None = None
        self._moments = 0
        self.error: BaseException | None = None
        """What ended the last action, if it did not just end."""

    @property
    def busy(self) -> bool:
        return self._thread is not None

    def start(self, action: Callable[[], Any]) -> None:
        """Begin an action, and stand still before its first moment."""
        assert not self.busy
        self.error, self._moments, self._raise, self._dead = None, 0, None, None

        def body() -> None:
            try:
                action()
            except BaseException as error:
                self.error = error
            self._thread = None
            self._stopped.release()

        self._thread = threading.Thread(target=body, daemon=True)
        self._thread.start()
        self._stopped.acquire()

    def go(self, moments: int = 10**9, then: BaseException | None = None) -> None:
        """Let so many moments pass, then raise something where it stands."""
        if not self.busy:
            return
        self._moments, self._raise = moments, then
        self._go.release()
        self._stopped.acquire()

    def moment(self) -> None:
        """Called by the action's thread."""
        if self._dead is not None:  # nor does it clean up
            raise self._dead
        if self._moments > 0:
            self._moments -= 1
            return
        while True:
            if self._raise is not None:
                error, self._raise = self._raise, None
                self._dead = error if isinstance(error, Crash) else None
                raise error
            self._stopped.release()
            self._go.acquire()
            if self._moments > 0:
                self._moments -= 1
                return

    def own(self, thread: threading.Thread) -> bool:
        return thread is self._thread


class SharedStore(MemoryStore):
    """A store whose clock dates the files; every write, removal and listing of a process is a moment."""

    def __init__(self, files: dict[str, bytes], clock: Callable[[], float], processes: list[Process]) -> None:
        super().__init__()
        self.files, self._clock, self._processes = dict(files), clock, processes
        self._dates: dict[str, float] = {}
        self.full: str | None = None
        """Names that begin like this cannot be created: there is no room."""

    def list(self, folder: str = "") -> list[str]:
        found = super().list(folder)
        self._moment()
        return found

    def details(self, folder: str = "") -> dict[str, Details]:
        found = super().details(folder)
        self._moment()
        return found

    def create(self, name: str, data: bytes) -> None:
        if self.full is not None and name.startswith(self.full):
            raise OSError(28, "No space left on device")
        super().create(name, data)

    def modified(self, name: str) -> float:
        self.read(name)
        return self._dates.get(name, 0.0)

    def modified_before(self, name: str, seconds: float) -> float:
        """When a file was written that may be gone, and may have been written anew at `seconds` or later."""
        found = self._dates.get(name, 0.0)
        return found if found < seconds else 0.0

    def _written(self, name: str) -> None:
        self._dates[name] = self._clock()

    def _moment(self) -> None:
        thread = threading.current_thread()
        for process in self._processes:
            if process.own(thread):
                process.moment()
