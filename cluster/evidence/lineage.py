"""A request as an OpenLineage event: what was read, what was made, how much was removed. A plain object, no library.

It says what the evidence and the manifest say, names no user and no item, and the same request gives the same event.
docs/evidence.md; the schema of the run facet is docs/lineage/DeletionRequestRunFacet.json.
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
"""The namespace of run ids."""

COUNTS = ("removed_interactions", "removed_events", "deleted_users", "deleted_items", "touched_nodes")
_PINNED = ("version", "snapshot", "timestamp")


def run_event(document: Mapping[str, Any], sha256: str, graph: Graph, output: str) -> dict[str, Any]:
    """The event of a committed request.

    Args:
        document, sha256: its evidence, and the hash of that. graph: of the version that it made, for the table that was
            ingested. output: where the output lies.
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
    """Namespace and name by OpenLineage's convention: s3://BUCKET and the key, file and the path; of a table of a catalog
    iceberg://CATALOG and NAMESPACE.TABLE."""
    place = uri
    try:
        location = parse_location(uri)
        if location.catalog is not None:
            return {"namespace": f"{ICEBERG}://{location.catalog[0]}", "name": location.catalog[1]}
        place = location.place
        scheme, path = split_uri(place)
    except InputError:  # it was read, so that it means something; here only its name is needed
        return {"namespace": "file", "name": place}
    if scheme == "s3":
        bucket, _, key = path.partition("/")
        return {"namespace": f"s3://{bucket}", "name": key or "/"}
    return {"namespace": "file", "name": os.path.abspath(path)}


def _state(table: Mapping[str, Any] | None) -> str | None:
    """The state of the table that was read, as the manifest of the graph pins it; None for a table without versions."""
    table = table or {}
    return next((str(table[name]) for name in _PINNED if table.get(name) is not None), None)
