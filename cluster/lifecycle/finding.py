"""What requests remove from a graph, found in its stored shards instead of by workers."""

from __future__ import annotations

from collections.abc import Sequence

from ...distributed.graph.removal import Found, merged
from ...partitioning.ingest import load_assignment, load_ids, load_shard
from ...partitioning.manifest import Graph
from ...partitioning.storage import Store
from ..requests.matching import Resolved, asked_of, resolve, union
from ..requests.request import Request


def find_stored(store: Store, graph: Graph, requests: Sequence[Request]) -> tuple[list[Resolved], Found]:
    """(what each request means in this graph, all that they name there). One shard is in memory at a time.

    Raises:
        InputError: a file of the graph is missing or damaged.
    """
    maps = [load_ids(store, graph, side) for side in ("user", "item")]
    named = [resolve(request, maps[0], maps[1], graph.time) for request in requests]
    removal, timed = union(named)
    asked = asked_of(load_assignment(store, graph), removal, timed)
    return named, merged([removal.find(load_shard(store, graph, k), timed) for k in asked])
