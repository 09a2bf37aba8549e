"""Time ranges and results by row on real workers, on one partition and on two, against a plain list of events."""

from __future__ import annotations

import csv
import json
import types
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_output import places_of

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import parse_config
from unlearnrec.cluster.lifecycle.refusals import Held
from unlearnrec.cluster.lifecycle.suppression import ENVIRONMENT
from unlearnrec.cluster.output.ingests import ingested
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.output.versions import Versions
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.ingest import load_ids, load_shard
from unlearnrec.workers import WorkerGroup, WorkerSettings

START = datetime(2024, 1, 1, tzinfo=UTC)
KEY = "0123456789abcdef"


def name(n):
    return f"ann-{n:03d}@example"


def item(n):
    return f"item-{n:03d}x"


def at(hours):
    """A time as the table has it: milliseconds, each different, so that its bytes can be searched for."""
    return round(START.timestamp() * 1000) + hours * 3_600_000


def make_events(users=24, items=12, seed=3):
    draw = np.random.default_rng(seed)
    pairs = [(u, i) for u in range(users) for i in range(items) if draw.random() < 0.5]
    chosen = [pair for pair in pairs for _ in range(draw.integers(1, 4))]
    return [
        (name(u), item(i), at(int(hour))) for hour, (u, i) in zip(draw.permutation(len(chosen)), chosen, strict=True)
    ]


def write_events(path, events):
    users, items, times = zip(*events, strict=True)
    table = {"user_id": users, "item_id": items, "when": pa.array(times, pa.timestamp("ms", tz="Asia/Tokyo"))}
    pq.write_table(pa.table(table), path)
    return str(path)


def config_for(folder, events, partitions, **more):
    return parse_config(
        {
            "interactions": write_events(folder / "events.parquet", events),
            "output": str(folder / "output"),
            "columns": {"time": "when"},
            "cluster": {"partitions": partitions},
            "partitioning": {"strategy": "hash"},
            "backbone": {"embedding_size": 4, "num_layers": 2},
            "train": {"epochs": 2, "batch_size": 200},
            "pretrain": {"epochs": 1, "counterfactuals": 1},
            **more,
        }
    )


def stored(config, graph):
    """All events of a graph, by external id."""
    store = Session(config).store
    names = []
    for side in ("user", "item"):
        ids, node, _ = load_ids(store, graph, side)
        names.append(dict(zip(node.tolist(), ids.to_pylist(), strict=True)))
    found = Counter()
    for k in range(graph.partitions):
        shard = load_shard(store, graph, k)
        users, items, counts = (x.tolist() for x in shard.interactions())
        times = iter(shard.user_times.tolist())
        for u, i, n in zip(users, items, counts, strict=True):
            found.update((names[0][u], names[1][i], next(times)) for _ in range(n))
    assert {u for u, _, _ in found} == set(names[0].values()) and {i for _, i, _ in found} == set(names[1].values())
    return found


def write_rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read_results(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def rows_of(config, version):
    """The files of E0, as bytes."""
    return [Session(config).store.read(file) for file in version.model.embeddings]


def pairs(events):
    return {e[:2] for e in events}


@pytest.fixture(scope="module", params=[1, 2])
def run(request, ray_session, tmp_path_factory):
    """An output on which the first request was dry-run, carried out and asked for again."""
    folder = tmp_path_factory.mktemp(f"ranges{request.param}")
    events = make_events()
    config = config_for(folder, events, request.param)
    settings = WorkerSettings(request.param, threads_per_worker=1)
    with WorkerGroup.start(settings) as group, pytest.MonkeyPatch.context() as patch:
        patch.delenv(ENVIRONMENT, raising=False)
        pipeline.ingest(config)
        pipeline.train(config, group=group)
        pipeline.pretrain(config, group=group)
        whole, other = name(0), name(1)
        mine = sorted(t for u, _, t in events if u == other)
        middle = mine[len(mine) // 2]
        pair = next(e[:2] for e in events if e[0] == name(2))
        iso = (START + timedelta(milliseconds=middle - at(0))).astimezone(timezone(timedelta(hours=5))).isoformat()
        rows = [
            {"user_id": whole},
            {"user_id": pair[0], "item_id": pair[1]},
            {"user_id": other, "since": iso},
            {"user_id": name(3), "until": at(0)},  # before everything
            {"user_id": "nobody"},
            {"user_id": whole, "since": 5, "until": 5},
            {"user_id": whole},
            {"since": 3},
        ]
        file = write_rows(folder / "rows.jsonl", *rows)
        keep = {"config": config, "group": group, "events": events, "folder": folder, "file": file, "iso": iso}
        keep["gone"] = [[e for e in events if e[0] == whole], [e for e in events if e[:2] == pair]]
        keep["gone"].append([e for e in events if e[0] == other and e[2] >= middle])
        keep["before"] = Session(config).version()
        keep["trained"] = rows_of(config, keep["before"])
        keep["dry"] = pipeline.forget(config, requests=file, dry_run=True, results=str(folder / "dry.csv"))
        keep["answer"] = pipeline.forget(config, requests=file, results=str(folder / "first.csv"), group=group)
        keep["after"] = Session(config).version()
        yield types.SimpleNamespace(**keep)


def test_rows_get_what_the_list_of_events_says(run):
    gone = [e for part in run.gone for e in part]
    left = Counter(run.events) - Counter(gone)
    assert stored(run.config, run.before.graph) == Counter(run.events)
    assert stored(run.config, run.after.graph) == left
    answer = run.answer
    assert answer["rows"] == {"deleted": 4, "not_found": 2, "already_gone": 0, "invalid": 2}
    assert answer["removed_events"] == len(gone)
    assert answer["removed_interactions"] == len(pairs(run.events)) - len(pairs(left))
    assert run.after.graph.events == left.total() and run.after.graph.interactions == len(pairs(left))
    lines = read_results(run.folder / "first.csv")
    assert [int(x["row"]) for x in lines] == list(range(1, 9))
    results = ["deleted"] * 3 + ["not_found"] * 2 + ["invalid", "deleted", "invalid"]
    assert [x["result"] for x in lines] == results
    numbers = [len(run.gone[k]) for k in (0, 1, 2)]
    assert [int(x["removed_events"]) for x in lines] == [*numbers, 0, 0, 0, numbers[0], 0]
    lost = [len(pairs(run.events)) - len(pairs(Counter(run.events) - Counter(part))) for part in run.gone]
    assert [int(x["removed_interactions"]) for x in lines] == [*lost, 0, 0, 0, lost[0], 0]
    assert "example" not in (run.folder / "first.csv").read_text()


def test_the_dry_run_said_so_and_changed_nothing(run):
    same = ("rows", "removed_interactions", "removed_events", "affected_partitions", "unknown_ids", "request_id")
    assert {key: run.dry[key] for key in same} == {key: run.answer[key] for key in same}
    assert (run.folder / "dry.csv").read_bytes() == (run.folder / "first.csv").read_bytes()
    assert run.dry["estimated_seconds"] is None and run.dry["version"] == run.before.version
    later = pipeline.forget(run.config, users=name(9), dry_run=True)
    assert 0 < later["estimated_seconds"] < 60


def test_asking_again_gives_the_same(run):
    again = pipeline.forget(run.config, requests=run.file, results=str(run.folder / "again.parquet"))
    assert {key: again[key] for key in ("rows", "removed_events", "version", "request_id")} == {
        key: run.answer[key] for key in ("rows", "removed_events", "version", "request_id")
    }
    lines = pq.read_table(run.folder / "again.parquet").to_pylist()
    assert [x["result"] for x in lines] == [x["result"] for x in read_results(run.folder / "first.csv")]


def test_the_evidence_counts_right_and_names_nobody(run):
    text = (Path(run.config.output) / run.answer["evidence"]).read_text()
    report = json.loads(text)
    assert report["removed"]["removed_events"] == run.answer["removed_events"]
    checks = {check["name"]: check for check in report["verification"]["checks"]}
    assert all(check["ok"] for check in checks.values()) and checks["removed events"]["of"] > 0
    assert pipeline.verify(run.config, None)["ok"]
    log = b"".join(x.read_bytes() for x in (Path(run.config.output) / "log").iterdir())
    for wanted in ("example", run.iso, str(at(0))):
        assert wanted not in text and wanted.encode() not in log


def test_a_range_that_empties_no_pair_changes_the_graph_only(run):
    """And what was forgotten is known to be gone, as long as the first request's content is there."""
    config, group, before = run.config, run.group, Session(run.config).version()
    left = stored(config, before.graph)
    counts = Counter(e[:2] for e in left.elements())
    u, i = next(pair for pair, n in counts.items() if n >= 2 and pair[0] > name(5))
    first = min(t for e in left if e[:2] == (u, i) for t in e[2:])
    rows = [
        {"user_id": u, "item_id": i, "until": first + 1},
        {"user_id": run.gone[0][0][0]},
        {"user_id": run.gone[0][0][0], "item_id": item(1)},
        {"user_id": run.gone[1][0][0], "item_id": run.gone[1][0][1]},
        {"user_id": run.gone[2][0][0], "since": run.iso},
        {"user_id": "nobody"},
        {"user_id": name(3), "until": at(0)},
    ]
    file = write_rows(run.folder / "second.jsonl", *rows)
    answer = pipeline.forget(config, requests=file, results=str(run.folder / "second.jsonl.csv"), group=group)
    after = Session(config).version()
    assert answer["status"] == "committed" and after.version == before.version + 1
    assert (answer["removed_interactions"], answer["removed_events"]) == (0, 1)
    assert stored(config, after.graph) == left - Counter([(u, i, first)])
    assert after.model == before.model and after.graph.interactions == before.graph.interactions
    assert after.graph.shard_chains != before.graph.shard_chains
    results = [x["result"] for x in read_results(run.folder / "second.jsonl.csv")]
    assert results == ["deleted", *["already_gone"] * 4, "not_found", "not_found"]
    assert pipeline.verify(config, None)["ok"]
    pipeline.purge(config, now=True)
    store = Session(config).store
    for wanted in (name(0).encode(), first.to_bytes(8, "little"), *(e[2].to_bytes(8, "little") for e in run.gone[2])):
        assert places_of(store, wanted) == []
    assert places_of(store, max(left)[2].to_bytes(8, "little"))
    again = pipeline.forget(config, requests=file, results=str(run.folder / "third.csv"))
    assert again["rows"] == answer["rows"] and again["content_purged"] and again["results"] is None
    assert not (run.folder / "third.csv").exists()
    # Now nothing tells it from somebody who was never there.
    other = pipeline.forget(config, users=f"{name(0)},nobody", group=group)
    assert other["status"] == "nothing_to_forget"
    assert other["rows"] == {"deleted": 0, "not_found": 2, "already_gone": 0, "invalid": 0}


def test_a_range_is_held_for_its_events_and_has_results_when_it_is_carried_out(run, tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, KEY)
    config, group = run.config, run.group
    strict = config.model_copy(update={"forget": config.forget.model_copy(update={"max_share": 0.001})})
    before, left = Session(config).version(), stored(config, Session(config).version().graph)
    counts = Counter(e[:2] for e in left.elements())
    u, i = next(pair for pair, n in counts.items() if n >= 2 and pair[0] > name(5))
    first = min(t for *pair, t in left if pair == [u, i])
    file = write_rows(tmp_path / "rows.jsonl", {"user_id": u, "item_id": i, "until": first + 1}, {"user_id": "nobody"})
    dry = pipeline.forget(strict, requests=file, dry_run=True)
    assert (dry["share"], dry["removed_interactions"]) == (1 / left.total(), 0) and dry["needs_approval"]
    for _ in range(2):
        with pytest.raises(Held):
            pipeline.forget(strict, requests=file, results=str(tmp_path / "r.csv"), requester="Ann", group=group)
    assert Session(config).version() == before and not (tmp_path / "r.csv").exists()
    assert not Session(config).store.list("suppression")
    pipeline.approve(strict, dry["request_id"], by="Bob")
    answer = pipeline.forget(strict, requests=file, results=str(tmp_path / "r.csv"), group=group)
    assert answer["status"] == "committed" and answer["removed_events"] == 1
    assert [x["result"] for x in read_results(tmp_path / "r.csv")] == ["deleted", "not_found"]
    assert stored(config, Session(config).version().graph) == left - Counter([(u, i, first)])
    assert Session(config).store.list("suppression") and pipeline.verify(config, None)["ok"]


def test_training_does_not_depend_on_times(run, tmp_path):
    config = config_for(tmp_path, run.events, run.config.cluster.partitions, columns={})
    pipeline.ingest(config)
    pipeline.train(config, group=run.group)
    version = Session(config).version()
    assert version.graph.time is None and run.before.graph.time.unit == "ms"
    assert rows_of(config, version) == run.trained


def test_a_range_on_a_graph_without_times_is_invalid_by_row(tmp_path, run):
    config = config_for(tmp_path, run.events, run.config.cluster.partitions, columns={})
    pipeline.ingest(config)
    pipeline.train(config, group=run.group)
    pipeline.pretrain(config, group=run.group)
    file = write_rows(tmp_path / "rows.jsonl", {"user_id": name(4), "since": 1}, {"user_id": name(4)})
    answer = pipeline.forget(config, requests=file, results=str(tmp_path / "r.jsonl"), group=run.group)
    assert answer["rows"] == {"deleted": 1, "not_found": 0, "already_gone": 0, "invalid": 1}
    line = json.loads((tmp_path / "r.jsonl").read_text().splitlines()[0])
    assert line["result"] == "invalid" and "map columns.time" in line["reason"]
    with pytest.raises(InputError, match=r"--without .*map columns\.time"):
        pipeline.train(config, without=[file], group=run.group)


def test_with_a_key_ingest_leaves_the_range_out_and_the_list_tells_what_is_gone(run, tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, KEY)
    config = config_for(tmp_path, run.events, run.config.cluster.partitions)
    pipeline.ingest(config)
    pipeline.train(config, group=run.group)
    pipeline.pretrain(config, group=run.group)
    mine = sorted(e for e in run.events if e[0] == name(1))
    middle = sorted(t for _, _, t in mine)[len(mine) // 2]
    pair = next(e[:2] for e in run.events if e[0] == name(2))
    first = min(t for u, i, t in run.events if (u, i) == pair)
    rows = [
        {"user_id": name(1), "since": middle},  # a number: milliseconds, as the column has them
        {"user_id": pair[0], "item_id": pair[1], "until": first + 1},
        {"user_id": "stranger-77", "since": middle},
    ]
    file = write_rows(tmp_path / "rows.jsonl", *rows)
    answer = pipeline.forget(config, requests=file, group=run.group)
    assert answer["rows"] == {"deleted": 2, "not_found": 1, "already_gone": 0, "invalid": 0}
    left = Counter(run.events) - Counter([e for e in mine if e[2] >= middle] + [(*pair, first)])
    assert stored(config, Session(config).version().graph) == left
    store = Session(config).store
    assert places_of(store, b"stranger-77") == ["requests/" + answer["request_id"] + ".json"]

    pipeline.purge(config, now=True)
    again = pipeline.forget(config, requests=file, request_id="again", group=run.group)
    assert again["status"] == "nothing_to_forget"
    assert again["rows"] == {"deleted": 0, "not_found": 1, "already_gone": 2, "invalid": 0}
    # Its own entry on the list does not make the third row known to a third request.
    third = pipeline.forget(config, requests=file, request_id="third", group=run.group)
    assert third["rows"] == again["rows"]

    residue = pipeline.residue(config)
    assert [x["rows"] for x in residue["residues"] if "rows" in x] == [len(run.events) - left.total()]
    assert pipeline.ingest(config)["suppressed"] == len(run.events) - left.total()
    assert stored(config, ingested(Session(config))) == left
    other = config.model_copy(update={"columns": config.columns.model_copy(update={"time": None})})
    with pytest.raises(InputError, match=r"a time range is on the suppression list.*columns\.time"):
        pipeline.ingest(other)
    assert stored(config, ingested(Session(config))) == left
    assert pipeline.lift(config, users=name(1)) == {"lifted": 1, "not_listed": 0}
    assert pipeline.ingest(config)["suppressed"] == 1
    (tmp_path / "pair.csv").write_text(f"user_id,item_id\n{pair[0]},{pair[1]}\n")
    assert pipeline.lift(config, interactions=str(tmp_path / "pair.csv"))["lifted"] == 1
    assert pipeline.ingest(config)["suppressed"] == 0


def test_a_counterfactual_without_a_range_leaves_out_what_loses_all_its_events(run, tmp_path):
    config = config_for(tmp_path, run.events, run.config.cluster.partitions)
    pipeline.ingest(config)
    middle = sorted(t for _, _, t in run.events)[len(run.events) // 2]
    file = write_rows(tmp_path / "rows.jsonl", {"user_id": name(6), "since": middle}, {"user_id": name(7)})
    answer = pipeline.train(config, without=[file], group=run.group)
    gone = [e for e in run.events if e[0] == name(7) or (e[0] == name(6) and e[2] >= middle)]
    left = pairs(Counter(run.events) - Counter(gone))
    assert answer["removed_interactions"] == len(pairs(run.events)) - len(left) > 1
    assert pairs(stored(config, Session(config).version().graph)) == left
    for row in ({"user_id": None, "since": 1}, {"user_id": name(6), "since": 5, "until": 5}):
        with pytest.raises(InputError, match=r"--without .*row 1: "):
            pipeline.train(config, without=[write_rows(tmp_path / "bad.jsonl", row)], group=run.group)


@pytest.mark.parametrize(
    "more",
    [{"pretrain": {"epochs": 1, "objective": "published"}}, {"forget": {"fine_tune_steps": 2}}],
    ids=["published", "fine-tuned"],
)
def test_other_ways_to_forget_take_ranges_too(run, tmp_path, monkeypatch, more):
    """One interaction loses an event, another all of its events: the partitions of the first alone keep their rows."""
    config = config_for(tmp_path, run.events, run.config.cluster.partitions, **more)
    pipeline.ingest(config)
    pipeline.train(config, group=run.group)
    pipeline.pretrain(config, group=run.group)
    counts = Counter(e[:2] for e in run.events)
    thin = next(pair for pair, n in counts.items() if n >= 2)
    first = min(e for e in run.events if e[:2] == thin)
    only_thin = write_rows(tmp_path / "thin.jsonl", {"user_id": thin[0], "item_id": thin[1], "until": first[2] + 1})
    before = Session(config).version()
    answer = pipeline.forget(config, requests=only_thin, group=run.group)
    assert (answer["removed_interactions"], answer["removed_events"]) == (0, 1)
    assert Session(config).version().model == before.model
    whole = next(pair for pair in counts if pair != thin)
    file = write_rows(tmp_path / "whole.jsonl", {"user_id": whole[0], "item_id": whole[1], "since": 0})
    answer = pipeline.forget(config, requests=file, group=run.group)
    assert (answer["removed_interactions"], answer["removed_events"]) == (1, counts[whole])
    gone = [first, *(e for e in run.events if e[:2] == whole)]
    assert stored(config, Session(config).version().graph) == Counter(run.events) - Counter(gone)
    assert pipeline.verify(config, None)["ok"]


@pytest.mark.parametrize("key", [None, KEY], ids=["no key", "key"])
def test_a_crash_before_the_commit_changes_no_result(run, tmp_path, monkeypatch, key):
    """What is noted before the commit must not make its own rows known to be gone."""
    monkeypatch.setenv(ENVIRONMENT, key) if key else monkeypatch.delenv(ENVIRONMENT, raising=False)
    config = config_for(tmp_path, run.events, run.config.cluster.partitions)
    pipeline.ingest(config)
    pipeline.train(config, group=run.group)
    pipeline.pretrain(config, group=run.group)
    file = write_rows(
        tmp_path / "rows.jsonl", {"user_id": name(8)}, {"user_id": "nobody"}, {"user_id": name(8), "since": 0}
    )

    class Crash(BaseException):
        pass

    def die(*_, **__):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Versions, "commit", die)
        with pytest.raises(Crash):
            pipeline.forget(config, requests=file, group=run.group)
    answer = pipeline.forget(config, requests=file, results=str(tmp_path / "r.jsonl"), group=run.group)
    assert answer["rows"] == {"deleted": 2, "not_found": 1, "already_gone": 0, "invalid": 0}
    with_grace = config.model_copy(update={"forget": config.forget.model_copy(update={"grace_seconds": 3600.0})})
    other = write_rows(tmp_path / "other.jsonl", {"user_id": name(8)}, {"user_id": name(9)})
    waiting = pipeline.forget(with_grace, requests=other, results=str(tmp_path / "w.jsonl"), group=run.group)
    assert waiting["status"] == "accepted" and waiting["results"] is None and not (tmp_path / "w.jsonl").exists()
    answer = pipeline.forget(config, requests=other, results=str(tmp_path / "w.jsonl"), group=run.group)
    assert answer["rows"] == {"deleted": 1, "not_found": 0, "already_gone": 1, "invalid": 0}
    lines = [json.loads(x)["result"] for x in (tmp_path / "w.jsonl").read_text().splitlines()]
    assert lines == ["already_gone", "deleted"]
