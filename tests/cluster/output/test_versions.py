"""A version exists when its record does, whatever else a crash left behind."""

import json
from pathlib import Path
from typing import Any

import pytest
from manifests import made_manifest

from unlearnrec.cluster.log.log import Log, LogConflict
from unlearnrec.cluster.output.manifest import Manifest
from unlearnrec.cluster.output.versions import Versions
from unlearnrec.partitioning.manifest import File
from unlearnrec.partitioning.storage import Store


class Crash(Exception):
    """The process ends here."""


class Fragile(Store):
    """A store whose process dies at the write of a name that holds `at`: before it, or after it."""

    at: str | None = None
    before = True

    def _guarded(self, act: Any, path: str, data: bytes) -> None:
        dies = self.at is not None and self.at in path
        if dies and self.before:
            raise Crash(path)
        act(path, data)
        if dies:
            raise Crash(path)

    def write(self, path: str, data: bytes) -> None:
        self._guarded(super().write, path, data)

    def create(self, path: str, data: bytes) -> None:
        self._guarded(super().create, path, data)


@pytest.fixture
def store(tmp_path: Path) -> Fragile:
    return Fragile(str(tmp_path))


def opened(store: Store) -> tuple[Log, Versions]:
    log = Log(store)
    return log, Versions(store, log)


def commit(store: Store, data: bytes = b"rows", **more: Any) -> Manifest:
    log, versions = opened(store)
    head = log.head()
    name = versions.new_name(versions.next_number(), "embeddings-000", "safetensors")
    return versions.commit(made_manifest(files={name: versions.put(name, data)}, **more), after=head)


def copy_name(number: int) -> str:
    return f"versions/{number:06d}/manifest.json"


def test_versions_count_up_from_their_base(store: Fragile) -> None:
    versions = opened(store)[1]
    assert versions.current() is None and versions.next_number() == 1
    first, second = commit(store, b"one"), commit(store, b"two", note="x")
    assert [(m.version, m.base) for m in (first, second)] == [(1, None), (2, 1)]
    # `versions` was opened before either commit.
    assert versions.current() == second and versions.next_number() == 3
    for manifest in (first, second):
        assert json.loads(store.read(copy_name(manifest.version))) == manifest.document()
        ((name, entry),) = manifest.files.items()
        data = store.read(name)
        assert entry.document() == {"sha256": store.sha256(data), "bytes": len(data)}
        assert name.startswith(f"versions/{manifest.version:06d}/embeddings-000-") and name.endswith(".safetensors")


def test_the_next_commit_makes_a_lost_copy_again(store: Fragile) -> None:
    first = commit(store, b"one")
    store.remove(copy_name(1))
    commit(store, b"two")
    assert json.loads(store.read(copy_name(1))) == first.document()


def test_other_records_are_no_versions(store: Fragile) -> None:
    commit(store)
    log, versions = opened(store)
    log.append("accepted", {"request_id": "r", "manifest": {"version": 9}})
    current = versions.current()
    assert current is not None and current.version == 1 and versions.next_number() == 2


def test_no_two_attempts_use_a_name(store: Fragile) -> None:
    attempts = [opened(store)[1] for _ in range(3)]
    names = [a.new_name(1, "shard-000", "safetensors") for a in attempts for _ in range(3)]
    assert len(set(names)) == 9 and all(n.startswith("versions/000001/shard-000-") for n in names)


def test_a_version_without_one_of_its_files_is_refused(store: Fragile) -> None:
    log, versions = opened(store)
    files = {"versions/000001/there": versions.put("versions/000001/there", b"1")}
    files["versions/000001/gone"] = File(sha256="0" * 64, bytes=1)
    with pytest.raises(RuntimeError, match=r"cannot commit version 1, no versions/000001/gone"):
        versions.commit(made_manifest(files=files), after=0)
    assert log.head() == 0 and versions.current() is None and not store.exists(copy_name(1))


def test_a_decision_on_an_old_head_is_refused(store: Fragile) -> None:
    log, versions = opened(store)
    head = log.head()
    commit(store, b"faster")
    with pytest.raises(LogConflict):
        versions.commit(made_manifest(), after=head)
    current = versions.current()
    assert current is not None and current.version == 1 and current.files
    assert json.loads(store.read(copy_name(1))) == current.document() and not store.exists(copy_name(2))


@pytest.mark.parametrize(
    ("at", "before", "exists"),
    [
        ("embeddings-000", True, False),  # a file is not written
        ("embeddings-000", False, False),  # it is written, and nothing names it
        ("log/", True, False),  # the record is not written
        ("log/", False, True),  # it is
        ("manifest.json", True, True),  # its copy is not
        ("manifest.json", False, True),
    ],
)
def test_a_crash_leaves_the_old_version_or_the_new_one(store: Fragile, at: str, before: bool, exists: bool) -> None:
    first = commit(store)
    store.at, store.before = at, before
    with pytest.raises(Crash):
        commit(store, b"new rows")
    after = Store(store.root_uri)
    versions = opened(after)[1]
    current = versions.current()
    assert current is not None and current.version == (2 if exists else 1)
    assert all(after.sha256(after.read(name)) == entry.sha256 for name, entry in current.files.items())
    versions.repair()
    assert json.loads(after.read(copy_name(current.version))) == current.document()
    assert after.exists(copy_name(2)) == exists and json.loads(after.read(copy_name(1))) == first.document()
    # Trying again is possible either way, and does not touch what the dead attempt left.
    assert commit(after, b"again").version == (3 if exists else 2)


def test_repair_makes_a_lost_copy_again_and_only_that(store: Fragile) -> None:
    opened(store)[1].repair()
    assert store.list() == []
    manifest = commit(store)
    files = {name: store.read(name) for name in store.list()}
    store.remove(copy_name(1))
    opened(store)[1].repair()
    assert {name: store.read(name) for name in store.list()} == files
    assert json.loads(store.read(copy_name(1))) == manifest.document()
    store.at = "manifest.json"
    opened(store)[1].repair()  # it is there: nothing is written
