"""Make the graph of a new version from which interactions were removed: its shards, id maps and counts."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ...distributed.graph.removal import Removal
from ...distributed.partition.partition import Partition
from ...distributed.partition.results import Deleted, Reduced, Written
from ...partitioning.ingest import load_ids
from ...partitioning.manifest import File, IngestedGraph
from ...workers import WorkerGroup, calling
from ..output.session import Session

Ids = npt.NDArray[np.int64]


def new_graph(
    session: Session,
    graph: IngestedGraph,
    number: int,
    shards: Mapping[int, Written],
    gone: tuple[Ids, Ids],
    removed_interactions: int,
    removed_events: int,
) -> IngestedGraph:
    """The graph's part of a manifest with some shards replaced and some nodes deleted.

    New id maps are written without the external ids of the deleted nodes. `users` and `items` stay the same: they are the
    ranges of the dense ids, and a dense id is never used again. `live_users` and `live_items` count the nodes that are
    left.

    Args:
        number: the number of the version, for the names of its files.
        shards: the new file of each changed shard, by partition.
        gone: (users, items) that are deleted, by dense id.
        removed_interactions, removed_events: how many left the graph.
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
            continue  # the id map stays the same file
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
) -> tuple[IngestedGraph, list[Reduced]]:
    """Write the shards and the rows of E0 without the interactions of `removal`, and without the nodes that lost their last
    interaction.

    embeddings: the present files of the rows, one for each partition. number: the number of the version, for file names.

    Returns:
        (the graph without `removal`, the workers' results, which name the new files).
    """
    partitions = range(graph.partitions)
    names = [
        (
            session.versions.new_name(number, f"shard-{k:03d}", "safetensors"),
            session.versions.new_name(number, f"embeddings-{k:03d}", "safetensors"),
        )
        for k in partitions
    ]
    results = group.run(
        calling(Partition.reduce, session.location, graph, removal, list(embeddings), names),
        restore=lambda: None,
        max_rebuilds=session.config.cluster.max_rebuilds,
    )
    gone = merged_gone(results)
    shards = {k: results[k]["shard"] for k in partitions}
    removed, events = sum(r["removed"] for r in results), sum(r["removed_events"] for r in results)
    return new_graph(session, graph, number, shards, gone, removed, events), results


def merged_gone(results: Iterable[Deleted]) -> tuple[Ids, Ids]:
    """(users, items) that the workers deleted, by dense id, from the results of all partitions."""
    empty: Ids = np.empty(0, dtype=np.int64)
    users, items = [empty], [empty]
    for result in results:
        users.append(result["gone_users"])
        items.append(result["gone_items"])
    return np.concatenate(users), np.concatenate(items)
