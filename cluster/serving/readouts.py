"""A version's readouts in the service's own memory, from which it answers recommendations while the workers forget.

Shape legend: U, I = users and items there are; D = columns of the readout; n = interactions of these users.

Memory: 4 (U + I) D bytes for the rows, 4 n + 8 U for what users have seen, and about 200 bytes an id for the two maps.
While a new version replaces the old one, both are there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...distributed.partition.files import read_file
from ...partitioning.delta import ShardDelta
from ...partitioning.ingest import load_gone, load_ids, load_shard
from ...partitioning.manifest import Graph
from ...partitioning.mapped import contains
from ...partitioning.shard import distinct, spans
from ..output.id_maps import SIDES
from ..output.manifest import Manifest
from ..output.session import Session
from ..requests.request import Id

_NOBODY: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
_INTEGER = re.compile(r"-?[0-9]{1,19}")


@dataclass(frozen=True, eq=False)
class Readouts:
    """What recommendations are made of. It is never changed, but replaced as a whole.

    Shapes: user_rows float32 [U, D], seen_indptr int64 [U + 1], seen int32 [n] (positions of items), item_rows float32
    [I, D], item_there bool [I].
    """

    version: int
    users: Mapping[Id, int]
    """External id -> position."""
    items: Sequence[Id]
    """External ids by position."""
    user_rows: npt.NDArray[np.float32]
    item_rows: npt.NDArray[np.float32]
    seen_indptr: npt.NDArray[np.int64]
    seen: npt.NDArray[np.int32]
    item_there: npt.NDArray[np.bool_]
    user_nodes: npt.NDArray[np.int64] = field(default_factory=lambda: _NOBODY)
    """[U] Dense ids by position."""
    item_nodes: npt.NDArray[np.int64] = field(default_factory=lambda: _NOBODY)
    """[I] Dense ids by position."""
    hidden: frozenset[Id] = frozenset()
    """External ids of users that are not served any more."""

    def recommend(self, user: str, k: int) -> list[dict[str, Any]] | None:
        """The k best items for a user, without those of the user's interactions; None where there is no such user."""
        place = self._position(user)
        if place is None:
            return None
        scores = self.item_rows @ self.user_rows[place]
        scores[~self.item_there] = -np.inf
        scores[self.seen[self.seen_indptr[place] : self.seen_indptr[place + 1]]] = -np.inf
        k = min(k, len(scores))
        best = np.argpartition(-scores, k - 1)[:k] if k else np.empty(0, dtype=np.int64)
        best = best[np.lexsort((best, -scores[best]))]
        return [
            {"item_id": self.items[i], "score": float(scores[i]), "rank": rank}
            for rank, i in enumerate(best.tolist(), start=1)
            if scores[i] > -np.inf
        ]

    def without(self, users: set[Id], items: set[Id]) -> Readouts:
        """The same rows of the same version, but only for these users and items: those that a newer version still has."""
        kept = {name: place for name, place in self.users.items() if name in users}
        there = self.item_there & np.fromiter((name in items for name in self.items), np.bool_, len(self.items))
        return replace(self, users=kept, item_there=there)

    def less(self, users: set[Id], items: set[Id]) -> Readouts:
        """The same rows of the same version, but not for these users and items, which a newer version does not have."""
        there = self.item_there
        if items:
            there = there & np.fromiter((name not in items for name in self.items), np.bool_, len(self.items))
        return replace(self, hidden=self.hidden | users, item_there=there)

    def _position(self, user: str) -> int | None:
        name: Id = user
        found = self.users.get(name)
        if found is None and _INTEGER.fullmatch(user):
            name = int(user)
            found = self.users.get(name)
        return None if name in self.hidden else found


def living_ids(session: Session, version: Manifest) -> tuple[set[Id], set[Id]]:
    """The external ids of the users and items of a version."""
    users, items = (set(load_ids(session.store, version.graph, side)[0].to_pylist()) for side in ("user", "item"))
    return users, items


def gone_since(session: Session, before: Graph, after: Graph) -> tuple[set[Id], set[Id]] | None:
    """The external ids of the users and items that the first graph has and the second has not; None where their id maps are
    not in the same files, so that all ids would have to be compared."""
    if any(before.id_file(side) != after.id_file(side) for side in SIDES):
        return None
    old, new = (load_gone(session.store, graph) for graph in (before, after))
    found = []
    for side in SIDES:
        nodes = np.setdiff1d(new.of(side), old.of(side), assume_unique=True)
        ids, node, _ = session.id_maps.file_of(after, side)
        place = np.searchsorted(node, nodes)
        assert np.array_equal(node[place], nodes), "dense ids ascend with the external ones"
        found.append(set(ids.take(pa.array(place)).to_pylist()))
    return found[0], found[1]


def make_readouts(session: Session, version: Manifest, embeddings: Sequence[tuple[Any, ...]]) -> Readouts:
    """From what the workers' `embeddings` returned and the version's shards and id maps."""
    graph = version.graph
    names = {}
    for side in ("user", "item"):
        ids, node, _ = load_ids(session.store, graph, side)
        names[side] = dict(zip(node.tolist(), ids.to_pylist(), strict=True))
    item_nodes = np.concatenate([items for _, _, items, _ in embeddings])
    place_of_item = np.full(graph.items, -1, dtype=np.int32)
    place_of_item[item_nodes] = np.arange(len(item_nodes), dtype=np.int32)
    users: dict[Id, int] = {}
    lengths, seen = [np.zeros(1, dtype=np.int64)], [np.empty(0, dtype=np.int32)]
    for k, (nodes, _, _, _) in enumerate(embeddings):
        shard = load_shard(session.store, graph, k)
        assert np.array_equal(shard.user_ids, nodes), "the workers hold another graph than the version's"
        for node in nodes.tolist():
            users[names["user"][node]] = len(users)
        lengths.append(np.diff(shard.user_indptr))
        seen.append(place_of_item[shard.user_neighbours])
    return Readouts(
        version=version.version,
        users=users,
        items=[names["item"][node] for node in item_nodes.tolist()],
        user_rows=np.concatenate([rows for _, rows, _, _ in embeddings]),
        item_rows=np.concatenate([rows for _, _, _, rows in embeddings]),
        seen_indptr=np.cumsum(np.concatenate(lengths)),
        seen=np.concatenate(seen),
        item_there=np.ones(len(item_nodes), dtype=bool),
        user_nodes=np.concatenate([nodes for nodes, _, _, _ in embeddings]),
        item_nodes=item_nodes,
    )


LARGEST_SHARE = 0.25
"""Where more than this share of the interactions was removed, readouts are made anew."""


def followed(
    session: Session, before: Manifest, known: Readouts, version: Manifest, embeddings: Sequence[tuple[Any, ...]]
) -> Readouts | None:
    """As `make_readouts`, from those of the version before, with the positions that it has; None if the new one does not
    follow from it by a few removed interactions. No file is read but the deltas that lead there."""
    follows = version.follows
    gone = gone_since(session, before.graph, version.graph)
    if gone is None or follows is None or follows.fingerprint != session.fingerprint(before):
        return None
    deltas = [
        ShardDelta.from_bytes(read_file(session.store, version, name)) for chain in follows.shards for name in chain
    ]
    # A pair whose ends are in two partitions stands in the deltas of both.
    pairs = [np.concatenate([_NOBODY, *(getattr(one, name) for one in deltas)]) for name in ("users", "items")]
    if len(pairs[0]) > LARGEST_SHARE * len(known.seen):
        return None
    places = []
    for total, nodes in ((version.graph.users, known.user_nodes), (version.graph.items, known.item_nodes)):
        place = np.full(total, -1, dtype=np.int64)
        place[nodes] = np.arange(len(nodes))
        places.append(place)
    user_rows, item_rows = np.zeros_like(known.user_rows), np.zeros_like(known.item_rows)
    there = np.zeros_like(known.item_there)
    for users, of_users, items, of_items in embeddings:
        user_rows[places[0][users]], item_rows[places[1][items]] = of_users, of_items
        there[places[1][items]] = True
    entries = _entries_of(known, *(place[ends] for place, ends in zip(places, pairs, strict=True)))
    return replace(
        known,
        version=version.version,
        user_rows=user_rows,
        item_rows=item_rows,
        seen=np.delete(known.seen, entries),
        seen_indptr=known.seen_indptr - np.searchsorted(entries, known.seen_indptr),
        item_there=there,
        hidden=known.hidden | gone[0],
    )


def _entries_of(known: Readouts, users: npt.NDArray[np.int64], items: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where the pairs (users[j], items[j]) [n] stand in `known.seen`, ascending; all are positions. Only the lists of these
    users are looked at, all at once."""
    touched = distinct(users)
    first, end = known.seen_indptr[touched], known.seen_indptr[touched + 1]
    entries, size = spans(first, end), len(known.items)
    there = np.repeat(touched, end - first) * size + known.seen[entries]
    return entries[contains(np.sort(users * size + items), there)]
