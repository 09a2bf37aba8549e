"""Whether the workers of a call are alive, and how far they are."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError

from .memory import WorkerMemory

LOST_ERRORS = (RayActorError, OutOfMemoryError)
"""What Ray raises where a worker's process ended. The second: its monitor of the memory ended it, and none is started."""


class Pulse:
    """Asks the workers of a call for their progress, which also shows that they are alive. Each worker has at most one
    unanswered question."""

    def __init__(self, actors: Sequence[Any], partitions: list[int], memory: dict[int, WorkerMemory]) -> None:
        """memory: where the last report of each worker's memory is put."""
        self._actors = actors
        self._partitions = partitions
        self._memory = memory
        self._asked: dict[int, tuple[Any, float]] = {}
        self._last: dict[int, dict[str, Any]] = {k: {} for k in partitions}

    @property
    def last_progress(self) -> list[dict[str, Any]]:
        """The last known progress, one dict per partition."""
        return [self._last[k] for k in self._partitions]

    def progress_of(self, k: int) -> dict[str, Any]:
        """The last known progress of partition k."""
        return self._last[k]

    def poll(self, pending: Iterable[int], limit_seconds: float) -> list[int]:
        """Take the answers that have come, and ask again. Returns the partitions whose question has been unanswered for
        longer than `limit_seconds`."""
        now = time.monotonic()
        for k, (ref, _) in list(self._asked.items()):
            if ray.wait([ref], timeout=0)[0]:
                del self._asked[k]
                try:
                    self._last[k], self._memory[k] = ray.get(ref)
                except LOST_ERRORS:
                    continue  # its call fails too, and that is where it is reported
        for k in pending:
            if k not in self._asked:
                self._asked[k] = (self._actors[k].pulse.remote(), now)
        return [k for k in pending if now - self._asked[k][1] > limit_seconds]


def first_line(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters. Messages of Ray have many lines."""
    return str(error).strip().splitlines()[0][:200]
