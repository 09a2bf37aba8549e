"""The log is cut off where somebody stands still: he goes on at the checkpoint, and nothing is acknowledged that nobody
reads."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_store import Crash, MemoryStore
from processes import Process, SharedStore
from small_output import commit_forget, commit_train, small_config, user_name, write_interactions

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.commands.purge import purge
from unlearnrec.cluster.config.schema import Config, parse_config
from unlearnrec.cluster.log import log as log_module
from unlearnrec.cluster.log.cuts import announce_cut
from unlearnrec.cluster.log.log import Log, LogConflict
from unlearnrec.cluster.output import session as session_module
from unlearnrec.cluster.output.ledger import Ledger
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.serving.intake import Intake
from unlearnrec.cluster.serving.interface import NewRequest
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.storage import Store

LATER = {"request_id": "later", "answer": {}}


@pytest.fixture(autouse=True)
def each_look_asks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_module, "CUT_SECONDS", 0.0)
        yield


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Three versions, and two requests without evidence: five records."""
    config = small_config(write_interactions(tmp_path / "events.parquet"), str(tmp_path / "output"))
    pipeline.ingest(config)
    commit_train(config)
    for n in range(2):
        commit_forget(config, user_name(n), f"r{n}")
    return config


def cut_off(config: Config, ends: type[BaseException] | None = None) -> None:
    """What others do: two requests more, and the log cut off behind them, perhaps by a purge that ends on the way so."""
    for n in (2, 3):
        commit_forget(config, user_name(n), f"r{n}")
    for n in range(4):
        body = {"request_id": f"r{n}", "version": n + 2, "sha256": "0", "page_sha256": "0"}
        Session(config).log.append("evidence", body)
    remove = Store.remove

    def removed(store: Store, name: str) -> None:
        if ends is not None and name == "log/000000007.json":
            raise ends
        remove(store, name)

    with pytest.MonkeyPatch.context() as patch, nullcontext() if ends is None else pytest.raises(ends):
        patch.setattr(Store, "remove", removed)
        purge(config, now=True, truncate_log=True)
    assert Session(config).log.records()[0].number > 7


def files(config: Config) -> list[str]:
    return Session(config).store.list("log")


@pytest.mark.parametrize(
    "look",
    [
        lambda session: session.log.head(),
        lambda session: session.log.records(),
        lambda session: session.ledger().state(),
        lambda session: session.versions.current(),
        lambda session: session.checkpoint() or session.ledger().checkpointed,
    ],
)
def test_who_stood_still_goes_on_at_the_checkpoint(
    config: Config, look: Callable[[Session], object], caplog: pytest.LogCaptureFixture
) -> None:
    still = Session(config)
    assert still.ledger().seen == 5
    cut_off(config)
    assert look(still) == look(Session(config))
    assert [record.getMessage() for record in caplog.records if "behind record 5" in record.getMessage()]
    assert still.ledger().state() == Session(config).ledger().state()
    still.log.append("completed", LATER)
    assert "later" in Session(config).ledger().tickets
    assert still.log.records() == Session(config).log.records()


@pytest.mark.parametrize("after", [None, 5])
@pytest.mark.parametrize("moment", ["before the look", "before the write", "behind the write"])
def test_a_record_that_nobody_would_read_is_not_acknowledged(
    config: Config, after: int | None, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = Session(config)
    assert still.ledger().seen == 5
    create, written = still.store.create, []

    def stand_still(name: str, data: bytes) -> None:
        monkeypatch.undo()
        if moment == "behind the write":
            create(name, data)
        cut_off(config)
        written.extend(files(config))
        if moment == "before the write":
            create(name, data)

    if moment == "before the look":
        cut_off(config)
        written = files(config)
    else:
        monkeypatch.setattr(still.store, "create", stand_still)
    with pytest.raises(OSError, match=r"000000006.json .* `purge --truncate-log`"):
        still.log.append("completed", LATER, after=after)
    # Where others had read it, their log says so; else it is not there.
    assert ("later" in still.ledger().tickets) == (moment == "behind the write")
    assert files(config) == written
    with pytest.raises(LogConflict):
        still.log.append("completed", LATER, after=5)
    number = still.log.append("completed", LATER).number
    assert Session(config).log.records()[-1].number == number and "later" in Session(config).ledger().tickets


def test_a_service_that_stood_still_accepts_requests_again(config: Config) -> None:
    intake = Intake(Session(config))
    assert intake.view().current is not None
    cut_off(config)
    told = intake.accept(NewRequest([user_name(8)]))
    assert list(Session(config).ledger().open) == [told["request_id"]]
    assert intake.view() == Intake(Session(config)).view()


def away(read: Callable[[str], bytes]) -> Callable[[str], bytes]:
    """The store does not say any more whether there is a new cut."""

    def answer(name: str) -> bytes:
        if "cut" in name:
            raise TimeoutError
        return read(name)

    return answer


@pytest.mark.parametrize("ends", [None, Crash])
def test_who_dies_behind_such_a_write_leaves_a_log_that_is_whole(
    config: Config, ends: type[BaseException] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, still, deciding, writing = sessions = [Session(config) for _ in range(4)]
    assert {session.ledger().seen for session in sessions} == {5}
    cut_off(config, ends)
    whole = Session(config).log.records()
    create = dead.store.create

    def die(name: str, data: bytes) -> None:
        create(name, data)
        raise Crash

    monkeypatch.setattr(dead.store, "create", die)
    with pytest.raises(Crash):
        dead.log.append("completed", LATER)
    assert "log/000000006.json" in files(config)
    with monkeypatch.context() as patch:
        patch.setattr(still.store, "read", away(still.store.read))
        with pytest.raises(TimeoutError):
            still.ledger()
    assert "later" not in still.ledger(look=False).tickets
    for session in (Session(config), still):
        assert session.log.records() == whole and "later" not in session.ledger().tickets
    # None goes on from the dead one's.
    with pytest.raises(LogConflict):
        deciding.log.append("completed", LATER, after=6)
    number = writing.log.append("completed", LATER).number
    assert number == whole[-1].number + 1
    assert [record.number for record in Session(config).log.records()] == [*(r.number for r in whole), number]
    purge(config, now=True, truncate_log=True)
    assert "log/000000006.json" not in files(config)


def test_who_has_read_on_notices_nothing(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = Session(config)
    cut_off(config)
    head = beside.ledger().seen
    commit_train(config)
    for _ in range(2):
        purge(config, now=True, truncate_log=True)
        monkeypatch.setattr(beside.store, "list", lambda folder: pytest.fail("it was opened anew"))
        assert beside.log.append("completed", LATER).number > head
        assert beside.ledger().seen == Log(Store(config.output)).head()
        monkeypatch.undo()


def test_no_checkpoint_is_made_of_what_was_cut_off(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    still, state = Session(config), Ledger.state

    def stand_still(ledger: Ledger) -> dict[str, Any]:
        monkeypatch.undo()
        found = state(ledger)
        cut_off(config)
        still.log.head()  # another thread's
        return found

    monkeypatch.setattr(Ledger, "state", stand_still)
    still.checkpoint()
    assert still.ledger().state() == Session(config).ledger().state()
    assert still.log.records() == Session(config).log.records()
    assert "log/checkpoint-000000005.json" not in files(config)


def test_a_log_that_was_empty_when_it_was_opened() -> None:
    store = MemoryStore()
    still, session = (Session(parse_config({"interactions": "x", "output": "y"}), store) for _ in range(2))  # type: ignore[arg-type]
    assert still.log.head() == 0
    for n in range(3):
        session.log.append("completed", {"request_id": f"r{n}", "answer": {}})
    session.checkpoint()
    announce_cut(store, (3, 0))  # type: ignore[arg-type]
    for n in range(3):
        store.remove(f"log/00000000{n + 1}.json")
    with pytest.raises(OSError, match="`purge --truncate-log`"):
        still.log.append("completed", LATER)
    assert still.log.append("completed", LATER).number == 5
    assert list(still.ledger().tickets) == ["r0", "r1", "r2", "later"]


@pytest.mark.parametrize("moment", ["list", "read"])
@pytest.mark.parametrize("act", [lambda log: log.resume(0, look=False), lambda log: log.records()])
def test_a_log_that_is_cut_off_while_it_is_opened(
    config: Config, act: Callable[[Log], object], moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(config.output)
    found = getattr(store, moment)

    def stand_still(name: str) -> object:
        """Behind the listing, or before it is seen where the log ends."""
        names = found(name) if moment == "list" else None
        if moment == "list" or name == "log/000000006.json":
            monkeypatch.undo()
            cut_off(config)
        return names or found(name)

    monkeypatch.setattr(store, moment, stand_still)
    assert act(Log(store)) == act(Log(Store(config.output)))


def test_a_log_gets_no_hole_where_a_file_looks_older_than_those_before_it(config: Config) -> None:
    """As in a copy that was restored."""
    cut_off(config)
    commit_train(config)
    old = time.time() - 7200
    names = [name for name in files(config) if "-" not in name]
    for name in [names[0], *names[2:]]:
        os.utime(Path(config.output) / name, (old, old))
    keeping = config.model_copy(update={"forget": config.forget.model_copy(update={"retention_hours": 1.0})})
    purge(keeping, truncate_log=True)
    assert names[0] not in files(config) and set(names[1:]) < set(files(config))
    assert Session(config).log.records()[0].file == names[1]


def test_a_damaged_cut_is_named(config: Config) -> None:
    cut_off(config)
    for damage in (b"", b"[]", b"{}", b'{"through": "x"}', b'{"through": 7}'):
        Session(config).store.write("log/cut-000001.json", damage)
        with pytest.raises(InputError, match=r"log/cut-000001.json names no segment"):
            Session(config).ledger()


def test_of_two_purges_each_tells_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    store.files = {f"log/00000000{n}.json": b"" for n in range(1, 10)}
    create = store.create

    def faster(name: str, data: bytes) -> None:
        monkeypatch.undo()
        announce_cut(store, (7, 0))  # type: ignore[arg-type]
        create(name, data)

    monkeypatch.setattr(store, "create", faster)
    announce_cut(store, (5, 0))  # type: ignore[arg-type]
    # The last one says what all of them leave.
    expected = dict.fromkeys(["log/cut-000001.json", "log/cut-000002.json"], b'{"begins": "log/000000008.json"}\n')
    assert {name: data for name, data in store.files.items() if "cut" in name} == expected


# ---- whoever stands still, and wherever ------------------------------------------------------------------------------


class Standing(SharedStore):
    """Each read is a moment too; a listing with details is one."""

    def read(self, name: str) -> bytes:
        self._moment()
        return super().read(name)

    def modified(self, name: str) -> float:
        return self._dates.get(name, 0.0)


WHOLE = 10**6
PROCESSES = 4
steps = st.lists(
    st.tuples(
        st.integers(0, PROCESSES - 1),
        st.sampled_from(["write", "write", "look", "purge", "purge", "restart", "die"]),
        st.integers(0, 30) | st.just(WHOLE),
    ),
    max_size=25,
)


@settings(max_examples=400, deadline=None)
@given(steps=steps, seconds=st.sampled_from([0.0, math.inf]))
def test_no_acknowledged_record_is_lost(steps: list[tuple[int, str, int]], seconds: float) -> None:
    """seconds: before a look that finds nothing asks for a new cut again."""
    processes = [Process() for _ in range(PROCESSES)]
    store = Standing({}, time.time, processes)
    config = parse_config({"interactions": "x", "output": "y"})
    sessions = [Session(config, store) for _ in processes]  # type: ignore[arg-type]
    acknowledged: dict[int, str] = {}
    asked: list[str] = []

    def write(who: int) -> None:
        asked.append(f"r{len(asked)}")
        body = {"request_id": asked[-1], "answer": {}}
        record = sessions[who].log.append("completed", body)
        assert acknowledged.setdefault(record.number, record.body["request_id"]) == record.body["request_id"]

    def act(who: int, what: str) -> None:
        if what == "write":
            write(who)
        elif what == "look":
            sessions[who].ledger()
        elif what == "purge":
            purge(config, now=True, truncate_log=True)
        else:
            sessions[who] = Session(config, store)  # type: ignore[arg-type]

    def check(process: Process) -> None:
        if process.error is not None and not isinstance(process.error, Crash):
            assert isinstance(process.error, OSError) and "`purge --truncate-log`" in str(process.error), process.error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "open_store", lambda output, options: store)
        patch.setattr(log_module, "CUT_SECONDS", seconds)
        for who, what, moments in steps:
            process = processes[who]
            if process.busy:
                process.go(moments, Crash() if what == "die" else None)
            elif what != "die":
                process.start(lambda who=who, what=what: act(who, what))  # type: ignore[misc]
                process.go(moments)
            check(process)
        for process in processes:
            process.go(WHOLE)
            check(process)

    records = Log(store).records()  # type: ignore[arg-type]
    found = Session(config, store).ledger()  # type: ignore[arg-type]
    assert set(acknowledged.values()) <= found.tickets.keys() <= set(asked)
    for number, request_id in acknowledged.items():
        assert found.tickets[request_id].closed_at == number
    if records and records[0].number == 1:
        assert Ledger(records).state() == found.state()
    for session in sessions:
        assert session.ledger().state() == found.state()
        assert session.log.records()[-len(records) :] == records
