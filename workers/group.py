"""The driver's side of the workers: it starts them, forms generations, calls methods on all of them, notices failures
and replaces workers.

A generation is one set of process groups in which every worker takes part. After any failure it is over, and the next
one is formed before the next call (docs/recovery.md)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, OutOfMemoryError
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ..partitioning.errors import InputError
from .actor import CONTROL, CONTROL_THREADS, Factory, Identity, ShardWorker, default_factory
from .calls import Call
from .connection import connect_to_ray
from .failures import (
    TIMEOUT_SETTING,
    Cause,
    GiveUp,
    Kind,
    Outcome,
    RaiseInput,
    WorkerFailure,
    decide,
    raise_failure,
    worker_failure,
)
from .memory import PlannedMemory, WorkerMemory, why_memory
from .network import KNOCK_SECONDS, slow_look_ups_text, unreached_text
from .placement import WorkerSettings, make_placement_group
from .post_mortem import ended_for_memory, oom_kills_of
from .pulse import LOST_ERRORS, Pulse, first_line

POLL_SECONDS = 0.5
PING_SECONDS = 3.0  # a control method answers in a millisecond; this is for a machine under load
ABORT_SECONDS = 5.0  # an aborted collective returns in milliseconds; a worker inside a long kernel is not waited for
RESTART_SECONDS = 180.0  # a new process on a new machine, with torch imported; measured 4 s on a free one

R = TypeVar("R")
Progress = Callable[[list[dict[str, Any]]], None]

log = logging.getLogger(__name__)


class WorkerGroup:
    """All workers of a run. Use `start` and `form`, then `call` or `run`. `shutdown`, or leaving the `with` block, ends
    them.

    Not thread-safe: one thread drives it. Arrays in results are read-only views of Ray's shared memory.
    """

    def __init__(
        self, actors: Sequence[Any], placement: PlacementGroup, settings: WorkerSettings, owns_ray: bool
    ) -> None:
        self._actors = list(actors)
        self._placement = placement
        self._settings = settings
        self._timeout = settings.collective_timeout_seconds
        self._owns_ray = owns_ray
        self._addresses: list[str] = []
        self._met = False  # whether a generation was ever formed
        self._generation = 0
        self._formed = False
        self._sequence = 0
        self._incarnations: dict[int, str] = {}
        self._restarting: set[int] = set()  # workers whose process ended since the last formation
        self._unfinished: dict[int, Any] = {}  # calls that a failure left running on the workers' SPMD threads
        self._seen: dict[int, WorkerMemory] = {}  # the last that each worker told of its memory
        self.planned: PlannedMemory | None = None
        """What the present work was planned to need; messages name it where a worker has too little memory."""
        self.peak_bytes: dict[int, int] = {}
        """By partition, the most memory that its process held during a call. Whoever measures empties it before."""

    @classmethod
    def start(
        cls, settings: WorkerSettings, factory: Factory = default_factory, address: str | None = None
    ) -> WorkerGroup:
        """Place and start one worker per partition. Does not wait for their processes: `form` does.

        `factory` makes what a worker hosts. `address` is that of a Ray cluster (None: RAY_ADDRESS, or a local Ray; an
        existing ray.init is used as it is).

        Raises:
            InputError: no cluster answers at the address; or the workers do not fit (`make_placement_group`).
        """
        owns_ray = connect_to_ray(address)
        try:
            placement = make_placement_group(settings)
        except BaseException:
            if owns_ray:
                ray.shutdown()
            raise
        remote: Any = ray.remote  # its annotations do not know concurrency_groups
        actor_class = remote(
            num_cpus=settings.cpus_per_worker,
            num_gpus=settings.gpus_per_worker,
            max_restarts=-1,
            max_task_retries=0,
            concurrency_groups={CONTROL: CONTROL_THREADS},
            runtime_env={"env_vars": settings.environment},
        )(ShardWorker)
        actors = [
            actor_class.options(
                scheduling_strategy=PlacementGroupSchedulingStrategy(placement, placement_group_bundle_index=k)
            ).remote(k, settings.num_partitions, factory)
            for k in range(settings.num_partitions)
        ]
        return cls(actors, placement, settings, owns_ray)

    def __enter__(self) -> WorkerGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    @property
    def num_partitions(self) -> int:
        """Number of workers."""
        return len(self._actors)

    @property
    def generation(self) -> int:
        """Number of the last generation that was formed or tried; 0 before the first."""
        return self._generation

    @property
    def formed(self) -> bool:
        """Whether the workers share a working generation. False before `form` and after any failure."""
        return self._formed

    def identities(self) -> list[Identity]:
        """The process of each worker, in order of partition.

        Raises:
            WorkerFailure: one does not answer.
        """
        found = self._await_workers(time.monotonic() + RESTART_SECONDS)
        return [found[k] for k in range(self.num_partitions)]

    @property
    def addresses(self) -> list[str]:
        """Where the workers listen, by partition; empty before `form`."""
        return list(self._addresses)

    # ---- formation ----------------------------------------------------------------------------------------------

    def form(self) -> None:
        """Form the next generation: every worker makes its host, if it has none, and joins new process groups.

        Raises:
            WorkerFailure: a worker did not come up, or the ranks did not find each other in time.
            InputError: a host raised it, or workers on different nodes never reached each other.
        """
        self._formed = False
        self._generation += 1
        everyone = range(self.num_partitions)
        for k, identity in self._await_workers(max(RESTART_SECONDS, self._settings.start_seconds)).items():
            self._incarnations[k] = identity.incarnation
        # Each step waits for all workers before the next begins: a host must exist before it opens a store, and the store
        # must be bound before the others look for it.
        self._collect("prepare", {k: self._actors[k].prepare.remote() for k in everyone}, RESTART_SECONDS)
        self._meet()
        store = self._collect("open_store", {0: self._actors[0].open_store.remote()}, self._timeout)[0]
        join = {k: self._actors[k].join.remote(*store, self._generation, self._timeout) for k in everyone}
        self._collect("join", join, self._timeout + ABORT_SECONDS)
        self._restarting.clear()
        self._formed = self._met = True

    def _meet(self) -> None:
        """Let every worker choose its address, and knock at one worker's door on every other node.

        Raises:
            InputError: workers do not reach each other, and never did; or as `network.own_address`.
            WorkerFailure: they do not any more.
        """
        everyone = range(self.num_partitions)
        interface = self._settings.network_interface
        listening = {k: self._actors[k].listen.remote(interface) for k in everyone}
        # A worker's first look-up may last as long as its name servers are silent.
        limit = max(RESTART_SECONDS, self._timeout)
        doors = dict(zip(everyone, self._collect("listen", listening, limit), strict=True))
        if text := slow_look_ups_text(doors):
            log.warning("%s", text)
        self._addresses = [door.address for door in doors.values()]
        if len({door.node for door in doors.values()}) == 1:
            return
        # A network that was cut may come back; one that never carried anything is set up wrongly.
        seconds = self._timeout if self._met else min(KNOCK_SECONDS, self._timeout)
        knocking = {k: self._actors[k].knock.remote(doors, seconds) for k in everyone}
        answers = self._collect("knock", knocking, seconds + KNOCK_SECONDS + ABORT_SECONDS)
        found = {k: answer for k, answer in zip(everyone, answers, strict=True) if answer}
        if found and not self._met:
            raise InputError(unreached_text(doors, found))
        if found:
            causes = {k: Cause(Kind.TRANSIENT, unreached_text(doors, {k: found[k]})) for k in found}
            raise worker_failure("knock", causes, self._timeout)

    def rebuild(self) -> None:
        """After a failure: end the old generation everywhere, replace workers that cannot go on, form the next one.

        The hosts of surviving workers keep their objects, those of replaced workers start empty: load state afterwards.

        Raises:
            WorkerFailure: as `form`.
        """
        everyone = range(self.num_partitions)
        self._abort(everyone)
        # They had ABORT_SECONDS when the call failed; a frozen process or a long kernel is not waited for any longer.
        stuck = {k for k, ref in self._unfinished.items() if not ray.wait([ref], timeout=0)[0]}
        others = set(everyone) - stuck
        silent = others - self._answering(others) - self._restarting
        for k in sorted(stuck | silent):
            log.warning("worker %d does not come back from its call: replacing its process", k)
            ray.kill(self._actors[k], no_restart=False)
        self._unfinished.clear()
        self.form()

    def _await_workers(self, limit_seconds: float) -> dict[int, Identity]:
        """Ping all workers until each has answered, and return their identities by partition. A ping of an actor that
        is about to restart may fail, and is then repeated.

        Raises:
            WorkerFailure: a worker has not answered within so many seconds."""
        deadline = time.monotonic() + limit_seconds
        identities: dict[int, Identity] = {}
        pings = {k: actor.ping.remote() for k, actor in enumerate(self._actors)}
        while pings:
            ready, _ = ray.wait(list(pings.values()), num_returns=len(pings), timeout=POLL_SECONDS)
            for k, ref in list(pings.items()):
                if ref not in ready:
                    continue
                try:
                    identities[k] = ray.get(ref)
                    del pings[k]
                except LOST_ERRORS:
                    time.sleep(0.1)
                    pings[k] = self._actors[k].ping.remote()
            if pings and time.monotonic() > deadline:
                text = (
                    f"did not start within {limit_seconds:g} s; is a machine with enough free CPUs and memory there"
                    f"{' that has no other worker (cluster.spread)' if self._settings.spread else ''}?"
                )
                raise worker_failure("start", {k: Cause(Kind.UNRESPONSIVE, text) for k in pings}, self._timeout)
        return identities

    # ---- calls --------------------------------------------------------------------------------------------------

    def call(
        self, call: Call[R], *, partitions: Sequence[int] | None = None, on_progress: Progress | None = None
    ) -> list[R]:
        """Do `call` on all workers (or on `partitions`) at once; the results are in the order of the partitions given.

        About every half second `on_progress` is called with the last known progress of the workers, one dict per
        partition. If it raises, the call ends. There is no time-out for the whole call. A worker fails if its process
        ends, if a collective times out, or if its control methods do not answer for as long as a collective may take.

        Raises:
            InputError: a host raised it.
            WorkerFailure: any other failure. In both cases the generation is over: `rebuild` before the next call.
            RuntimeError: no generation is formed.
        """
        if not self._formed:
            raise RuntimeError(f"`{call.method}` called without a formed generation: call form() first")
        called = list(partitions) if partitions is not None else list(range(self.num_partitions))
        self._sequence += 1
        # Put once, not once per worker: a large request is then one copy per machine.
        request = (self._generation, self._sequence, ray.put(call))
        refs = {k: self._actors[k].call.remote(*request) for k in called}
        return self._collect(call.method, refs, None, on_progress, request)

    def run(
        self,
        call: Call[R],
        *,
        restore: Callable[[], None],
        max_rebuilds: int = 3,
        partitions: Sequence[int] | None = None,
        on_progress: Progress | None = None,
    ) -> list[R]:
        """Do `call`. After a failure that another attempt can mend, rebuild, run `restore` and call again.

        `restore` loads committed state into all workers. It also runs before the first call if no generation is formed
        yet.

        Raises:
            InputError: a host raised it; nothing is rebuilt.
            WorkerFailure: a defect, or still failing after `max_rebuilds` rebuilds.
        """
        rebuilds = 0
        while True:
            try:
                if not self._formed:
                    # Before the first generation nobody can be stuck: workers that are silent are still starting.
                    (self.rebuild if self._generation else self.form)()
                    restore()
                return self.call(call, partitions=partitions, on_progress=on_progress)
            except WorkerFailure as failure:
                decision = decide(failure.causes, rebuilds, max_rebuilds)
                if isinstance(decision, RaiseInput):
                    raise decision.error from None
                if isinstance(decision, GiveUp):
                    log.error("giving up: %s", decision.reason)
                    raise
                rebuilds += 1
                log.warning("%s\nRebuild %d of %d.", failure, rebuilds, max_rebuilds)

    def _collect(
        self,
        method: str,
        refs: dict[int, Any],
        limit_seconds: float | None,
        on_progress: Progress | None = None,
        request: tuple[Any, ...] | None = None,
    ) -> list[Any]:
        """Wait for the outcomes of `refs` and return their values. After the first failure stop the other workers, find
        out which are missing, and raise.

        `request`: the arguments of the call, with which it may be sent again if only the connection was lost."""
        started = time.monotonic()
        pulse = Pulse(self._actors, list(refs), self._seen)
        pending, outcomes = dict(refs), dict[int, Outcome]()
        while pending:
            ready, _ = ray.wait(list(pending.values()), num_returns=1, timeout=POLL_SECONDS)
            self._take(pending, ready, outcomes, request)
            if any(outcome.cause for outcome in outcomes.values()):
                break
            silent = pulse.poll(pending, self._timeout)
            if on_progress is not None:
                try:
                    on_progress(pulse.last_progress)
                except BaseException:  # whoever asked has given the call up: the workers are free after a rebuild
                    self._formed = False
                    self._abort(range(self.num_partitions))
                    self._unfinished.update(pending)
                    raise
            if silent or (limit_seconds is not None and time.monotonic() - started > limit_seconds):
                break
        else:
            return [outcomes[k].value for k in refs]

        # One worker failed, so the generation is over for all. Those that wait for it in a collective end as soon as they
        # hear of it. A ping that is sent now tells later which of the others are alive and only busy.
        self._formed = False
        self._abort(range(self.num_partitions))
        pings = {k: self._actors[k].ping.remote() for k in pending}
        deadline = time.monotonic() + ABORT_SECONDS
        while pending and (left := deadline - time.monotonic()) > 0:
            ready, _ = ray.wait(list(pending.values()), num_returns=1, timeout=left)
            self._take(pending, ready, outcomes, None)
        answering = {k for k in pending if ray.wait([pings[k]], timeout=0)[0]}
        causes = {k: outcome.cause for k, outcome in outcomes.items() if outcome.cause}
        for k in pending:
            if k in answering:
                causes[k] = Cause(Kind.ABORTED, f"still in {pulse.progress_of(k)} when it was told to stop")
            else:
                text = f"does not answer its control calls (frozen process or machine?); last seen in {pulse.progress_of(k)}"
                causes[k] = Cause(Kind.UNRESPONSIVE, text)
        self._unfinished.update(pending)
        if all(cause.kind is Kind.ABORTED for cause in causes.values()):
            # Nobody failed, but the limit passed: those that had not finished by then are the late ones.
            text = f"`{method}` did not finish within {limit_seconds:g} s (see {TIMEOUT_SETTING})"
            causes = {k: Cause(Kind.COLLECTIVE, f"{text}; {c.text}", missing=(k,)) for k, c in causes.items()}
        raise_failure(worker_failure(method, causes, self._timeout, self.planned))

    def _take(
        self, pending: dict[int, Any], ready: list[Any], outcomes: dict[int, Outcome], request: tuple[Any, ...] | None
    ) -> None:
        """Move the finished calls, which are among `ready`, from `pending` to `outcomes`."""
        for k in [k for k, ref in pending.items() if ref in ready]:
            try:
                outcomes[k] = ray.get(pending.pop(k))
                self.peak_bytes[k] = max(self.peak_bytes.get(k, 0), outcomes[k].peak_bytes)
            except LOST_ERRORS as error:
                # Either the process died, or only the connection did and the call may have run: the same process can
                # be asked again, because the same (generation, sequence) runs only once.
                unavailable = isinstance(error, ActorUnavailableError)
                if request is not None and unavailable and self._same_process(k):
                    pending[k] = self._actors[k].call.remote(*request)
                else:
                    self._restarting.add(k)
                    outcomes[k] = Outcome(cause=self._cause_of_death(k, error))

    def _cause_of_death(self, k: int, error: Exception) -> Cause:
        """Why the process of worker k ended: whether for want of memory, after which another would end the same way."""
        seen = self._seen.pop(k, None)
        ray_says = first_line(error) if isinstance(error, OutOfMemoryError) else ended_for_memory(seen)
        reason = why_memory(seen, None if ray_says else oom_kills_of(seen), ray_says, self.planned)
        if reason is not None:
            return Cause(Kind.MEMORY, f"its process ended: {reason}")
        return Cause(Kind.DIED, f"its process ended ({first_line(error)})")

    def _same_process(self, k: int) -> bool:
        """Whether worker k still is the process that joined this generation."""
        try:
            identity: Identity = ray.get(self._actors[k].ping.remote(), timeout=PING_SECONDS)
        except (*LOST_ERRORS, GetTimeoutError):
            return False
        return identity.incarnation == self._incarnations.get(k)

    def _abort(self, partitions: Iterable[int]) -> None:
        """Tell workers that the generation is over. Their answers are not waited for, and errors of dead workers are
        ignored."""
        for k in partitions:
            self._actors[k].abort.remote(self._generation)

    def _answering(self, partitions: Iterable[int]) -> set[int]:
        """Which of these workers answer a control call within PING_SECONDS (one that restarts right now does not)."""
        pings = {k: self._actors[k].ping.remote() for k in partitions}
        if not pings:
            return set()
        ready, _ = ray.wait(list(pings.values()), num_returns=len(pings), timeout=PING_SECONDS)
        return {k for k, ref in pings.items() if ref in ready}

    def shutdown(self) -> None:
        """End the workers and free their resources. Disconnect from Ray only if `start` connected. May be called
        twice."""
        if not ray.is_initialized():
            return
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        remove_placement_group(self._placement)
        if self._owns_ray:
            ray.shutdown()
