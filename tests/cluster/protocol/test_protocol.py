"""The deletion protocol (docs/protocol.md) against a plain model: the real control plane on a store in memory.

Two services, two desks, the command, two purges, a reader and two retrains run at once; each stands still before and after
every write for as long as the test likes, dies there, or gets an error. The workers are fake (fake_workers.py), and so is
what is trained; all else is the real thing. After each step the current version must be whole, and its interactions those
of the start without what the log has answered.
"""

from __future__ import annotations

import json
import os
import types
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import hypothesis.strategies as st
import pytest
from fake_workers import FakeWorkers
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from memory_store import Crash
from processes import Process, SharedStore
from small_output import (
    commit_encoder,
    commit_train,
    empty_encoder,
    item_name,
    random_rows,
    small_config,
    user_name,
    write_interactions,
)

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.commands import forget as forgetting
from unlearnrec.cluster.commands import purge, retrain, status, verify
from unlearnrec.cluster.evidence.waiting import Waiting
from unlearnrec.cluster.layout import REQUEST_KEY
from unlearnrec.cluster.lifecycle.refusals import Held, NotApproved, TakenId, TooLate
from unlearnrec.cluster.lifecycle.suppression import ENVIRONMENT, SuppressionList
from unlearnrec.cluster.log import records
from unlearnrec.cluster.log.log import Log, LogConflict
from unlearnrec.cluster.log.records import (
    APPROVED,
    CANCELLED,
    COMMITTED,
    COMPLETED,
    EVIDENCE,
    HELD,
    PURGING,
    SWITCHING,
    Record,
)
from unlearnrec.cluster.models import reduced_graph
from unlearnrec.cluster.models.carry_out import carry_out
from unlearnrec.cluster.output import leases
from unlearnrec.cluster.output import session as session_module
from unlearnrec.cluster.output.ledger import Ledger
from unlearnrec.cluster.output.manifest import manifest_of
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.output.tickets import State
from unlearnrec.cluster.reporting.progress import Progress
from unlearnrec.cluster.requests.digests import digests_of, no_digests
from unlearnrec.cluster.requests.request import is_purged, is_same, make_request, read_request
from unlearnrec.cluster.serving.intake import Intake
from unlearnrec.cluster.serving.interface import NewRequest
from unlearnrec.cluster.serving.readouts import living_ids
from unlearnrec.cluster.serving.service import Service
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.ingest import load_ids, load_shard
from unlearnrec.partitioning.storage import Store

USERS, ITEMS = 6, 4
GRACE = 10.0
MAX_SHARE = 0.25
"""Of 12 interactions at first: the item of "b" is all that is allowed, and too much once others are gone; so is "e"."""
KEY = "0123456789abcdef"
IDS = ("a", "b", "c", "d", "e")
# Of each id two contents, so that ids conflict; some name the same things, or nothing that there is.
CONTENTS: dict[str, list[tuple[list[Any], list[Any], list[Any]]]] = {
    "a": [([user_name(0)], [], []), ([user_name(1)], [], [])],
    "b": [([], [item_name(1)], []), ([], [], [(user_name(0), item_name(1))])],
    "c": [([], [], [(user_name(2), item_name(1)), (user_name(3), item_name(0))]), ([user_name(3)], [], [])],
    "d": [(["nobody"], [], []), ([], ["nothing"], [(user_name(5), item_name(2))])],
    "e": [([user_name(4)], [item_name(3)], [(user_name(5), item_name(0))]), ([user_name(0)], [], [])],
}

Pairs = frozenset[tuple[str, str]]


@pytest.fixture(autouse=True, scope="module")
def _no_small_maps() -> Iterator[None]:
    """Id maps are cut down by a file of deleted nodes, as large ones are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduced_graph, "SMALL_MAP_BYTES", 0)
        yield


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Copy:
    """In place of the readouts: who is served."""

    def __init__(self, version: int, users: set[Any]) -> None:
        self.version, self.users = version, users

    def without(self, users: set[Any], items: set[Any]) -> Copy:
        return Copy(self.version, self.users & users)

    def less(self, users: set[Any], items: set[Any]) -> Copy:
        return Copy(self.version, self.users - users)


class Engine:
    """As `serving.start.WorkerEngine`."""

    def __init__(self, session: Session) -> None:
        self._session, self._workers = session, FakeWorkers(session.store)
        self._waiting = Waiting(session, Progress(), threads=1)

    def carry_out(self, requests: Any, before_commit: Any) -> None:
        self._waiting.look(self._workers)
        answers = carry_out(self._session, requests, self._workers, Progress(), before_commit=before_commit)
        self._waiting.committed(list(answers.values()))

    def readouts(self, version: Any) -> Copy:
        self._session.ensure_loaded(self._workers, version)
        return Copy(version.version, living_ids(self._session, version)[0])

    def write_reports(self, request_ids: Any) -> None:
        self._waiting.write(request_ids, self._workers)


class ModelLease(leases.Lease):
    """Renewed by the model."""

    def _renew(self) -> None:
        """Not by time that passes."""

    def renew(self) -> None:
        if not (self._lock.locked() or self._over.is_set()):
            self._write()


@dataclass
class Training:
    """A retrain under way."""

    lease: ModelLease
    until: float
    """When its lease ends if nobody renews it."""
    undisturbed: bool
    """It has never been over, and no purge has passed it by."""
    head: int = 0
    graph: Collection[str] = ()
    """The files of what it is trained on."""


def pairs_of(store: Any, graph: dict[str, Any]) -> Pairs:
    """The interactions of a graph by external id, each of them in the row of its user and in that of its item."""
    names = []
    for side in ("user", "item"):
        ids, node, _ = load_ids(store, graph, side)
        names.append(dict(zip(node.tolist(), ids.to_pylist(), strict=True)))
    sides = []
    shards = [load_shard(store, graph, k) for k in range(graph.partitions)]
    for side in (0, 1):
        found = [shard.entries()[side] for shard in shards]
        sides.append(
            {(names[0][u], names[1][i]) for us, its in found for u, i in zip(us.tolist(), its.tolist(), strict=True)}
        )
    assert sides[0] == sides[1], "half applied: rows of users and rows of items differ"
    return frozenset(sides[0])


def approve_all(desk: Intake) -> None:
    for ticket in desk.view().open:
        if ticket.state is State.HELD:
            desk.approve(ticket.request_id, "somebody")


def seconds(record: Record) -> float:
    """When it was written, since the epoch."""
    return datetime.fromisoformat(record.time).timestamp()


def removed_by(body: dict[str, Any], pairs: Pairs) -> Pairs:
    """The plain model of a request."""
    users, items = set(body["users"]), set(body["items"])
    named = {tuple(pair) for pair in body["interactions"]}
    return frozenset(p for p in pairs if p[0] in users or p[1] in items or p in named)


@pytest.fixture(scope="module", autouse=True)
def start(tmp_path_factory):
    """The files of a small output with a trained version, whose encoder nobody reads."""
    folder = tmp_path_factory.mktemp("model")
    config = small_config(
        write_interactions(folder / "t.parquet", USERS, ITEMS),
        str(folder / "output"),
        forget={"grace_seconds": GRACE, "max_share": MAX_SHARE},
        serve={"max_batch": 3},
        cluster={"partitions": 2, "max_rebuilds": 0},
    )
    pipeline.ingest(config)
    commit_train(config)
    commit_encoder(config)
    Protocol.config = config
    Protocol.begin_with = pairs_of(Store(config.output), Session(config).version().graph)
    Protocol.files = {name: Store(config.output).read(name) for name in Store(config.output).list()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENVIRONMENT, KEY)
        yield


DESKS, SERVICES, PURGES = (0, 1), (2, 3), (4, 5)
PURGE, OTHER_PURGE = PURGES
READER = 6
RETRAINS = (7, 8)
RETRAIN, OTHER_RETRAIN = RETRAINS
ALL = range(9)
OPERATORS = ("operator 0", "operator 1")
"""Who asks at each desk; the first one approves at both."""
WHOLE = 10**9
"""Moments: all there are."""
Act = tuple[int, str, str, int]
"""Who, what, which request, which of its contents."""
ids = st.sampled_from(IDS)
moments = st.integers(0, 40)
requests = st.tuples(st.sampled_from(["post", "ask"]), ids, st.integers(0, 1))
acts = st.one_of(
    st.tuples(st.sampled_from(DESKS), st.just("post"), ids, st.sampled_from([0, 0, 0, 1])),
    st.tuples(st.sampled_from(DESKS), st.just("cancel"), ids, st.just(0)),
    st.tuples(st.sampled_from(DESKS), st.just("approve"), ids, st.just(0)),
    st.tuples(st.sampled_from(DESKS), st.just("command"), ids, st.just(0)),
    st.tuples(st.sampled_from(DESKS), st.sampled_from(["ask", "withdraw"]), ids, st.just(0)),
    st.tuples(st.sampled_from(SERVICES), st.just("tick"), st.just(""), st.just(0)),
    st.tuples(st.sampled_from(PURGES), st.just("purge"), st.just(""), st.integers(0, 1)),
    st.tuples(st.just(READER), st.just("read"), st.just(""), st.just(0)),
    st.tuples(st.sampled_from(RETRAINS), st.just("retrain"), st.just(""), st.just(0)),
)


class Protocol(RuleBasedStateMachine):
    config: Any
    files: dict[str, bytes]
    begin_with: Pairs

    @initialize()
    def open(self) -> None:
        self.clock = Clock()
        self.processes = [Process() for _ in ALL]
        self.store = SharedStore(self.files, self.clock, self.processes)
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(records, "time", types.SimpleNamespace(time=self.clock))
        self.patch.setattr(session_module, "CHECKPOINT_RECORDS", 3)
        for module in (forgetting, purge, retrain, status, verify):
            self.patch.setattr(module, "Session", self.session)
        for module in (forgetting, leases, purge):
            self.patch.setattr(module, "time", types.SimpleNamespace(time=self.clock, perf_counter=lambda: 0.0))
        # The command reads its request from files; here it has the first content of its id.
        read = lambda *arguments: make_request(*CONTENTS[arguments[4]][0], arguments[4], b"")  # noqa: E731
        self.patch.setattr(forgetting, "parse_request", read)
        # What is trained has cost nothing. Which retrain it is, its seed says.
        self.patch.setattr(retrain, "Lease", ModelLease)
        self.patch.setattr(retrain, "_lease_graph", self.noted(retrain._lease_graph))
        rows = lambda session, _, graph, *__: (random_rows(session, graph, 1), [{"seconds": 0.0, "loss": 0.0}])  # noqa: E731
        self.patch.setattr(retrain, "trained_version", rows)
        self.patch.setattr(retrain, "fit_encoder", self.fit)
        self.patch.setattr(retrain, "update_run_report", lambda *_, **__: None)  # nothing is decided on it
        self.desks = [self.desk(who) for who in DESKS]
        self.services = {n: self.service() for n in SERVICES}
        self.initial = Protocol.begin_with
        self.bodies: dict[str, dict[str, Any]] = {}
        """The content that the log has accepted, by id."""
        self.acknowledged: set[str] = set()
        self.cancelled: set[str] = set()
        self.held: set[str] = set()
        self.approved: set[str] = set()
        self.answers: dict[str, Any] = {}
        self.asked: dict[str, str] = {}
        """By name: the request that was made last of its content without an id."""
        self.checked = 0
        self.expected: dict[int, Pairs] = {}
        self.emptied: set[str] = set()
        """Requests whose content was purged."""
        self.accepted: dict[str, Record] = {}
        """By request, its first acceptance."""
        self.reported: set[str] = set()
        self.reading: tuple[float, Collection[str]] | None = None
        """Until when which files are read under a lease, unless a `purge --now` may have come upon them."""
        self.purges, self.purges_now = [0, 0], [0, 0]
        """How many of these have begun, and have ended."""
        self.trainings: dict[int, Training] = {}

    def session(self, config: Any = None) -> Session:
        return Session(config or self.config, self.store)

    def desk(self, who: int) -> Intake:
        """The second one's clock is behind: it cancels while a batch runs."""
        return Intake(self.session(), lambda: self.clock.now - GRACE / 2 * who)

    def service(self) -> Service:
        session = self.session()
        return Service(session, Intake(self.session(), self.clock), Engine(session), self.clock)

    # ---- what happens ------------------------------------------------------------------------------------------------

    @rule(act=acts, moments=moments)
    def begins(self, act: Act, moments: int) -> None:
        self.begin(act, moments)

    @rule(act=acts)
    def happens(self, act: Act) -> None:
        self.begin(act, WHOLE)

    @rule(first=acts, moments=moments, second=acts, due=st.booleans())
    def race(self, first: Act, moments: int, second: Act, due: bool) -> None:
        """The one stands still somewhere while the other does all of its work."""
        self.clock.now += (GRACE + 1) * due
        self.begin(first, moments)
        self.begin(second, WHOLE)
        self.advance(first[0], WHOLE)

    @rule(name=ids, purge_first=st.booleans(), moments=st.integers(0, 12))
    def race_with_a_purge(self, name: str, purge_first: bool, moments: int) -> None:
        """Of a request that was never accepted, while it is."""
        pair = [(0, "post", name, 0), (PURGE, "purge", "", 1)]
        first, second = pair[::-1] if purge_first else pair
        self.begin(first, moments)
        self.begin(second, WHOLE)
        self.advance(first[0], WHOLE)

    @rule(names=st.lists(ids, min_size=1, max_size=3), moments=moments, seconds=st.integers(0, 1))
    def race_of_services(self, names: list[str], moments: int, seconds: int) -> None:
        """Both decide on the same requests."""
        for name in names:
            self.begin((seconds, "post", name, 0), WHOLE)
        self.clock.now += GRACE + 1
        self.begin((SERVICES[0], "tick", "", 0), moments)
        self.begin((SERVICES[1], "tick", "", 0), WHOLE)
        self.begin((SERVICES[0], "tick", "", 0), WHOLE)

    @rule(
        names=st.permutations(IDS),
        who=st.sampled_from(SERVICES),
        moments=st.integers(0, 8),
        dies=st.booleans(),
        full=st.booleans(),
    )
    def purge_before_the_evidence(self, names: list[str], who: int, moments: int, dies: bool, full: bool) -> None:
        """Who carries a request out stands still after its commit, or dies; a second request takes its files out of use, and
        a purge removes them, perhaps without room for reports."""
        other = next(service for service in SERVICES if service != who)
        self.begin((0, "post", names[0], 0), WHOLE)
        self.clock.now += GRACE + 1
        self.begin((who, "tick", "", 0), 0)
        self.until(who, lambda: self.state(names[0]) is State.COMMITTED)
        self.advance(who, moments)
        if dies:
            self.kill(who, 0)
        self.begin((0, "post", names[1], 0), WHOLE)
        self.clock.now += GRACE + 1
        self.begin((other, "tick", "", 0), WHOLE)
        self.the_log_and_the_version_are_those_of_the_model()  # it reads contents, which go now
        busy, head = self.processes[PURGE].busy, Log(self.store).head()
        self.store.full = "reports/" if full else None
        self.begin((PURGE, "purge", "", 1), WHOLE)
        self.store.full = None
        records = Log(self.store).records()
        if not (busy or full) and any(record.kind == PURGING for record in records[head:]):
            assert not Ledger(records).unreported
        self.advance(who, WHOLE)

    @rule(name=ids, who=st.sampled_from(SERVICES), moments=st.integers(0, 10), looks=st.integers(0, 9) | st.none())
    def purge_the_files_of_a_commit(self, name: str, who: int, moments: int, looks: int | None) -> None:
        """A purge that finds them unnamed stands still while it looks, or before it removes them, and they are committed."""
        self.begin((0, "post", name, 0), WHOLE)
        self.clock.now += GRACE + 1
        self.stop_in_a_batch(who, moments)
        self.the_log_and_the_version_are_those_of_the_model()
        if looks is None:
            self.stop_before_removals()
        else:
            self.begin((PURGE, "purge", "", 1), looks)
        self.advance(who, WHOLE)
        self.advance(PURGE, WHOLE)

    @rule(name=ids, who=st.sampled_from(SERVICES), moments=st.integers(0, 10))
    def cancel_in_a_batch(self, name: str, who: int, moments: int) -> None:
        """At the desk whose clock is behind."""
        self.begin((1, "post", name, 0), WHOLE)
        self.clock.now += GRACE + 1
        self.stop_in_a_batch(who, moments)
        self.begin((1, "cancel", name, 0), WHOLE)
        self.advance(who, WHOLE)

    def stop_in_a_batch(self, who: int, moments: int) -> None:
        """So many moments after its first file."""
        files = set(self.store.list("versions"))
        self.begin((who, "tick", "", 0), 0)
        self.until(who, lambda: not files.issuperset(self.store.list("versions")))
        self.advance(who, moments)

    @rule(name=ids, another=st.booleans(), which=st.integers(0, 1))
    def purge_the_content_of_an_acceptance(self, name: str, another: bool, which: int) -> None:
        """It is what an attempt left that died before its acceptance; perhaps another purge takes it, and ends, first."""
        self.begin((0, "post", name, 0), 0)
        self.until(0, lambda: any(place.startswith(f"requests/{name}") for place in self.store.files))
        self.kill(0, 0)
        self.stop_before_removals()
        if another:
            self.begin((OTHER_PURGE, "purge", "", 1), WHOLE)
        self.begin((1, "post", name, which), WHOLE)
        self.the_log_and_the_version_are_those_of_the_model()
        self.advance(PURGE, WHOLE)

    def stop_before_removals(self, now: int = 1) -> None:
        head = Log(self.store).head()
        self.begin((PURGE, "purge", "", now), 0)
        self.until(PURGE, lambda: any(record.kind == PURGING for record in Log(self.store).since(head)))

    @rule(name=ids, moments=st.integers(0, 8), looks=st.integers(0, 12), waits=st.booleans())
    def read_during_a_purge(self, name: str, moments: int, looks: int, waits: bool) -> None:
        """Of a version that is replaced; reader and purge both stand still at some moment."""
        self.begin((0, "post", name, 0), WHOLE)
        self.clock.now += GRACE + 1
        self.begin((READER, "read", "", 0), moments)
        self.begin((SERVICES[0], "tick", "", 0), WHOLE)
        self.the_log_and_the_version_are_those_of_the_model()  # it reads contents, which go now
        self.begin((PURGE, "purge", "", 0), looks)
        self.advance(READER, 3)
        self.clock.now += 2 * self.config.forget.lease_seconds * waits
        self.advance(PURGE, WHOLE)
        self.what_is_read_is_there()
        self.advance(READER, WHOLE)

    @rule(
        asked=st.tuples(requests, requests),
        moments=st.tuples(st.integers(0, 24), st.integers(0, 24)),
        now=st.sampled_from([None, 0, 0, 1]),
        looks=st.integers(0, 14) | st.just(WHOLE),
    )
    def retrain_beside_requests(
        self, asked: Sequence[tuple[str, str, int]], moments: Sequence[int], now: int | None, looks: int
    ) -> None:
        """It stands still twice while something is carried out, the second time perhaps just before its commit, and a purge
        stands still too."""
        for request, pause in zip(asked, moments, strict=True):
            self.begin((RETRAIN, "retrain", "", 0), pause)
            self.begin((0, *request), WHOLE)
            self.clock.now += GRACE + 1
            self.begin((SERVICES[0], "tick", "", 0), WHOLE)
            self.the_log_and_the_version_are_those_of_the_model()  # it reads contents, which may go now
            if now is not None:
                self.begin((PURGE, "purge", "", now), looks)
        self.advance(RETRAIN, WHOLE)
        self.advance(PURGE, WHOLE)

    @rule(
        request=requests,
        moments=st.tuples(st.integers(0, 24), st.integers(0, 12)),
        now=st.integers(0, 1),
        waits=st.none() | st.tuples(st.sampled_from([700.0, 4000.0]), st.booleans()),
    )
    def retrain_before_removals(
        self, request: tuple[str, str, int], moments: Sequence[int], now: int, waits: tuple[float, bool] | None
    ) -> None:
        """It stands still while a request is carried out, and then perhaps for a long time, and ends before a purge that has
        begun comes to its removals."""
        self.begin((RETRAIN, "retrain", "", 0), moments[0])
        self.begin((0, *request), WHOLE)
        self.clock.now += GRACE + 1
        self.begin((SERVICES[0], "tick", "", 0), WHOLE)
        self.the_log_and_the_version_are_those_of_the_model()  # it reads contents, which go now
        self.advance(RETRAIN, moments[1])
        if waits is not None:
            self.wait(*waits)
        self.stop_before_removals(now)
        self.advance(RETRAIN, WHOLE)
        self.the_log_and_the_version_are_those_of_the_model()
        self.advance(PURGE, WHOLE)

    @rule(name=ids, who=st.sampled_from(DESKS))
    def cancel_late(self, name: str, who: int) -> None:
        """Behind the grace window of its clock nobody cancels, unless it is held."""
        if self.processes[who].busy:
            return
        self.begin((who, "post", name, 0), WHOLE)
        self.clock.now += GRACE + GRACE / 2 * who
        before = self.state(name)
        self.begin((who, "cancel", name, 0), WHOLE)
        assert before is not State.ACCEPTED or self.state(name) is before, "cancelled too late"

    @rule(who=st.sampled_from(ALL), moments=st.integers(1, 30))
    def go_on(self, who: int, moments: int) -> None:
        self.advance(who, moments)

    @rule(who=st.sampled_from(ALL))
    def finish(self, who: int) -> None:
        self.advance(who, 10**9)

    @rule(who=st.sampled_from(ALL), moments=st.integers(0, 20))
    def kill(self, who: int, moments: int) -> None:
        """It dies before or after some write, and starts again with an empty memory."""
        self.advance(who, moments, Crash())
        if who in SERVICES:
            self.services[who] = self.service()
        elif who in DESKS:
            self.desks[who] = self.desk(who)

    @rule(who=st.sampled_from(ALL), moments=st.integers(0, 20))
    def fail(self, who: int, moments: int) -> None:
        """No space before a write, or a lost answer after it."""
        self.advance(who, moments, OSError("injected"))

    @rule(seconds=st.sampled_from([1.0, 4.0, 11.0, 70.0, 4000.0]), renewed=st.booleans())
    def wait(self, seconds: float, renewed: bool = False) -> None:
        """renewed: retrains go on with their leases meanwhile, though not with their work."""
        self.clock.now += seconds
        for who, training in self.trainings.items():
            if renewed and self.processes[who].busy:
                training.lease.renew()

    # ---- the checker -------------------------------------------------------------------------------------------------

    @invariant()
    @precondition(lambda self: hasattr(self, "store"))
    def the_log_and_the_version_are_those_of_the_model(self) -> None:
        records = Log(self.store).records()
        ledger = Ledger(records)
        for record in records[self.checked :]:
            if record.kind == "accepted":
                name = record.body["request_id"]
                content = self.content(name, ledger)
                self.bodies.setdefault(name, json.loads(content["body"]))
                self.accepted.setdefault(name, record)
            if record.kind in (HELD, APPROVED):
                self.hold(record)
            if record.kind in (COMPLETED, CANCELLED):
                self.close(record.body["request_id"], record)
            if record.kind == COMPLETED:
                current = self.expected[max(self.expected)]
                assert not removed_by(self.bodies[record.body["request_id"]], current)
            if record.kind == COMMITTED:
                manifest = manifest_of(record)
                for name in manifest.answers:
                    self.close(name, record)
                left = self.expected.get(manifest.version - 1, self.initial)
                self.within_the_limit(manifest.answers, left)
                for name in manifest.answers:
                    left -= removed_by(self.bodies[name], left)
                self.expected[manifest.version] = left
            if record.kind == EVIDENCE:
                name = record.body["request_id"]
                assert self.answers[name][0] == COMMITTED and name not in self.reported, f"{name} was reported twice"
                self.reported.add(name)
        self.checked = len(records)
        assert not [name for name, ticket in ledger.tickets.items() if ticket.state is State.FAILED]
        assert self.acknowledged <= ledger.tickets.keys(), "an acknowledged request is gone"
        assert all(ledger.tickets[name].state is State.CANCELLED for name in self.cancelled)
        current = ledger.current
        assert current is not None
        for name, entry in current.files.items():
            assert self.store.sha256(self.store.files[name]) == entry.sha256, f"{name} is not as committed"
        assert pairs_of(self.store, current.graph) == self.expected[current.version]
        purged = {name for name in ledger.tickets if self.purged(name, ledger)}
        assert not purged & ledger.open.keys(), "the content of an accepted request is gone"
        assert self.emptied <= purged, "a purged content came back"
        self.emptied = purged

    @invariant()
    @precondition(lambda self: hasattr(self, "store"))
    def what_is_read_is_there(self) -> None:
        if self.reading is not None and self.clock.now < self.reading[0]:
            assert self.store.files.keys() >= set(self.reading[1]), "a purge took what somebody reads"

    @invariant()
    @precondition(lambda self: getattr(self, "trainings", None))
    def what_retrains_need_is_there(self) -> None:
        ledger = Ledger(Log(self.store).records())
        for who, training in self.trainings.items():
            lease = self.store.files.get(training.lease.name)
            if not self.processes[who].busy or lease is None or json.loads(lease)["until"] <= self.clock.now:
                training.undisturbed = False
            if training.undisturbed and training.graph:
                assert self.store.files.keys() >= set(training.graph), "a purge took what is trained on"
                since = [name for name, ticket in ledger.tickets.items() if ticket.closed_at > training.head]
                done = [name for name in since if ledger.tickets[name].state is not State.CANCELLED]
                assert not [name for name in done if self.purged(name, ledger)], (
                    "a purge took what is to be carried out"
                )

    def hold(self, record: Record) -> None:
        name = record.body["request_id"]
        if record.kind == APPROVED:
            assert name in self.held, f"{name} was approved and not held"
            assert record.body["by"] != self.accepted[name].body.get("requester"), "approved by who asked for it"
            self.approved.add(name)
            return
        current = self.expected[max(self.expected)]
        assert name not in self.approved and self.answers.get(name, (None,))[0] is None
        assert record.body["share"] == len(removed_by(self.bodies[name], current)) / len(current) > MAX_SHARE
        self.held.add(name)

    def within_the_limit(self, answered: Collection[str], before: Pairs) -> None:
        shares = {name: len(removed_by(self.bodies[name], before)) / len(before) for name in answered}
        assert all(share <= MAX_SHARE or name in self.approved for name, share in shares.items())
        assert sum(shares.values()) <= MAX_SHARE or len(shares) == 1
        assert self.held & answered.keys() <= self.approved

    def close(self, name: str, record: Record) -> None:
        kind = record.kind
        assert name not in self.answers or self.answers[name][0] is None, f"{name} was answered twice"
        assert kind == CANCELLED or seconds(record) >= seconds(self.accepted[name]) + GRACE, "in its grace window"
        self.answers[name] = (self.answers.get(name, (None, None))[0] or kind, self.answers.get(name, (None, None))[1])

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        try:
            for who in ALL:
                self.advance(who, 0, Crash())
            purge.purge(self.config)
            last = self.service()
            for _ in range(60):
                self.clock.now += 100
                last.tick()
                approve_all(last.intake)
            ledger = Ledger(Log(self.store).records())
            assert not ledger.open and not ledger.unreported and last.blocked is None
            self.the_log_and_the_version_are_those_of_the_model()
            assert self.reported == {name for name, (kind, _) in self.answers.items() if kind == COMMITTED}
            wrong = [check for check in verify.verify(self.config)["checks"] if not check["ok"]]
            assert not wrong, wrong
            users = {user for user, _ in self.expected[max(self.expected)]}
            assert last.published.users == users
            self.suppression_list_is_right(ledger)
        finally:
            self.patch.undo()

    def suppression_list_is_right(self, ledger: Ledger) -> None:
        suppression = SuppressionList(self.store, KEY.encode())
        listed, _ = suppression.state()
        allowed = no_digests()
        for name, ticket in ledger.tickets.items():
            request = read_request(name, json.dumps(self.bodies[name]).encode())
            named = digests_of(suppression.key, request, {"user": "string", "item": "string"})
            if ticket.state is State.COMMITTED:
                assert all(named[kind] <= listed[kind] for kind in named)
            if name not in self.held - self.approved:
                allowed = {kind: allowed[kind] | named[kind] for kind in named}
        assert all(listed[kind] <= allowed[kind] for kind in listed), "what was held is on the list"

    # ---- acts --------------------------------------------------------------------------------------------------------

    def begin(self, act: Act, moments: int) -> None:
        """Unless it is busy; then let it go on."""
        who, what, name, which = act
        if not self.processes[who].busy:
            self.processes[who].start(lambda: getattr(self, what)(who, name, which))
        self.advance(who, moments)

    def post(self, who: int, name: str, which: int) -> None:
        try:
            answer = self.desks[who].accept(
                NewRequest(*CONTENTS[name][which], request_id=name, requester=OPERATORS[who])
            )
        except TakenId:
            return
        self.acknowledged.add(name)
        self.told(name, answer)
        assert self.is_body_of(name, which, name), "another content under this id was acknowledged"

    def ask(self, who: int, name: str, which: int) -> None:
        """A post without an id."""
        gone = set(self.cancelled)
        answer = self.desks[who].accept(NewRequest(*CONTENTS[name][which], requester=OPERATORS[who]))
        self.asked[name] = request_id = answer["request_id"]
        self.acknowledged.add(request_id)
        self.told(request_id, answer)
        assert request_id not in gone, "answered with what was cancelled before"
        assert self.is_body_of(request_id, which, name)

    def withdraw(self, who: int, name: str, _: int) -> None:
        """What was asked without an id."""
        if name in self.asked:
            self.cancel(who, self.asked[name], 0)

    def cancel(self, who: int, name: str, _: int) -> None:
        try:
            answer = self.desks[who].cancel(name)
        except TooLate:
            return
        if answer is not None:
            self.cancelled.add(name)
            self.told(name, answer)

    def approve(self, who: int, name: str, _: int) -> None:
        try:
            self.desks[who].approve(name, OPERATORS[0])
        except NotApproved:
            return

    def command(self, who: int, name: str, _: int) -> None:
        """`forget`: accepts, and carries out when the window has passed."""
        try:
            answer = forgetting.forget(self.config, request_id=name, group=FakeWorkers(self.store))
        except Held:
            self.acknowledged.add(name)
            return
        except (TakenId, LogConflict):
            return
        self.acknowledged.add(name)
        if answer["status"] != "accepted":
            self.told(name, answer)

    def tick(self, who: int, *_: Any) -> None:
        self.services[who].tick()

    def read(self, *_: Any) -> None:
        """As `evaluate` and `export`."""
        before = list(self.purges_now)
        with leases.leased(self.session()) as version:
            found = leases.read_leases(self.session()).values()
            ends = [until for until, files in found if files == set(version.files)]  # its own the last, if not over
            try:
                if before[0] == self.purges_now[0] == self.purges_now[1]:
                    self.reading = max(ends, default=0.0), version.files
                for _ in version.files:
                    self.store.list("versions")  # a moment
            finally:
                self.reading = None

    def purge(self, _: int, __: str, now: int) -> None:
        head = Log(self.store).head()
        self.purges[0] += 1
        self.purges_now[0] += now
        if now:
            self.reading = None
            for training in self.trainings.values():
                training.undisturbed = False
        try:
            purge.purge(self.config, now=bool(now))
        finally:
            self.purges[1] += 1
            self.purges_now[1] += now
        for record in Log(self.store).since(head):
            if record.kind == PURGING and not now:
                written = [self.store.modified_before(name, seconds(record)) for name in record.body["unnamed"]]
                assert all(seconds(record) - at >= purge.UNDER_WAY_SECONDS for at in written), "a command may need it"

    def retrain(self, who: int, *_: Any) -> None:
        config = self.config.model_copy(update={"seed": who})
        try:
            answer = retrain.retrain(config, group=FakeWorkers(self.store))
        except (RuntimeError, InputError, FileNotFoundError) as error:
            training = self.trainings[who]
            if training.undisturbed and self.clock.now < training.until and not self.trained_since(training.head):
                raise AssertionError("nothing kept it from its commit") from error
        else:
            training = self.trainings[who]
            assert self.trained_since(training.head)[0] == answer["version"], "another training was overwritten"

    def trained_since(self, head: int) -> list[int]:
        made = [manifest_of(r) for r in Log(self.store).since(head) if r.kind == COMMITTED]
        return [manifest.version for manifest in made if manifest.reason == "train"]

    def fit(self, session: Session, version: dict[str, Any], *_: Any) -> Any:
        """Of one of the retrains: an encoder by which a request changes the files of all partitions."""
        encoder, files = empty_encoder(session, version)
        return encoder.replaced(around=session.config.seed == OTHER_RETRAIN), files, {"seconds": 0.0}

    def noted(self, begun: Callable[..., Any]) -> Callable[..., Any]:
        def noted(session: Session, lease: ModelLease, progress: Progress) -> Any:
            there = json.loads(self.store.files.get(lease.name, b'{"until": 0}'))
            training = Training(lease, there["until"], undisturbed=self.purges[0] == self.purges[1])
            self.trainings[session.config.seed] = training
            head, graph, earlier = begun(session, lease, progress)
            training.head, training.graph = head, graph.files
            return head, graph, earlier

        return noted

    # ---- helpers -----------------------------------------------------------------------------------------------------

    def advance(self, who: int, moments: int, then: BaseException | None = None) -> None:
        process = self.processes[who]
        process.go(moments, then)
        if isinstance(process.error, OSError | Crash):
            process.error = None
        if process.error is not None:
            raise process.error

    def until(self, who: int, happened: Callable[[], bool]) -> None:
        """Let it go on until something has happened, or it has ended."""
        while self.processes[who].busy and not happened():
            self.advance(who, 1)

    def told(self, name: str, answer: dict[str, Any]) -> None:
        """The first final answer that anybody was told stays."""
        if answer["status"] in ("accepted", "held", "failed"):
            return
        kept = (answer["status"], answer["version"], answer.get("removed_interactions", 0))
        kind, before = self.answers.get(name, (None, None))
        assert before in (None, kept), f"{name}: first {before}, then {kept}"
        self.answers[name] = (kind, kept)

    def state(self, name: str) -> State | None:
        ticket = Ledger(Log(self.store).records()).tickets.get(name)
        return ticket.state if ticket else None

    def purged(self, name: str, ledger: Ledger | None = None) -> bool:
        content = self.content(name, ledger)
        return content is None or is_purged(content)

    def content(self, name: str, ledger: Ledger | None = None) -> Any:
        place = (ledger or Ledger(Log(self.store).records())).content_name(name)
        return json.loads(self.store.files[place]) if place in self.store.files else None

    def is_body_of(self, request_id: str, which: int, name: str) -> bool:
        """Or a purge left its digest; looked at once, as a purge may come between two looks."""
        content = self.content(request_id)
        asked = make_request(*CONTENTS[name][which], name, b"")
        return content is None or is_same(content, asked, self.store.files.get(REQUEST_KEY, b""))

    def body(self, name: str) -> Any:
        return json.loads(self.content(name)["body"])

    def body_of(self, which: int, name: str) -> Any:
        return json.loads(make_request(*CONTENTS[name][which], name, b"").body())


TestProtocol = Protocol.TestCase


@pytest.mark.parametrize("another", [False, True])
@pytest.mark.parametrize("which", [0, 1])
def test_a_request_is_accepted_while_purges_take_what_an_attempt_left_under_its_id(another, which):
    """One purge stands still before its removals, perhaps until after another has ended; then it goes on."""
    model = Protocol()
    model.open()
    try:
        model.purge_the_content_of_an_acceptance("a", another, which)
        model.the_log_and_the_version_are_those_of_the_model()
        assert "requests/a.json" not in model.store.files and model.body("a") == model.body_of(which, "a")
    finally:
        model.teardown()


@pytest.mark.parametrize("dies", [False, True])
def test_what_was_cancelled_is_asked_for_again_by_two_at_once(dies):
    """Without an id. The one stands still at any moment, or dies there and asks again: it is one new request."""
    for moments in range(12):
        model = Protocol()
        model.open()
        try:
            for what in ("ask", "withdraw"):
                model.begin((0, what, "a", 0), WHOLE)
            model.begin((0, "ask", "a", 0), moments)
            if dies:
                model.kill(0, 0)
            model.begin((1, "ask", "a", 0), WHOLE)
            model.begin((0, "ask", "a", 0), WHOLE)
            model.the_log_and_the_version_are_those_of_the_model()
            first, second = model.accepted
            assert (second, model.asked) == (f"{first}-2", {"a": second}) and model.state(second) is State.ACCEPTED
        finally:
            model.teardown()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("dies", [False, True])
def test_a_purge_at_any_moment_between_commit_and_evidence(dies, full):
    """Random histories seldom have it."""
    for moments in range(9):
        model = Protocol()
        model.open()
        try:
            model.purge_before_the_evidence(["a", "c"], SERVICES[0], moments, dies, full)
            model.the_log_and_the_version_are_those_of_the_model()
            assert model.state("a") is model.state("c") is State.COMMITTED
        finally:
            model.teardown()


def test_a_service_writes_the_evidence_that_another_left():
    model = Protocol()
    model.open()
    try:
        model.begin((0, "post", "a", 0), WHOLE)
        model.clock.now += GRACE + 1
        model.begin((SERVICES[0], "tick", "", 0), 0)
        model.until(SERVICES[0], lambda: model.state("a") is State.COMMITTED)
        model.kill(SERVICES[0], 0)
        model.clock.now += 100
        model.begin((SERVICES[1], "tick", "", 0), WHOLE)
        model.the_log_and_the_version_are_those_of_the_model()
        assert not Ledger(Log(model.store).records()).unreported
    finally:
        model.teardown()


def test_a_batch_stands_still_while_its_files_are_purged_or_its_request_is_cancelled():
    for looks in (*range(10), None):
        model = Protocol()
        model.open()
        try:
            model.purge_the_files_of_a_commit("a", SERVICES[0], 9, looks)
            model.the_log_and_the_version_are_those_of_the_model()
        finally:
            model.teardown()
    model = Protocol()
    model.open()
    try:
        model.cancel_in_a_batch("a", SERVICES[0], 9)
        model.the_log_and_the_version_are_those_of_the_model()
        assert model.state("a") is State.CANCELLED
    finally:
        model.teardown()


def test_a_reader_has_its_files_whatever_a_purge_does_meanwhile():
    """Both stand still at any of their moments while the version is replaced."""
    for moments in range(5):
        for looks in range(7):
            model = Protocol()
            model.open()
            try:
                model.read_during_a_purge("a", moments, looks, False)
            finally:
                model.patch.undo()


@pytest.mark.parametrize("now", [None, 0])
def test_a_retrain_is_without_what_was_carried_out_whenever_that_was(now):
    """It stands still at any of its moments, and a purge that has seen its lease takes nothing from it."""
    asked = (("post", "a", 0), ("post", "c", 0))
    lost = 0
    for moments in (*((first, 0) for first in range(1, 22, 2)), *((15, second) for second in (5, 8, 12, 16))):
        model = Protocol()
        model.open()
        try:
            model.retrain_beside_requests(asked, moments, now, WHOLE)
            model.the_log_and_the_version_are_those_of_the_model()
            assert model.state("a") is model.state("c") is State.COMMITTED
            version = model.session().version()
            # Before it has begun, they are not in its graph.
            assert version.replayed == (("a", "c") if moments[0] > 5 else ())
            lost += any(record.kind == SWITCHING for record in Log(model.store).records())
        finally:
            model.teardown()
    assert lost


@pytest.mark.parametrize(("now", "waits"), [(1, None), (0, None), (0, (700.0, False)), (0, (4000.0, True))])
def test_a_retrain_ends_before_a_purge_comes_to_its_removals(now, waits):
    """The version that it would replace was made by an encoder that changes all partitions, and has other shards. The purge
    is with --now; or comes when the lease is over, or when files are so old that it takes them if the lease has not got them
    yet."""
    for moments in ((4, 0), (6, 0), (13, 0), (16, 0), (18, 0), (15, 7), (15, 12)):
        model = Protocol()
        model.open()
        try:
            model.begin((OTHER_RETRAIN, "retrain", "", 0), WHOLE)
            model.retrain_before_removals(("post", "d", 1), moments, now, waits)
            model.the_log_and_the_version_are_those_of_the_model()
            if waits == (4000.0, True) and moments == (16, 0):  # the lease has what is there
                assert model.session().version().replayed == ("d",)
        finally:
            model.patch.undo()


def test_of_two_retrains_the_first_to_commit_is_the_last():
    for moments in range(1, 21, 3):
        model = Protocol()
        model.open()
        try:
            model.begin((RETRAIN, "retrain", "", 0), moments)
            model.begin((OTHER_RETRAIN, "retrain", "", 0), WHOLE)
            model.advance(RETRAIN, WHOLE)
            model.the_log_and_the_version_are_those_of_the_model()
        finally:
            model.patch.undo()


def whole_act(who: int, what: str, name: str = "", which: int = 0) -> Any:
    return lambda model: model.begin((who, what, name, which), WHOLE)


HISTORY = [
    *(whole_act(0, "post", name) for name in "ab"),
    lambda model: model.wait(GRACE + 1),
    *(whole_act(SERVICES[0], "tick") for _ in range(2)),
    whole_act(0, "post", "c"),
    whole_act(PURGE, "purge", which=1),
    whole_act(RETRAIN, "retrain"),
    lambda model: model.wait(GRACE + 1),
    *(whole_act(SERVICES[0], "tick") for _ in range(2)),
    *(whole_act(0, "post", name) for name in "de"),
]


@settings(max_examples=300 if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else 25, deadline=None)
@given(random=st.randoms(use_true_random=False), log_first=st.booleans())
def test_a_copy_made_meanwhile_goes_on_or_is_refused_by_name(random, log_first):
    """Files are copied one by one, in any order, while requests are accepted, carried out and purged."""
    model = Protocol()
    model.open()
    copy: dict[str, bytes] = {}
    try:
        steps = [0] * len(HISTORY) + [1] * 12
        random.shuffle(steps)
        left = list(HISTORY)
        for step in [*steps, *[1] * 1000]:
            if step == 0:
                left.pop(0)(model)
                continue
            there = sorted(model.store.files.keys() - copy.keys())
            logs = [name for name in there if name.startswith("log/")]
            if not there:
                break
            name = random.choice(logs if log_first and logs else there)
            copy[name] = model.store.files[name]
    finally:
        model.patch.undo()
    restored = Protocol()
    restored.files = copy
    try:
        restored.open()
        session = restored.session()
        try:
            version = session.whole_version()
        except InputError as error:
            assert any(name in str(error) for name in (*model.store.files, "log/", "versions/", "graph/")), error
            return
        ledger = Ledger(session.log.records())
        lost = [name for name in ledger.open if restored.purged(name)]
        for _ in range(30):
            restored.clock.now += 100
            restored.services[2].tick()
            approve_all(restored.desks[0])
        states = Ledger(session.log.records()).tickets
        assert {name for name, ticket in states.items() if ticket.state is State.FAILED} == set(lost)
        forgotten = [name for name, ticket in states.items() if ticket.state in (State.COMMITTED, State.COMPLETED)]
        expected = restored.initial
        for name in forgotten:
            expected -= removed_by(restored.body_of(0, name), expected)
        assert pairs_of(restored.store, session.version().graph) == expected
        assert version.version <= session.version().version
    finally:
        restored.patch.undo()


# `HYPOTHESIS_PROFILE=deep` is for a night; otherwise the same examples each time.
DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
TestProtocol.settings = settings(
    max_examples=5000 if DEEP else 40,
    stateful_step_count=40,
    deadline=None,
    derandomize=not DEEP,
    suppress_health_check=list(HealthCheck),
)
