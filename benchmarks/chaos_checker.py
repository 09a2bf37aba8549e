"""Check what the clients of a service were told against what its output has at the end, with a simple model in memory."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..cluster.log.log import Log
from ..cluster.log.records import CANCELLED, COMMITTED, COMPLETED, Record
from ..cluster.output.manifest import manifest_of
from ..cluster.output.tickets import State, Ticket
from ..partitioning.errors import InputError
from ..partitioning.ingest import load_ids, load_shard
from ..partitioning.manifest import Graph
from ..partitioning.storage import Store

Pair = tuple[int, int]
Body = Mapping[str, Sequence[Any]]
FINAL = ("committed", "completed", "cancelled")


@dataclass
class History:
    """What the clients sent and what they were told. Many threads write it."""

    bodies: dict[str, Body] = field(default_factory=dict)
    """The content of each request by its id. No other content may be accepted under the same id."""
    acknowledged: set[str] = field(default_factory=set)
    """The ids of requests that were acknowledged."""
    cancelled: set[str] = field(default_factory=set)
    """The ids of requests that the service said were cancelled."""
    answers: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """The first final answer to each request, by its id."""
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        """Count one more of this kind."""
        with self._lock:
            self.counts[what] += 1

    def add_violation(self, what: str) -> None:
        """Note a violation."""
        with self._lock:
            self.violations.append(what)

    def take_answer(self, request_id: str, answer: Mapping[str, Any]) -> None:
        """Note an answer with the request's state. The request is then acknowledged. A final answer that differs from the
        first one is a violation."""
        with self._lock:
            self.acknowledged.add(request_id)
            if answer["phase"] in FINAL:
                kept = tuple(answer.get(key) for key in ("phase", "status", "version", "removed_interactions"))
                first = self.answers.setdefault(request_id, kept)
                if first != kept:
                    self.violations.append(f"{request_id}: answered {first}, later {kept}")


class Follower:
    """Collects the records of a log as they are written, so that they are kept when a purge removes their files."""

    def __init__(self, log: Log) -> None:
        self._log, self._lock = log, threading.Lock()
        self._records: dict[int, Record] = {}

    def look(self) -> None:
        """Read the records since the last call.

        Raises:
            InputError: the log is damaged.
        """
        with self._lock:
            try:
                found = self._log.since(max(self._records, default=0))
            except InputError:  # the log was cut off after the last record that was read; take what is left
                found = self._log.records()
            self._records.update((record.number, record) for record in found)

    @property
    def records(self) -> list[Record]:
        """All records that were read, in order."""
        with self._lock:
            return [self._records[number] for number in sorted(self._records)]


def pairs_of(store: Store, graph: Graph) -> set[Pair]:
    """The interactions of a graph, by external ids.

    Raises:
        AssertionError: the rows of users and the rows of items have different interactions.
    """
    names = []
    for side in ("user", "item"):
        ids, node, _ = load_ids(store, graph, side)
        names.append(dict(zip(node.tolist(), ids.to_pylist(), strict=True)))
    found: list[set[Pair]] = [set(), set()]
    for k in range(graph.partitions):
        for ends, (users, items) in zip(found, load_shard(store, graph, k).entries(), strict=True):
            ends.update((names[0][u], names[1][i]) for u, i in zip(users.tolist(), items.tolist(), strict=True))
    assert found[0] == found[1], "rows of users and rows of items differ"
    return found[0]


class Model:
    """The interactions that should be in the graph, as a set."""

    def __init__(self, pairs: set[Pair]) -> None:
        self.pairs = set(pairs)
        self._of: tuple[dict[int, set[Pair]], dict[int, set[Pair]]] = (defaultdict(set), defaultdict(set))
        for pair in pairs:
            for of, end in zip(self._of, pair, strict=True):
                of[end].add(pair)

    def forget(self, body: Body) -> None:
        """Remove what a request names."""
        for side, key in enumerate(("users", "items")):
            for name in body.get(key, ()):
                self.pairs -= self._of[side].get(name, set())
        self.pairs -= {(user, item) for user, item in body.get("interactions", ())}


def check(
    history: History, records: Sequence[Record], tickets: Mapping[str, Ticket], start: set[Pair], end: set[Pair]
) -> None:
    """Compare the history with the log and with the interactions that are left. Each difference is a violation.

    Args:
        records: the records of the log that were seen.
        tickets: the state of each request at the end, by its id.
        start, end: the interactions of the graph before the first request and at the end.
    """
    finals: dict[str, list[str]] = defaultdict(list)
    for record in records:
        if record.kind == COMMITTED:
            for request_id in manifest_of(record).answers:
                finals[request_id].append(COMMITTED)
        elif record.kind in (COMPLETED, CANCELLED):
            finals[record.body["request_id"]].append(record.kind)
    for request_id, kinds in finals.items():
        if len(kinds) > 1:
            history.add_violation(f"{request_id}: closed {len(kinds)} times: {kinds}")
    # The order of the requests does not matter, because nothing adds interactions.
    model = Model(start)
    for request_id, ticket in tickets.items():
        if not ticket.final:
            history.add_violation(f"{request_id}: {ticket.state.value} at the end")
        if request_id not in history.bodies:
            history.add_violation(f"{request_id}: nobody asked for it")
        elif ticket.state in (State.COMMITTED, State.COMPLETED):
            model.forget(history.bodies[request_id])
    for request_id in sorted(history.acknowledged - tickets.keys()):
        history.add_violation(f"{request_id}: acknowledged, and the log does not know it")
    for request_id in sorted(history.cancelled):
        if request_id in tickets and tickets[request_id].state is not State.CANCELLED:
            history.add_violation(f"{request_id}: cancelled, and then {tickets[request_id].state.value}")
    if came_back := end - model.pairs:
        history.add_violation(f"{len(came_back)} interactions are left that were forgotten")
    if lost := model.pairs - end:
        history.add_violation(f"{len(lost)} interactions are gone that nobody named")
