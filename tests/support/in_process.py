"""A worker group of one partition in this process, without Ray: the real methods, called one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import unlearnrec
from unlearnrec.cluster.config.schema import Config
from unlearnrec.distributed.partition.partition import Partition
from unlearnrec.workers import Call

R = TypeVar("R")


class InProcess:
    """What commands need of a `WorkerGroup`."""

    def __init__(self) -> None:
        self._host = Partition(0, 1)
        self.called: list[str] = []

    def run(
        self,
        call: Call[R],
        *,
        restore: Callable[[], None],
        max_rebuilds: int = 0,
        partitions: Sequence[int] | None = None,
        on_progress: Callable[[list[dict[str, Any]]], None] | None = None,
    ) -> list[R]:
        self.called.append(call.method)
        result = call.on(self._host)
        if on_progress is not None:
            on_progress([self._host.progress()])
        return [result]

    def call(self, call: Call[R]) -> list[R]:
        return self.run(call, restore=lambda: None)


def opened_in_process(config: Config) -> unlearnrec.Session:
    """A session on an output of one partition, whose workers are this process."""
    session = unlearnrec.Session(config, progress=False)
    group = InProcess()
    session._workers = lambda: nullcontext(group)  # type: ignore[assignment,method-assign]
    session._kept = lambda: group  # type: ignore[assignment,method-assign]
    return session
