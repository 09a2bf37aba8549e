"""Deaths and errors on purpose, at the writes of a store: for tests (docs/protocol.md), switched on by the environment.

`UNLEARNREC_FAILPOINTS` holds `ACTION PATTERN MOMENT NTH FILE`, several separated by `;`: at the NTH write whose name fits
PATTERN (`fnmatch`), counted in each process, `before` or `after` it.

- `kill`, `stop`: this process gets SIGKILL or SIGSTOP. Once in all: whoever makes FILE first.
- `full`: the write fails with ENOSPC, and so do all later ones, as long as FILE exists. After the write, it is an answer
  that was lost.
- `slow`: it takes half a second longer, as `full`.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

ENVIRONMENT = "UNLEARNREC_FAILPOINTS"
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
SLOW_SECONDS = 0.5


@dataclass
class Failpoint:
    """One of them; `nth` counts down."""

    action: str
    pattern: str
    moment: str
    nth: int
    file: str

    def trigger(self, name: str, moment: str) -> None:
        """Raises OSError, or does not return."""
        if moment != self.moment or not fnmatchcase(name, self.pattern):
            return
        self.nth -= 1
        if self.action in SIGNALS:
            if self.nth == 0 and self._first():
                os.kill(os.getpid(), SIGNALS[self.action])
        elif self.nth <= 0 and os.path.exists(self.file):
            if self.action == "slow":
                time.sleep(SLOW_SECONDS)
            else:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)

    def _first(self) -> bool:
        try:
            os.close(os.open(self.file, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


def parse_failpoints(text: str) -> list[Failpoint]:
    """The failpoints of the environment variable."""
    found = []
    for part in filter(None, text.split(";")):
        action, pattern, moment, nth, file = part.split()
        assert action in (*SIGNALS, "full", "slow") and moment in ("before", "after"), part
        found.append(Failpoint(action, pattern, moment, int(nth), file))
    return found


class FailingFiles:
    """The files of a store, with failpoints around what changes them."""

    def __init__(self, files: Any) -> None:
        self._files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def write(self, path: str, data: bytes) -> None:
        """As the store's."""
        self._around(path, self._files.write, path, data)

    def create(self, path: str, data: bytes) -> None:
        """As the store's."""
        self._around(path, self._files.create, path, data)

    def remove(self, path: str) -> None:
        """As the store's."""
        self._around(path, self._files.remove, path)

    def _around(self, path: str, act: Any, *arguments: Any) -> None:
        for point in _points():
            point.trigger(path, "before")
        act(*arguments)
        for point in _points():
            point.trigger(path, "after")


_parsed: list[Failpoint] | None = None


def _points() -> list[Failpoint]:
    """Of this process: stores come and go, the count of writes stays."""
    global _parsed
    if _parsed is None:
        _parsed = parse_failpoints(os.environ[ENVIRONMENT])
    return _parsed
