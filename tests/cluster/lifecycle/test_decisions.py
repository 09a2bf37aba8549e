"""What becomes of requests: decisions on records and a clock, and the loop on a store that dies at any write."""

from __future__ import annotations

import types
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import manifest_document
from memory_store import Crash, MemoryStore

from unlearnrec.cluster.config.schema import parse_config
from unlearnrec.cluster.lifecycle.acceptance import append_step
from unlearnrec.cluster.lifecycle.decisions import (
    Verdict,
    error_class,
    judge,
    may_cancel,
    next_batch,
    oldest_age,
    overdue,
    retry_after,
    seconds_until_due,
    within_limit,
)
from unlearnrec.cluster.lifecycle.refusals import NotApproved, TakenId, TooLate, TooMany
from unlearnrec.cluster.log import records as log_records
from unlearnrec.cluster.log.log import Log, LogConflict
from unlearnrec.cluster.log.records import CANCELLED, COMPLETED, FAILED, HELD, Record
from unlearnrec.cluster.models.carry_out import carry_out
from unlearnrec.cluster.output.ledger import Ledger
from unlearnrec.cluster.output.manifest import manifest_of, read_manifest
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.output.tickets import State, Ticket
from unlearnrec.cluster.reporting.progress import Progress
from unlearnrec.cluster.requests.request import make_request
from unlearnrec.cluster.serving import service as service_module
from unlearnrec.cluster.serving.intake import Intake
from unlearnrec.cluster.serving.interface import NewRequest
from unlearnrec.cluster.serving.service import LONGEST_SWITCH_SECONDS, REPORTS_AT_ONCE, Service
from unlearnrec.partitioning.errors import InputError
from unlearnrec.workers.failures import Cause, Kind, WorkerFailure

START = 1_000_000.0


def iso(seconds):
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def ticket(name, at, state=State.ACCEPTED):
    return Ticket(name, state, at)


def record(number, kind, at=START, **body):
    return Record(number, kind, iso(at), body, "")


def version(number, reason="forget", interactions=100, **answers):
    return manifest_document(number, reason, graph={"interactions": interactions}, answers=answers)


def made(*arguments, **answers):
    return read_manifest(version(*arguments, **answers), "a test")


# ---- decisions ------------------------------------------------------------------------------------------------------


def test_the_ledger_tells_where_each_request_is():
    records = [
        record(1, "committed", manifest=version(1, "train", 200)),
        *(record(2 + n, "accepted", START + n, request_id=name, commitment="c") for n, name in enumerate("abcdef")),
        record(8, "completed", request_id="b", answer={"request_id": "b", "status": "nothing_to_forget", "version": 1}),
        record(9, "cancelled", request_id="c"),
        record(10, "failed", request_id="d", error="KeyError"),
        record(11, "failed", request_id="e", error="KeyError"),
        record(12, "accepted", START + 50, request_id="e", commitment="c"),
        record(13, "committed", manifest=version(2, interactions=150, a={"request_id": "a", "status": "committed"})),
        record(14, "evidence", request_id="a"),
        record(15, "cancelled", request_id="a"),  # too late: the first final answer counts
    ]
    ledger = Ledger(records)
    states = [(name, t.state.value) for name, t in ledger.tickets.items()]
    words = ["committed", "completed", "cancelled", "failed", "accepted", "accepted"]
    assert states == list(zip("abcdef", words, strict=True))
    assert list(ledger.open) == ["f", "e"]
    again = ledger.open["e"]  # it begins anew, but is as old as before
    assert (again.accepted_at, again.waits_from) == (START + 4, START + 50)
    assert overdue([again], START + 60, 55) == [again] and next_batch([again], START + 50, 10, 5) == []
    assert ledger.tickets["b"].describe()["status"] == "nothing_to_forget"
    assert ledger.tickets["d"].describe() == {
        "request_id": "d",
        "status": "failed",
        "phase": "failed",
        "version": None,
        "error": "KeyError",
    }
    assert ledger.debt() == 0.25 and ledger.versions == 2 and ledger.current.version == 2
    bit_by_bit = Ledger()
    for n in range(len(records) + 1):
        bit_by_bit.absorb(records[:n])
    assert bit_by_bit.tickets == ledger.tickets and list(bit_by_bit.open) == list(ledger.open)


def test_a_derived_id_is_renewed_when_its_answer_is_out_of_date():
    done = {"request_id": "a", "status": "committed"}
    records = [
        record(1, "committed", manifest=version(1, "train", 200)),
        *(
            record(2 + n, "accepted", request_id=name, commitment="c")
            for n, name in enumerate(["a", "b", "c", "d", "d-2"])
        ),
        record(7, "cancelled", request_id="d"),
        record(8, "cancelled", request_id="d-2"),
        record(9, "failed", request_id="c", error="KeyError"),
        record(10, "committed", manifest=version(2, interactions=150, a=done)),
        record(
            11, "completed", request_id="b", answer={"request_id": "b", "status": "nothing_to_forget", "version": 2}
        ),
    ]
    for ledger in (Ledger(records), Ledger(records[9:], state=Ledger(records[:9]).state())):
        found = {head: [ledger.derived_id(name, head) for name in "abcdx"] for head in (0, 9, 10, 11)}
        assert found[0] == found[9] == ["a", "b", "c", "d-3", "x"]
        assert found[10] == ["a-2", "b", "c", "d-3", "x"] and found[11] == ["a-2", "b-2", "c", "d-3", "x"]


def test_a_batch_is_what_has_waited_long_enough_oldest_first():
    tickets = [ticket("new", 95), ticket("b", 80), ticket("a", 70), ticket("c", 90)]
    assert next_batch(tickets, now=100, grace_seconds=10, limit=10) == ["a", "b", "c"]
    assert next_batch(tickets, now=100, grace_seconds=10, limit=2) == ["a", "b"]
    assert next_batch(tickets, now=100, grace_seconds=0, limit=10) == ["a", "b", "c", "new"]
    assert next_batch(tickets, now=100, grace_seconds=40, limit=10) == []
    # After a failure, one suspect at a time and before the others; one still in its window is not due.
    assert next_batch(tickets, now=100, grace_seconds=10, limit=10, alone={"c": 0, "b": 0, "new": 0}) == ["b"]
    assert next_batch(tickets, now=100, grace_seconds=10, limit=10, alone={"new": 0}) == ["a", "b", "c"]
    # One that loses workers by itself comes after all others.
    assert next_batch(tickets, now=100, grace_seconds=10, limit=10, alone={"a": 1, "b": 0}) == ["b"]
    assert next_batch(tickets, now=100, grace_seconds=10, limit=10, alone={"a": 1}) == ["b", "c"]
    assert next_batch(tickets, now=100, grace_seconds=10, limit=10, alone={"a": 3, "b": 2, "c": 2}) == ["b"]
    assert seconds_until_due(tickets, 100, 40) == 10 and seconds_until_due(tickets, 100, 1) == 0
    assert seconds_until_due([], 100, 1) == float("inf")
    assert oldest_age(tickets, 100) == 30 and oldest_age([], 100) == 0


def test_what_one_version_may_delete():
    shares = {"a": 0.03, "b": 0.0, "big": 0.21, "c": 0.10, "d": 0.08, "e": 0.01}
    assert within_limit(shares, 0.2, ()) == (["a", "b", "c"], ["big"])  # d would make it 0.21, and e is younger
    assert within_limit(shares, 0.21, ()) == (["a", "b"], [])
    assert within_limit(shares, 0.2, {"big"}) == (["a", "b"], [])
    assert within_limit({"big": 0.21, "e": 0.01}, 0.2, {"big"}) == (["big"], [])  # a version of its own
    assert within_limit(shares, 1.0, ()) == (list(shares), [])
    assert within_limit({}, 0.2, ()) == ([], [])


def test_a_held_request_waits_for_its_approval_in_no_batch():
    records = [
        record(1, "accepted", request_id="a", commitment="c", requester="Ann"),
        record(2, "held", request_id="a", share=0.3),
    ]
    held = Ledger(records).tickets["a"]
    assert held.describe() == {
        "request_id": "a",
        "status": "held",
        "phase": "held",
        "version": None,
        "requester": "Ann",
        "share": 0.3,
    }
    assert next_batch([held], START + 1e6, 0, 10) == [] and seconds_until_due([held], START, 0) == float("inf")
    assert may_cancel(held, START + 1e6, 10) and retry_after([held], START, 10, limit=1) == 3600
    ledger = Ledger(
        [*records, record(3, "approved", request_id="a", by="Bob"), record(4, "held", request_id="z", share=1)]
    )
    assert ledger.open["a"].state is State.ACCEPTED and ledger.open["a"].approved_by == "Bob"
    assert next_batch(ledger.open.values(), START, 0, 10) == ["a"] and list(ledger.tickets) == ["a"]


def test_cancelling_and_refusing():
    assert may_cancel(ticket("a", 95), 100, 10) and not may_cancel(ticket("a", 90), 100, 10)
    assert not may_cancel(ticket("a", 95, State.FAILED), 100, 10)
    tickets = [ticket("a", 100), ticket("b", 101)]
    assert retry_after(tickets, 102, 60, limit=3) is None
    assert retry_after(tickets, 102, 60, limit=2) == 58 and retry_after(tickets, 500, 60, limit=2) == 5


def failure(*kinds, exception=None):
    return WorkerFailure("x", {k: Cause(kind, "", exception=exception) for k, kind in enumerate(kinds)}, [], [])


@pytest.mark.parametrize(
    ("error", "together"),
    [
        (LogConflict(), Verdict.AGAIN),
        (InputError("no encoder"), Verdict.WAIT),
        (OSError("disk full"), Verdict.WAIT),
        (failure(Kind.COLLECTIVE), Verdict.WAIT),
        (failure(Kind.TRANSIENT), Verdict.WAIT),
        (failure(Kind.ERROR, Kind.ABORTED), Verdict.ALONE),
        (ValueError(), Verdict.ALONE),
    ],
    ids=str,
)
def test_what_a_failure_means(error, together):
    assert judge(error, alone=False) is together
    assert judge(error, alone=True) is (Verdict.QUARANTINE if together is Verdict.ALONE else together)


@pytest.mark.parametrize("kind", [Kind.DIED, Kind.UNRESPONSIVE, Kind.STALE])
def test_what_lost_workers_mean(kind):
    """First that a machine may be to blame, then that one of the batch may be."""
    for error in (failure(kind, Kind.ABORTED), failure(kind, Kind.ERROR)):
        found = [judge(error, alone=False, losses=losses) for losses in (1, 2, 3, 4)]
        assert found == [Verdict.WAIT, Verdict.WAIT, Verdict.ALONE, Verdict.ALONE]
        assert judge(error, alone=True, losses=1) is Verdict.LAST
    assert judge(OSError(), alone=False, losses=9) is Verdict.WAIT


def test_the_class_of_an_error_names_nobody():
    assert error_class(KeyError("ann")) == "KeyError"
    assert error_class(failure(Kind.ABORTED, Kind.ERROR, exception=IndexError("ann"))) == "IndexError"


# ---- the loop -------------------------------------------------------------------------------------------------------


class Clock:
    now = START

    def __call__(self):
        return self.now


class FakeEngine:
    """Commits as `carry_out` does, with no model. Users "none..." remove nothing, "poison..." raise, "killer..." end
    a worker, "big..." are held."""

    def __init__(self, session):
        self.session, self.error, self.batches, self.meanwhile = session, None, [], None

    def carry_out(self, requests, before_commit):
        head = self.session.log.head()
        self.batches.append([r.request_id for r in requests])
        if self.meanwhile:
            self.meanwhile()
        if self.error:
            raise self.error
        if any(r.users[0].startswith("poison") for r in requests):
            raise KeyError("poison")
        if any(r.users[0].startswith("killer") for r in requests):
            raise failure(Kind.DIED)
        answers = {}
        tickets = Ledger(self.session.log.records()).tickets
        for r in requests:
            if r.users[0].startswith("big") and tickets[r.request_id].approved_by is None:
                append_step(self.session, r.request_id, HELD, {"share": 0.3}, since=head)
                continue
            answer = {"request_id": r.request_id, "status": "nothing_to_forget", "version": 1}
            if not r.users[0].startswith("none"):
                answers[r.request_id] = answer | {"status": "committed"}
            elif not append_step(self.session, r.request_id, COMPLETED, {"answer": answer}, since=head):
                raise LogConflict
        if answers:
            manifest = made(0, "forget", 100, **answers)
            before_commit(manifest)
            self.session.versions.commit(manifest, after=head)

    def readouts(self, manifest):
        class Nothing:
            version = manifest.version

        return Nothing()

    def write_reports(self, request_ids):
        self.reported = request_ids
        for request_id in request_ids:
            self.session.log.append("evidence", {"request_id": request_id})


def open_session(store, **serve):
    config = parse_config({"interactions": "x", "output": "y", "forget": {"grace_seconds": 10.0}, "serve": serve or {}})
    return Session(config, store)


def open_service(store, clock, **serve):
    session = open_session(store, **serve)
    service = Service(session, Intake(open_session(store, **serve), clock), FakeEngine(session), clock)
    service._drop_removed = lambda version: None  # there are no id maps
    return service


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()

    monkeypatch.setattr(log_records, "time", types.SimpleNamespace(time=clock))
    return clock


@pytest.fixture
def store(clock):
    store = MemoryStore()
    open_session(store).versions.commit(made(0, "train", 200), after=0)
    return store


def test_nothing_is_carried_out_while_a_retrain_is_about_to_commit(store, clock):
    service = open_service(store, clock)

    def asked(seconds):
        service._session.log.append("switching", {"behind": 1, "seconds": seconds})

    accept(service, "a")
    clock.now += 10
    asked(60.0)
    assert service.tick() == 1.0 and not service._engine.batches
    clock.now += 59.5
    assert service.tick() == 0.5
    service._session.versions.commit(made(0, "train", 100), after=service._session.log.head())
    assert service.tick() == 0.0 and service._engine.batches == [["a"]]
    accept(service, "b")
    asked(60.0)
    clock.now += 60.0  # the retrain has died
    service.tick()
    assert states(store) == {"a": "committed", "b": "committed"}
    accept(service, "c")
    clock.now += 1000  # the retrain's clock
    asked(1e9)
    clock.now -= 990
    assert service.tick() == 1.0
    clock.now += LONGEST_SWITCH_SECONDS
    service.tick()
    assert states(store)["c"] == "committed"


def states(store):
    return {name: t.state.value for name, t in Ledger(Log(store).records()).tickets.items()}


def accept(service, name, user=None):
    return service.intake.accept(NewRequest([user or name], request_id=name))


def test_requests_wait_for_their_window_and_share_a_version(store, clock):
    service = open_service(store, clock)
    assert accept(service, "a")["status"] == "accepted" and accept(service, "b", "none")["request_status"] == "pending"
    assert service.tick() == 1.0 and not service._engine.batches  # poll_seconds
    clock.now += 9.5
    accept(service, "late")
    assert service.tick() == 0.5
    clock.now += 0.5
    assert service.tick() == 0.0 and service._engine.batches == [["a", "b"]]
    assert states(store) == {"a": "committed", "b": "completed", "late": "accepted"}
    service.tick()
    assert service.published.version == 2 and service.intake.status("a")["request_status"] == "completed"
    again = accept(service, "a")
    assert again["phase"] == "committed"
    with pytest.raises(TakenId):
        accept(service, "a", "other")
    with pytest.raises(TakenId):
        accept(service, "late", "other")


def test_a_request_that_a_clock_ahead_accepted_waits_for_its_window_only(store, clock):
    """The coordinator's machine was lost; the clock of the one before is an hour ahead of this one."""
    before, after = open_service(store, clock), open_service(store, clock)
    clock.now += 3600
    accept(before, "a")
    clock.now -= 3600
    assert after.tick() == 1.0
    clock.now += 9.5
    assert after.tick() == 0.5 and not after._engine.batches
    clock.now += 0.5
    assert after.tick() == 0.0 and after._engine.batches == [["a"]]


def test_without_windows_a_request_is_due_whatever_the_clocks_say(store, clock):
    ticket = open_service(store, clock).intake.accept(NewRequest(["a"], request_id="a"))
    assert ticket["status"] == "accepted"
    (waiting,) = Ledger(Log(store).records()).open.values()
    early = clock.now - 3600
    assert next_batch([waiting], early, 0.0, 5) == ["a"] and seconds_until_due([waiting], early, 0.0) == 0
    assert next_batch([waiting], early, 1.0, 5) == [] and not may_cancel(waiting, early, 0.0)


def test_a_clock_that_is_set_back_makes_no_wait_longer(store, clock):
    service = open_service(store, clock)
    accept(service, "a")
    clock.now += 10
    service._engine.error = OSError("no storage")
    assert service.tick() == 1.0 and service.blocked == "OSError"
    service._engine.error = None
    clock.now -= 3600
    assert service.tick() == 1.0 and service.blocked is None
    clock.now += 10
    service.tick()
    assert service._engine.batches[-1] == ["a"] and states(store) == {"a": "committed"}


def test_cancel_within_the_window_only(store, clock):
    service = open_service(store, clock)
    accept(service, "a")
    accept(service, "b")
    assert "cancellable_until" in service.intake.status("a")
    for _ in range(2):
        assert service.intake.cancel("a")["status"] == "cancelled"
    clock.now += 10
    with pytest.raises(TooLate):
        service.intake.cancel("b")
    while service.tick() == 0:
        pass
    assert states(store) == {"a": "cancelled", "b": "committed"} and service._engine.batches == [["b"]]
    with pytest.raises(TooLate):
        service.intake.cancel("b")
    assert service.intake.cancel("nobody") is None and accept(service, "a")["status"] == "cancelled"


def test_the_same_content_again_is_a_new_request_where_the_first_was_cancelled(store, clock):
    """Without an id; under an id it is the answer that was given, and says so."""
    service, other = open_service(store, clock), open_service(store, clock)
    first = service.intake.accept(NewRequest(["ann"]))
    again = other.intake.accept(NewRequest(["ann"]))
    assert "repeated" not in first and again == first | {"repeated": True}
    service.intake.cancel(first["request_id"])
    second = other.intake.accept(NewRequest(["ann"]))
    assert second["status"] == "accepted" and second["request_id"] == first["request_id"] + "-2"
    assert service.intake.accept(NewRequest(["ann"])) == second | {"repeated": True}
    under_id = service.intake.accept(NewRequest(["ann"], request_id=first["request_id"]))
    assert under_id["status"] == "cancelled" and under_id["repeated"]


def test_a_cancel_and_a_commit_exclude_each_other(store, clock):
    """The other machine's clock is behind: it still cancels while the batch runs."""
    service = open_service(store, clock)
    accept(service, "a")
    accept(service, "b")
    clock.now += 10
    behind = Intake(open_session(store), lambda: clock.now - 5)
    service._engine.meanwhile = lambda: behind.cancel("a")
    service.tick()
    assert states(store) == {"a": "cancelled", "b": "accepted"}
    service.tick()
    assert states(store) == {"a": "cancelled", "b": "committed"}


@pytest.mark.parametrize("kind", [COMPLETED, HELD, CANCELLED, FAILED])
@pytest.mark.parametrize("meanwhile", ["its version", "another version", "its cancellation", "its answer"])
def test_no_record_of_a_request_stands_on_a_log_that_says_otherwise(store, monkeypatch, kind, meanwhile):
    """Somebody else writes between the look and the record."""
    session, other = open_session(store), open_session(store)
    for name in "ab":
        Intake(other).accept(NewRequest([name], request_id=name))
    head, append = session.log.head(), session.log.append
    answer = {"request_id": "a", "status": "committed", "version": 2}

    def late(*arguments, **keywords):
        monkeypatch.setattr(session.log, "append", append)
        if meanwhile == "its cancellation":
            append_step(other, "a", CANCELLED, {})
        elif meanwhile == "its answer":
            append_step(other, "a", COMPLETED, {"answer": answer})
        else:
            name = "a" if meanwhile == "its version" else "b"
            other.versions.commit(made(0, "forget", 100, **{name: answer | {"request_id": name}}), after=head)
        return append(*arguments, **keywords)

    monkeypatch.setattr(session.log, "append", late)
    on_a_version = kind in (COMPLETED, HELD)
    body = {"answer": answer, "share": 0.3, "error": "KeyError"}
    if on_a_version and "version" in meanwhile:
        with pytest.raises(LogConflict):
            append_step(session, "a", kind, body, since=head)
    else:
        done = append_step(session, "a", kind, body, since=head if on_a_version else None)
        assert done == (meanwhile == "another version")
    written = [r.kind for r in session.log.since(head) if r.body.get("request_id") == "a"]
    mine = [kind] if meanwhile == "another version" and not on_a_version else []
    assert written == {"its cancellation": [CANCELLED], "its answer": [COMPLETED]}.get(meanwhile, mine)


@pytest.mark.parametrize("kind", [None, CANCELLED, HELD, FAILED])
def test_only_an_accepted_request_is_carried_out(store, kind):
    """Before anything else is read or written."""
    session = open_session(store)
    request = make_request(["a"], [], [], "a", b"")
    if kind is not None:
        Intake(session).accept(NewRequest(["a"], request_id="a"))
        append_step(session, "a", kind, {"share": 0.3, "error": "KeyError"})
    before = states(store)
    with pytest.raises(LogConflict, match="request a was closed or held"):
        carry_out(session, [request], None, Progress())
    assert states(store) == before


def test_nobody_stays_hidden_when_a_batch_does_not_commit(store, clock):
    """Hidden just before the commit; without one they are served again, with one they stay hidden."""
    service = open_service(store, clock)
    accept(service, "a")
    accept(service, "b")
    clock.now += 10
    whole, hidden = types.SimpleNamespace(version=1), types.SimpleNamespace(version=1)
    service.published = whole

    def hide(version):
        service.published = hidden

    service._drop_removed = hide
    behind = Intake(open_session(store), lambda: clock.now - 5)
    service._engine.meanwhile = lambda: behind.cancel("a")
    service.tick()
    assert states(store)["b"] == "accepted" and service.published is whole
    service._engine.meanwhile = None
    real = service._engine.carry_out

    def then_fail(requests, before_commit):
        real(requests, before_commit)
        raise OSError("the workers could not load it")

    service._engine.carry_out = then_fail
    service.tick()
    assert states(store)["b"] == "committed" and service.published is hidden


def test_who_is_gone_in_somebody_elses_version_is_hidden_before_it_is_loaded(store, clock, monkeypatch):
    """Also where it cannot be loaded."""
    service = open_service(store, clock)
    service.tick()
    del service._drop_removed
    alive = {"gone": {"a", "b"}, "left": {"a"}}
    monkeypatch.setattr(service_module, "living_ids", lambda _, version: (alive[version.graph.user_file], {"i"}))
    monkeypatch.setattr(service._engine, "readouts", lambda _: (_ for _ in ()).throw(OSError("no worker")))
    service.published = Copy(1, {"a", "b"})
    for number, users in enumerate(("gone", "left"), start=2):
        graph = made(0).graph.replaced(user_file=users, item_file="items")
        manifest = made(0).replaced(graph=graph)
        open_session(store).versions.commit(manifest, after=Log(store).head())
        for _ in range(2):
            service.tick()
        assert service.published == Copy(1, alive[users], looks=number - 1) and service.blocked == "OSError"


@dataclass(frozen=True)
class Copy:
    """As `Readouts`, with users alone."""

    version: int
    users: set[str]
    looks: int = 0

    def without(self, users, items):
        return Copy(self.version, self.users & users, self.looks + 1)

    def less(self, users, items):
        return Copy(self.version, self.users - users, self.looks + 1)


def test_a_poison_request_does_not_block_the_others(store, clock):
    service = open_service(store, clock)
    for name in ("a", "poison", "b"):
        accept(service, name)
        clock.now += 1
    clock.now += 10
    while service.tick() == 0:
        pass
    assert service._engine.batches == [["a", "poison", "b"], ["a"], ["poison"], ["b"]]
    assert states(store) == {"a": "committed", "poison": "failed", "b": "committed"}
    assert service.intake.status("poison")["error"] == "KeyError"
    # Asked for again under the same id, it is tried again; a single request gets a second attempt.
    assert accept(service, "poison")["status"] == "accepted"
    clock.now += 10
    service._engine.batches.clear()
    service._engine.error = ValueError()
    assert service.tick() == 0
    service._engine.error = None
    while service.tick() == 0:
        pass
    assert service._engine.batches == [["poison"], ["poison"]] and states(store)["poison"] == "failed"


def test_a_poison_request_among_many_is_found_by_halving(store, clock):
    """Its neighbours share few versions, and a request that comes meanwhile waits for these only."""
    service = open_service(store, clock)
    names = [f"r{number:02d}" for number in range(40)]
    names[13] = "poison"
    for name in names:
        accept(service, name)
    clock.now += 10
    service.tick()
    accept(service, "late")
    clock.now += 10
    tick_until_idle(service)
    sizes = [len(batch) for batch in service._engine.batches]
    # 40 fail, and so do 20 of them, 10, and then 5, which are tried one by one.
    assert sizes == [40, 20, 10, 10, 5, 1, 1, 1, 1, 1, 5, 20, 1] and service._engine.batches[-1] == ["late"]
    assert states(store) == dict.fromkeys([*names, "late"], "committed") | {"poison": "failed"}


def test_requests_that_end_workers_do_not_block_the_others(store, clock):
    service = open_service(store, clock)
    names = ["killer1", "a", "killer2", "b"]
    for name in names:
        accept(service, name)
        clock.now += 1
    clock.now += 10
    batches = service._engine.batches
    for _ in range(10):
        clock.now += service.tick()
    assert batches == [names] * 3 + [["killer1"], ["a"], ["killer2"], ["b"], ["killer1"], ["killer2"], ["killer1"]]
    accept(service, "c")
    clock.now += 60
    assert service.tick() == 0.0 and service.blocked is None and batches[-1] == ["c"]
    clock.now += service.tick()
    assert batches[-1] == ["killer2"]  # they are tried in turn, and stay accepted
    assert states(store) == dict.fromkeys("abc", "committed") | dict.fromkeys(["killer1", "killer2"], "accepted")


def test_workers_that_are_lost_now_and_then_make_no_request_suspect(store, clock):
    service = open_service(store, clock)
    for name in "abcd":
        accept(service, name)
        accept(service, name + "2")
        clock.now += 10
        service._engine.error = failure(Kind.DIED)
        for _ in range(2):
            clock.now += service.tick()
        service._engine.error = None
        assert service.tick() == 0.0 and service._engine.batches[-3:] == [[name, name + "2"]] * 3


def test_what_is_not_the_requests_fault_is_waited_for(store, clock):
    service = open_service(store, clock)
    accept(service, "a")
    clock.now += 10
    service._engine.error = OSError("disk full")
    assert [service.tick(), service.tick()] == [1.0, 1.0] and service.blocked == "OSError"
    clock.now += 1
    assert service.tick() == 2.0 and len(service._engine.batches) == 2
    service._engine.error = InputError("no encoder")
    # A new version is looked at without waiting.
    open_session(store).versions.commit(made(0, "pretrain"), after=Log(store).head())
    assert service.tick() == 4.0 and service.published.version == 2 and service.blocked == "InputError"
    service._engine.error = None
    clock.now += 4
    assert service.tick() == 0.0 and service.blocked is None and states(store) == {"a": "committed"}


def test_looks_that_fail_while_it_waits_make_the_wait_no_longer(store, clock, monkeypatch):
    service = open_service(store, clock)
    accept(service, "a")
    clock.now += 10
    with monkeypatch.context() as patch:
        patch.setattr(store, "read", lambda name: (_ for _ in ()).throw(OSError("away")))
        assert service.tick() == 1.0
        for passed in (0.2, 0.2, 0.2):
            clock.now += passed
            assert service.tick() < 1.0 and service.blocked == "OSError"
        clock.now += 0.5
        assert service.tick() == 2.0
    clock.now += 2
    assert service.tick() == 0.0 and service.blocked is None and states(store) == {"a": "committed"}


def test_damaged_content_is_quarantined(store, clock):
    service = open_service(store, clock)
    for name in ("a", "b", "c"):
        accept(service, name)
    store.files["requests/a.json"] = store.files["requests/a.json"].replace(b'\\"a\\"', b'\\"x\\"')
    del store.files["requests/b.json"]
    clock.now += 10
    while service.tick() == 0:
        pass
    assert states(store) == {"a": "failed", "b": "failed", "c": "committed"}
    assert service.intake.status("a")["error"] == "UnreadableRequest"


def test_too_many_are_refused_but_repetitions_are_not(store, clock):
    service = open_service(store, clock, max_open_requests=2, max_batch=1)
    accept(service, "a")
    accept(service, "b")
    with pytest.raises(TooMany) as full:
        accept(service, "c")
    assert full.value.seconds == 10 and accept(service, "a")["status"] == "accepted"
    clock.now += 10
    service.tick()
    assert accept(service, "c")["status"] == "accepted" and "c" in states(store)


def tick_until_idle(service):
    while service.tick() == 0:
        pass


def test_evidence_that_a_crash_kept_from_being_written_is_written_later(store, clock):
    died = open_service(store, clock)
    accept(died, "a")
    accept(died, "none")
    clock.now += 10
    died.tick()
    service = open_service(store, clock)
    for seconds, expected in ((0, None), (59, None), (1, ["a"]), (100, None)):
        clock.now += seconds
        service._engine.reported = None
        tick_until_idle(service)
        assert service._engine.reported == expected


def test_evidence_waits_while_requests_wait_and_not_longer(store, clock):
    """The next request comes first; what has waited for a minute is written where a batch is always due."""
    service = open_service(store, clock)
    service._engine.reported = []
    for name in "abcdefg":
        accept(service, name)
        clock.now += 10
        assert service.tick() == 0.0 and service._engine.batches[-1] == [name]
        assert service._engine.reported == (["a"] if name == "g" else [])
    assert service.gauges()["unreported_requests"] == 6
    tick_until_idle(service)
    assert service.gauges()["unreported_requests"] == 0


def test_evidence_is_written_in_parts_so_that_a_request_need_not_wait_for_all(store, clock):
    service = open_service(store, clock)
    for number in range(REPORTS_AT_ONCE + 2):
        accept(service, f"r{number:02d}")
    clock.now += 10
    assert service.tick() == 0.0 and service.gauges()["unreported_requests"] == REPORTS_AT_ONCE + 2
    assert service.tick() == 0.0 and service.gauges()["unreported_requests"] == 2
    accept(service, "late")
    clock.now += 10
    assert service.tick() == 0.0 and service._engine.batches[-1] == ["late"]
    assert service.gauges()["unreported_requests"] == 3
    service.finish()
    assert service.gauges()["unreported_requests"] == 0


def test_the_last_word_on_a_request_waits_for_its_evidence(store, clock):
    service = open_service(store, clock)
    accept(service, "a")
    accept(service, "none")
    clock.now += 10
    service.tick()
    assert list(service.intake.news_of(["a", "none"])) == ["none"]
    service._engine.write_reports = lambda request_ids: None  # it cannot be written
    tick_until_idle(service)
    assert service.intake.news_of(["a"])["a"].final and service.gauges()["unreported_requests"] == 1


def test_evidence_that_cannot_be_written_does_not_keep_the_others_waiting(store, clock):
    died = open_service(store, clock, max_batch=1)
    for name in ("a", "b", "c"):
        accept(died, name)
    clock.now += 10
    for _ in range(3):
        died.tick()
    service, tried = open_service(store, clock, max_batch=1), []
    service._engine.write_reports = tried.extend  # and nothing is written
    for _ in range(4):
        clock.now += 60
        service.tick()
    assert tried == ["a", "b", "c", "a"]


def test_a_held_request_is_carried_out_when_somebody_else_approves_it(store, clock):
    service = open_service(store, clock)
    service.intake.accept(NewRequest(["big"], request_id="a", requester="Ann"))
    service.intake.accept(NewRequest(["big"], request_id="b"))
    with pytest.raises(NotApproved, match="it is accepted"):
        service.intake.approve("a", "Bob")
    clock.now += 10
    while service.tick() == 0:
        pass
    assert states(store) == {"a": "held", "b": "held"} and service.gauges()["held_requests"] == 2
    assert service.intake.status("a")["request_status"] == "pending"
    with pytest.raises(NotApproved, match="somebody else"):
        service.intake.approve("a", "ANN")
    with pytest.raises(InputError, match="one line"):
        service.intake.approve("a", "two\nlines")
    for by in ("Bob", "Cid"):  # the first approval counts
        assert service.intake.approve("a", by)["approved_by"] == "Bob"
    assert service.intake.approve("nobody", "Bob") is None
    assert service.intake.cancel("b")["status"] == "cancelled"
    service.tick()
    assert states(store) == {"a": "committed", "b": "cancelled"} and service.intake.status("a")["approved_by"] == "Bob"


def test_the_loop_says_once_what_is_overdue(store, clock, caplog):
    service = open_service(store, clock)
    accept(service, "poison")
    clock.now += 10
    while service.tick() == 0:
        pass
    assert states(store) == {"poison": "failed"} and service.gauges()["overdue_requests"] == 0
    assert service.intake.status("poison")["expected_completion_time"] == iso(START + 720 * 3600)
    clock.now = START + 720 * 3600 + 1
    accept(service, "late")
    caplog.clear()
    for _ in range(3):
        service.tick()
    said = [r.getMessage() for r in caplog.records if "overdue" in r.getMessage()]
    assert said == ["1 requests are overdue (forget.deadline_hours); the oldest waits 720 hours"]
    gauges = service.gauges()  # a failed request has no answer yet
    assert gauges["overdue_requests"] == gauges["failed_requests"] == 1 and gauges["open_requests"] == 2
    assert gauges["oldest_open_request_seconds"] == 720 * 3600 + 1
    assert {name for name in gauges if name.startswith("requests_total")} == {
        f'requests_total{{state="{state}"}}' for state in ("committed", "completed", "cancelled")
    }  # counters, which never fall
    assert overdue([ticket("a", 10), ticket("b", 20)], 31, 20) == [ticket("a", 10)]
    service.intake.accept(NewRequest(["x"], request_id="done"))
    clock.now += 10
    service.tick()
    assert "expected_completion_time" not in service.intake.status("done")


def test_a_failed_request_that_is_posted_again_has_the_same_deadline(store, clock):
    service = open_service(store, clock)
    accept(service, "poison")
    clock.now += 10
    while service.tick() == 0:
        pass
    assert states(store) == {"poison": "failed"}
    clock.now = START + 720 * 3600 + 1
    found = accept(service, "poison")
    assert found["received_time"] == iso(START) and found["expected_completion_time"] == iso(START + 720 * 3600)
    assert found["cancellable_until"] == iso(clock.now + 10)
    gauges = service.gauges()
    assert gauges["overdue_requests"] == 1 and gauges["oldest_open_request_seconds"] == 720 * 3600 + 1
    assert service.tick() == 1.0 and service.intake.cancel("poison")["status"] == "cancelled"


def test_gauges_name_nobody(store, clock):
    service = open_service(store, clock)
    accept(service, "somebody")
    accept(service, "none")
    clock.now += 10
    assert service.gauges()["oldest_open_request_seconds"] == 10
    service.tick()
    gauges = service.gauges()
    assert "somebody" not in str(gauges) and gauges["unlearning_debt_ratio"] == 0.5
    assert gauges['requests_total{state="committed"}'] == gauges['requests_total{state="completed"}'] == 1
    assert gauges["open_requests"] == 0 and gauges["versions_committed_total"] == 2


steps = st.lists(
    st.one_of(
        st.tuples(st.just("accept"), st.sampled_from(["a", "b", "c", "d", "none1", "none2", "poison", "big"])),
        st.tuples(st.just("approve"), st.just("big")),
        st.tuples(st.just("cancel"), st.sampled_from(["a", "b", "none1", "poison"])),
        st.tuples(st.just("wait"), st.sampled_from(["3", "11"])),
        st.tuples(st.just("tick"), st.just("")),
        st.tuples(st.just("crash"), st.integers(0, 9).map(str)),
    ),
    max_size=25,
)


@settings(max_examples=200, deadline=None)
@given(steps=steps)
def test_each_acknowledged_request_gets_one_final_answer_whatever_dies(steps):
    """Two services on one store; each may die before or after any write, and starts again with an empty memory."""
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()

        patch.setattr(log_records, "time", types.SimpleNamespace(time=clock))
        store = MemoryStore()
        open_session(store).versions.commit(made(0, "train", 200), after=0)
        services = [open_service(store, clock), open_service(store, clock)]
        acknowledged, cancelled = set(), set()
        for number, (step, value) in enumerate(steps):
            service = services[number % 2]
            try:
                if step == "accept":
                    service.intake.accept(NewRequest([value], request_id=value))
                    acknowledged.add(value)
                elif step == "cancel":
                    if service.intake.cancel(value):
                        cancelled.add(value)
                elif step == "tick":
                    service.tick()
                elif step == "approve":
                    service.intake.approve(value, "Bob")
                elif step == "crash":
                    store.crash_at = int(value)
                else:
                    clock.now += float(value)
            except (TooLate, NotApproved):
                pass
            except Crash:
                services[number % 2] = open_service(store, clock)
        store.crash_at = None
        clock.now += 100
        last = open_service(store, clock)
        for _ in range(50):
            if last.tick():
                break
        records = Log(store).records()
        finals = {}
        for r in records:
            answers = manifest_of(r).answers if r.kind == "committed" else {}
            for name in [*answers, *([r.body["request_id"]] if r.kind in ("completed", "cancelled") else [])]:
                finals.setdefault(name, []).append(r.kind)
        assert all(len(kinds) == 1 for kinds in finals.values()), finals
        found = states(store)
        assert not [name for name, state in found.items() if state == "accepted"]
        approved = {r.body["request_id"] for r in records if r.kind == "approved"}
        assert all(name == "big" and name not in approved for name, state in found.items() if state == "held")
        assert acknowledged <= set(found)
        assert all(finals[name] == ["cancelled"] for name in cancelled)
        expected = {"none": "completed", "pois": "failed"}
        for name, state in found.items():
            assert state in ("cancelled", "held") or state == expected.get(name[:4], "committed")
