"""What was deleted does not come back: by a rollback, by an ingest, a training or a pre-training that began before it."""

import os
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_workers import FakeWorkers
from small_output import (
    accept,
    commit_encoder,
    commit_forget,
    commit_train,
    copied,
    small_config,
    user_name,
    write_interactions,
)
from trained_output import trained_output

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.cli.app import run
from unlearnrec.cluster.commands import pretrain
from unlearnrec.cluster.config.schema import to_yaml
from unlearnrec.cluster.lifecycle.acceptance import append_step
from unlearnrec.cluster.log.log import LogConflict
from unlearnrec.cluster.log.records import CANCELLED, COMPLETED, HELD
from unlearnrec.cluster.output.ingests import ingested, lake_graph
from unlearnrec.cluster.output.ledger import Ledger
from unlearnrec.cluster.output.manifest import manifest_of
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.output.versions import Versions
from unlearnrec.cluster.requests.request import make_request
from unlearnrec.distributed.partition.version import Encoder
from unlearnrec.partitioning import ingest as ingestion
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.ingest import load_ids, load_shard

# ---- rollback, and ingest; no workers -------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """An output with two trained versions."""
    config = small_config(write_interactions(tmp_path / "events.parquet"), str(tmp_path / "output"))
    pipeline.ingest(config)
    for seed in (0, 1):
        version = commit_train(config, seed)
        assert version.version == seed + 1
    return config


def test_a_rollback_is_a_new_version_with_the_older_ones_files(small):
    first, second = (manifest_of(r) for r in Session(small).log.records())
    answer = pipeline.rollback(small, to=1)
    now = Session(small).version()
    assert answer["version"] == now.version == 3 and answer["rolled_back_to"] == 1 and now.base == 2
    assert now.files == first.files != second.files and now.model == first.model
    assert Ledger(Session(small).log.records()).debt() == 0
    for bad in (3, 4, 99):
        with pytest.raises(InputError, match="older versions 1 to 2"):
            pipeline.rollback(small, to=bad)


def test_a_rollback_does_not_bring_back_what_was_deleted(small, tmp_path, capsys):
    deleted = commit_forget(small, user_name(3), "r")
    commit_train(small, 2)
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(small), encoding="utf-8")
    for to in ("1", "2"):
        assert run(["rollback", "--to", to, "--config", str(file)]) == 2
        assert "deleted since, in version 3" in capsys.readouterr().err
    assert Session(small).version().version == 4
    pipeline.rollback(small, to=3)
    now = Session(small).version()
    assert now.files == deleted.files and not now.answers
    assert Ledger(Session(small).log.records()).debt() == pytest.approx(1 - now.graph.interactions / 48)
    assert user_name(3) not in load_ids(Session(small).store, now.graph, "user")[0].to_pylist()
    assert pipeline.status(small, "r")["version"] == 3


def test_a_rollback_to_files_that_a_purge_removed_is_refused(small):
    pipeline.purge(small, now=True)
    with pytest.raises(InputError, match="a purge removed files"):
        pipeline.rollback(small, to=1)


def test_a_rollback_beside_a_purge_is_refused(small, monkeypatch):
    """The purge has found the older version's files, and takes them after the rollback has looked."""
    whole = Session(small)
    real = Versions.commit

    def beside(self, manifest, after):
        whole.log.append("purging", {"unnamed": []})
        return real(self, manifest, after)

    monkeypatch.setattr(Versions, "commit", beside)
    with pytest.raises(LogConflict):
        pipeline.rollback(small, to=1)
    with pytest.raises(InputError, match="a purge is under way"):
        pipeline.rollback(small, to=1)
    assert Session(small).version().version == 2


def test_a_rollback_waits_for_each_purge_itself(small):
    """A purge stands still before its removals while another one begins and ends, which leaves young files."""
    keeping = small.model_copy(update={"forget": small.forget.model_copy(update={"retention_hours": 24.0})})
    session = Session(small)
    began = session.log.append("purging", {"unnamed": []})
    session.store.write("versions/000003/shard-000-dead001.safetensors", b"old")
    os.utime(Path(small.output) / "versions/000003/shard-000-dead001.safetensors", (0, 0))
    assert pipeline.purge(keeping)["removed_files"] == 1 and pipeline.purge(keeping)["kept_files"] > 0
    assert [r.kind for r in session.log.records()][-3:] == ["purging", "purging", "purged"]
    with pytest.raises(InputError, match=r"a purge is under way, .* versions before 2"):
        pipeline.rollback(small, to=1)
    # Version 2 it does not take, nor what came after it; and where nothing is left that it could take, it is over.
    commit_train(small, 2)
    assert pipeline.rollback(small, to=2)["version"] == 4
    assert session.ledger().purging == {began.number: 2}
    pipeline.purge(small)
    assert session.ledger().purging == {}
    with pytest.raises(InputError, match="a purge removed files"):
        pipeline.rollback(small, to=1)


def test_a_pretraining_whose_files_a_purge_takes_is_refused(small):
    """Also where a request was committed behind the purge, which the encoder could be put to."""
    session = Session(small)
    version = session.version()
    version = session.versions.commit(
        version.replaced(model=version.model.replaced(dense=None, encoder=None)), session.log.head()
    )
    head = session.log.head()
    name = session.versions.new_name(4, "encoder", "safetensors")
    files = {name: session.versions.put(name, b"weights")}
    encoder = Encoder(file=name, tables=None, shape={}, interactions=48)
    session.log.append("purging", {"unnamed": [name]})
    session.versions.commit(version.replaced(reason="forget"), session.log.head())
    with pytest.raises(RuntimeError, match="removed its files"):
        pretrain._commit(session, head, version, encoder, files)
    assert Session(small).version().version == 4


def test_a_rollback_to_another_graph_where_a_request_found_nothing_is_refused(small):
    """In the later graph there was nobody of this name; in the earlier one there is."""
    pipeline.ingest(small)
    commit_train(small, 5)
    accept(small, user_name(3), "r")
    append_step(
        Session(small), "r", COMPLETED, {"answer": {"request_id": "r", "status": "nothing_to_forget", "version": 3}}
    )
    with pytest.raises(InputError, match="request r found nothing to forget in a later graph"):
        pipeline.rollback(small, to=1)


def test_status_without_an_id_tells_who_waits_and_how_long(small):
    accept(small, user_name(1), "old")
    accept(small, user_name(2), "held")
    commit_forget(small, user_name(3), "done")
    append_step(Session(small), "held", HELD, {"share": 0.3})
    found = pipeline.status(small)
    assert [(r["request_id"], r["status"], r["overdue"]) for r in found["requests"]] == [
        ("old", "accepted", False),
        ("held", "held", False),
    ]
    assert found["open_requests"] == 2 and found["overdue_requests"] == 0 and found["oldest_open_request_seconds"] >= 0
    late = small.model_copy(update={"forget": small.forget.model_copy(update={"deadline_hours": 1e-9})})
    assert pipeline.status(late)["overdue_requests"] == 2 and all(
        r["overdue"] for r in pipeline.status(late)["requests"]
    )
    assert "due_by" in pipeline.status(small, "old") and "due_by" not in pipeline.status(small, "done")


def test_a_deletion_during_an_ingest_stops_it(small, monkeypatch):
    before = ingested(Session(small))
    real = ingestion.assign

    def slowly(*arguments):
        commit_forget(small, user_name(3), "r")
        return real(*arguments)

    monkeypatch.setattr(ingestion, "assign", slowly)
    with pytest.raises(InputError, match=r"after `ingest` began to read.*ingest` again"):
        pipeline.ingest(small)
    assert ingested(Session(small)) == before and lake_graph(Session(small)).interactions < 48


def test_a_deletion_between_an_ingest_and_the_training_on_it_stops_the_training(small):
    pipeline.ingest(small)
    commit_forget(small, user_name(3), "r")  # from the version on the older graph
    for command in (lambda: pipeline.train(small), lambda: commit_train(small)):
        with pytest.raises(InputError, match="may hold its data"):
            command()
    pipeline.ingest(small)
    assert lake_graph(Session(small)).interactions == 48  # no suppression list: its key was not set


@pytest.mark.parametrize("again", [False, True])
def test_a_training_on_a_new_ingest_is_void_where_a_request_found_nothing_meanwhile(small, again, monkeypatch):
    """It looked at the version before, and the new ingest may have what it names. The same ingest has not."""
    if again:
        more = pq.read_table(small.interactions).slice(1)
        pq.write_table(more, small.interactions)
        pipeline.ingest(small)
    commit = Versions.commit

    def meanwhile(self, manifest, after):
        answer = {"status": "nothing_to_forget"}
        Session(small).log.append(COMPLETED, {"request_id": "r", "answer": answer})
        return commit(self, manifest, after)

    monkeypatch.setattr(Versions, "commit", meanwhile)
    if again:
        with pytest.raises(LogConflict):
            commit_train(small)
    else:
        commit_train(small)
    assert Session(small).version().version == 3 - again


def test_who_came_back_is_forgotten_again(small):
    """A request without an id is a new one after an ingest; under an id the answer says that it was given before."""
    session, group, back = Session(small), FakeWorkers(Session(small).store), user_name(3)

    def forget(user=back, request_id=None):
        answer = pipeline.forget(small, users=user, request_id=request_id, group=group)
        return answer["request_id"], answer["status"], answer.get("repeated", False)

    commit_encoder(small)
    name, *told = forget()
    assert told == ["committed", False] and forget() == (name, "committed", True)
    assert forget("nobody")[1:] == ("nothing_to_forget", False) and forget("nobody")[1:] == ("nothing_to_forget", True)
    assert forget(user_name(4), "mine") == ("mine", "committed", False)
    pipeline.ingest(small)
    assert forget("nobody") == (name_of("nobody", session) + "-2", "nothing_to_forget", False)
    pipeline.ingest(small)
    commit_train(small)
    commit_encoder(small)
    assert back in {user for user, _ in pairs_of(small)}
    assert forget(user_name(4), "mine") == ("mine", "committed", True)
    assert forget() == (f"{name}-2", "committed", False) and forget() == (f"{name}-2", "committed", True)
    assert back not in {user for user, _ in pairs_of(small)}
    assert pipeline.forget(small, users=back, dry_run=True)["request_id"] == f"{name}-2"


def test_a_dry_run_tells_that_an_id_is_another_requests(small):
    accept(small, user_name(3), "r")
    commit_encoder(small)
    assert pipeline.forget(small, users=user_name(3), request_id="r", dry_run=True)["status"] == "dry_run"
    with pytest.raises(InputError, match="another request has this id"):
        pipeline.forget(small, users=user_name(4), request_id="r", dry_run=True)


def test_a_repeated_answer_has_all_that_answers_have(small):
    accept(small, user_name(3), "r")
    append_step(Session(small), "r", CANCELLED, {})
    answer = pipeline.forget(small, users=user_name(3), request_id="r")
    nothing = {"removed_interactions": 0, "affected_partitions": [], "seconds": 0.0}
    assert answer == {"request_id": "r", "status": "cancelled", "version": None, "repeated": True, **nothing}


def name_of(user, session):
    return make_request([user], [], [], None, session.request_key()).request_id


# ---- trainings under way, and new data; real workers ------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory, group):
    config, events = trained_output(tmp_path_factory.mktemp("finished"), group, train={"epochs": 2})
    table = pq.read_table(config.interactions, columns=["user_id", "item_id"])
    return types.SimpleNamespace(config=config, pairs=set(events), users=sorted({u for u, _ in events}), table=table)


@pytest.fixture
def config(finished, tmp_path):
    return copied(finished.config, tmp_path)


def pairs_of(config):
    """All interactions of the current version, by external id."""
    session = Session(config)
    graph = session.version().graph
    names = []
    for side in ("user", "item"):
        ids, node, _ = load_ids(session.store, graph, side)
        names.append(dict(zip(node.tolist(), ids.to_pylist(), strict=True)))
    parts = [load_shard(session.store, graph, k).interactions()[:2] for k in range(graph.partitions)]
    return {(names[0][int(u)], names[1][int(i)]) for users, items in parts for u, i in zip(users, items, strict=True)}


@pytest.fixture
def meanwhile(monkeypatch):
    """Let something happen just before the next commit."""

    def arrange(happens):
        commit = Versions.commit

        def late(self, manifest, **decided):
            monkeypatch.setattr(Versions, "commit", commit)
            happens()
            return commit(self, manifest, **decided)

        monkeypatch.setattr(Versions, "commit", late)

    return arrange


def test_an_encoder_is_put_to_what_requests_left_meanwhile(finished, config, group, meanwhile):
    user = finished.users[0]
    before = Session(config).version()
    meanwhile(lambda: pipeline.forget(config, users=str(user), request_id="r", group=group))
    pipeline.pretrain(config, group=group)
    now, forgotten = Session(config).version(), pipeline.status(config, "r")["version"]
    assert now.version == forgotten + 1 == before.version + 2 and now.reason == "pretrain"
    assert pairs_of(config) == {(u, i) for u, i in finished.pairs if u != user}
    assert now.model.encoder.file != before.model.encoder.file
    assert now.model.encoder.interactions == before.graph.interactions  # drift counts from its own graph
    assert pipeline.forget(config, users=str(finished.users[1]), group=group)["status"] == "committed"


def test_a_pretraining_does_not_undo_another_commit(finished, config, group, meanwhile):
    meanwhile(lambda: pipeline.train(config, group=group))
    with pytest.raises(RuntimeError, match="unlearnrec pretrain` again"):
        pipeline.pretrain(config, group=group)
    published = config.model_copy(update={"pretrain": config.pretrain.model_copy(update={"objective": "published"})})
    pipeline.pretrain(config, group=group)
    meanwhile(lambda: pipeline.forget(config, users=str(finished.users[0]), group=group))
    with pytest.raises(RuntimeError, match=r"pretrain\.objective=published"):  # it has rows for the deleted user
        pipeline.pretrain(published, group=group)
    assert Session(config).version().reason == "forget"


def test_a_training_that_began_before_a_deletion_does_not_bring_it_back(finished, config, group, meanwhile):
    user = finished.users[0]
    meanwhile(lambda: pipeline.forget(config, users=str(user), group=group))
    with pytest.raises(RuntimeError, match="unlearnrec train` again"):
        pipeline.train(config, group=group)
    assert Session(config).version().reason == "forget"
    pipeline.train(config, group=group)
    assert pairs_of(config) == {(u, i) for u, i in finished.pairs if u != user}


def test_new_interactions_of_known_and_new_users_and_items_after_a_deletion(
    finished, config, group, tmp_path, monkeypatch
):
    """Ids of the forgotten are neither given to others nor do the names come back, though the table still has them."""
    monkeypatch.setenv("UNLEARNREC_SUPPRESSION_KEY", "a-key-of-enough-letters")
    gone, other = finished.users[0], finished.users[-1]
    pipeline.forget(config, users=str(gone), group=group)
    items = sorted({i for _, i in finished.pairs})
    new_user, new_item = 10**6, 10**6 + 1
    more = {(-1, items[0]), (new_user, items[1]), (new_user, new_item), (other, new_item), (gone, new_item)}
    added = pa.table({"user_id": [u for u, _ in more], "item_id": [i for _, i in more]})
    table = tmp_path / "more.parquet"
    pq.write_table(pa.concat_tables([finished.table, added.cast(finished.table.schema)]), table)
    larger = config.model_copy(update={"interactions": str(table)})
    assert pipeline.ingest(larger)["suppressed"] > 0
    pipeline.train(larger, group=group)
    expected = {(u, i) for u, i in finished.pairs | more if u != gone}
    assert pairs_of(larger) == expected
    pipeline.pretrain(larger, group=group)
    pipeline.forget(larger, users=f"{other},{gone}", group=group)
    expected = {(u, i) for u, i in expected if u != other}
    assert pairs_of(larger) == expected
    pipeline.export(larger, to=str(tmp_path / "export"), top_k=50, group=group)
    recommended = pq.read_table(tmp_path / "export" / "recommendations.parquet").to_pylist()
    users, things = {u for u, _ in expected}, {i for _, i in expected}
    assert {row["user_id"] for row in recommended} == users >= {-1, new_user}
    for user in (-1, new_user, finished.users[1]):
        found = {row["item_id"] for row in recommended if row["user_id"] == user and np.isfinite(row["score"])}
        assert found == things - {i for u, i in expected if u == user}
