"""Show how far the workers are in ranking items for users."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ...distributed.partition.partition import RANKING
from .progress import Progress, Task


@contextmanager
def ranking_progress(progress: Progress) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """An `on_progress` for a group of workers, with a task "rank users: WHAT" for each thing that they rank by, such as the
    model or a baseline. The task counts the users of all workers."""
    tasks: dict[str, tuple[Task, int]] = {}
    with ExitStack() as stack:

        def on_progress(states: list[dict[str, Any]]) -> None:
            by_what: dict[str, list[dict[str, Any]]] = {}
            for state in states:
                if state.get("phase") == RANKING and "what" in state:
                    by_what.setdefault(state["what"], []).append(state)
            for what, found in by_what.items():
                if what not in tasks:
                    # The workers have about equally many users; those that have not said so yet are taken to have as many.
                    total = round(sum(state["total"] for state in found) * len(states) / len(found))
                    tasks[what] = stack.enter_context(progress.task(f"rank users: {what}", total)), 0
                task, shown = tasks[what]
                done = sum(state["done"] for state in found)
                if done > shown:
                    task.advance(done - shown)
                    tasks[what] = task, done

        yield on_progress
