"""Finds what requests remove from a graph, in the partitions that know it: by workers, or in stored shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...distributed.graph.removal import Found, Ids, Removal, merged
from ...distributed.partition.partition import Partition
from ...partitioning.assignment import Assignment
from ...partitioning.ingest import load_shard
from ...partitioning.manifest import Graph
from ...partitioning.storage import Store
from ...workers import WorkerGroup, calling
from ..output.id_maps import SIDES, IdMaps
from ..output.manifest import Manifest
from ..output.session import Session
from ..requests.matching import Resolved, partitions_to_ask, resolve_all, union
from ..requests.request import Request


@dataclass(frozen=True, eq=False)
class Route:
    """What some requests mean in a graph, and which partitions know what they remove."""

    named: Mapping[str, Resolved]
    """Request id -> what the request means in the graph."""
    removal: Removal
    """All that the requests name together, without time ranges."""
    timed: Ids
    """The dense ids [n] of the users for whom the times of events are needed."""
    owners: Assignment
    partitions: list[int]
    """The partitions to ask: those that own something that is named. Together they know all that the requests remove."""


def route(id_maps: IdMaps, graph: Graph, requests: Sequence[Request]) -> Route:
    """Look up the dense ids of what these requests name, and which partitions to ask.

    Raises:
        InputError: a file of the graph is missing or damaged.
    """
    maps = [id_maps.of(graph, side) for side in SIDES]
    resolved = resolve_all(requests, maps[0], maps[1], graph.time)
    named = {request.request_id: one for request, one in zip(requests, resolved, strict=True)}
    owners = id_maps.owners(graph)
    removal, timed = union(named.values())
    return Route(named, removal, timed, owners, partitions_to_ask(owners, removal, timed))


def find_by_workers(session: Session, group: WorkerGroup, version: Manifest, way: Route) -> Found:
    """Ask the workers for all that is in a version of what the requests of `way` name. Only workers of the partitions of
    `way` are called.

    Raises:
        InputError, WorkerFailure: as `Session.call`.
    """
    if not way.partitions:
        return merged([])
    find = calling(Partition.find, way.removal, way.timed)
    return merged(session.call(group, version, find, partitions=way.partitions))


def find_stored(
    store: Store, graph: Graph, requests: Sequence[Request], id_maps: IdMaps | None = None
) -> tuple[list[Resolved], Found]:
    """Find, in the stored shards and without workers, all that a graph has of what these requests name.

    Returns (what each request means in the graph, all that was found). One shard is in memory at a time.

    id_maps: id maps that are kept in memory already; None reads them from the store.

    Raises:
        InputError: a file of the graph is missing or damaged.
    """
    way = route(id_maps or IdMaps(store), graph, requests)
    found = [way.removal.find(load_shard(store, graph, k), way.timed) for k in way.partitions]
    return list(way.named.values()), merged(found)
