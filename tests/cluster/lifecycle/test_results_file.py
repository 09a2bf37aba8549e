"""`--results`: where it may lie, what it holds, and what a request keeps of the rows that it was written with."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime

import numpy as np
import pyarrow.parquet as pq
import pytest
from manifests import manifest_document
from small_output import commit_encoder, commit_forget, commit_train, small_config, user_name, write_interactions

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.cli.app import run
from unlearnrec.cluster.config.schema import to_yaml
from unlearnrec.cluster.lifecycle.acceptance import accept, read_accepted
from unlearnrec.cluster.lifecycle.estimate import LATEST, estimated_seconds
from unlearnrec.cluster.lifecycle.results_file import SCHEMA, ResultsFile, result_rows
from unlearnrec.cluster.log.records import Record
from unlearnrec.cluster.output.ledger import Ledger
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.requests.outcome import Outcome
from unlearnrec.cluster.requests.request import Tally, parse_request
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.storage import AWS, filesystem_for


@pytest.fixture
def config(tmp_path):
    return small_config(write_interactions(tmp_path / "events.parquet"), str(tmp_path / "output"))


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "rows.csv").write_text(f"user_id,item_id\n{user_name(1)},\n{user_name(1)},\n,\nnobody,\n")
    return str(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("r.txt", r"must end with \.csv, \.jsonl, \.parquet"),
        ("output/r.csv", "is under `output`"),
        ("other/../output/reports/r.csv", "is under `output`"),
        ("rows.csv", "is the file of requests"),
        ("events.parquet/r.csv", "cannot be written"),
    ],
)
def test_a_place_that_will_not_do_is_told_before_anything_is_changed(config, rows, tmp_path, name, words):
    pipeline.ingest(config)
    commit_train(config)
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    records = Session(config).log.head()
    with pytest.raises(InputError, match=words):
        pipeline.forget(config, requests=rows, results=str(tmp_path / name))
    command = ["forget", "--config", str(file), "--requests", rows, "--results", str(tmp_path / name)]
    assert run(command) == 2
    with pytest.raises(InputError, match="only the rows of a file of --requests"):
        pipeline.forget(config, users=user_name(1), results=str(tmp_path / "r.csv"))
    assert Session(config).log.head() == records and not Session(config).store.exists("requests/r.csv")


def table_of(rows):
    request = parse_request(None, None, None, rows, None, AWS)
    positions = {entry: p for p, entry in enumerate(request.entries())}
    results = ["not_found"] * len(positions)
    results[positions["users", user_name(1)]] = "deleted"
    numbers = np.arange(len(positions)) + 1
    return request, result_rows(request, Outcome(results, numbers, 10 * numbers, [None, "no such user"]))


def test_every_ending_holds_the_same_lines(config, rows, tmp_path, s3_server):
    request, table = table_of(rows)
    assert table.schema == SCHEMA and table["row"].to_pylist() == [1, 2, 3, 4]
    assert table["result"].to_pylist() == ["deleted", "deleted", "invalid", "not_found"]
    assert request.tally == Tally({0: 2}, 1)
    for ending in ("csv", "jsonl", "parquet"):
        path = str(tmp_path / "new folder" / f"r.{ending}")
        assert ResultsFile(Session(config), path, rows).write(table) == path
    lines = [json.loads(x) for x in (tmp_path / "new folder" / "r.jsonl").read_text().splitlines()]
    assert lines == table.to_pylist() == pq.read_table(tmp_path / "new folder" / "r.parquet").to_pylist()
    text = (tmp_path / "new folder" / "r.csv").read_text().splitlines()
    assert text[0].replace('"', "") == "row,result,removed_interactions,removed_events,reason"
    assert len(text) == 5 and "example" not in "".join(text)
    storage = {"endpoint_url": s3_server.endpoint_url, "region": s3_server.region}
    remote = small_config(config.interactions, f"s3://lake/{uuid.uuid4().hex}", storage=storage)
    uri = f"s3://lake/{uuid.uuid4().hex}/r.parquet"
    ResultsFile(Session(remote), uri, rows).write(table)
    filesystem, path = filesystem_for(uri, s3_server)
    assert pq.read_table(path, filesystem=filesystem).equals(table)
    with pytest.raises(InputError, match="is under `output`"):
        ResultsFile(Session(remote), f"{remote.output}/r.csv", rows)


def test_a_file_of_nothing_but_invalid_rows_gives_a_whole_table(tmp_path):
    (tmp_path / "r.csv").write_text("user_id,item_id\n,\n,\n")
    request = parse_request(None, None, None, str(tmp_path / "r.csv"), None, AWS)
    empty = np.empty(0, dtype=np.int64)
    table = result_rows(request, Outcome([], empty, empty, []))
    assert table["result"].to_pylist() == ["invalid"] * 2
    assert Outcome([], empty, empty, []).counts(request.tally)["invalid"] == 2
    assert result_rows(parse_request("a", None, None, None, None, AWS), Outcome([], empty, empty, [])).num_rows == 0


def test_whoever_carries_a_request_out_knows_its_rows(config, rows):
    pipeline.ingest(config)
    session = Session(config)
    request = parse_request(None, None, None, rows, "r", AWS)
    accept(session, request)
    read = read_accepted(session, Ledger(session.log.records()).tickets["r"])
    assert read == request and read.tally == request.tally == Tally({0: 2}, 1)
    plain = parse_request(f"{user_name(1)},nobody", None, None, None, "r", AWS)
    accept(session, plain)  # the same content, however it was written
    assert plain == request and plain.tally == Tally()


def test_a_dry_run_tells_rows_without_workers(config, rows, tmp_path, monkeypatch):
    pipeline.ingest(config)
    commit_train(config)
    monkeypatch.setattr("unlearnrec.cluster.commands.forget.able_version", lambda session: session.version())
    answer = pipeline.forget(config, requests=rows, dry_run=True, results=str(tmp_path / "r.csv"))
    assert answer["rows"] == {"deleted": 2, "not_found": 1, "already_gone": 0, "invalid": 1}
    assert answer["removed_interactions"] == answer["removed_events"] == 4 and answer["estimated_seconds"] is None
    commit_forget(config, user_name(1), "earlier")
    monkeypatch.setattr(
        "unlearnrec.cluster.lifecycle.preview.estimated_seconds", lambda *_: None
    )  # its answer has no seconds
    answer = pipeline.forget(config, requests=rows, dry_run=True, results=str(tmp_path / "r.csv"))
    assert answer["rows"] == {"deleted": 0, "not_found": 1, "already_gone": 2, "invalid": 1}


def test_a_file_without_rows_is_answered_and_not_accepted(config, tmp_path):
    pipeline.ingest(config)
    commit_train(config)
    commit_encoder(config)
    head = Session(config).log.head()
    rows, lines = tmp_path / "r.csv", tmp_path / "lines.csv"
    rows.write_text("user_id,item_id\n")
    for request_id in (None, "nightly"):
        answer = pipeline.forget(config, requests=str(rows), request_id=request_id, results=str(lines))
        assert answer["request_id"] == request_id and answer["status"] == "nothing_to_forget" and answer["version"] == 2
        assert (answer["removed_interactions"], answer["affected_partitions"], answer["seconds"]) == (0, [], 0.0)
        assert set(answer["rows"].values()) == {0} and len(lines.read_text().splitlines()) == 1
    dry = pipeline.forget(config, requests=str(rows), dry_run=True)
    assert dry["status"] == "dry_run" and dry["removed_interactions"] == 0
    assert Session(config).log.head() == head and Session(config).store.list("requests") == ["requests/key"]


# ---- how long it will take -------------------------------------------------------------------------------------------


def ledger_of(*made, ingests="i"):
    """made: (seconds until the commit, seconds in the evidence or None, interactions) of each version."""
    records = []

    def add(kind, body):
        records.append(Record(len(records) + 1, kind, datetime.now(UTC).isoformat(), body, ""))

    for version, (seconds, told, removed) in enumerate(made, start=1):
        answer = {"version": version, "seconds": seconds, "removed_interactions": removed}
        graph = {"interactions": 100, "ingest": ingests[min(version, len(ingests)) - 1]}
        answers = {f"r{version}": answer}
        add("committed", {"manifest": manifest_document(version, "forget", graph=graph, answers=answers)})
        if told is not None:
            add("evidence", {"request_id": f"r{version}", "version": version, "seconds": told})
    return Ledger(records)


def test_an_estimate_comes_from_the_log_or_there_is_none():
    assert estimated_seconds(Ledger(), 5) is None
    assert estimated_seconds(ledger_of((9.0, None, 5), (1.0, 2.0, 5), ingests="ij"), 5) == 2.0
    assert estimated_seconds(ledger_of((1.0, 3.0, 5), (1.0, 4.0, 50), (2.0, None, 8)), 5) == 3.0
    assert estimated_seconds(ledger_of((1.0, 3.0, 5), (1.0, 4.0, 50), (2.0, None, 8)), 500) == 30.0
    assert estimated_seconds(ledger_of((2.0, None, 0)), 7) == 14.0
    assert estimated_seconds(ledger_of(*[(9.0, 9.0, 1)] * 50, *[(1.0, 1.0, 1)] * LATEST), 1) == 1.0
