"""The event of OpenLineage beside the evidence: its shape, what it says, and that a request does not need it."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
from fake_workers import FakeWorkers
from small_output import commit_encoder, commit_train, small_config, user_name, write_interactions

import unlearnrec
from unlearnrec.cluster import pipeline
from unlearnrec.cluster.evidence.lineage import FACET, FACET_SCHEMA, _dataset, run_event
from unlearnrec.cluster.layout import lineage_name, report_name
from unlearnrec.cluster.output.session import Session
from unlearnrec.partitioning.storage import Store

SCHEMA = json.loads(
    Path(unlearnrec.__file__).with_name("docs").joinpath("lineage/DeletionRequestRunFacet.json").read_text()
)

# What spec 2-0-2 asks of a RunEvent, as far as an event of ours goes.
URI = {"type": "string", "pattern": r"^[a-z][a-z0-9+.-]*:\S+$"}
TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"}
FACETS = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "properties": {"_producer": URI, "_schemaURL": URI},
        "required": ["_producer", "_schemaURL"],
    },
}
DATASET = {
    "type": "object",
    "properties": {"namespace": {"type": "string"}, "name": {"type": "string"}, "facets": FACETS},
    "required": ["namespace", "name"],
}
RUN_EVENT = {
    "type": "object",
    "properties": {
        "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "eventTime": TIME,
        "producer": URI,
        "schemaURL": URI,
        "run": {
            "type": "object",
            "properties": {"runId": {"type": "string", "format": "uuid"}, "facets": FACETS},
            "required": ["runId"],
        },
        "job": {
            "type": "object",
            "properties": {"namespace": {"type": "string"}, "name": {"type": "string"}, "facets": FACETS},
            "required": ["namespace", "name"],
        },
        "inputs": {"type": "array", "items": DATASET},
        "outputs": {"type": "array", "items": DATASET},
    },
    "required": ["eventTime", "producer", "schemaURL", "run", "job"],
}


def check(document, schema):
    jsonschema.validate(
        document, schema, cls=jsonschema.Draft202012Validator, format_checker=jsonschema.FormatChecker()
    )


@pytest.fixture
def config(tmp_path):
    config = small_config(
        write_interactions(tmp_path / "events.parquet"),
        str(tmp_path / "output"),
        forget={"max_share": 0.9, "gate_gap_closed": None, "gate_recall_loss": None, "gate_change": None},
    )
    pipeline.ingest(config)
    commit_train(config)
    commit_encoder(config)
    return config


def forget(config, **more):
    return pipeline.forget(config, users=user_name(3), request_id="r", group=FakeWorkers(Session(config).store), **more)


def event_of(config):
    return json.loads(Session(config).store.read(lineage_name("r")))


def test_the_event_has_the_shape_of_openlineage_and_says_what_the_evidence_says(config):
    answer, session = forget(config), Session(config)
    event, report = event_of(config), session.store.read(report_name("r"))
    check(event, RUN_EVENT)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    facet = event["run"]["facets"][FACET]
    check(facet, SCHEMA)
    assert facet["_schemaURL"] == FACET_SCHEMA == f"{SCHEMA['$id']}#/$defs/DeletionRequestRunFacet"
    assert facet["evidence"]["sha256"] == session.store.sha256(report) == session.ledger().evidence["r"]["sha256"]
    assert facet["evidence"]["checksFailed"] == answer["evidence_failed"] == []
    assert facet["removed"]["removed_interactions"] == answer["removed_interactions"] > 0
    assert (facet["versionBefore"], facet["versionAfter"]) == (answer["version"] - 1, answer["version"])
    assert event["inputs"] == [{"namespace": "file", "name": config.interactions}]
    assert event["outputs"][0]["name"] == config.output
    assert event["outputs"][0]["facets"]["version"]["datasetVersion"] == str(answer["version"])
    assert not re.search(rf"{user_name(3)}|item-", json.dumps(event)), "nobody is named"


def test_a_table_with_versions_is_named_with_the_one_that_was_pinned(config):
    forget(config)
    session = Session(config)
    document, graph = json.loads(session.store.read(report_name("r"))), session.version().graph
    for source, table, dataset, state in (
        ("delta://s3://lake/t/x?version=3", {"version": 3}, {"namespace": "s3://lake", "name": "t/x"}, "3"),
        ("iceberg://shop/web.events", {"snapshot": 77}, {"namespace": "iceberg://shop", "name": "web.events"}, "77"),
    ):
        event = run_event(document, "0" * 64, graph.replaced(source=source, table=table), config.output)
        check(event, RUN_EVENT)
        (found,) = event["inputs"]
        assert found.pop("facets")["version"]["datasetVersion"] == state and found == dataset
    assert _dataset("s3://bucket") == {"namespace": "s3://bucket", "name": "/"}
    assert event["run"]["runId"] == event_of(config)["run"]["runId"], "the same request is the same run"


def test_what_keeps_it_from_being_written_undoes_nothing_and_a_repetition_writes_it(config, monkeypatch):
    write = Store.write

    def full(self, path, data):
        if "lineage" in path:
            raise OSError("no space left on device")
        write(self, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", full)
        answer = forget(config)
    session = Session(config)
    assert answer["status"] == "committed" and answer["evidence"] == report_name("r")
    assert not session.store.exists(lineage_name("r")) and session.ledger().evidence["r"]
    head = session.log.head()
    assert forget(config)["repeated"] and Session(config).log.head() == head
    check(event_of(config), RUN_EVENT)
    assert pipeline.verify(config, "r")["ok"]
