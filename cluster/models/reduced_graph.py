"""Make the graph of a new version from which interactions were removed: its shards, id maps and counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...distributed.graph.removal import Removal
from ...distributed.partition.partition import Partition
from ...distributed.partition.results import Deleted, Reduced
from ...partitioning.delta import GoneNodes
from ...partitioning.ingest import id_map_bytes, left_of, load_gone, load_ids
from ...partitioning.manifest import File, IngestedGraph
from ...workers import WorkerGroup, calling
from ..output.manifest import file_entries
from ..output.session import Session

Ids = npt.NDArray[np.int64]

SMALL_MAP_BYTES = 2**20
"""A file of an id map below this size is written anew when it loses nodes."""


def new_graph(
    session: Session,
    graph: IngestedGraph,
    number: int,
    shards: Mapping[int, tuple[Sequence[str], Mapping[str, File]]],
    gone: tuple[Ids, Ids],
    removed_interactions: int,
    removed_events: int,
) -> IngestedGraph:
    """The graph's part of a manifest with some shards changed and some nodes deleted.

    Large id maps stay the same files; a small new file names all nodes that were deleted since these were written. `users`
    and `items` stay the same: they are the ranges of the dense ids, and a dense id is never used again. `live_users` and
    `live_items` count the nodes that are left.

    Args:
        number: the number of the version, for the names of its files.
        shards: by partition: the chain of files of each changed shard, and what is known of new files among them.
        gone: (users, items) that are deleted, by dense id.
        removed_interactions, removed_events: how many left the graph.
    """
    known = dict(graph.files)
    chains = list(graph.shard_chains)
    for k, (chain, new) in shards.items():
        chains[k] = tuple(chain)
        known |= new
    changed: dict[str, Any] = {
        f"live_{side}s": graph.live(side) - len(nodes) for side, nodes in zip(("user", "item"), gone, strict=True)
    }
    later: dict[str, Ids] = {}
    for side, nodes in zip(("user", "item"), gone, strict=True):
        if len(nodes) and graph.files[graph.id_file(side)].bytes < SMALL_MAP_BYTES:
            name = session.versions.new_name(number, f"{side}s", "parquet")
            ids = left_of(load_ids(session.store, graph, side), nodes, graph.nodes(side))
            known[name] = session.versions.put(name, id_map_bytes(side, ids))
            changed[f"{side}_file"] = name
        elif len(nodes):
            later[side] = nodes
    if later:
        before, nobody = load_gone(session.store, graph), np.empty(0, dtype=np.int64)
        ends = (np.union1d(before.of(side), later.get(side, nobody)) for side in ("user", "item"))
        name = session.versions.new_name(number, "gone", "safetensors")
        known[name] = session.versions.put(name, GoneNodes(*ends).to_bytes())
        changed["gone_file"] = name
    deltas = tuple(chain[1:] for chain in chains)
    if any(deltas) or graph.shard_deltas is not None:
        changed["shard_deltas"] = deltas
    made = graph.replaced(
        interactions=graph.interactions - removed_interactions,
        events=graph.events - removed_events,
        shard_files=tuple(chain[0] for chain in chains),
        **changed,
    )
    return made.replaced(files={name: known[name] for name in made.named_files()})


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
    shards = {k: ((results[k]["shard"]["name"],), file_entries([results[k]["shard"]])) for k in partitions}
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
