"""The log: one chain, whoever writes, and every change to it is named."""

import json
import threading
from pathlib import Path

import pytest

from unlearnrec.cluster.journal import Journal, JournalConflict
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.storage import StorageOptions, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def name(number: int) -> str:
    return f"log/{number:09d}.json"


def filled(store: Store, count: int = 4) -> Journal:
    journal = Journal(store)
    for number in range(count):
        journal.append("note", {"n": number, "text": "später"})
    return journal


def test_records_come_back_in_order_and_name_the_one_before(store: Store) -> None:
    journal = Journal(store)
    assert journal.records() == [] and journal.head() == 0
    written = [journal.append("note", {"n": n}) for n in range(3)]
    assert [r.number for r in written] == [1, 2, 3]
    for reader in (journal, Journal(store)):
        assert reader.records() == written and reader.head() == 3
    previous = "0" * 64
    for number in (1, 2, 3):
        data = store.read(name(number))
        assert data.endswith(b"\n") and data.count(b"\n") == 1
        assert json.loads(data)["previous"] == previous
        previous = store.sha256(data)


def test_what_is_returned_is_what_was_written(store: Store) -> None:
    record = Journal(store).append("note", {"pair": (1, 2), "by": {3: "x"}})
    assert record.body == {"pair": [1, 2], "by": {"3": "x"}}
    assert Journal(store).records() == [record]


def test_a_reader_sees_what_others_append(store: Store) -> None:
    one, other = Journal(store), Journal(store)
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
    with pytest.raises(InputError, match=rf"{name(changed + 1)} does not continue the record before it"):
        Journal(store).records()


def test_a_record_that_is_no_json_is_named(store: Store) -> None:
    filled(store)
    for data in (b"", store.read(name(2))[:20], b"[]", b"{}"):
        store.write(name(2), data)
        with pytest.raises(InputError, match=rf"{name(2)} is no record"):
            Journal(store).records()


def test_a_record_in_anothers_place_is_named(store: Store) -> None:
    filled(store)
    store.write(name(3), store.read(name(2)))
    with pytest.raises(InputError, match=rf"{name(3)} does not continue"):
        Journal(store).records()


@pytest.mark.parametrize("gone", [1, 3])
def test_a_gap_is_refused(store: Store, gone: int) -> None:
    filled(store)
    store.remove(name(gone))
    reader = Journal(store)
    for act in (reader.records, reader.head, lambda: reader.append("note", {})):
        with pytest.raises(InputError, match=rf"{name(gone)} is missing, but .*{name(gone + 1)} is there"):
            act()
    assert not store.exists(name(5))


def test_a_record_lost_under_a_running_writer_is_refused(store: Store) -> None:
    journal = filled(store)
    Journal(store).append("other", {})
    store.remove(name(2))
    with pytest.raises(InputError, match=rf"{name(2)} is missing"):
        journal.append("note", {})
    assert not store.exists(name(6))


def test_the_last_record_lost_under_a_running_writer_is_refused(store: Store) -> None:
    journal = filled(store)
    store.remove(name(4))
    with pytest.raises(InputError, match=rf"{name(4)} is missing"):
        journal.append("note", {})
    assert not store.exists(name(5))


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
    assert [r.number for r in Journal(stale).records()] == [1, 2, 3, 4]


@pytest.mark.parametrize("strange", ["notes.txt", "1.json", "000000002", "00000000\u00b2.json", "deep/000000002.json"])
def test_a_strange_file_is_named(store: Store, strange: str) -> None:
    filled(store)
    store.write(f"log/{strange}", b"hello")
    with pytest.raises(InputError, match=rf"log/{strange} is no record"):
        Journal(store).records()


def test_after_is_a_condition(store: Store) -> None:
    journal = Journal(store)
    journal.append("a", {}, after=0)
    Journal(store).append("b", {}, after=1)
    for head in (0, 1, 3):
        with pytest.raises(JournalConflict, match=rf"at record 2, not at {head}"):
            journal.append("c", {}, after=head)
    assert [r.kind for r in Journal(store).records()] == ["a", "b"]


class Late(Store):
    """Another writer appends just before each of the first `times` creations."""

    times = 1

    def create(self, path: str, data: bytes) -> None:
        if self.times:
            self.times -= 1
            Journal(Store(self.root_uri)).append("faster", {})
        super().create(path, data)


def test_a_writer_who_lost_the_number_takes_the_next_or_gives_up(tmp_path: Path) -> None:
    late = Late(str(tmp_path))
    late.times = 2
    assert Journal(late).append("slower", {}).number == 3
    late.times = 1
    with pytest.raises(JournalConflict, match="at record 4, not at 3"):
        Journal(late).append("slower", {}, after=3)
    assert [r.kind for r in Journal(Store(str(tmp_path))).records()] == ["faster", "faster", "slower", "faster"]


@pytest.mark.parametrize("where", ["local", "s3"])
def test_racing_writers_each_land_once(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    writers, each = 4, 4
    if where == "local":
        root, options = str(tmp_path), StorageOptions()
    else:
        root, options = f"s3://lake/{tmp_path.name}", request.getfixturevalue("s3_server")
    start, errors, numbers = threading.Barrier(writers), [], []

    def write(me: int) -> None:
        journal = Journal(Store(root, options))
        start.wait()
        try:
            for n in range(each):
                # The same content as everybody else's: only the nonce tells them apart.
                numbers.append(journal.append("note", {"n": n}).number)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(me,)) for me in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    records = Journal(Store(root, options)).records()
    assert sorted(numbers) == [r.number for r in records] == list(range(1, writers * each + 1))
    assert sorted(r.body["n"] for r in records) == sorted(list(range(each)) * writers)


def test_of_racing_writers_with_the_same_condition_one_wins(store: Store) -> None:
    filled(store)
    start, outcomes = threading.Barrier(6), []

    def write() -> None:
        journal = Journal(Store(store.root_uri))
        start.wait()
        try:
            outcomes.append(journal.append("decision", {}, after=4).number)
        except JournalConflict:
            outcomes.append(0)

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [0, 0, 0, 0, 0, 5]
    assert len(Journal(store).records()) == 5
