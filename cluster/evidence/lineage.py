"""Describe a committed request as an OpenLineage event: what was read, what was made, and how much was removed.

The event is a plain object; no library is needed. It repeats what the evidence and the manifest say, and names no user and
no item. The same request always gives the same event. See docs/evidence.md; the schema of the run facet is
docs/lineage/DeletionRequestRunFacet.json.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ...partitioning.errors import InputError
from ...partitioning.lake.location import ICEBERG, parse_location
from ...partitioning.manifest import Graph
from ...partitioning.storage import split_uri

RUN_EVENT = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
DATASET_VERSION = (
    "https://openlineage.io/spec/facets/1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet"
)
FACET = "unlearnrec_deletionRequest"
FACET_SCHEMA = "urn:unlearnrec:lineage:1-0-0:DeletionRequestRunFacet#/$defs/DeletionRequestRunFacet"
_RUNS = uuid.UUID("7a0e3b0c-5d2f-4b7e-9f0e-3f1c7a52c6d1")
"""The namespace of the run ids, which are UUIDs of version 5."""

COUNTS = ("removed_interactions", "removed_events", "deleted_users", "deleted_items", "touched_nodes")
"""The counts of the report that the event repeats."""
_PINNED = ("version", "snapshot", "timestamp")
"""The keys by which a manifest may identify the state of a table, in order of preference."""


def run_event(document: Mapping[str, Any], sha256: str, graph: Graph, output: str) -> dict[str, Any]:
    """The OpenLineage run event of a committed request.

    Args:
        document: the request's evidence.
        sha256: the hash of the evidence's file.
        graph: the graph of the version that the request made; it names the table that was ingested.
        output: the URI of the output.
    """
    checks = document["verification"]["checks"]
    producer = _producer()
    facet = {
        "_producer": producer,
        "_schemaURL": FACET_SCHEMA,
        "requestId": document["request_id"],
        "commitment": document["commitment"],
        "acceptedAt": document["times"]["accepted"],
        "committedAt": document["times"]["committed"],
        "versionBefore": document["version"]["before"],
        "versionAfter": document["version"]["after"],
        "requestsInVersion": document["requests_in_version"],
        "removed": {name: document["removed"].get(name) for name in COUNTS},
        "evidence": {
            "sha256": sha256,
            "checks": len(checks),
            "checksFailed": [check["name"] for check in checks if check["ok"] is False],
            "checksLeftOut": [check["name"] for check in checks if check["ok"] is None],
        },
        "needsRetrain": document["needs_retrain"],
    }
    table = _dataset(graph.source)
    if (state := _state(graph.table)) is not None:
        table["facets"] = {"version": _dataset_version(producer, state)}
    model = _dataset(output)
    model["facets"] = {"version": _dataset_version(producer, str(document["version"]["after"]))}
    return {
        "eventType": "COMPLETE",
        "eventTime": document["times"]["committed"],
        "producer": producer,
        "schemaURL": RUN_EVENT,
        "run": {
            "runId": str(uuid.uuid5(_RUNS, f"{document['records']['committed']['sha256']} {document['request_id']}")),
            "facets": {FACET: facet},
        },
        "job": {"namespace": "unlearnrec", "name": "forget"},
        "inputs": [table],
        "outputs": [model],
    }


def _producer() -> str:
    try:
        return f"urn:unlearnrec:{version('unlearnrec')}"
    except PackageNotFoundError:
        return "urn:unlearnrec:checkout"


def _dataset_version(producer: str, state: str) -> dict[str, str]:
    return {"_producer": producer, "_schemaURL": DATASET_VERSION, "datasetVersion": state}


def _dataset(uri: str) -> dict[str, Any]:
    """The namespace and name of a dataset, as OpenLineage's naming convention wants them.

    On S3 they are s3://BUCKET and the key; on a disk, "file" and the path; of a catalog's table, iceberg://CATALOG and
    NAMESPACE.TABLE.
    """
    place = uri
    try:
        location = parse_location(uri)
        if location.catalog is not None:
            return {"namespace": f"{ICEBERG}://{location.catalog[0]}", "name": location.catalog[1]}
        place = location.place
        scheme, path = split_uri(place)
    except InputError:  # the table was read once, so the name has a meaning; here only the name itself is needed
        return {"namespace": "file", "name": place}
    if scheme == "s3":
        bucket, _, key = path.partition("/")
        return {"namespace": f"s3://{bucket}", "name": key or "/"}
    return {"namespace": "file", "name": os.path.abspath(path)}


def _state(table: Mapping[str, Any] | None) -> str | None:
    """The state of the table that was ingested, as the manifest of the graph has it; None for a table without versions."""
    table = table or {}
    return next((str(table[name]) for name in _PINNED if table.get(name) is not None), None)
