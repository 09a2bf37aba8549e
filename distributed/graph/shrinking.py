"""A graph in memory from which interactions are taken out in place: no array is read from a file again or sorted anew.

Entries that go leave gaps, which the entries behind them close by one move of memory. The result is that of making the
graph from the smaller shard, array by array and bit by bit, with the plan of its halo. Only `pull` plans are changed so; a
`cover` plan is made anew, because its vertex covers may be others.

Shape legend: E = interactions of owned users, n = removed interactions with an end here, N = local rows.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from ...partitioning.delta import GoneNodes, ShardDelta
from ...partitioning.halo import CutDigest, HaloPlan
from ...partitioning.shard import ARRAYS, GraphShard, distinct, places_of, spans
from .gaps import close_gaps
from .local_graph import LocalGraph
from .neighbour_sum import Lost, NeighbourSum
from .propagation import BLOCK_NODES

Ids = npt.NDArray[np.int64]

_ENTRIES = 2**20
"""The number of entries, or those of one row, whose other ends are looked up at once."""


def writable(shard: GraphShard) -> GraphShard:
    """The shard with arrays of its own, which `shrink` may change. Arrays that are read from a file are views of its
    content, which cannot be changed, and which goes with the last of them."""
    arrays = {name: getattr(shard, name) for name in (*ARRAYS, "user_times") if getattr(shard, name) is not None}
    return replace(shard, **{name: x.copy() for name, x in arrays.items() if not x.flags.writeable})


def shrink(graph: LocalGraph, delta: ShardDelta, gone: GoneNodes) -> Ids:
    """Take out of a graph what a deletion removed. Returns the local rows [g] that are gone, as numbered before.

    All ranks call it, each with the delta of its own shard. gone: all nodes that were ever deleted, of all partitions. The
    halo must be `pull`, and the graph in the memory of the CPU.

    Raises:
        RuntimeError: the partitions do not fit together any more, as in `LocalGraph`. The graph is of no use then.
    """
    shard = _thinned(graph.shard, delta) if len(delta.thinned_users) else graph.shard
    lost = _Lost.of(graph, shard, delta)
    smaller = _without(shard, lost.of_users, lost.of_items)
    own = np.concatenate([shard.user_ids, shard.item_ids + graph.num_users])
    gone_rows = np.flatnonzero(np.isin(own, np.concatenate([delta.gone_users, delta.gone_items + graph.num_users])))
    items = _shrunk_plan(graph, smaller, lost, gone_rows)
    graph.shard = smaller.drop_nodes(delta.gone_users, delta.gone_items)
    graph.pair_users = torch.from_numpy(close_gaps(graph.pair_users.numpy(), lost.of_users))
    graph.pair_items = torch.from_numpy(graph.shard.user_neighbours)
    for side, nodes in (("user", gone.users), ("item", gone.items)):
        # As where the graph is loaded: nodes that are in no id map count as those of partition 0.
        getattr(graph.assignment, f"owner_of_{side}")[nodes] = 0
        getattr(graph, f"owner_of_{side}")[torch.from_numpy(nodes)] = 0
    graph.refresh(items)
    return gone_rows


@dataclass(frozen=True)
class _Lost:
    """The entries of a shard that go: those at the places `of_users` in the rows of users, then those at `of_items`.

    Shapes: users, items [e]: the ends of each entry. rows [e]: the local row that has it. owners [e]: the partition of the
    other end.
    """

    of_users: Ids
    of_items: Ids
    users: Ids
    items: Ids
    rows: Ids
    owners: Ids

    @classmethod
    def of(cls, graph: LocalGraph, shard: GraphShard, delta: ShardDelta) -> "_Lost":
        in_users = places_of(shard.user_ids, shard.user_indptr, shard.user_neighbours, delta.users, delta.items)
        in_items = places_of(shard.item_ids, shard.item_indptr, shard.item_neighbours, delta.items, delta.users)
        user_rows = np.searchsorted(shard.user_indptr, in_users, side="right") - 1
        item_rows = np.searchsorted(shard.item_indptr, in_items, side="right") - 1
        far_items, far_users = shard.user_neighbours[in_users], shard.item_neighbours[in_items]
        owners = graph.assignment.owner_of_item[far_items], graph.assignment.owner_of_user[far_users]
        return cls(
            in_users,
            in_items,
            np.concatenate([shard.user_ids[user_rows], far_users]).astype(np.int64),
            np.concatenate([far_items, shard.item_ids[item_rows]]).astype(np.int64),
            np.concatenate([user_rows, item_rows + len(shard.user_ids)]),
            np.concatenate(owners).astype(np.int64),
        )


def _without(shard: GraphShard, of_users: Ids, of_items: Ids) -> GraphShard:
    """The shard without the entries at these places of the rows of users and of items, in the same memory."""
    times = shard.user_times
    if times is not None and len(of_users):
        ends = np.cumsum(shard.user_counts, dtype=np.int64)
        spans = [np.arange(ends[j] - shard.user_counts[j], ends[j]) for j in of_users.tolist()]
        times = close_gaps(times, np.concatenate(spans))
    arrays = {}
    for side, places in (("user", of_users), ("item", of_items)):
        indptr = getattr(shard, f"{side}_indptr")
        arrays[f"{side}_indptr"] = indptr - np.searchsorted(places, indptr) if len(places) else indptr
        for name in ("neighbours", "counts"):
            arrays[f"{side}_{name}"] = close_gaps(getattr(shard, f"{side}_{name}"), places)
    return replace(shard, user_times=times, **arrays)


def _thinned(shard: GraphShard, delta: ShardDelta) -> GraphShard:
    """`shard.thinned`; its arrays are copies."""
    return shard.thinned(*delta.thinned)


def _shrunk_plan(graph: LocalGraph, smaller: GraphShard, lost: _Lost, gone_rows: Ids) -> NeighbourSum:
    """Give the graph the plan of the smaller shard, made from the one that it has; returns the sums of the rows of items.

    `smaller` still has the rows that are gone, empty.
    """
    halo, me, users = graph.halo, graph.comm.rank, graph.halo.num_own_users
    entries = np.concatenate([lost.of_users, lost.of_items + (len(graph.shard.user_neighbours))])
    of_items = entries[len(lost.of_users) :]
    item_rows = lost.rows[len(lost.of_users) :] - users
    in_row = lost.of_items - graph.shard.item_indptr[item_rows]
    blocks = halo.nodes[halo.columns[of_items]] // BLOCK_NODES
    unsent = _unsent(graph, smaller, lost)
    unused: Ids = np.empty(0, dtype=np.int64)
    if halo.num_received:
        if graph.uses is None:
            graph.uses = np.bincount(halo.columns, minlength=halo.num_own + halo.num_received)
        np.subtract.at(graph.uses, halo.columns[entries], 1)
        seen = np.unique(halo.columns[entries[lost.owners != me]]).astype(np.int64)
        unused = seen[graph.uses[seen] == 0]
    indptr = halo.indptr - np.searchsorted(np.sort(entries), halo.indptr).astype(halo.indptr.dtype)
    columns, send_columns = close_gaps(halo.columns, entries), close_gaps(halo.send_columns, unsent)
    kept = np.ones(halo.num_own + halo.num_received, dtype=bool)
    kept[gone_rows] = kept[unused] = False
    place = None
    if not kept.all():
        place = torch.from_numpy((np.cumsum(kept) - 1).astype(columns.dtype))
        columns = place.index_select(0, torch.from_numpy(columns)).numpy()
        send_columns = place.index_select(0, torch.from_numpy(send_columns)).numpy()
        indptr = np.concatenate([indptr[:1], np.delete(indptr[1:], gone_rows)])
        if graph.uses is not None:
            graph.uses = graph.uses[kept]
    sent_before = np.concatenate([[0], np.cumsum(halo.send_counts)])
    received_before = halo.num_own + np.concatenate([[0], np.cumsum(halo.recv_counts)])
    send_counts = halo.send_counts - np.diff(np.searchsorted(unsent, sent_before))
    recv_counts = halo.recv_counts - np.diff(np.searchsorted(unused, received_before))
    digests = list(halo.cut_digests)
    for k in np.unique(lost.owners[lost.owners != me]).tolist():
        mine = lost.owners == k
        left = CutDigest(digests[k], graph.num_items).with_edges(lost.users[mine], lost.items[mine], -1).text
        digests[k] = left if send_counts[k] else ""
    num_own_users = users - int(np.searchsorted(gone_rows, users))
    graph.halo = HaloPlan(
        halo=halo.halo,
        partition=halo.partition,
        nodes=halo.nodes[kept] if place is not None else halo.nodes,
        num_own_users=num_own_users,
        send_indptr=halo.send_indptr[: len(send_columns) + 1],
        send_columns=send_columns,
        send_counts=send_counts,
        recv_counts=recv_counts,
        indptr=indptr,
        columns=columns,
        cut_digests=tuple(digests),
    )
    known = [torch.from_numpy(x) for x in (item_rows, in_row, blocks.astype(np.int64), kept[users : halo.num_own])]
    first = int(indptr[num_own_users])
    return graph.propagation.items.shrunk(
        torch.from_numpy(indptr[num_own_users:] - indptr.dtype.type(first)),
        torch.from_numpy(columns[first:]),
        int(kept.sum()),
        Lost(known[0], known[1], known[2], known[3], place),
    )


def _unsent(graph: LocalGraph, smaller: GraphShard, lost: _Lost) -> Ids:
    """The places in `send_columns`, ascending, of the rows that have no neighbour any more in the partition they go to."""
    halo, size, users = graph.halo, graph.comm.size, len(smaller.user_ids)
    starts = np.concatenate([[0], np.cumsum(halo.send_counts)])
    cut = lost.owners != graph.comm.rank
    codes = distinct(lost.rows[cut] * size + lost.owners[cut])
    first_item = int(np.searchsorted(codes, users * size))
    assignment = graph.assignment
    sides = (
        (codes[:first_item], smaller.user_indptr, smaller.user_neighbours, assignment.owner_of_item),
        (codes[first_item:] - users * size, smaller.item_indptr, smaller.item_neighbours, assignment.owner_of_user),
    )
    alone = codes[~np.concatenate([_has_neighbour(size, *side) for side in sides])]
    found = [np.empty(0, dtype=np.int64)]
    for k in np.unique(alone % size).tolist():
        sent = halo.send_columns[starts[k] : starts[k + 1]]
        # Of the same type, or each search would copy what it looks through.
        rows = (alone[alone % size == k] // size).astype(sent.dtype)
        found.append(starts[k] + np.searchsorted(sent, rows))
    return np.sort(np.concatenate(found))


def _has_neighbour(
    size: int, codes: Ids, indptr: Ids, neighbours: npt.NDArray[np.int32], owners: npt.NDArray[np.int16]
) -> npt.NDArray[np.bool_]:
    """Whether row // size has a neighbour in the partition row % size, for codes [c] of both: bool [c]."""
    rows, of_row = np.unique(codes // size, return_inverse=True)
    there = np.zeros(len(rows) * size, dtype=bool)
    degrees = indptr[rows + 1] - indptr[rows]
    parts = np.cumsum(degrees) // _ENTRIES
    for part in np.unique(parts).tolist():
        some = np.flatnonzero(parts == part)
        entries = spans(indptr[rows[some]], indptr[rows[some] + 1])
        there[np.repeat(some, degrees[some]) * size + owners[neighbours[entries]]] = True
    found: npt.NDArray[np.bool_] = there[of_row * size + codes % size]
    return found
