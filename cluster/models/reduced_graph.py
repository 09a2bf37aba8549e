"""The graph of a version after interactions left it: shards, id maps and counts."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ...distributed.graph.removal import Removal
from ...partitioning.ingest import load_ids
from ...partitioning.manifest import File, IngestedGraph
from ...workers import WorkerGroup
from ..output.session import Session

Ids = npt.NDArray[np.int64]


def new_graph(
    session: Session,
    graph: IngestedGraph,
    number: int,
    shards: Mapping[int, dict[str, Any]],
    gone: tuple[Ids, Ids],
    removed_interactions: int,
    removed_events: int,
) -> IngestedGraph:
    """The graph's manifest with some partitions' shards replaced ({"name", "sha256", "bytes"} each) and nodes deleted.

    The id maps are rewritten without the deleted nodes' external ids. `users` and `items` stay: they are the range of
    dense ids, which are never used again; `live_users` and `live_items` count.
    """
    files, shard_files = dict(graph.files), list(graph.shard_files)
    for k, file in shards.items():
        files.pop(shard_files[k])
        shard_files[k] = file["name"]
        files[file["name"]] = File(sha256=file["sha256"], bytes=file["bytes"])
    changed: dict[str, Any] = {}
    for side, nodes in zip(("user", "item"), gone, strict=True):
        changed[f"live_{side}s"] = graph.live(side) - len(nodes)
        if not len(nodes):
            continue
        ids, node, owner = load_ids(session.store, graph, side)
        keep = pa.array(~np.isin(node, nodes))
        table = pa.table({f"{side}_id": ids, "node": pa.array(node), "owner": pa.array(owner)}).filter(keep)
        sink = io.BytesIO()
        pq.write_table(table, sink)
        name = session.versions.new_name(number, f"{side}s", "parquet")
        files.pop(graph.id_file(side))
        files[name] = session.versions.put(name, sink.getvalue())
        changed[f"{side}_file"] = name
    return graph.replaced(
        interactions=graph.interactions - removed_interactions,
        events=graph.events - removed_events,
        shard_files=tuple(shard_files),
        files=files,
        **changed,
    )


def reduced_graph(
    session: Session, group: WorkerGroup, graph: IngestedGraph, removal: Removal, embeddings: Sequence[str], number: int
) -> tuple[IngestedGraph, list[dict[str, Any]]]:
    """(the graph without `removal`, results of the workers): shards and rows of E0 without it and without nodes that
    lost their last interaction, each partition's in files of its own. `embeddings` are the rows' files so far."""
    partitions = range(graph.partitions)
    names = [
        (
            session.versions.new_name(number, f"shard-{k:03d}", "safetensors"),
            session.versions.new_name(number, f"embeddings-{k:03d}", "safetensors"),
        )
        for k in partitions
    ]
    results = group.run(
        "reduce",
        session.location,
        graph,
        removal,
        list(embeddings),
        names,
        restore=lambda: None,
        max_rebuilds=session.config.cluster.max_rebuilds,
    )
    gone = merged_gone(results)
    shards = {k: results[k]["shard"] for k in partitions}
    removed, events = (sum(r[name] for r in results) for name in ("removed", "removed_events"))
    return new_graph(session, graph, number, shards, gone, removed, events), results


def merged_gone(results: Sequence[Mapping[str, Any]]) -> tuple[Ids, Ids]:
    """(users, items) that the workers deleted."""
    empty = np.empty(0, dtype=np.int64)
    users, items = (np.concatenate([empty, *(r[f"gone_{side}"] for r in results)]) for side in ("users", "items"))
    return users, items
