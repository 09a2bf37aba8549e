"""A shard: one partition's part of the interaction graph, with the rows of the users and items that the partition owns.

An interaction (u, i) is an entry in the row of u, at the owner of u, and an entry in the row of i, at the owner of i. Rows
list their neighbours by ascending global dense id. A sum over a row therefore adds in the same order for any number of
partitions.

Shape legend: u, i = users and items owned here; eu, ei = interactions of those users and of those items;
n = pairs of a request.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load
from scipy.sparse import coo_array, csr_array

from .assignment import Assignment
from .framed import parts_of

BLOCK = 4_194_304
"""Entries whose ends are written out as int64 at a time. All of them at once would take more memory than the shard."""

FORMAT, FORMAT_WITH_TIMES = 1, 2
"""The formats of a file. The second has times of events, which a reader of the first would lose."""

Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""(users [n], items [n]) by global dense id. A pair need not be an interaction; `graph` explains these words."""

ARRAYS = (
    "user_ids",
    "user_indptr",
    "user_neighbours",
    "user_counts",
    "item_ids",
    "item_indptr",
    "item_neighbours",
    "item_counts",
)


@dataclass(frozen=True, eq=False)
class GraphShard:
    """The rows that one partition owns, as two CSR matrices with global column ids: one for users, one for items.

    Shapes:
        user_ids int64 [u]: global dense ids, ascending. user_indptr int64 [u + 1].
        user_neighbours int32 [eu]: global dense ids of items, ascending in each row.
        user_counts int32 [eu]: the number of events of each interaction.
        item_ids [i], item_indptr [i + 1], item_neighbours [ei], item_counts [ei]: likewise, with users as neighbours.
        user_times int64 [sum of user_counts]: the times of the events, entry after entry, ascending in each; None where the
        graph has no times. The rows of items have no times.
    """

    partition: int
    num_partitions: int
    num_users: int
    """The number of users of the whole graph."""
    num_items: int
    """The number of items of the whole graph."""
    user_ids: npt.NDArray[np.int64]
    user_indptr: npt.NDArray[np.int64]
    user_neighbours: npt.NDArray[np.int32]
    user_counts: npt.NDArray[np.int32]
    item_ids: npt.NDArray[np.int64]
    item_indptr: npt.NDArray[np.int64]
    item_neighbours: npt.NDArray[np.int32]
    item_counts: npt.NDArray[np.int32]
    user_times: npt.NDArray[np.int64] | None = None

    def interactions(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """(users, items, counts), each int32 [eu]: the interactions of the users owned here, sorted by (user, item).

        Over all shards every interaction appears exactly once. `build_shards` makes the same shards of all of them together.
        """
        users = np.repeat(self.user_ids.astype(np.int32), np.diff(self.user_indptr))
        return users, self.user_neighbours, self.user_counts

    def entries(self) -> tuple[Pairs, Pairs]:
        """The entries of the users' rows [eu] and of the items' rows [ei], each as int64 (users, items), in stored order."""
        return self.user_entries(), self.item_entries()

    def user_entries(self) -> Pairs:
        """The entries of the users' rows, int64 (users, items) [eu], in stored order."""
        return np.repeat(self.user_ids, np.diff(self.user_indptr)), self.user_neighbours.astype(np.int64)

    def item_entries(self) -> Pairs:
        """The entries of the items' rows, int64 (users, items) [ei], in stored order."""
        return self.item_neighbours.astype(np.int64), np.repeat(self.item_ids, np.diff(self.item_indptr))

    def marked(
        self, wanted: Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.bool_]]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Which entries of the users' rows, bool [eu], and of the items' rows, bool [ei], are wanted.

        wanted: is called with (users, items), int64 [n], of a block of entries after the other, and returns bool [n].
        """
        marks = []
        for side in ("user", "item"):
            ids, indptr, others = (getattr(self, f"{side}_{name}") for name in ("ids", "indptr", "neighbours"))
            mark = np.empty(len(others), dtype=bool)
            for start in range(0, len(others), BLOCK):
                stop = min(start + BLOCK, len(others))
                first, last = np.searchsorted(indptr, start, side="right") - 1, np.searchsorted(indptr, stop)
                nodes = np.repeat(ids[first:last], np.diff(np.clip(indptr[first : last + 1], start, stop)))
                far = others[start:stop].astype(np.int64)
                mark[start:stop] = wanted(nodes, far) if side == "user" else wanted(far, nodes)
            marks.append(mark)
        return marks[0], marks[1]

    def degrees(self) -> npt.NDArray[np.int64]:
        """The number of interactions of each owned node: int64 [u + i], users first."""
        return np.concatenate([np.diff(self.user_indptr), np.diff(self.item_indptr)]).astype(np.int64, copy=False)

    def with_entries(self, users: npt.NDArray[np.bool_], items: npt.NDArray[np.bool_]) -> "GraphShard":
        """A shard with the same rows and only some of their entries.

        users bool [eu], items bool [ei]: which entries of the users' rows and of the items' rows are kept.
        """
        arrays: dict[str, Any] = {"user_times": self._times_of(users)}
        for side, kept in (("user", users), ("item", items)):
            arrays[f"{side}_indptr"] = np.concatenate([[0], np.cumsum(kept)])[getattr(self, f"{side}_indptr")]
            for name in ("neighbours", "counts"):
                arrays[f"{side}_{name}"] = getattr(self, f"{side}_{name}")[kept]
        return replace(self, **arrays)

    def without(self, users: npt.ArrayLike, items: npt.ArrayLike) -> "GraphShard":
        """This shard without the pairs (users[j], items[j]), global dense ids [n], in the rows of both sides.

        Pairs that are not in this shard are ignored, and a pair may be named twice. Nodes keep their rows, even if these are
        empty then. The search costs O(n log degree). Arrays that lose something are copied; the others are shared with this
        shard.
        """
        users_n, items_n = np.asarray(users, dtype=np.int64), np.asarray(items, dtype=np.int64)
        gone_users = places_of(self.user_ids, self.user_indptr, self.user_neighbours, users_n, items_n)
        gone_items = places_of(self.item_ids, self.item_indptr, self.item_neighbours, items_n, users_n)
        user_rows = _drop(self.user_indptr, self.user_neighbours, self.user_counts, gone_users)
        item_rows = _drop(self.item_indptr, self.item_neighbours, self.item_counts, gone_items)
        kept = np.ones(len(self.user_neighbours), dtype=bool)
        kept[gone_users] = False
        return replace(
            self,
            user_times=self._times_of(kept) if len(gone_users) else self.user_times,
            user_indptr=user_rows[0],
            user_neighbours=user_rows[1],
            user_counts=user_rows[2],
            item_indptr=item_rows[0],
            item_neighbours=item_rows[1],
            item_counts=item_rows[2],
        )

    def thinned(
        self, users: npt.ArrayLike, items: npt.ArrayLike, counts: npt.ArrayLike, times: npt.ArrayLike
    ) -> "GraphShard":
        """This shard with fewer events of the pairs (users[j], items[j]).

        users, items: [n], global dense ids, sorted by (user, item), each pair once. counts: [n], how many events of each are
        left, at least one. times: [sum of counts], the times of these events, pair after pair.

        Pairs that are not in this shard are ignored. The shard must have times.
        """
        assert self.user_times is not None
        users_n, items_n = np.asarray(users, dtype=np.int64), np.asarray(items, dtype=np.int64)
        counts_n, times_n = np.asarray(counts, dtype=np.int32), np.asarray(times, dtype=np.int64)
        user_counts, item_counts = self.user_counts.copy(), self.item_counts.copy()
        by_item = np.lexsort((users_n, items_n))
        of_items = by_item[np.isin(items_n[by_item], self.item_ids)]
        item_counts[
            places_of(self.item_ids, self.item_indptr, self.item_neighbours, items_n[of_items], users_n[of_items])
        ] = counts_n[of_items]
        here = np.isin(users_n, self.user_ids)
        places = places_of(self.user_ids, self.user_indptr, self.user_neighbours, users_n[here], items_n[here])
        user_counts[places] = counts_n[here]
        kept = np.ones(len(user_counts), dtype=bool)
        kept[places] = False
        # The events of all other pairs, and those that are left of these pairs, are put into the order of their entries.
        entry = np.repeat(np.arange(len(user_counts)), np.where(kept, user_counts, 0))
        entries = np.concatenate([entry, np.repeat(places, counts_n[here])])
        new = np.concatenate([self._times_of(kept), times_n[np.repeat(here, counts_n)]])
        order = np.argsort(entries, kind="stable")
        return replace(self, user_counts=user_counts, item_counts=item_counts, user_times=new[order])

    def _times_of(self, entries: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64] | None:
        """The times of some entries of the users' rows. entries: bool [eu], which ones."""
        return None if self.user_times is None else self.user_times[np.repeat(entries, self.user_counts)]

    def drop_nodes(self, users: npt.ArrayLike, items: npt.ArrayLike) -> "GraphShard":
        """This shard without the rows of the nodes users [n], items [m] (global dense ids). The rows must be empty.

        Ids of nodes that are not owned here are ignored. `num_users` and `num_items` stay, because dense ids are never used
        again.

        Raises:
            ValueError: one of the nodes still has interactions.
        """
        user_ids, user_indptr = _drop_rows(self.user_ids, self.user_indptr, users, "user")
        item_ids, item_indptr = _drop_rows(self.item_ids, self.item_indptr, items, "item")
        return replace(self, user_ids=user_ids, user_indptr=user_indptr, item_ids=item_ids, item_indptr=item_indptr)

    def to_bytes(self) -> bytes:
        """The shard as one safetensors file. The same shard always gives the same bytes."""
        return b"".join(self.parts())

    def parts(self) -> list[memoryview]:
        """The parts of that file; all but the first are the memory of the shard's own arrays (`framed.write_parts`)."""
        version = FORMAT if self.user_times is None else FORMAT_WITH_TIMES
        header = np.array(
            [version, self.partition, self.num_partitions, self.num_users, self.num_items], dtype=np.int64
        )
        arrays = {name: getattr(self, name) for name in ARRAYS}
        if self.user_times is not None:
            arrays["user_times"] = self.user_times
        return parts_of({"header": header, **arrays})

    @classmethod
    def from_bytes(cls, data: bytes) -> "GraphShard":
        """The shard that `to_bytes` gave these bytes for.

        Raises:
            ValueError: the file has a format that this release does not read.
        """
        return cls.from_arrays(load(data))

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]]) -> "GraphShard":
        """The shard of the arrays of such a file, which are not copied.

        Raises:
            ValueError: as `from_bytes`.
        """
        version, partition, num_partitions, num_users, num_items = (int(x) for x in arrays["header"])
        if version not in (FORMAT, FORMAT_WITH_TIMES):
            raise ValueError(
                f"graph shard has format {version}, this version of unlearnrec reads formats {FORMAT} and "
                f"{FORMAT_WITH_TIMES}"
            )
        others = {name: array for name, array in arrays.items() if name != "header"}
        return cls(partition, num_partitions, num_users, num_items, **others)


def build_shards(
    users: npt.ArrayLike,
    items: npt.ArrayLike,
    counts: npt.ArrayLike,
    assignment: Assignment,
    times: npt.NDArray[np.int64] | None = None,
) -> list[GraphShard]:
    """Cut a graph into one shard for each partition; returns them in order of partition.

    users, items, counts: [E], the global dense ids and the number of events of each interaction, in any order; the counts of
    a pair that is named twice are added. times: [sum of counts], the times of the events, pair after pair; with times the
    pairs must be sorted by (user, item), each once. Nodes of the assignment without interactions get empty rows.
    """
    shape = (len(assignment.owner_of_user), len(assignment.owner_of_item))
    rows, columns = np.asarray(users, dtype=np.int32), np.asarray(items, dtype=np.int32)
    by_user = coo_array((np.asarray(counts, dtype=np.int32), (rows, columns)), shape=shape).tocsr()
    by_item = by_user.T.tocsr()
    by_user.sort_indices()
    by_item.sort_indices()
    shards = []
    for k in range(assignment.num_partitions):
        user_ids = np.flatnonzero(assignment.owner_of_user == k)
        item_ids = np.flatnonzero(assignment.owner_of_item == k)
        user_indptr, user_neighbours, user_counts = _rows(by_user, user_ids)
        item_indptr, item_neighbours, item_counts = _rows(by_item, item_ids)
        shard = GraphShard(
            partition=k,
            num_partitions=assignment.num_partitions,
            num_users=shape[0],
            num_items=shape[1],
            user_ids=user_ids,
            user_indptr=user_indptr,
            user_neighbours=user_neighbours,
            user_counts=user_counts,
            item_ids=item_ids,
            item_indptr=item_indptr,
            item_neighbours=item_neighbours,
            item_counts=item_counts,
            user_times=None if times is None else times[np.repeat(assignment.owner_of_user[rows] == k, counts)],  # type: ignore[arg-type]
        )
        shards.append(shard)
    return shards


_Rows = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int32]]
"""(indptr, neighbours, counts) of some rows."""


def _rows(matrix: csr_array, ids: npt.NDArray[np.int64]) -> _Rows:
    """The rows `ids` of a matrix."""
    rows = matrix[ids]
    return rows.indptr.astype(np.int64), rows.indices.astype(np.int32, copy=False), rows.data


def places_of(
    ids: npt.NDArray[np.int64],
    indptr: npt.NDArray[np.int64],
    neighbours: npt.NDArray[np.int32],
    nodes: npt.NDArray[np.int64],
    others: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """The places in `neighbours` of the pairs (nodes[j], others[j]), ascending, each once. Pairs that are not there are left
    out."""
    place = place_of_each(ids, indptr, neighbours, nodes, others)
    return np.unique(place[place >= 0])


def place_of_each(
    ids: npt.NDArray[np.int64],
    indptr: npt.NDArray[np.int64],
    neighbours: npt.NDArray[np.int32],
    nodes: npt.NDArray[np.int64],
    others: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """The place in `neighbours` of each of the pairs (nodes[j], others[j]), int64 [n]; -1 where the pair is not there."""
    if not len(ids) or not len(nodes):
        return np.full(len(nodes), -1, dtype=np.int64)
    row = np.minimum(np.searchsorted(ids, nodes), len(ids) - 1)
    here = np.flatnonzero(ids[row] == nodes)
    row, others = row[here], others[here]
    low, end = indptr[row], indptr[row + 1]
    # One binary search for each pair, all at once. The cost depends on the number of pairs, not on the size of the shard.
    high = end.copy()
    while (open_ := low < high).any():
        middle = (low + high) // 2
        right = np.zeros(len(low), dtype=bool)
        right[open_] = neighbours[middle[open_]] < others[open_]
        low = np.where(right, middle + 1, low)
        high = np.where(open_ & ~right, middle, high)
    found = low < end
    found[found] = neighbours[low[found]] == others[found]
    place = np.full(len(nodes), -1, dtype=np.int64)
    place[here[found]] = low[found]
    return place


def spans(starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The numbers from starts[j] up to, and without, ends[j], one span after the other."""
    sizes = ends - starts
    return np.repeat(starts - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())


def distinct(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The numbers in `ids`, each once, ascending. `np.unique` goes through a hash table first, which takes longer."""
    ordered = np.sort(ids)
    first = np.ones(len(ordered), dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first]


def entries_of(
    ids: npt.NDArray[np.int64], indptr: npt.NDArray[np.int64], nodes: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The places of all entries in the rows of those of `nodes` that are among `ids` (ascending)."""
    if not len(ids) or not len(nodes):
        return np.empty(0, dtype=np.int64)
    rows = np.minimum(np.searchsorted(ids, nodes), len(ids) - 1)
    rows = rows[ids[rows] == nodes]
    return spans(indptr[rows], indptr[rows + 1])


def _drop(
    indptr: npt.NDArray[np.int64],
    neighbours: npt.NDArray[np.int32],
    counts: npt.NDArray[np.int32],
    gone: npt.NDArray[np.int64],
) -> _Rows:
    """The rows without the entries at the places `gone` (ascending, each once)."""
    if not len(gone):
        return indptr, neighbours, counts
    return indptr - np.searchsorted(gone, indptr), np.delete(neighbours, gone), np.delete(counts, gone)


def _drop_rows(
    ids: npt.NDArray[np.int64], indptr: npt.NDArray[np.int64], nodes: npt.ArrayLike, side: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(ids, indptr) without the rows of `nodes`. side: "user" or "item", for the message.

    Raises:
        ValueError: one of these rows is not empty.
    """
    gone = np.isin(ids, np.asarray(nodes, dtype=np.int64))
    degrees = np.diff(indptr)
    if degrees[gone].any():
        node, degree = ids[gone][degrees[gone] > 0][0], degrees[gone][degrees[gone] > 0][0]
        raise ValueError(f"{side} {node} still has {degree} interactions. Remove them first")
    # The rows that are removed are empty, so the other rows end at the same places as before.
    return ids[~gone], np.concatenate([indptr[:1], indptr[1:][~gone]])
