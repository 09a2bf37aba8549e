"""The Ray actor of one partition. It hosts one object, runs its calls in order, and stops it when the driver says so.

There are two concurrency groups. SPMD methods run one after the other on the only thread of the default group. The
`control` methods have threads of their own, so that they run even while an SPMD method is blocked in a collective.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import ray

from .calls import Call
from .failures import Cause, Kind, Outcome, StaleGeneration, classify
from .memory import WorkerMemory, forget_peak, machine_memory, own_bytes, own_peak_bytes
from .network import Door, OpenDoor, own_address, unreached

CONTROL = "control"
CONTROL_THREADS = 4


class PartitionHost(Protocol):
    """What an actor hosts: one rank. Its SPMD methods (any name) run on one thread, always the same one.

    An exception with a list `missing` of ranks counts as a failed collective and leads to a rebuild; `InputError` is
    the user's mistake; OSError and MemoryError are worth another attempt; anything else is a defect. Results must
    pickle; exceptions should.
    """

    def try_name_servers(self, address: str) -> None:
        """Once in a process, before the first `open_store` or `join`: wait for a name server that does not answer, where
        those would wait for it. address: one of this machine."""

    def open_store(self, host: str) -> tuple[str, int]:
        """Rank 0 only: bind a TCPStore to port 0 on address `host` and return (address, port) for the next `join`."""

    def join(self, address: str, port: int, own_address: str, generation: int, timeout_seconds: float) -> None:
        """Make the process groups of `generation`, whose store is at address:port; this rank listens at `own_address`.
        Collectives fail after `timeout_seconds`."""

    def abort(self) -> None:
        """Destroy the process groups at once, if there are any. Blocked collectives then end here, and fail on the
        other ranks. May be called from any thread."""

    def progress(self) -> dict[str, Any]:
        """What the host is doing: phase, step, loss and so on. Must be cheap. May be called from any thread."""


Factory = Callable[[int, int], PartitionHost]
"""factory(partition, num_partitions) makes the host of a partition. Must pickle."""


def default_factory(partition: int, num_partitions: int) -> PartitionHost:
    """Make a `Partition`, the package's own host. It is imported here, in the worker, because the driver needs no
    torch."""
    from ..distributed.partition.partition import Partition

    return Partition(partition, num_partitions)


@dataclass(frozen=True)
class Identity:
    """Which process a worker is. `incarnation` is new after each restart; `generation` is 0 before the first `join`."""

    incarnation: str
    pid: int
    generation: int


class ShardWorker:
    """One worker. `WorkerGroup` makes an actor of it. As a plain object it can be tested without Ray."""

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
        self._address = "127.0.0.1"  # until `listen` has found another
        self._door: OpenDoor | None = None
        self._named = False  # whether the host has tried the name servers

    # ---- control methods: pass a blocked call -------------------------------------------------------------------

    @ray.method(concurrency_group=CONTROL)
    def ping(self) -> Identity:
        """The identity of this process. An answer also shows that the process is alive."""
        return Identity(self._incarnation, os.getpid(), self._generation)

    @ray.method(concurrency_group=CONTROL)
    def progress(self) -> dict[str, Any]:
        """The progress that the host reports; {} before there is a host. If reporting fails, the answer is {"error":
        text}: that must not end a run."""
        return self._progress()

    @ray.method(concurrency_group=CONTROL)
    def pulse(self) -> tuple[dict[str, Any], WorkerMemory]:
        """The progress, and the memory of this process and of its machine."""
        return self._progress(), worker_memory()

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
        """Make the host, unless there is one. This is not done in __init__, where an exception would end the actor for
        good."""
        return self._guarded(self._make_host, generation=None)

    def listen(self, interface: str | None) -> Outcome:
        """Choose the address at which this worker listens, and open a door there. The value is the Door. The first time it
        may wait for a name server that does not answer.

        interface: `cluster.network_interface`."""

        def listen() -> Door:
            self._close_door()
            node_address = ray.util.get_node_ip_address()
            self._address = own_address(interface, node_address)
            seconds = 0.0
            if not self._named:
                began = time.monotonic()
                self._the_host().try_name_servers(self._address)
                self._named, seconds = True, time.monotonic() - began
            self._door = OpenDoor(self._address, ray.get_runtime_context().get_node_id(), node_address)
            return replace(self._door.door, look_up_seconds=seconds)

        return self._guarded(listen, generation=None)

    def knock(self, doors: Mapping[int, Door], seconds: float) -> Outcome:
        """Which doors on other nodes do not open within so many seconds: the value is {partition: reason}."""
        return self._guarded(lambda: unreached(doors[self._partition], doors, seconds), generation=None)

    def open_store(self) -> Outcome:
        """Open a new store, on rank 0 only. The value is its (address, port), which is bound when this returns."""
        return self._guarded(lambda: self._the_host().open_store(self._address), generation=None)

    def join(self, address: str, port: int, generation: int, timeout_seconds: float) -> Outcome:
        """Leave the old generation and join `generation`."""

        def join() -> None:
            with self._state:
                if generation <= max(self._generation, self._aborted):
                    raise StaleGeneration(f"asked to join generation {generation} after {self._generation}")
                self._generation = generation
            self._last = None
            self._close_door()  # all have knocked
            self._the_host().abort()
            self._the_host().join(address, port, self._address, generation, timeout_seconds)

        return self._guarded(join, generation)

    def call(self, generation: int, sequence: int, call: Call[Any]) -> Outcome:
        """Run a method of the host. A repeated call, with the (generation, sequence) of the last one, returns the last
        outcome and runs nothing.

        A call of another generation, or one that comes after a later one, has a cause of the kind STALE."""
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

        forget_peak()
        outcome = replace(self._guarded(run, generation), peak_bytes=own_peak_bytes())
        if generation == self._generation:
            self._last = ((generation, sequence), outcome)
        return outcome

    def _close_door(self) -> None:
        if self._door is not None:
            self._door.close()
            self._door = None

    def _make_host(self) -> None:
        if self._host is None:
            self._host = self._factory(self._partition, self._num_partitions)

    def _progress(self) -> dict[str, Any]:
        try:
            return self._host.progress() if self._host is not None else {}
        except Exception as error:
            return {"error": repr(error)}

    def _the_host(self) -> PartitionHost:
        if self._host is None:
            raise StaleGeneration("is a new process that has not been prepared")
        return self._host

    def _guarded(self, action: Callable[[], Any], generation: int | None) -> Outcome:
        """Run `action` and return its outcome. After an error the process groups are destroyed at once, so that ranks
        that wait for this one fail within milliseconds and not at the time-out."""
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


def worker_memory() -> WorkerMemory:
    """The memory of this process, as `why_memory` wants it."""
    node = process = ""
    if ray.is_initialized():
        context = ray.get_runtime_context()
        node, process = context.get_node_id(), context.get_worker_id()
    return WorkerMemory(node, process, own_bytes(), machine_memory())


def cause_of(error: Exception, aborted: bool) -> Cause:
    """The Cause for an exception in the host. It always pickles, even if the exception does not."""
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
