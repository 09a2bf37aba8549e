"""Show how far the workers are in ranking items for users."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from ...distributed.partition.partition import RANKING
from .progress import Progress, Task


@contextmanager
def ranking_progress(progress: Progress) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """An `on_progress` for a group of workers, with a task "rank users: WHAT" for each thing that they rank by, such as the
    model or a baseline. A task counts the users of all workers, and is complete after the `with` block."""
    shown: dict[str, _Shown] = {}
    with ExitStack() as stack:

        def on_progress(states: list[dict[str, Any]]) -> None:
            for worker, state in enumerate(states):
                if state.get("phase") == RANKING and "what" in state:
                    what = state["what"]
                    if what not in shown:
                        # The workers have about equally many users.
                        total = state["total"] * len(states)
                        shown[what] = _Shown(stack.enter_context(progress.task(f"rank users: {what}", total)), total)
                    shown[what].count(worker, state["done"])

        yield on_progress
        # The workers are asked twice a second, so the last users were not seen.
        for one in shown.values():
            one.task.advance(max(0, one.total - sum(one.done.values())))


@dataclass
class _Shown:
    """A task, its total, and the users of each worker that it has counted."""

    task: Task
    total: int
    done: dict[int, int] = field(default_factory=dict)

    def count(self, worker: int, done: int) -> None:
        """A worker has ranked `done` users."""
        self.task.advance(done - self.done.get(worker, 0))
        self.done[worker] = done
