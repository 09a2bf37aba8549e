"""The Ray actor of one partition. It hosts one object, keeps its calls in order, and stops it when the driver says so.

Two concurrency groups: SPMD methods run on the default group's single thread, one after the other; the `control`
methods have threads of their own, so that they pass a call that is blocked in a collective.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import ray

from .calls import Call
from .failures import Cause, Kind, Outcome, StaleGeneration, classify

CONTROL = "control"
CONTROL_THREADS = 4


class PartitionHost(Protocol):
    """What an actor hosts: one rank. Its SPMD methods (any name) run on one thread, always the same one.

    An exception with a list `missing` of ranks counts as a failed collective and leads to a rebuild; `InputError` is
    the user's mistake; OSError and MemoryError are worth another attempt; anything else is a defect. Results must
    pickle; exceptions should.
    """

    def open_store(self, host: str) -> tuple[str, int]:
        """Rank 0 only: bind a TCPStore to port 0 on address `host` and return (address, port) for the next `join`."""

    def join(self, address: str, port: int, generation: int, timeout_seconds: float) -> None:
        """Make the process groups of `generation`; collectives fail after `timeout_seconds`."""

    def abort(self) -> None:
        """Destroy the process groups, if any, at once: blocked collectives end here and fail on the peers. From any
        thread."""

    def progress(self) -> dict[str, Any]:
        """Where the host is (phase, step, loss, ...). Cheap, from any thread."""


Factory = Callable[[int, int], PartitionHost]
"""factory(partition, num_partitions) -> host; picklable."""


def default_factory(partition: int, num_partitions: int) -> PartitionHost:
    """The package's own host. Imported here because the driver does not need torch."""
    from ..distributed.partition.partition import Partition

    return Partition(partition, num_partitions)


@dataclass(frozen=True)
class Identity:
    """Which process a worker is. `incarnation` is new after each restart; `generation` is 0 before the first `join`."""

    incarnation: str
    pid: int
    generation: int


class ShardWorker:
    """One worker. `WorkerGroup` makes it an actor; as a plain object it is testable without Ray."""

    def __init__(self, partition: int, num_partitions: int, factory: Factory) -> None:
        self._partition = partition
        self._num_partitions = num_partitions
        self._factory = factory
        self._incarnation = uuid.uuid4().hex  # a restarted actor is the same actor for Ray, but not for us
        self._host: PartitionHost | None = None
        self._generation = 0  # 0: takes part in none yet
        self._aborted = 0  # generations up to this one are over
        self._state = threading.Lock()
        self._last: tuple[tuple[int, int], Outcome] | None = None

    # ---- control methods: pass a blocked call -------------------------------------------------------------------

    @ray.method(concurrency_group=CONTROL)
    def ping(self) -> Identity:
        """The identity of this process. An answer also shows that the process is alive."""
        return Identity(self._incarnation, os.getpid(), self._generation)

    @ray.method(concurrency_group=CONTROL)
    def progress(self) -> dict[str, Any]:
        """The host's progress; {} before there is a host. An error in it must end no run."""
        try:
            return self._host.progress() if self._host is not None else {}
        except Exception as error:
            return {"error": repr(error)}

    @ray.method(concurrency_group=CONTROL)
    def abort(self, generation: int) -> None:
        """End `generation`: blocked collectives return with an error. A later generation is not touched."""
        with self._state:
            if generation < self._generation or self._host is None:
                return
            self._aborted = max(self._aborted, generation)
        self._host.abort()

    # ---- formation and SPMD calls: the default group's one thread -----------------------------------------------

    def prepare(self) -> Outcome:
        """Make the host, once. Not in __init__: an exception there ends an actor for good."""
        return self._guarded(self._make_host, generation=None)

    def open_store(self) -> Outcome:
        """Rank 0: (address, port) of a new store, bound before anybody is told of it."""
        return self._guarded(lambda: self._the_host().open_store(ray.util.get_node_ip_address()), generation=None)

    def join(self, address: str, port: int, generation: int, timeout_seconds: float) -> Outcome:
        """Leave the old generation and join `generation`."""

        def join() -> None:
            with self._state:
                if generation <= max(self._generation, self._aborted):
                    raise StaleGeneration(f"asked to join generation {generation} after {self._generation}")
                self._generation = generation
            self._last = None
            self._the_host().abort()
            self._the_host().join(address, port, generation, timeout_seconds)

        return self._guarded(join, generation)

    def call(self, generation: int, sequence: int, call: Call[Any]) -> Outcome:
        """Run a method of the host. The same (generation, sequence) again returns the last outcome and runs nothing."""
        if self._last is not None and self._last[0] == (generation, sequence):
            return self._last[1]

        def run() -> Any:
            if generation != self._generation:
                raise StaleGeneration(f"called in generation {generation}, but is in {self._generation or 'none'}")
            if self._last is not None and sequence < self._last[0][1]:
                raise StaleGeneration(f"call {sequence} came after call {self._last[0][1]}")
            if self._aborted >= generation:
                raise StaleGeneration(f"generation {generation} is over")
            return call.on(self._the_host())

        outcome = self._guarded(run, generation)
        if generation == self._generation:
            self._last = ((generation, sequence), outcome)
        return outcome

    def _make_host(self) -> None:
        if self._host is None:
            self._host = self._factory(self._partition, self._num_partitions)

    def _the_host(self) -> PartitionHost:
        if self._host is None:
            raise StaleGeneration("is a new process that has not been prepared")
        return self._host

    def _guarded(self, action: Callable[[], Any], generation: int | None) -> Outcome:
        """The outcome of `action`. On an error the process groups go at once, so that peers that wait for us fail in
        milliseconds instead of at the time-out."""
        try:
            return Outcome(value=action())
        except Exception as error:
            aborted = generation is not None and self._aborted >= generation
            cause = cause_of(error, aborted)
            # A stale call says nothing about the generation that runs now. In other cases the first error is the one to
            # report, so a second one out of abort() is dropped.
            if self._host is not None and cause.kind is not Kind.STALE:
                with contextlib.suppress(Exception):
                    self._host.abort()
            return Outcome(cause=cause)


def cause_of(error: Exception, aborted: bool) -> Cause:
    """The Cause for an exception in the host; it always pickles, even where the exception does not."""
    missing = getattr(error, "missing", None)
    trace = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
        carried: Exception | None = error.with_traceback(None)
    except Exception:
        carried = None
    return Cause(
        kind=classify(error, aborted),
        text=f"{type(error).__name__}: {error}",
        missing=tuple(missing) if isinstance(missing, list) else (),
        exception=carried,
        trace=trace,
    )
