"""The rows that all partitions of a stored graph send in a layer, counted block by block."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .assignment import Assignment
from .halo import rows_between
from .spool import Column, Spool
from .stored import Block, ByItem, StoredGraph

COVER_EDGES = 1 << 24
"""The largest cut between two partitions, in interactions, of which the plan `cover` is counted without being asked for: a
vertex cover takes 50 bytes and more than a microsecond for each of them."""
_FILES = 64

Ints = npt.NDArray[np.int64]


def rows_per_layer(
    graph: StoredGraph, items: ByItem, assignment: Assignment, wanted: str, spool: Spool
) -> dict[str, int]:
    """For each halo the number of rows that all partitions together send in one layer, as `halo.rows_per_layer`.

    items: the graph's interactions by item. wanted: the halo of training. "cover" is left out if a cut is larger than
    COVER_EDGES and training is sure to "pull".

    Raises:
        InputError: the spool's disk is full, or fails.
    """
    count = assignment.num_partitions
    pull = 0
    cuts = np.zeros(count * count, dtype=np.int64)
    for block in graph.blocks():
        users, owner_of_item, of_user = block.users, assignment.owner_of_item[block.items], assignment.owner_of_user
        pull += _rows_wanted(users, of_user[users], owner_of_item, count)
        cuts += np.bincount(_pairs(of_user[users], owner_of_item, count), minlength=count * count)
    for block in items.blocks():
        owners = assignment.owner_of_item[block.items], assignment.owner_of_user[block.users]
        pull += _rows_wanted(block.items, *owners, count)
    cuts[:: count + 1] = 0  # these are not cut
    if wanted == "pull" and cuts.max() > COVER_EDGES:
        return {"pull": pull}
    return {"pull": pull, "cover": sum(_covers(graph, assignment, spool))}


def _rows_wanted(
    nodes: npt.NDArray[np.int32], own: npt.NDArray[np.int16], others: npt.NDArray[np.int16], count: int
) -> int:
    """How many rows of nodes are sent to other partitions with `pull`: of each node one to each other partition that owns
    a neighbour. nodes [n], with their owners and those of their neighbours: all entries of these nodes."""
    cut = own != others
    keys = nodes[cut].astype(np.int64) * count + others[cut]
    keys.sort()
    return int(np.count_nonzero(keys[1:] != keys[:-1])) + bool(len(keys))


def _pairs(one: npt.NDArray[np.int16], other: npt.NDArray[np.int16], count: int) -> Ints:
    """A number for each pair of partitions, whichever comes first."""
    return np.minimum(one, other).astype(np.int64) * count + np.maximum(one, other)


def _covers(graph: StoredGraph, assignment: Assignment, spool: Spool) -> Iterator[int]:
    """For each pair of partitions the rows that they send each other with `cover`."""
    count, num_users = assignment.num_partitions, len(assignment.owner_of_user)
    num_nodes = num_users + len(assignment.owner_of_item)
    node = np.dtype(np.int32 if num_nodes <= np.iinfo(np.int32).max else np.int64)
    # The edges of a pair of partitions lie in one file. In most cases a file has one pair.
    files = min(_FILES, count * (count - 1) // 2)
    parts = [[spool.column(np.int32), spool.column(node), spool.column(node)] for _ in range(files)]
    for block in graph.blocks():
        _collect(block, assignment, num_users, node, parts)
    for columns in parts:
        pair, low, high = (column.read() for column in columns)
        order = np.argsort(pair, kind="stable") if len(pair) and pair.min() != pair.max() else slice(None)
        pair, low, high = pair[order], low[order], high[order]
        starts = np.flatnonzero(np.r_[True, pair[1:] != pair[:-1]][: len(pair)])
        for first, end in pairwise(np.append(starts, len(pair))):
            yield rows_between(low[first:end], high[first:end], "cover", num_nodes)
        for column in columns:
            column.close()


def _collect(
    block: Block, assignment: Assignment, num_users: int, node: npt.DTypeLike, parts: list[list[Column]]
) -> None:
    """Append the edges of a block that are cut to the columns (pair, low end, high end) of their pairs."""
    count = assignment.num_partitions
    of_user, of_item = assignment.owner_of_user[block.users], assignment.owner_of_item[block.items]
    cut = np.flatnonzero(of_user != of_item)
    of_user, of_item = of_user[cut], of_item[cut]
    users, items = block.users[cut].astype(node), (block.items[cut].astype(np.int64) + num_users).astype(node)
    pair, swap = _pairs(of_user, of_item, count), of_user > of_item
    low, high = np.where(swap, items, users), np.where(swap, users, items)
    place = (pair % len(parts)).astype(np.int16) if len(parts) > 1 else np.zeros(len(pair), np.int16)
    for k in np.flatnonzero(np.bincount(place, minlength=len(parts))):
        here = np.flatnonzero(place == k)
        for column, values in zip(parts[k], (pair, low, high), strict=True):
            column.append(values[here])
