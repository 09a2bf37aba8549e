"""The real thing: train, forget, purge, look at every byte that is left, and go on working with it."""

import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load
from small_output import copied, places_of, row_of
from trained_output import small_sample, with_names

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import parse_config
from unlearnrec.cluster.output.compaction import COMPACT
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.output.versions import Versions
from unlearnrec.cluster.reporting.progress import Progress
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.ingest import load_assignment, load_ids, load_shard
from unlearnrec.partitioning.shard import GraphShard

EPOCHS = 4


class Crash(Exception):
    """The process ends here."""


def train_and_die(config, group, monkeypatch):
    """A training whose process ends before its commit: checkpoints and files that no record names stay."""

    commit = Versions.commit

    def die(self, manifest, *arguments, **keywords):
        if manifest.reason == COMPACT:  # before it begins
            return commit(self, manifest, *arguments, **keywords)
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Versions, "commit", die)
        with pytest.raises(Crash):
            pipeline.train(config, group=group)


def dead_row(session, version, user):
    """The row of E0 of a user in the files of the attempt that died."""
    graph = version.graph
    ids, node, _ = load_ids(session.store, graph, "user")
    k = int(load_assignment(session.store, graph).owner_of_user[node[ids.to_pylist().index(user)]])
    named = {n for r in session.log.records() for n in r.body.get("manifest", {}).get("files", {})}
    (name,) = (n for n in session.store.list("versions") if f"embeddings-{k:03d}" in n and n not in named)
    place = np.flatnonzero(load_shard(session.store, graph, k).user_ids == node[ids.to_pylist().index(user)])[0]
    return load(session.store.read(name))["e0"][place].tobytes()


def checkpoint_row(session):
    """Some row of E0 in the checkpoint of the training that died."""
    name = next(n for n in session.store.list("checkpoints") if n.endswith("000.safetensors"))
    return load(session.store.read(name))["table.rows"][0].tobytes()


def pairs_under(store):
    """All interactions in any shard that lies anywhere in the output."""
    found = set()
    for name in store.list():
        if name.endswith(".safetensors") and "user_indptr" in load(store.read(name)):
            for users, items in GraphShard.from_bytes(store.read(name)).entries():
                found |= set(zip(users.tolist(), items.tolist(), strict=True))
    return found


@pytest.fixture(scope="module")
def forgotten(tmp_path_factory, group):
    """A run in which a user and some single interactions were forgotten, purged; and what was found before and after."""
    folder = tmp_path_factory.mktemp("purged")
    sample = small_sample(folder)
    config = parse_config(
        {
            "interactions": with_names(sample["train"], folder / "train.parquet"),
            "test_interactions": with_names(sample["test"], folder / "test.parquet"),
            "output": str(folder / "output"),
            "backbone": {"embedding_size": 8, "num_layers": 2},
            "train": {"epochs": EPOCHS, "batch_size": 300, "checkpoint_every": 1},
            "pretrain": {"epochs": 2, "counterfactuals": 1},
        }
    )
    pipeline.ingest(config)
    session = Session(config)
    store = session.store
    pipeline.train(config, group=group)
    first = session.version()
    pipeline.pretrain(config, group=group)
    with pytest.MonkeyPatch.context() as patch:
        train_and_die(config.model_copy(update={"seed": 7}), group, patch)

    events = pq.read_table(config.interactions).to_pylist()
    user = events[0]["user_id"]
    pairs = [e for e in events if e["user_id"] != user][5:120:30]
    pq.write_table(pa.Table.from_pylist(pairs), folder / "pairs.parquet")
    maps = {
        side: dict(zip(ids.to_pylist(), node.tolist(), strict=True))
        for side, (ids, node, _) in ((s, load_ids(store, first.graph, s)) for s in ("user", "item"))
    }
    gone = {(maps["user"][p["user_id"]], maps["item"][p["item_id"]]) for p in pairs}
    gone |= {(maps["user"][user], maps["item"][e["item_id"]]) for e in events if e["user_id"] == user}
    wanted = [
        user.encode(),
        dead_row(session, first, user),
        row_of(store, first, "user", user),
        checkpoint_row(session),
    ]
    wanted += [row_of(store, first, "user", p["user_id"]) for p in pairs]
    wanted += [row_of(store, first, "item", p["item_id"]) for p in pairs]

    answers = {"user": pipeline.forget(config, users=user, request_id="a-user", group=group)}
    between = session.version()
    # In the version that only the second request made old, rows of its nodes are as they were, or changed once.
    wanted += [row_of(store, between, "user", p["user_id"]) for p in pairs]
    answers["pairs"] = pipeline.forget(
        config, interactions=str(folder / "pairs.parquet"), request_id="pairs", group=group
    )
    before = [places_of(store, x) for x in wanted], pairs_under(store)
    last = session.version()
    answers["purge"] = pipeline.purge(config, now=True)
    current = session.version()
    # The same graph and rows, in files that were written anew without what deltas took away.
    assert last.has_deltas and (current.base, current.reason, current.has_deltas) == (last.version, "compact", False)
    after = [places_of(store, x) for x in wanted], pairs_under(store)
    return types.SimpleNamespace(
        config=config, answers=answers, user=user, gone=gone, before=before, after=after, current=current, events=events
    )


def test_no_byte_of_what_was_forgotten_is_left(forgotten):
    places, pairs = forgotten.before
    assert all(places) and forgotten.gone <= pairs
    # Each kind of place had something: id maps, the request, versions, checkpoints, what a training kept for `pretrain`.
    folders = {name.split("/")[0] for found in places for name in found}
    assert folders == {"graph", "requests", "versions", "checkpoints", "pretrain"}
    places, pairs = forgotten.after
    assert not any(places) and not forgotten.gone & pairs and pairs
    answer = forgotten.answers["purge"]
    assert answer["purged_requests"] == 2 and answer["removed_files"] > 10 and answer["removed_bytes"] > 10_000
    assert Session(forgotten.config).version() == forgotten.current


def test_all_commands_go_on(forgotten, group, tmp_path, monkeypatch):
    config, user, session = forgotten.config, forgotten.user, Session(forgotten.config)
    assert pipeline.status(config, "a-user")["phase"] == "committed"
    again = pipeline.forget(config, users=user, request_id="a-user", group=group)
    assert again["removed_interactions"] == forgotten.answers["user"]["removed_interactions"]
    assert session.version() == forgotten.current
    # Under another id nothing of it is found.
    assert pipeline.forget(config, users=user, request_id="other", group=group)["status"] == "nothing_to_forget"

    assert 0 <= pipeline.evaluate(config, group=group)["recall@20"] <= 1
    pipeline.export(config, to=str(tmp_path / "export"), top_k=3, group=group)
    users = pq.read_table(tmp_path / "export" / "users.parquet")["user_id"].to_pylist()
    assert user not in users and len(users) == session.version().graph.live_users

    other = next(e["user_id"] for e in forgotten.events if e["user_id"] != user)
    assert pipeline.forget(config, users=other, group=group)["deleted_users"] >= 1
    # A training on the present graph keeps its checkpoints, and goes on from them.
    train_and_die(config, group, monkeypatch)
    manifests = [name for name in session.store.list("checkpoints") if name.endswith("manifest.json")]
    assert pipeline.purge(config, now=True)["removed_files"] > 0
    assert [name for name in session.store.list("checkpoints") if name.endswith("manifest.json")] == manifests != []
    assert places_of(session.store, other.encode()) == []
    assert pipeline.train(config, resume=True, group=group)["epochs"] == EPOCHS
    pipeline.pretrain(config, group=group)
    pipeline.purge(config, now=True)
    third = next(e["user_id"] for e in forgotten.events if e["user_id"] not in (user, other))
    assert pipeline.forget(config, users=third, group=group)["status"] == "committed"


def test_what_was_forgotten_with_a_key_stays_out_of_the_next_ingest(forgotten, group, tmp_path, monkeypatch):
    config = copied(forgotten.config, tmp_path)
    session = Session(config)
    names = load_ids(session.store, session.version().graph, "user")[0].to_pylist()
    user, other = names[3], names[9]
    item = next(e["item_id"] for e in forgotten.events if e["user_id"] == other)
    (tmp_path / "pair.csv").write_text(f"user_id,item_id\n{other},{item}\n")
    monkeypatch.setenv("UNLEARNREC_SUPPRESSION_KEY", "0123456789abcdef")
    pipeline.forget(config, users=user, group=group)
    pipeline.forget(config, interactions=str(tmp_path / "pair.csv"), group=group)
    assert len(session.store.list("suppression")) == 2
    assert user.encode() not in b"".join(session.store.read(name) for name in session.store.list("suppression"))

    own = sum(e["user_id"] == user for e in forgotten.events)
    assert pipeline.ingest(config)["suppressed"] == own + 1
    pipeline.train(config, group=group)
    graph = session.version().graph
    assert graph.interactions == len(forgotten.events) - own - 1
    names = load_ids(session.store, graph, "user")[0].to_pylist()
    assert user not in names and other in names
    # Forgotten before there was a key: nobody wrote it down.
    assert forgotten.user in names
    notes = []
    progress = Progress()
    progress.note = notes.append
    monkeypatch.delenv("UNLEARNREC_SUPPRESSION_KEY")
    pipeline.pretrain(config, group=group)
    assert pipeline.forget(config, users=other, group=group, progress=progress)["status"] == "committed"
    assert "not put on the suppression list" in notes[0]
    monkeypatch.setenv("UNLEARNREC_SUPPRESSION_KEY", "another key, also long enough")
    records = session.log.head()
    with pytest.raises(InputError, match="another key"):
        pipeline.forget(config, users=names[20], group=group)
    assert session.log.head() == records
