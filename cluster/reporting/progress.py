"""Show on stderr how far a long command is: bars with rate and remaining time on a terminal, otherwise a few plain lines.

Commands take a `Progress`. `screen.open_progress()` chooses the right kind; `SILENT` shows nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID

PLAIN_SECONDS = 10.0
"""The shortest time in seconds between two plain lines of one task, so that a file with the output does not get long."""


class Task:
    """A piece of work that is counted in units. This class shows nothing; subclasses show it."""

    def advance(self, n: int = 1, **fields: object) -> None:
        """Count `n` more units as done. fields: the latest numbers to show, such as loss=0.31."""

    def reached(self, entry: Mapping[str, float]) -> None:
        """Take note of the measures after an epoch: `epoch`, and their names. They are for trackers (`cluster/tracking`)
        and shown nowhere."""

    def complete(self) -> None:
        """Count all units as done."""

    def finish(self) -> None:
        """End the task, whether all of its units are done or not."""


class Progress:
    """The base class, which shows nothing. It is the default in library code and in tests."""

    @contextmanager
    def task(self, name: str, total: int | None = None) -> Iterator[Task]:
        """A task for a `with` block: `with progress.task("train", 30) as task: task.advance(1)`.

        total: the number of units; None: it is not known. A block that ends without an error has done all of them, also
            those that nobody counted: the workers' last state is often seen only by its result.
        """
        task = self._start(name, total)
        try:
            yield task
            task.complete()
        finally:
            task.finish()

    def note(self, text: str) -> None:
        """Show one line for a person, such as a plan of memory and time."""

    def _start(self, name: str, total: int | None) -> Task:
        """The task of `task`. Subclasses replace it."""
        return Task()


SILENT = Progress()
"""A `Progress` that shows nothing. It has no state, so all callers may share it."""


class PlainProgress(Progress):
    """Plain lines on a stream that is not a terminal: for each task at most one line every `PLAIN_SECONDS`, and one at its
    end."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def note(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def _start(self, name: str, total: int | None) -> Task:
        return _PlainTask(self, name, total)


class _PlainTask(Task):
    def __init__(self, progress: PlainProgress, name: str, total: int | None):
        self.progress, self.name, self.total = progress, name, total
        self.done = 0
        self.fields: dict[str, object] = {}
        self.started = self.said = time.monotonic()

    def advance(self, n: int = 1, **fields: object) -> None:
        self.done += n
        self.fields.update(fields)
        now = time.monotonic()
        if now - self.said >= PLAIN_SECONDS:
            self.said = now
            rate = self.done / (now - self.started)
            eta = f", ETA {(self.total - self.done) / rate:.0f} s" if self.total and rate > 0 else ""
            self.progress.note(f"{self._count()}, {rate:.3g}/s{eta}{show_fields(self.fields)}")

    def complete(self) -> None:
        self.done = self.done if self.total is None else max(self.done, self.total)

    def finish(self) -> None:
        seconds = time.monotonic() - self.started
        self.progress.note(f"{self._count()} in {seconds:.1f} s{show_fields(self.fields)}")

    def _count(self) -> str:
        return f"{self.name}: {self.done}/{self.total}" if self.total is not None else f"{self.name}: {self.done}"


class BarProgress(Progress):
    """Live bars on a terminal. They are there only while a task runs, so that other output stays readable."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)
        self.bars: RichBars | None = None
        self.running = 0

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def _start(self, name: str, total: int | None) -> Task:
        from rich import progress as rich_progress

        if self.bars is None:
            self.bars = rich_progress.Progress(
                rich_progress.TextColumn("{task.description}", markup=False),
                rich_progress.BarColumn(),
                rich_progress.MofNCompleteColumn(),
                rich_progress.TextColumn("{task.fields[rate]}", markup=False),
                rich_progress.TimeElapsedColumn(),
                rich_progress.TextColumn("ETA"),
                rich_progress.TimeRemainingColumn(),
                rich_progress.TextColumn("{task.fields[shown]}", markup=False),
                console=self.console,
            )
            self.bars.start()
        self.running += 1
        return _BarTask(self, self.bars, self.bars.add_task(name, total=total, rate="", shown=""))

    def task_ended(self) -> None:
        """Count a task as ended. After the last one, the bars are removed."""
        self.running -= 1
        if self.running == 0 and self.bars is not None:
            self.bars.stop()
            self.bars = None


class _BarTask(Task):
    def __init__(self, progress: BarProgress, bars: RichBars, task_id: TaskID):
        self.progress, self.bars, self.task_id = progress, bars, task_id
        self.done = 0
        self.fields: dict[str, object] = {}
        self.started = time.monotonic()

    def advance(self, n: int = 1, **fields: object) -> None:
        self.done += n
        self.fields.update(fields)
        rate = self.done / max(time.monotonic() - self.started, 1e-9)
        self.bars.update(self.task_id, advance=n, rate=f"{rate:.3g}/s", shown=show_fields(self.fields).lstrip(", "))

    def complete(self) -> None:
        total = self.bars.tasks[self.bars.task_ids.index(self.task_id)].total
        if total is not None:
            self.bars.update(self.task_id, completed=max(total, self.done), refresh=True)

    def finish(self) -> None:
        self.bars.stop_task(self.task_id)
        self.progress.task_ended()


def show_fields(fields: dict[str, object]) -> str:
    """The fields as the end of a line, such as `, loss=0.31`; "" if there are none."""
    return "".join(
        f", {key}={value:.4g}" if isinstance(value, float) else f", {key}={value}" for key, value in fields.items()
    )


def epoch_callback(task: Task, phase: str) -> Callable[[list[dict[str, Any]]], None]:
    """An `on_progress` for a group of workers. It advances the task by the epochs that the first worker has finished in this
    phase."""
    done = 0

    def on_progress(states: list[dict[str, Any]]) -> None:
        nonlocal done
        state = states[0] if states else {}
        if state.get("phase") == phase:
            shown = {name: state[name] for name in ("step", "loss") if name in state}
            epochs = state.get("epoch", 0)
            task.advance(max(0, epochs - done), **shown)
            done = max(done, epochs)
            if (finished := state.get("finished")) is not None:
                task.reached(finished)

    return on_progress


def with_callback(
    on_progress: Callable[[list[dict[str, Any]]], None], look: Callable[[], None]
) -> Callable[[list[dict[str, Any]]], None]:
    """An `on_progress` that calls the given one, and then `look`."""

    def both(states: list[dict[str, Any]]) -> None:
        on_progress(states)
        look()

    return both
