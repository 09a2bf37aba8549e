"""The sizes of a graph that plans are made from: exact where it was ingested, else estimated from a table or numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...partitioning.halo import chosen
from ...partitioning.ingest import load_assignment
from ...partitioning.manifest import Graph
from ...partitioning.storage import Store

SHARD_NODE, SHARD_ENTRY = 16, 8
"""Bytes of a shard's file for each of its nodes and for each entry of its rows."""
METIS_ROWS = 0.6
"""Of the rows that a partition by hash exchanges, the share that METIS leaves, where nothing was ingested yet. On Gowalla it
leaves a quarter, on dense graphs nine tenths (benchmarks/results/partitioning-*.md)."""


@dataclass(frozen=True)
class PartSizes:
    """The sizes of one partition: its nodes, its items among them, the entries of its rows (each interaction is one at its
    user and one at its item), the interactions of its users, and the rows that it receives in one layer."""

    nodes: int
    items: int
    entries: int
    pairs: int
    received: int


@dataclass(frozen=True)
class Sizes:
    """The sizes of a whole graph and of its partitions. `exact`: it was ingested, so that nothing is estimated."""

    users: int
    items: int
    interactions: int
    parts: Sequence[PartSizes]
    exact: bool

    @property
    def nodes(self) -> int:
        """Users and items."""
        return self.users + self.items

    @property
    def rows_per_layer(self) -> int:
        """Rows that all partitions together receive in one layer."""
        return sum(part.received for part in self.parts)


def sizes_of_graph(store: Store, graph: Graph, halo: str) -> Sizes:
    """The sizes of an ingested graph. Reads the owners of its nodes, not its shards."""
    owners = load_assignment(store, graph)
    users, items = (
        np.bincount(owner, minlength=graph.partitions) for owner in (owners.owner_of_user, owners.owner_of_item)
    )
    # A plan that `ingest` did not count sends no more rows than `pull`.
    rows = graph.rows_per_layer.get(chosen(halo, graph.rows_per_layer), graph.rows_per_layer["pull"])
    parts = []
    for k, name in enumerate(graph.shard_files):
        nodes = int(users[k] + items[k])
        # Times of events are in the file too, and are 8 bytes an event at its user.
        timed = 8 * graph.events / graph.partitions if graph.time is not None else 0
        entries = max(0, int((graph.files[name].bytes - SHARD_NODE * nodes - timed) / SHARD_ENTRY))
        share = users[k] / max(1, graph.users)
        pairs = round((entries / 2 + share * graph.interactions) / 2)
        parts.append(PartSizes(nodes, int(items[k]), entries, pairs, round(rows / graph.partitions)))
    return Sizes(graph.users, graph.items, graph.interactions, parts, exact=True)


def estimated_sizes(users: int, items: int, interactions: int, partitions: int, strategy: str) -> Sizes:
    """The sizes of a graph that is not there yet, with partitions of equal size."""
    received = 0.0
    for nodes in (users, items):
        degree = interactions / max(1, nodes)
        # The other partitions that have a neighbour of a node, if its neighbours are spread by chance.
        received += nodes * (partitions - 1) * (1 - (1 - 1 / partitions) ** degree)
    received *= METIS_ROWS if strategy == "metis" else 1.0
    part = PartSizes(
        math.ceil((users + items) / partitions),
        math.ceil(items / partitions),
        math.ceil(2 * interactions / partitions),
        math.ceil(interactions / partitions),
        round(received / partitions),
    )
    return Sizes(users, items, interactions, [part] * partitions, exact=False)
