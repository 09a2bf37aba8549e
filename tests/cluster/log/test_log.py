"""The log: one chain, whoever writes, and every change to it is named."""

import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from memory_store import MemoryStore

from unlearnrec.cluster.log import log as log_module
from unlearnrec.cluster.log.log import Log, LogConflict, _Append
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.storage import StorageOptions, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def name(number: int) -> str:
    return f"log/{number:09d}.json"


def filled(store: Store, count: int = 4) -> Log:
    log = Log(store)
    for number in range(count):
        log.append("note", {"n": number, "text": "später"})
    return log


def test_records_come_back_in_order_and_name_the_one_before(store: Store) -> None:
    log = Log(store)
    assert log.records() == [] and log.head() == 0
    written = [log.append("note", {"n": n}) for n in range(3)]
    assert [r.number for r in written] == [1, 2, 3]
    for reader in (log, Log(store)):
        assert reader.records() == written and reader.head() == 3
    previous = "0" * 64
    for number in (1, 2, 3):
        data = store.read(name(number))
        assert data.endswith(b"\n") and data.count(b"\n") == 1
        assert json.loads(data)["previous"] == previous
        previous = store.sha256(data)


def test_what_is_returned_is_what_was_written(store: Store) -> None:
    record = Log(store).append("note", {"pair": (1, 2), "by": {3: "x"}})
    assert record.body == {"pair": [1, 2], "by": {"3": "x"}}
    assert Log(store).records() == [record]


def test_a_reader_sees_what_others_append(store: Store) -> None:
    one, other = Log(store), Log(store)
    one.append("a", {})
    other.append("b", {})
    one.append("c", {})
    assert [r.kind for r in other.records()] == ["a", "b", "c"]


@pytest.mark.parametrize("changed", [1, 2, 3])
def test_a_changed_byte_is_named(store: Store, changed: int) -> None:
    filled(store)
    data = store.read(name(changed))
    place = data.index(b'"n":') + 4
    store.write(name(changed), data[:place] + b"9" + data[place + 1 :])
    # The record after it shows it; the two are neighbours, and the message asks for both.
    with pytest.raises(
        InputError, match=rf"{name(changed + 1)}, record {changed + 1}, does not continue the record before it"
    ):
        Log(store).records()


def test_a_record_that_is_no_json_is_named(store: Store) -> None:
    filled(store)
    for data in (b"\n", store.read(name(2))[:20] + b"\n", b"[]\n", b"{}\n"):
        store.write(name(2), data)
        with pytest.raises(InputError, match=rf"{name(2)}, record 2, is no record"):
            Log(store).records()


def test_a_record_in_anothers_place_is_named(store: Store) -> None:
    filled(store)
    store.write(name(3), store.read(name(2)))
    with pytest.raises(InputError, match=rf"{name(3)}, record 3, does not continue"):
        Log(store).records()


@pytest.mark.parametrize("gone", [1, 3])
def test_a_gap_is_refused(store: Store, gone: int) -> None:
    filled(store)
    store.remove(name(gone))
    reader = Log(store)
    for act in (reader.records, reader.head, lambda: reader.append("note", {})):
        with pytest.raises(InputError, match=rf"{name(gone)} is missing, but .*{name(gone + 1)} is there"):
            act()
    assert not store.exists(name(5))


def test_a_record_lost_under_a_running_writer_is_refused_by_the_next_reader(store: Store) -> None:
    log = filled(store)
    store.remove(name(4))
    log.append("note", {})
    with pytest.raises(InputError, match=rf"{name(4)} is missing, but .*{name(5)} is there"):
        Log(store).records()


class Stale(Store):
    """A listing that misses the file `missed`, as one may that was written while the listing ran."""

    missed = ""

    def list(self, prefix: str = "") -> list[str]:
        return [path for path in super().list(prefix) if path != self.missed]


@pytest.mark.parametrize("missed", [2, 3])
def test_a_listing_that_missed_a_record_is_no_gap(tmp_path: Path, missed: int) -> None:
    stale = Stale(str(tmp_path))
    filled(stale)
    stale.missed = name(missed)
    assert [r.number for r in Log(stale).records()] == [1, 2, 3, 4]


@pytest.mark.parametrize("strange", ["notes.txt", "1.json", "000000002", "00000000\u00b2.json", "deep/000000002.json"])
def test_a_strange_file_is_named(store: Store, strange: str) -> None:
    filled(store)
    store.write(f"log/{strange}", b"hello")
    with pytest.raises(InputError, match=rf"log/{strange} is no record"):
        Log(store).records()


def test_after_is_a_condition(store: Store) -> None:
    log = Log(store)
    log.append("a", {}, after=0)
    Log(store).append("b", {}, after=1)
    for head in (1, 3, 0):
        with pytest.raises(LogConflict, match=rf"at record 2, not at {head}"):
            log.append("c", {}, after=head)
    assert [r.kind for r in Log(store).records()] == ["a", "b"]


class Late(Store):
    """Another writer appends just before each of the first `times` creations."""

    times = 1

    def create(self, path: str, data: bytes) -> None:
        if self.times:
            self.times -= 1
            Log(Store(self.root_uri)).append("faster", {})
        super().create(path, data)


def test_a_writer_who_lost_the_number_takes_the_next_or_gives_up(tmp_path: Path) -> None:
    late = Late(str(tmp_path))
    late.times = 2
    assert Log(late).append("slower", {}).number == 3
    late.times = 1
    with pytest.raises(LogConflict, match="at record 4, not at 3"):
        Log(late).append("slower", {}, after=3)
    assert [r.kind for r in Log(Store(str(tmp_path))).records()] == ["faster", "faster", "slower", "faster"]


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run it in so many threads that start together; what one of them raises is raised."""
    start = threading.Barrier(count)

    def run(me: int) -> None:
        start.wait()
        work(me)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(run, range(count)))


@pytest.mark.parametrize("logs", [1, 2, 4])
@pytest.mark.parametrize("where", ["local", "memory", "s3"])
def test_racing_writers_each_land_once(where: str, logs: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Four threads, which share one log's object, or two, or have one each."""
    writers, each, store = 4, 4, MemoryStore()
    if where == "s3":
        root, options = f"s3://lake/{tmp_path.name}", request.getfixturevalue("s3_server")
        store = Store(root, options)
    elif where == "local":
        store = Store(str(tmp_path))
    opened, numbers = [Log(store) for _ in range(logs)], []

    def write(me: int) -> None:
        for n in range(each):
            # The same content as everybody else's: only the nonce tells them apart.
            numbers.append(opened[me % logs].append("note", {"n": n}).number)

    in_threads(writers, write)
    records = Log(store).records()
    assert sorted(numbers) == [r.number for r in records] == list(range(1, writers * each + 1))
    assert sorted(r.body["n"] for r in records) == sorted(list(range(each)) * writers)
    for log in opened:
        assert log.records() == records


def test_of_racing_writers_with_the_same_condition_one_wins(store: Store) -> None:
    filled(store)
    outcomes: list[int] = []

    def write(me: int) -> None:
        try:
            outcomes.append(Log(Store(store.root_uri)).append("decision", {}, after=4).number)
        except LogConflict:
            outcomes.append(0)

    in_threads(6, write)
    assert sorted(outcomes) == [0, 0, 0, 0, 0, 5]
    assert len(Log(store).records()) == 5


# ---- appends that share a segment ------------------------------------------------------------------------------------


class Slow(MemoryStore):
    """Holds each creation back until it is let go; counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.started, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.calls: list[str] = []
        self.error: Exception | None = None

    def create(self, name: str, data: bytes) -> None:
        self.started.release()
        assert self.go.acquire(timeout=30)
        self.calls.append(f"create {name}")
        if self.error is not None:
            raise self.error
        super().create(name, data)

    def read(self, name: str) -> bytes:
        self.calls.append(f"read {name}")
        return super().read(name)

    def list(self, folder: str = "") -> list[str]:
        self.calls.append(f"list {folder}")
        return super().list(folder)


def queued(log: Log, count: int) -> None:
    """Return when so many appends wait."""
    deadline = time.monotonic() + 30
    while len(log._queue) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_what_waits_for_a_write_shares_the_next(store: Store) -> None:
    slow = Slow()
    log = Log(slow)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(log.append, "first", {})
        assert slow.started.acquire(timeout=30)
        others = [pool.submit(log.append, "note", {"n": n}) for n in range(6)]
        winner, loser = (pool.submit(log.append, "decision", {"n": n}, after=1) for n in (0, 1))
        queued(log, 8)
        assert log.head() == 0  # what is not durable yet is not there
        slow.go.release(2)
        assert first.result().number == 1
        assert sorted(other.result().number for other in others) == [3, 4, 5, 6, 7, 8]
        outcomes = [f.exception() or f.result().number for f in (winner, loser)]
    # What depends on the head comes first in its segment; of two that do, one wins.
    assert 2 in outcomes and any(isinstance(x, LogConflict) for x in outcomes)
    assert sorted(slow.files) == [name(1), name(2)]
    assert slow.files[name(2)].count(b"\n") == 7
    assert [r.number for r in Log(slow).records()] == list(range(1, 9))
    assert {r.file for r in Log(slow).records()[1:]} == {name(2)}


def test_when_a_shared_write_fails_all_are_told(store: Store) -> None:
    slow = Slow()
    log = Log(slow)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(log.append, "first", {})
        assert slow.started.acquire(timeout=30)
        others = [pool.submit(log.append, "note", {"n": n}) for n in range(3)]
        queued(log, 3)
        slow.error = OSError("disk full")
        slow.go.release(2)
        for future in (first, *others):
            with pytest.raises(OSError, match="disk full"):
                future.result()
    slow.error = None
    slow.go.release(1)
    assert log.append("note", {}).number == 1


@pytest.mark.parametrize("seconds", [0.0, math.inf])
def test_an_append_is_two_requests_and_following_one_or_two_more_than_is_new(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """seconds: in which one question for a new cut is enough."""
    monkeypatch.setattr(log_module, "CUT_SECONDS", seconds)
    cut = "read log/cut-000001.json"
    slow = Slow()
    slow.go.release(100)
    log, other = Log(slow), Log(slow)
    log.append("note", {})
    assert slow.calls == ["list log", f"read {name(1)}", cut, f"create {name(1)}", cut]
    slow.calls.clear()
    log.append("note", {}, after=1)
    assert slow.calls == [f"create {name(2)}", cut]
    slow.calls.clear()
    assert log.head() == 2 and log.since(1)[0].number == 2
    assert slow.calls == [f"read {name(3)}", *([] if seconds else [cut])] * 2
    other.append("note", {})
    slow.calls.clear()
    assert log.append("note", {}).number == 4
    lost = [f"create {name(3)}", f"read {name(3)}", f"read {name(4)}", cut]
    assert slow.calls == [*lost, f"create {name(4)}", cut]


def test_looks_that_find_nothing_ask_for_a_cut_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, now = Slow(), [0.0]
    slow.go.release()
    monkeypatch.setattr(log_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    log = Log(slow)
    log.append("note", {})
    for now[0], asks in ((0.5, False), (1.0, True), (1.9, False), (60.0, True), (60.5, False)):
        slow.calls.clear()
        log.head()
        assert ("read log/cut-000001.json" in slow.calls) == asks


def test_a_decision_is_void_by_what_it_says(store: Store) -> None:
    log = filled(store)
    Log(store).append("other", {})
    assert log.append("note", {"n": 5}, after=4, void=lambda r: r.kind == "note").number == 6
    with pytest.raises(LogConflict):
        log.append("note", {"n": 6}, after=4, void=lambda r: r.kind == "note")
    with pytest.raises(LogConflict, match="at record 6, not at 9"):
        log.append("note", {}, after=9, void=lambda r: False)


class Echo(MemoryStore):
    """Answers a write that worked with the refusal of its repetition."""

    def create(self, name: str, data: bytes) -> None:
        super().create(name, data)
        raise FileExistsError(name)


def test_a_write_whose_answer_was_lost_is_recognised() -> None:
    store = Echo()
    log = Log(store)
    assert [log.append("note", {"n": 1}, after=n).number for n in range(3)] == [1, 2, 3]
    assert len(Log(store).records()) == 3


def test_a_lost_answer_of_s3_is_recognised(
    s3_server: StorageOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    store = Store(f"s3://lake/{tmp_path.name}", s3_server)
    log, real = Log(store), s3fs.S3FileSystem.pipe_file

    def lost(*arguments: object, **keywords: object) -> None:
        real(*arguments, **keywords)
        raise TimeoutError("no answer")

    monkeypatch.setattr(s3fs.S3FileSystem, "pipe_file", lost)
    assert [log.append("note", {}, after=n).number for n in range(2)] == [1, 2]
    assert len(Log(store).records()) == 2


# ---- damage ----------------------------------------------------------------------------------------------------------


def segment(store: Store | MemoryStore, records: int) -> bytes:
    """Append so many records as one segment; returns it."""
    log = Log(store)
    first = log.head() + 1
    log._lead([_Append("note", {"n": n}, None, lambda record: True) for n in range(records)])
    return store.read(name(first))


def test_a_log_torn_at_any_byte_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    whole = MemoryStore()
    segment(whole, 2)
    data = segment(whole, 3)
    expected = Log(whole).records()
    for cut in range(len(data)):
        store = MemoryStore()
        store.files = whole.files | {name(3): data[:cut]}
        intact = data[:cut].count(b"\n")
        caplog.clear()
        log = Log(store)
        assert log.records() == log.records() == expected[: 2 + intact]
        torn = cut == 0 or data[cut - 1 : cut] != b"\n"
        assert [name(3) in r.getMessage() for r in caplog.records] == [True] * torn
        # The torn file stays as it is, and the log goes on behind it, also for who was reading.
        reader = Log(store)
        reader.records()
        assert log.append("after", {"cut": cut}).number == 3 + intact
        assert Log(store).append("more", {}).number == 4 + intact
        assert store.files[name(3)] == data[:cut]
        caplog.clear()
        records = Log(store).records()
        assert records[: 2 + intact] == expected[: 2 + intact] and [r.kind for r in records[-2:]] == ["after", "more"]
        assert reader.records() == records and not caplog.records


def test_a_log_that_is_torn_twice_at_one_record_goes_on(store: Store) -> None:
    filled(store, 2)
    for torn in (name(2), "log/000000002-1.json"):
        store.write(torn, b'{"number":2,')
    assert Log(store).append("note", {}).file == "log/000000002-2.json"
    assert [r.number for r in Log(store).records()] == [1, 2]


def test_a_log_torn_in_the_middle_is_refused(store: Store) -> None:
    segment(store, 2)
    data = segment(store, 3)
    segment(store, 1)
    lines = data.splitlines(keepends=True)
    for cut, message in (
        (data[:-1], rf"{name(3)} ends in the middle of record 5, but .*{name(6)} is there"),
        (data[:9], rf"{name(3)} ends in the middle of record 3, but .*{name(6)} is there"),
        (b"".join(lines[:2]), rf"{name(5)} is missing, but .*{name(6)} is there"),
        (lines[0] + lines[1].replace(b"note", b"nope") + lines[2], rf"{name(3)}, record 5, does not continue"),
        (lines[0] + b"\n" + lines[2], rf"{name(3)}, record 4, is no record"),
    ):
        store.write(name(3), cut)
        with pytest.raises(InputError, match=message):
            Log(store).records()


def test_two_files_with_one_record_are_refused(store: Store) -> None:
    segment(store, 3)
    store.write(name(2), store.read(name(1)).splitlines(keepends=True)[1])
    with pytest.raises(InputError, match=rf"{name(2)} holds a record that {name(1)} holds too"):
        Log(store).records()


CHILD = """
import os, sys, threading
from unlearnrec.cluster.log.log import Log
from unlearnrec.partitioning.storage import Store
log = Log(Store(sys.argv[1]))
def work():
    while True:
        os.write(1, b"%d\\n" % log.append("note", {}).number)
for _ in range(8):
    threading.Thread(target=work).start()
"""


def test_what_was_acknowledged_survives_a_kill(store: Store) -> None:
    command = [sys.executable, "-c", CHILD, store.root_uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        acknowledged = [int(child.stdout.readline()) for _ in range(100)]
        child.kill()
        acknowledged += [int(line) for line in child.stdout if line.endswith(b"\n")]
    records = Log(store).records()
    assert sorted(acknowledged) == sorted(set(acknowledged)) and len(records) >= max(acknowledged)
    assert len(store.list("log")) < len(records)  # threads did share segments
