"""Readers hold the files of a version against a purge, for a while."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_output import commit_forget, commit_train, small_config, user_name, write_interactions

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.output import leases as leasing
from unlearnrec.cluster.output.leases import leased, read_leases
from unlearnrec.cluster.output.session import Session


@pytest.fixture
def small(tmp_path):
    config = small_config(write_interactions(tmp_path / "events.parquet"), str(tmp_path / "output"))
    pipeline.ingest(config)
    commit_train(config, 0)
    return config


def there(config, version):
    store = Session(config).store
    return [name for name in version.files if store.exists(name)]


def test_a_purge_leaves_what_is_read_until_the_reader_ends(small):
    with leased(Session(small)) as version:
        commit_forget(small, user_name(3), "r")
        answer = pipeline.purge(small)
        assert there(small, version) == list(version.files) and answer["kept_files"] > 0
        assert answer["purged_requests"] == 1  # nobody reads that
    assert not read_leases(Session(small))
    assert pipeline.purge(small)["removed_files"] > 0
    assert set(there(small, version)) == set(version.files) & set(Session(small).version().files)


def test_a_purge_now_takes_it_all_the_same(small):
    with leased(Session(small)) as version:
        commit_forget(small, user_name(3), "r")
        pipeline.purge(small, now=True)
        assert len(there(small, version)) < len(version.files)


def test_a_lease_of_a_reader_that_died_ends_by_itself(small, monkeypatch):
    reader = leased(Session(small))
    version = reader.__enter__()
    commit_forget(small, user_name(3), "r")
    (name,) = read_leases(Session(small))
    until = read_leases(Session(small))[name][0]

    class Later:
        @staticmethod
        def time():
            return until + 1

    monkeypatch.setattr("unlearnrec.cluster.commands.purge.time", Later)
    assert pipeline.purge(small)["removed_files"] > 0
    assert len(there(small, version)) < len(version.files) and not read_leases(Session(small))


@pytest.mark.parametrize(
    "damaged",
    [b"", b"\xff", b"[]", b"7", b'{"until": 1}', b'{"until": null, "files": []}', b'{"until": 9e9, "files": "x"}'],
)
def test_a_lease_that_cannot_be_read_holds_all_versions_while_it_could(small, damaged):
    """What it says was lost, such as on a disk or in a copy."""
    version, store = commit_forget(small, user_name(3), "r"), Session(small).store
    commit_train(small, 1)
    store.write("leases/000002-damaged.json", damaged)
    store.write("requests/dead.json", b"{}")
    answer = pipeline.purge(small)
    assert there(small, version) == list(version.files)
    assert (answer["removed_files"], answer["purged_requests"]) == (0, 1) and answer["kept_files"] > 1
    before = time.time() - small.forget.lease_seconds - 1
    os.utime(Path(small.output) / "leases" / "000002-damaged.json", (before, before))
    assert pipeline.purge(small)["removed_files"] > 0 and not store.exists("leases/000002-damaged.json")
    assert len(there(small, version)) < len(version.files)


def test_a_version_that_is_replaced_before_its_lease_stands_is_not_the_one_that_is_read(small, monkeypatch):
    real, session = Session.version, Session(small)
    looks = []

    def version(self):
        found = real(self)
        looks.append(found.version)
        if len(looks) == 1:  # between the look and the lease
            commit_forget(small, user_name(3), "r")
            pipeline.purge(small)
        return found

    monkeypatch.setattr(Session, "version", version)
    with leased(session) as read:
        assert read.version == 2 and there(small, read) == list(read.files)
        assert len(read_leases(session)) == 1


def test_evaluate_and_export_read_under_a_lease(small, monkeypatch, tmp_path):
    class Seen(Exception):
        pass

    def call(self, group, version, *arguments, **more):
        ((until, files),) = read_leases(self).values()
        assert files == set(version.files) and until > leasing.time.time()
        raise Seen

    monkeypatch.setattr(Session, "call", call)
    tested = small.model_copy(update={"test_interactions": small.interactions})
    for command in (
        lambda: pipeline.evaluate(tested, group=SimpleNamespace()),
        lambda: pipeline.export(small, to=str(tmp_path / "to"), group=object()),
    ):
        with pytest.raises(Seen):
            command()
    assert not read_leases(Session(small))


def test_who_may_not_write_reads_without_a_lease(small, monkeypatch):
    session = Session(small)

    def refuse(name, data):
        raise PermissionError(name)

    monkeypatch.setattr(session.store, "create", refuse)
    with leased(session) as version:
        assert version.version == 1 and not read_leases(session)
