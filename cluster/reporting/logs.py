"""What a process tells its log: lines for people, or one JSON object a line for machines (`--log-format json`).

Lines name requests by their ids, runs and versions; never a user, an item or an operator. Whoever logs sees to that.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

from .progress import Progress, Task, show_fields

LogFormat = Literal["text", "json"]
VARIABLE = "UNLEARNREC_LOG_FORMAT"
RUN = uuid.uuid4().hex[:12]
"""The id of this process, in each line of JSON and on each span: it tells the lines of one run from those of another."""

log = logging.getLogger(__name__)
_formats: list[LogFormat | None] = [None]
"""The format that was asked for in each `telling` block around the present one; None where none was."""


def log_format() -> LogFormat | None:
    """The format that was asked for; None where none was, and only warnings are shown."""
    return _formats[-1]


class JsonLines(logging.Formatter):
    """A record as one JSON object: `time`, `level`, `logger`, `run`, `message`, the fields given as `extra=fields(...)`, and
    the class of an exception as `error`; its text and its traceback may name anybody."""

    def format(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter.format`."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "run": RUN,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
        return json.dumps(line, default=str)


class TextLines(logging.Formatter):
    """A record as one line for people: time, level, message."""

    def format(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter.format`."""
        return f"{_time(record)} {record.levelname.lower()}: {record.getMessage()}"


class _Stderr(logging.Handler):
    """Writes to what `sys.stderr` is at the moment; a command with --json puts its own output there for a while."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def fields(**values: object) -> dict[str, Any]:
    """The argument `extra` of a logging call: fields of the JSON object. Fields that are None are left out."""
    return {"fields": {name: value for name, value in values.items() if value is not None}}


@contextmanager
def telling(chosen: LogFormat | None) -> Iterator[None]:
    """Write this package's log lines from INFO on to stderr in this format during the block. None: change nothing."""
    if chosen is None:
        yield
        return
    package, handler = logging.getLogger("unlearnrec"), _Stderr()
    handler.setFormatter(JsonLines() if chosen == "json" else TextLines())
    before = package.level
    package.setLevel(logging.INFO)
    package.addHandler(handler)
    _formats.append(chosen)
    try:
        yield
    finally:
        _formats.pop()
        package.removeHandler(handler)
        package.setLevel(before)


class LoggedProgress(Progress):
    """Notes and the ends of tasks as lines of the log, for a stderr that a machine reads."""

    def note(self, text: str) -> None:
        """As `Progress.note`."""
        log.info("%s", text)

    def _start(self, name: str, total: int | None) -> Task:
        return _LoggedTask(name)


class _LoggedTask(Task):
    def __init__(self, name: str) -> None:
        self._name, self._done, self._started = name, 0, time.monotonic()
        self._fields: dict[str, object] = {}

    def advance(self, n: int = 1, **fields: object) -> None:
        self._done += n
        self._fields.update(fields)

    def finish(self) -> None:
        seconds = time.monotonic() - self._started
        told = fields(task=self._name, done=self._done, seconds=round(seconds, 3), **self._fields)
        log.info("%s: %d in %.1f s%s", self._name, self._done, seconds, show_fields(self._fields), extra=told)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
