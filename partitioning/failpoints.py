"""Failpoints: for tests, a process dies or gets an error at a write of a store (docs/protocol.md).

The environment variable `UNLEARNREC_FAILPOINTS` switches them on. It holds `ACTION PATTERN MOMENT NTH FILE`, or several of
these separated by `;`. A failpoint acts at the NTH write, counted in each process, of a file whose name fits PATTERN
(`fnmatch`); a removal counts as a write. MOMENT is `before` or `after` the write. ACTION is one of these:

- `kill`, `stop`: the process gets SIGKILL or SIGSTOP. This happens to one process only: the first that creates FILE.
- `full`: the write fails with ENOSPC, and so do all later ones, as long as FILE exists. With `after` the write is done and
  the error follows: so it looks when an answer is lost.
- `slow`: the write takes half a second longer, and so do all later ones, as long as FILE exists.
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
    """One failpoint, with the fields of its text. `nth` counts down, and it acts when it reaches 0."""

    action: str
    pattern: str
    moment: str
    nth: int
    file: str

    def trigger(self, name: str, moment: str) -> None:
        """Act, if this write of the file `name` is meant.

        Raises:
            OSError: with the action `full`.
        """
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
        """Whether this process is the first to act: it creates FILE."""
        try:
            os.close(os.open(self.file, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


def parse_failpoints(text: str) -> list[Failpoint]:
    """The failpoints in the text of the environment variable."""
    found = []
    for part in filter(None, text.split(";")):
        action, pattern, moment, nth, file = part.split()
        assert action in (*SIGNALS, "full", "slow") and moment in ("before", "after"), part
        found.append(Failpoint(action, pattern, moment, int(nth), file))
    return found


class FailingFiles:
    """The files of a store, with failpoints around each call that changes one."""

    def __init__(self, files: Any) -> None:
        self._files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def write(self, path: str, data: bytes) -> None:
        """As `Store.write`."""
        self._around(path, self._files.write, path, data)

    def write_file(self, path: str, file: Any) -> None:
        """As `Store.write_file`."""
        self._around(path, self._files.write_file, path, file)

    def create(self, path: str, data: bytes) -> None:
        """As `Store.create`."""
        self._around(path, self._files.create, path, data)

    def remove(self, path: str) -> None:
        """As `Store.remove`."""
        self._around(path, self._files.remove, path)

    def _around(self, path: str, act: Any, *arguments: Any) -> None:
        for point in _points():
            point.trigger(path, "before")
        act(*arguments)
        for point in _points():
            point.trigger(path, "after")


_parsed: list[Failpoint] | None = None


def _points() -> list[Failpoint]:
    """The failpoints of this process. They are made once, so that they count the writes of all of its stores together."""
    global _parsed
    if _parsed is None:
        _parsed = parse_failpoints(os.environ[ENVIRONMENT])
    return _parsed
