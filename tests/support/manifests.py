"""Manifests of versions of which a test says only what it is about."""

from __future__ import annotations

from typing import Any

from unlearnrec.cluster.output.manifest import Manifest, read_manifest


def graph_document(**changes: Any) -> dict[str, Any]:
    """The JSON of a graph of nothing, with these keys changed."""
    plain: dict[str, Any] = {"format": 1, "users": 0, "items": 0, "interactions": 0, "events": 0}
    plain |= {"partitions": 1, "strategy": "hash", "seed": 1, "halo": "pull", "edge_cut": 0.0, "balance": 1.0}
    plain |= {"rows_per_layer": {"pull": 0, "cover": 0}, "id_type": {"user": "string", "item": "string"}}
    plain |= {"source": "t", "user_file": "graph/u", "item_file": "graph/i", "shard_files": ["graph/s"], "files": {}}
    return plain | {"log_head": 0, "ingested_interactions": 0, "ingest": "an ingest"} | changes


def manifest_document(
    version: int = 1, reason: str = "train", graph: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """The JSON of a version without files. graph: keys of its graph, which is that to train on too."""
    made = graph_document(**(graph or {}))
    model: dict[str, Any] = {"backbone": {}, "seed": 1, "embeddings": [], "dense": None, "encoder": None, "train": {}}
    plain: dict[str, Any] = {"format": 1, "reason": reason, "graph": made, "lake_graph": made, "files": {}}
    return plain | {"model": model | {"trained_on": []}, "version": version} | changes


def made_manifest(version: int = 1, reason: str = "train", **changes: Any) -> Manifest:
    """The same, read."""
    return read_manifest(manifest_document(version, reason, **changes), "a test")
