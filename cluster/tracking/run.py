"""A command that trackers follow: its progress, its result, and the thread that sends both.

Nothing here may fail or delay the command. Events go into a queue that never blocks, and one thread calls the trackers. A
tracker that fails is told of with one line and left alone for the rest of the command; at its end the command waits
`CLOSE_SECONDS` at most for what is left in the queue.
"""

from __future__ import annotations

import functools
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

from ..config.schema import Config
from ..reporting.progress import SILENT, Progress, Task
from .trackers import Begin, End, Event, MLflow, Point, TensorBoard, Tracker

QUEUE_EVENTS = 10_000
"""The largest number of events that wait. Further ones are dropped."""
CLOSE_SECONDS = 5.0
RETRY_SECONDS = 60.0
"""A service tries a tracker that failed again after this time."""

SECTIONS = (
    "interactions", "test_interactions", "output", "seed", "cluster", "partitioning", "backbone", "train", "validation",
    "influence", "pretrain", "forget", "evaluate",
)  # fmt: skip
"""The sections and keys of the configuration that trackers get."""
OF_REQUESTS = ("removed_interactions", "removed_events", "deleted_users", "deleted_items", "touched_nodes")
"""Counts of an answer that trackers get, summed over the requests of a version. No other part of an answer goes to them but
its seconds, its version and the gate's measures: so no id can slip in."""


class Sender:
    """Calls the trackers in a thread of its own."""

    def __init__(self, trackers: Sequence[Tracker], note: Callable[[str], None]) -> None:
        """note: is called once, with a line that says what is wrong."""
        self._trackers, self._note = trackers, note
        self._events: queue.Queue[Event | None] = queue.Queue(QUEUE_EVENTS)
        self._failed: dict[str, float] = {}
        self._warned = False
        # A daemon: a server that does not answer keeps no process from ending.
        self._thread = threading.Thread(target=self._send, name="tracking", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Send this later. It returns at once."""
        try:
            self._events.put_nowait(event)
        except queue.Full:
            self._warn("they are too slow: some of what they should get is left out")

    def close(self) -> None:
        """Wait until everything is sent, but not longer than CLOSE_SECONDS."""
        deadline = time.monotonic() + CLOSE_SECONDS
        with suppress(queue.Full):
            self._events.put(None, timeout=CLOSE_SECONDS)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._warn("they do not answer: what they have not taken is lost")

    def _send(self) -> None:
        for tracker in self._trackers:
            self._call(tracker, tracker.open)
        while (event := self._events.get()) is not None:
            for tracker in self._trackers:
                self._send_to(tracker, event)

    def _send_to(self, tracker: Tracker, event: Event) -> None:
        if tracker.name in self._failed:
            # What a tracker lacks of one command is not made up for; it may be there again for the next one.
            waited = time.monotonic() - self._failed[tracker.name]
            if not (isinstance(event, Begin) and waited >= RETRY_SECONDS):
                return
            del self._failed[tracker.name]
            self._call(tracker, tracker.open)
        if tracker.name not in self._failed:
            self._call(tracker, functools.partial(tracker.take, event))

    def _call(self, tracker: Tracker, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            self._failed[tracker.name] = time.monotonic()
            why = str(error).strip().partition("\n")[0][:200]
            self._warn(f"{tracker.name} failed ({type(error).__name__}: {why}), and gets nothing more of this")

    def _warn(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            self._note(f"tracking: {why}. The command goes on without it")


def trackers_of(config: Config) -> list[Tracker]:
    """The trackers of the section `tracking`.

    Raises:
        InputError: the package of one is not installed. The message names the extra.
    """
    section = config.tracking
    found: list[Tracker] = []
    if section.tensorboard is not None:
        found.append(TensorBoard(section.tensorboard))
    if section.mlflow is not None:
        found.append(MLflow(section.mlflow, section.experiment))
    return found


class Run:
    """One command, or the requests of a service, for the trackers. Without trackers it does nothing."""

    def __init__(self, config: Config, note: Callable[[str], None]) -> None:
        """Raises InputError as `trackers_of`."""
        self._config = config
        trackers = trackers_of(config)
        self._sender = Sender(trackers, note) if trackers else None
        self._sent: set[tuple[str, int]] = set()

    @property
    def idle(self) -> bool:
        """Whether there is no tracker."""
        return self._sender is None

    def begin(self, command: str) -> None:
        """A command begins."""
        self._sent.clear()
        self._put(Begin(command, parameters(self._config)))

    def point(self, name: str, value: float, step: int) -> None:
        """A point of a curve. One that was sent already, or is not finite, is left out."""
        if (name, step) not in self._sent and math.isfinite(value):
            self._sent.add((name, step))
            self._put(Point(name, value, step))

    def end(self, answer: Mapping[str, Any]) -> None:
        """The command ends with this result, whose curves may have points that its progress did not show."""
        for task, curve in (("train", answer.get("curve")), ("validate", answer.get("validation", {}).get("curve"))):
            for entry in curve or ():
                self.curve(task, entry)
        self._put(End("finished", answer.get("version"), numbers(answer), {}))

    def fail(self, error: BaseException) -> None:
        """The command ends with an error. Only its class is told: its text may have ids in it."""
        self._put(End(f"failed: {type(error).__name__}", None, {}, {}))

    def requests(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """Requests were carried out. One event tells of all that became a version together."""
        made = [answer for answer in answers if answer.get("status") == "committed"]
        if not made:
            return
        measures = {key: float(sum(answer.get(key, 0) for answer in made)) for key in OF_REQUESTS}
        measures |= {"requests": float(len(made)), "seconds": max(float(answer["seconds"]) for answer in made)}
        texts, gate = {}, made[0].get("gate", {})
        for name, measure in gate.get("measures", {}).items():
            measures |= numbers({f"gate.{name}": measure.get("value")})
        if gate:
            texts["gate"] = str(gate["status"])
        self.begin("forget")
        self._put(End("finished", made[0]["version"], measures, texts))

    def curve(self, task: str, entry: Mapping[str, Any]) -> None:
        """What is known after an epoch: a point for each of its measures."""
        for key, value in numbers(entry).items():
            if key != "epoch":
                self.point(f"{task}/{key}", value, int(entry["epoch"]))

    def close(self) -> None:
        """Send what is left."""
        if self._sender is not None:
            self._sender.close()

    def _put(self, event: Event) -> None:
        if self._sender is not None:
            self._sender.put(event)


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among some values."""
    return {
        key: float(value)
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def parameters(config: Config) -> dict[str, str]:
    """Values of the configuration as texts, by dotted key."""
    document = config.model_dump(mode="json", include=set(SECTIONS))
    found: dict[str, str] = {}
    for name, value in document.items():
        inner = {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
        found |= {key: str(one) for key, one in inner.items()}
    return found


class TrackedProgress(Progress):
    """Shows what the given progress shows, and tells a run the curves."""

    def __init__(self, shown: Progress, run: Run) -> None:
        self._shown, self._run = shown, run

    def note(self, text: str) -> None:
        self._shown.note(text)

    def _start(self, name: str, total: int | None) -> Task:
        return _TrackedTask(self._shown._start(name, total), self._run, name)


class _TrackedTask(Task):
    def __init__(self, shown: Task, run: Run, name: str) -> None:
        self._shown, self._run, self._name = shown, run, name

    def advance(self, n: int = 1, **fields: object) -> None:
        self._shown.advance(n, **fields)

    def reached(self, entry: Mapping[str, float]) -> None:
        self._shown.reached(entry)
        self._run.curve(self._name, entry)

    def complete(self) -> None:
        self._shown.complete()

    def finish(self) -> None:
        self._shown.finish()


@contextmanager
def open_run(config: Config, progress: Progress) -> Iterator[Run]:
    """A run for a `with` block, which sends what is left at its end.

    Raises:
        InputError: as `trackers_of`.
    """
    run = Run(config, progress.note)
    try:
        yield run
    finally:
        run.close()


Command = TypeVar("Command", bound=Callable[..., dict[str, Any]])


def tracked(command: Command) -> Command:
    """A command of a configuration, followed by the trackers of its section `tracking`, under the command's name."""

    @functools.wraps(command)
    def followed(config: Config, *arguments: Any, progress: Progress = SILENT, **options: Any) -> dict[str, Any]:
        with open_run(config, progress) as run:
            if run.idle:
                return command(config, *arguments, progress=progress, **options)
            run.begin(command.__name__)
            try:
                answer = command(config, *arguments, progress=TrackedProgress(progress, run), **options)
            except BaseException as error:
                run.fail(error)
                raise
            run.end(answer)
            return answer

    return cast(Command, followed)
