"""The commands' bodies on real workers: what they answer, what forgetting leaves in files, and runs that lose somebody.

One small run is ingested, trained and pre-trained once; tests that change it work on a copy of its output.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from safetensors.numpy import load
from small_output import copied

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.cli.app import run
from unlearnrec.cluster.config.schema import parse_config, to_yaml
from unlearnrec.cluster.models import carried_encoder, counterfactual_runs, gate
from unlearnrec.cluster.output.ingests import lake_graph
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.reporting.progress import Progress
from unlearnrec.cluster.serving.intake import Intake
from unlearnrec.distributed.encoder.influence import FORMATS
from unlearnrec.distributed.partition.files import read_rows
from unlearnrec.distributed.partition.partition import Partition
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.ingest import load_assignment, load_ids, load_shard
from unlearnrec.partitioning.sample import make_sample
from unlearnrec.workers import calling

EPOCHS = 40
CHECKPOINT_EVERY = 2
NOT_REPEATED = ("seconds", "phases")  # of an answer: what the first time took


@pytest.fixture(scope="module")
def finished(tmp_path_factory, group):
    """An output with a trained model and its encoder, and what the commands answered. Not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    sample = make_sample(folder / "data", users=150, items=80, mean_interactions=20, communities=6, factors=4)
    config = parse_config(
        {
            "interactions": sample["train"],
            "test_interactions": sample["test"],
            "output": str(folder / "output"),
            "backbone": {"embedding_size": 8, "num_layers": 2},
            "train": {"epochs": EPOCHS, "batch_size": 1000, "checkpoint_every": CHECKPOINT_EVERY},
            "pretrain": {"epochs": 2, "counterfactuals": 1},
        }
    )
    answers = {"ingest": pipeline.ingest(config)}
    answers["train"] = pipeline.train(config, group=group)
    answers["pretrain"] = pipeline.pretrain(config, group=group)
    return types.SimpleNamespace(config=config, answers=answers, sample=sample)


@pytest.fixture
def config(finished, tmp_path):
    """The finished run at a place of its own."""
    return copied(finished.config, tmp_path)


@pytest.fixture
def ingested(finished, tmp_path):
    """Its graph only, at a place of its own."""
    shutil.copytree(Path(finished.config.output) / "graph", tmp_path / "output" / "graph")
    return finished.config.model_copy(update={"output": str(tmp_path / "output")})


# ---- helpers --------------------------------------------------------------------------------------------------------


def current(config):
    return Session(config).version()


def shards(config, graph):
    return [load_shard(Session(config).store, graph, k) for k in range(graph.partitions)]


def external(config, graph):
    """{side: {dense id: external id}}"""
    maps = {}
    for side in ("user", "item"):
        ids, node, _ = load_ids(Session(config).store, graph, side)
        maps[side] = dict(zip(node.tolist(), ids.to_pylist(), strict=True))
    return maps


def pairs_of(config, graph):
    """All interactions that the shards hold, on either side, by external id (which must all be known)."""
    maps, found = external(config, graph), set()
    for shard in shards(config, graph):
        users = np.repeat(shard.user_ids, np.diff(shard.user_indptr))
        found |= set(zip(users.tolist(), shard.user_neighbours.tolist(), strict=True))
        items = np.repeat(shard.item_ids, np.diff(shard.item_indptr))
        found |= set(zip(shard.item_neighbours.tolist(), items.tolist(), strict=True))
    return {(maps["user"][u], maps["item"][i]) for u, i in found}


def rows_of(config, version):
    """{("user" or "item", dense id): row of E0}, from the version's files."""
    rows = {}
    for k, shard in enumerate(shards(config, version.graph)):
        e0 = read_rows(Session(config).store, version, k)
        keys = [("user", u) for u in shard.user_ids.tolist()] + [("item", i) for i in shard.item_ids.tolist()]
        assert len(keys) == len(e0)
        rows |= dict(zip(keys, e0, strict=True))
    return rows


def embedding_bytes(config):
    return [(Path(config.output) / name).read_bytes() for name in current(config).model.embeddings]


def listing(folder):
    return {
        str(p): (p.stat().st_size, p.stat().st_mtime_ns, p.stat().st_ino)
        for p in Path(folder).rglob("*")
        if p.is_file()
    }


def busy_user(finished, config, avoid=None):
    """A user with interactions other than `avoid`, and the user's items."""
    table = pq.read_table(finished.sample["train"])
    user = next(u for u in table["user_id"].to_pylist() if u != avoid)
    return user, {i for u, i in zip(*(c.to_pylist() for c in table.columns), strict=True) if u == user}


def write_pairs(path, pairs):
    users, items = zip(*pairs, strict=True)
    pq.write_table(pa.table({"user_id": users, "item_id": items}), path)
    return str(path)


def inner_pairs(config, version, count):
    """Interactions (by external id, and their dense ids) whose ends one partition owns, and that partition."""
    graph = version.graph
    owners, maps = load_assignment(Session(config).store, graph), external(config, graph)
    for k, shard in enumerate(shards(config, graph)):
        users = np.repeat(shard.user_ids, np.diff(shard.user_indptr))
        inside = np.flatnonzero(owners.owner_of_item[shard.user_neighbours] == k)
        if len(inside) >= count:
            chosen = inside[:: len(inside) // count][:count]
            dense = list(zip(users[chosen].tolist(), shard.user_neighbours[chosen].tolist(), strict=True))
            return [(maps["user"][u], maps["item"][i]) for u, i in dense], dense, k
    raise AssertionError("no partition has interactions of its own")


def checkpoint_manifests(config):
    return list(Path(config.output).glob("checkpoints/*/manifest.json"))


def wait_for(condition, seconds=180.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
    return found


# ---- what the commands answer ---------------------------------------------------------------------------------------


def test_results_have_the_keys_that_scripts_rely_on(finished, config, group, tmp_path):
    user, _ = busy_user(finished, config)
    answers = dict(finished.answers)
    answers["forget"] = pipeline.forget(config, users=str(user), request_id="keys", group=group)
    answers["status"] = pipeline.status(config, "keys")
    answers["evaluate"] = pipeline.evaluate(config, group=group)
    answers["export"] = pipeline.export(config, to=str(tmp_path / "export"), top_k=5, group=group)
    expected = {
        "ingest": "users items interactions partitions edge_cut balance rows_per_layer",
        "train": "epochs seconds loss version",
        "pretrain": "epochs seconds version",
        "forget": "request_id status version removed_interactions affected_partitions seconds",
        "status": "request_id status phase version",
        "evaluate": "recall@20 ndcg@20",
        "export": "version users items",
    }
    for command, keys in expected.items():
        assert set(keys.split()) <= set(answers[command]), command
        json.dumps(answers[command])  # plain values only
    assert (answers["train"]["version"], answers["pretrain"]["version"]) == (1, 2)
    assert answers["pretrain"]["retrains"] > 1
    assert answers["train"]["epochs"] == EPOCHS and len(answers["train"]["curve"]) == EPOCHS
    assert answers["status"]["status"] == "committed" and answers["status"]["version"] == 3
    assert 0 < answers["evaluate"]["recall@20"] <= 1 and 0 < answers["evaluate"]["ndcg@20"] <= 1


def test_status_of_a_request_that_nobody_made(config):
    with pytest.raises(InputError, match="has no request 'nobody'"):
        pipeline.status(config, "nobody")


# ---- what forgetting leaves -----------------------------------------------------------------------------------------


def test_a_forgotten_user_is_in_no_file_of_the_new_version(finished, config, group, tmp_path):
    user, items = busy_user(finished, config)
    before = current(config)
    had = pairs_of(config, before.graph)
    (node,) = [n for n, name in external(config, before.graph)["user"].items() if name == user]

    answer = pipeline.forget(config, users=str(user), group=group)

    after = current(config)
    assert answer["status"] == "committed" and answer["version"] == after.version == before.version + 1
    assert answer["removed_interactions"] == len(items) and answer["deleted_users"] == 1
    assert pairs_of(config, after.graph) == had - {(user, i) for i in items}
    assert after.graph.interactions == before.graph.interactions - len(items)
    assert ("user", node) in rows_of(config, before) and ("user", node) not in rows_of(config, after)
    assert user not in external(config, after.graph)["user"].values()
    rows_before_purge, pairs_before_purge = rows_of(config, after), pairs_of(config, after.graph)
    # Its base files are still there, under deltas, until a purge has written them anew.
    pipeline.purge(config, now=True)
    compacted = current(config)
    assert set(compacted.files).isdisjoint(before.graph.shard_chains[k][0] for k in answer["affected_partitions"])
    assert compacted.graph.user_file != before.graph.user_file and not compacted.has_deltas
    assert after.has_deltas
    assert pairs_of(config, compacted.graph) == pairs_before_purge
    assert rows_of(config, compacted).keys() == rows_before_purge.keys()
    assert all(row.tobytes() == rows_before_purge[key].tobytes() for key, row in rows_of(config, compacted).items())

    written = pipeline.export(config, to=str(tmp_path / "export"), top_k=5, group=group)
    users = pq.read_table(tmp_path / "export" / "users.parquet")["user_id"].to_pylist()
    ranked = pq.read_table(tmp_path / "export" / "recommendations.parquet")
    assert user not in users and user not in ranked["user_id"].to_pylist()
    assert len(users) == len(set(users)) == written["users"] == finished.answers["ingest"]["users"] - 1
    assert not pairs_before_purge & set(zip(ranked["user_id"].to_pylist(), ranked["item_id"].to_pylist(), strict=True))


def test_a_forgotten_item_is_never_recommended_again(config, group, tmp_path):
    item = next(iter(external(config, current(config).graph)["item"].values()))
    assert pipeline.forget(config, items=str(item), group=group)["deleted_items"] == 1
    pipeline.export(config, to=str(tmp_path / "export"), top_k=80, group=group)
    for name in ("items", "recommendations"):
        assert item not in pq.read_table(tmp_path / "export" / f"{name}.parquet")["item_id"].to_pylist()


def test_what_a_request_does_not_touch_stays_bit_for_bit(config, group, tmp_path):
    before = current(config)
    pairs, dense, partition = inner_pairs(config, before, 3)
    answer = pipeline.forget(config, interactions=write_pairs(tmp_path / "pairs.parquet", pairs), group=group)
    after = current(config)

    assert answer["affected_partitions"] == [partition] and answer["removed_interactions"] == 3
    assert not pairs_of(config, after.graph) & set(pairs)
    other = 1 - partition
    for names in (lambda v, k: v.graph.shard_chain(k), lambda v, k: v.model.embedding_chain(k)):
        assert names(after, other) == names(before, other) and names(after, partition) != names(before, partition)

    old, new = rows_of(config, before), rows_of(config, after)
    touched = {("user", u) for u, _ in dense} | {("item", i) for _, i in dense}
    assert answer["touched_nodes"] == len(touched)
    assert set(old) - touched <= set(new) <= set(old)
    assert all(new[key].tobytes() == old[key].tobytes() for key in new if key not in touched)
    assert all(new[key].tobytes() != old[key].tobytes() for key in touched if key in new)


def readouts(group, session, version):
    """What the workers hold of a version: readouts by partition."""
    return session.call(group, version, calling(Partition.readouts))


def test_workers_that_follow_hold_what_is_loaded_anew(config, group):
    """Graph, rows and readouts bit for bit, after several requests, and after a purge has written the files anew."""
    session = Session(config)
    loads = []
    for _ in range(3):
        user = max(external(config, current(config).graph)["user"].values())
        pipeline.forget(config, users=str(user), group=group)
        loads.append(current(config))
    followed = readouts(group, session, loads[-1])
    session.load(group, loads[0])  # another version, so that the last one is not followed but read from its files
    session.load(group, loads[-1])
    anew = readouts(group, session, loads[-1])
    for mine, theirs in zip(followed, anew, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
    pipeline.purge(config, now=True)
    assert current(config).version == loads[-1].version + 1 and not current(config).has_deltas
    for mine, theirs in zip(readouts(group, session, current(config)), anew, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


def test_fine_tuning_moves_touched_rows_alone(config, group, tmp_path):
    before = current(config)
    pairs, dense, partition = inner_pairs(config, before, 3)
    file = write_pairs(tmp_path / "pairs.parquet", pairs)
    plain = config.model_copy(update={"output": str(tmp_path / "plain")})
    shutil.copytree(config.output, plain.output)
    tuned = config.model_copy(update={"forget": config.forget.model_copy(update={"fine_tune_steps": 3})})
    answers = [pipeline.forget(c, interactions=file, group=group) for c in (plain, tuned)]
    assert "fine_tune" in answers[1]["phases"] and "fine_tune" not in answers[0]["phases"]

    old, encoded, new = rows_of(config, before), rows_of(plain, current(plain)), rows_of(config, current(config))
    touched = {("user", u) for u, _ in dense} | {("item", i) for _, i in dense}
    assert encoded.keys() == new.keys()
    assert all(new[key].tobytes() == old[key].tobytes() for key in new.keys() - touched)
    assert all(new[key].tobytes() != encoded[key].tobytes() for key in new.keys() & touched)
    other = 1 - partition
    assert current(config).model.embedding_chain(other) == before.model.embedding_chain(other)


def with_forget(config, **settings):
    return config.model_copy(update={"forget": config.forget.model_copy(update=settings)})


def test_a_version_that_misses_the_gate_is_committed_and_needs_a_retrain(finished, config, group, tmp_path, capsys):
    before = current(config)
    file = write_pairs(tmp_path / "pairs.parquet", inner_pairs(config, before, 12)[0])
    good = pipeline.forget(config, interactions=file, dry_run=True)
    strict = with_forget(config, gate_change=1e-6, gate_gap_closed=None, gate_recall_loss=None)
    answer = pipeline.forget(strict, interactions=file, request_id="r", group=group)
    assert good["removed_interactions"] == answer["removed_interactions"] == 12
    gate = answer["gate"]
    assert gate["status"] == "missed" and gate["missed"] == ["largest_change"] and answer["needs_retrain"]
    assert gate["bounds"]["largest_change"] == 1e-6 < gate["measures"]["largest_change"]["value"]
    assert "fine_tune" not in answer["phases"] and "unlearnrec retrain" in answer["retrain"]  # it would not mend this
    assert current(config).version == before.version + 1 and Intake(Session(config)).gauges()["needs_retrain"] == 1
    report = json.loads((Path(config.output) / answer["evidence"]).read_text())
    assert report["gate"]["status"] == "missed" and report["needs_retrain"]
    assert pipeline.status(config, "r")["needs_retrain"]
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert run(["forget", "--interactions", file, "--request-id", "r", "--config", str(path), "--json"]) == 3
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["passed"] is False

    # It stays so through later requests and a pre-training; a training ends it.
    user, _ = busy_user(finished, config)
    later = pipeline.forget(config, users=str(user), group=group)
    assert later["gate"]["measures"].keys() == {"user_gap_closed", "recall_loss", "largest_change"}
    assert not later["needs_retrain"] and current(config).needs_retrain
    pipeline.pretrain(config, group=group)
    assert current(config).needs_retrain
    pipeline.train(config, group=group)
    assert not current(config).needs_retrain and Intake(Session(config)).gauges()["needs_retrain"] == 0


@pytest.mark.parametrize("mended", [True, False])
def test_the_gate_looks_at_what_is_committed_and_the_workers_need_not_load_it_again(
    mended, config, group, tmp_path, monkeypatch
):
    file = write_pairs(tmp_path / "pairs.parquet", inner_pairs(config, current(config), 12)[0])
    loaded = []
    load = Session.load
    monkeypatch.setattr(
        Session, "load", lambda self, group, version: (loaded.append(version), load(self, group, version))
    )
    seen = []
    judge = gate.Gate.judge

    def once_missed(self, candidate, largest_change):
        found = judge(self, candidate, largest_change)
        seen.append([candidate.model.embedding_chain(k) for k in range(candidate.graph.partitions)])
        miss = {"status": "missed", "missed": ["gap_closed"]}
        return found | (miss if len(seen) == 1 or not mended else {"status": "passed", "missed": []})

    monkeypatch.setattr(gate.Gate, "judge", once_missed)
    answer = pipeline.forget(with_forget(config, gate_fine_tune_steps=2), interactions=file, group=group)
    assert answer["gate"]["status"] == ("fine_tuned" if mended else "missed")
    assert answer["needs_retrain"] == ("retrain" in answer) == ("given_up" in answer["gate"]) == (not mended)
    model = current(config).model
    assert len(seen) == 2 and seen[0] != seen[1]
    assert [model.embedding_chain(k) for k in range(len(model.embeddings))] == seen[mended]
    report = json.loads((Path(config.output) / answer["evidence"]).read_text())
    assert report["gate"] == answer["gate"] and all(check["ok"] for check in report["verification"]["checks"])
    loaded.clear()
    pipeline.evaluate(config, group=group)
    assert not loaded
    off = with_forget(config, gate_gap_closed=None, gate_recall_loss=None, gate_change=None)
    file = write_pairs(tmp_path / "more.parquet", inner_pairs(config, current(config), 3)[0])
    assert "gate" not in pipeline.forget(off, interactions=file, group=group)


def test_a_request_says_when_the_encoder_has_drifted(finished, config, group):
    user, items = busy_user(finished, config)
    total = current(config).graph.interactions
    notes = []
    progress = Progress()
    progress.note = notes.append
    first = pipeline.forget(config, users=str(user), group=group, progress=progress)
    assert first["encoder_drift"] == pytest.approx(len(items) / total) and not first["encoder_stale"] and not notes
    strict = config.model_copy(update={"pretrain": config.pretrain.model_copy(update={"drift_budget": 0.001})})
    other, _ = busy_user(finished, config, avoid=user)
    second = pipeline.forget(strict, users=str(other), group=group, progress=progress)
    assert second["encoder_drift"] == pytest.approx((len(items) + second["removed_interactions"]) / total)
    assert second["encoder_stale"] and "unlearnrec pretrain" in notes[0]
    pipeline.pretrain(config, group=group)
    third, _ = busy_user(finished, config, avoid=other)
    assert not pipeline.forget(config, users=str(third), group=group)["encoder_stale"]


# ---- requests -------------------------------------------------------------------------------------------------------


def test_a_repeated_request_gives_the_same_answer_and_changes_nothing(finished, config, group):
    user, _ = busy_user(finished, config)
    first = pipeline.forget(config, users=str(user), request_id="again", group=group)
    files = listing(config.output)
    again = pipeline.forget(config, users=str(user), request_id="again", group=group)
    assert listing(config.output) == files and current(config).version == first["version"]
    keys = set(first) - set(NOT_REPEATED)
    assert {k: again[k] for k in keys} == {k: first[k] for k in keys} and "seconds" in again

    with pytest.raises(InputError, match="another request has this id"):
        pipeline.forget(config, users=f"{user},-5", request_id="again", group=group)
    assert listing(config.output) == files

    # The same content under another id finds nothing left.
    other = pipeline.forget(config, users=str(user), request_id="other", group=group)
    assert other["status"] == "nothing_to_forget" and other["unknown_ids"] == 1


def test_unknown_ids_make_no_version(config, group, tmp_path):
    files, version = listing(Path(config.output) / "versions"), current(config)
    file = tmp_path / "strangers.csv"
    file.write_text("user_id,item_id\n-1,-2\n")
    for number, request in enumerate(({"users": "-1,-2"}, {"items": "-7"}, {"requests": str(file)})):
        answer = pipeline.forget(config, **request, request_id=f"r{number}", group=group)
        assert answer["status"] == "nothing_to_forget" and answer["version"] == version.version
        assert answer["removed_interactions"] == 0 and answer["affected_partitions"] == []
        assert pipeline.status(config, f"r{number}")["phase"] == "completed"
        assert pipeline.forget(config, **request, request_id=f"r{number}", group=group) == answer | {"repeated": True}
    assert current(config) == version and listing(Path(config.output) / "versions") == files


def test_a_dry_run_changes_no_file_and_foretells_the_answer(finished, config, group):
    user, items = busy_user(finished, config)
    files = listing(config.output)
    told = pipeline.forget(config, users=str(user), dry_run=True)
    assert listing(config.output) == files
    assert told["status"] == "dry_run" and told["removed_interactions"] == len(items)
    done = pipeline.forget(config, users=str(user), group=group)
    for key in ("request_id", "removed_interactions", "affected_partitions", "touched_nodes", "unknown_ids"):
        assert told[key] == done[key], key


def test_outputs_that_share_workers_are_not_mixed_up(ingested, group, tmp_path):
    """Both have a version 1, and the workers hold the other one's when the second is exported."""
    exported = []
    configs = [
        ingested.model_copy(
            update={
                "seed": seed,
                "output": str(tmp_path / f"output{seed}"),
                "train": ingested.train.model_copy(update={"epochs": 1}),
            }
        )
        for seed in (1, 2)
    ]
    for config in configs:
        shutil.copytree(Path(ingested.output) / "graph", Path(config.output) / "graph")
        pipeline.train(config, group=group)
    for config in configs:
        pipeline.export(config, to=config.output + "/export", top_k=1, group=group)
        exported.append(pq.read_table(config.output + "/export/users.parquet"))
    assert exported[0] != exported[1]


# ---- training -------------------------------------------------------------------------------------------------------


def test_a_worker_killed_during_training_changes_nothing(finished, ingested, group):
    victim = ray.get(group._actors[1].ping.remote()).pid
    generation, seen = group.generation, {}

    def kill():
        (manifest,) = wait_for(lambda: checkpoint_manifests(ingested))
        seen["epoch"] = json.loads(manifest.read_bytes())["epoch"]
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        answer = pipeline.train(ingested, group=group)
    finally:
        killer.join()
    assert 0 < seen["epoch"] < EPOCHS
    assert group.generation > generation, "the training was over before the worker died"
    assert answer["epochs"] == EPOCHS and [c["epoch"] for c in answer["curve"]] == list(range(1, EPOCHS + 1))
    assert embedding_bytes(ingested) == embedding_bytes(finished.config)
    assert not checkpoint_manifests(ingested)


@pytest.mark.slow
def test_a_training_whose_driver_was_killed_is_resumed(finished, ingested, group, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(ingested), encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}  # a local Ray of its own
    with open(tmp_path / "stderr", "wb") as stderr:
        driver = subprocess.Popen(
            [sys.executable, "-m", "unlearnrec", "train", "--config", str(file)],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=environment,
            cwd=tmp_path,
        )
        try:
            wait_for(lambda: checkpoint_manifests(ingested) or driver.poll() is not None)
            assert driver.poll() is None, (tmp_path / "stderr").read_text()
        finally:
            driver.kill()
            driver.wait()
    time.sleep(1)  # its workers end after it
    (manifest,) = checkpoint_manifests(ingested)
    epoch = json.loads(manifest.read_bytes())["epoch"]
    assert 0 < epoch < EPOCHS and Session(ingested).versions.current() is None

    saved = load(Path(manifest.parent / f"epoch-{epoch:05d}-000.safetensors").read_bytes())["curve"].tolist()

    whole = pipeline.train(ingested, resume=True, group=group)
    assert whole["epochs"] == EPOCHS
    # The first epochs were not run again: their seconds are those of the killed run.
    assert [[c["epoch"], c["loss"], c["seconds"]] for c in whole["curve"][:epoch]] == saved
    assert embedding_bytes(ingested) == embedding_bytes(finished.config)


def test_one_and_two_partitions_give_the_same_readouts(finished, ray_session, group, tmp_path):
    pipeline.export(finished.config, to=str(tmp_path / "two"), top_k=5, group=group)
    cluster = finished.config.cluster.model_copy(update={"partitions": 1})
    one = finished.config.model_copy(update={"output": str(tmp_path / "output"), "cluster": cluster})
    assert pipeline.ingest(one)["partitions"] == 1
    with Session(one).workers() as alone:
        pipeline.train(one, group=alone)
        pipeline.export(one, to=str(tmp_path / "one"), top_k=5, group=alone)
    for side in ("user", "item"):
        tables = []
        for name in ("one", "two"):
            table = pq.read_table(tmp_path / name / f"{side}s.parquet")
            rows = np.array(table["embedding"].to_pylist(), dtype=np.float32)
            tables.append({i: r.tobytes() for i, r in zip(table[f"{side}_id"].to_pylist(), rows, strict=True)})
        assert tables[0] == tables[1] and len(tables[0]) == finished.answers["ingest"][f"{side}s"]
    keys = [("user_id", "ascending"), ("rank", "ascending")]
    ranked = [pq.read_table(tmp_path / name / "recommendations.parquet").sort_by(keys) for name in ("one", "two")]
    assert ranked[0] == ranked[1]


def test_more_partitions_than_cpus_is_bad_input(finished, ray_session, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(finished.config), encoding="utf-8")
    changed = ["--config", str(file), f"output={tmp_path / 'output'}", "cluster.partitions=5"]
    assert run(["ingest", *changed]) == 0
    capsys.readouterr()
    assert run(["train", *changed]) == 2
    assert "cluster.partitions" in capsys.readouterr().err


def test_the_number_of_partitions_must_be_the_graphs(ingested, group):
    three = ingested.model_copy(update={"cluster": ingested.cluster.model_copy(update={"partitions": 3})})
    with pytest.raises(InputError, match=r"Set cluster\.partitions=2, or ingest again"):
        pipeline.train(three, group=group)


def test_the_counterfactual_lacks_what_it_was_trained_without(finished, ingested, group, tmp_path):
    ingested = ingested.model_copy(update={"train": ingested.train.model_copy(update={"epochs": 2})})
    before = lake_graph(Session(ingested))
    had = pairs_of(ingested, before)
    user, items = busy_user(finished, ingested)
    some = sorted(pair for pair in had if pair[0] != user)[::97]
    (tmp_path / "users.csv").write_text(f"user_id\n{user}\n-1\n")
    files = [str(tmp_path / "users.csv"), write_pairs(tmp_path / "pairs.parquet", some)]

    answer = pipeline.train(ingested, without=files, group=group)

    version = current(ingested)
    assert pairs_of(ingested, version.graph) == had - set(some) - {(user, i) for i in items}
    assert answer["removed_interactions"] == len(some) + len(items) and answer["unknown_ids"] == 1
    assert user not in external(ingested, version.graph)["user"].values()
    assert pairs_of(ingested, version.lake_graph) == had  # the lake still has them
    with pytest.raises(InputError, match="counterfactual"):
        pipeline.forget(ingested, users=str(user), group=group)
    with pytest.raises(InputError, match="names nothing that the graph holds"):
        pipeline.train(ingested, without=[write_pairs(tmp_path / "none.parquet", [(-1, -1)])], group=group)


def test_a_request_has_its_answer_after_a_retrain_too(finished, config, group):
    user, _ = busy_user(finished, config)
    first = pipeline.forget(config, users=str(user), group=group)
    pipeline.train(config, group=group)
    again = pipeline.forget(config, users=str(user), group=group)
    assert again["version"] == first["version"] and again["status"] == "committed"


def test_training_again_does_not_bring_the_forgotten_back(finished, config, group, monkeypatch):
    user, items = busy_user(finished, config)
    before = Session(config).version().graph.interactions
    pipeline.forget(config, users=str(user), group=group)
    pipeline.train(config, group=group)
    assert Session(config).version().graph.interactions == before - len(items)
    # The encoder is carried over to the new model, if it does well enough: on so little data any does.
    monkeypatch.setattr(carried_encoder, "does_well", lambda *_: True)
    carried = pipeline.pretrain(config, group=group)
    assert carried["carried_from"] == 4 and carried["retrains"] < 1  # the version after the request, in whole files
    assert pipeline.forget(config, users="-1", group=group)["status"] == "nothing_to_forget"
    pretrained = pipeline.pretrain(config, group=group)  # a whole one
    assert pretrained["version"] == Session(config).version().version and "carried_from" not in pretrained

    # With another setting of the fit, the finished runs are taken as they are: nothing is trained.
    monkeypatch.setattr(counterfactual_runs, "run_training", None)
    longer = config.model_copy(update={"pretrain": config.pretrain.model_copy(update={"epochs": 3})})
    encoders = [Session(config).version().model.encoder.file]
    pipeline.pretrain(longer, group=group)
    encoders.append(Session(config).version().model.encoder.file)
    first, second = (Session(config).store.read(name) for name in encoders)
    assert first != second
    # After a request they are runs on another graph, which a purge removes.
    pipeline.forget(config, users=str(busy_user(finished, config, avoid=user)[0]), group=group)
    store = Session(config).store
    assert any(name.endswith("/done.json") for name in store.list("pretrain"))
    pipeline.purge(config, now=True)
    assert not store.list("pretrain")


@pytest.mark.parametrize("objective", ["published", "counterfactual"])
def test_pretraining_after_deleted_items_and_another_request(finished, config, group, objective):
    """Both objectives on a graph with holes in its ids, and a request against the result."""
    user, _ = busy_user(finished, config)
    session = Session(config)
    ids, _, _ = load_ids(session.store, session.version().graph, "item")
    pipeline.forget(config, users=str(user), items=",".join(map(str, ids[:3].to_pylist())), group=group)
    changed = config.model_copy(update={"pretrain": config.pretrain.model_copy(update={"objective": objective})})
    pipeline.pretrain(changed, group=group)
    other, items = busy_user(finished, config, avoid=user)
    done = pipeline.forget(changed, users=str(other), group=group)
    assert 0 < done["removed_interactions"] <= len(items) and done["deleted_users"] >= 1
    encoder = Session(config).version().model.encoder
    assert (encoder.objective, encoder.format) == (objective, FORMATS[objective])
