"""What an assignment costs: the cut, the balance, and the rows that all partitions send in a layer, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .assignment import Assignment
from .halo import rows_between
from .spool import Spool
from .stored import StoredGraph

COVER_EDGES = 1 << 24
"""The largest cut between two partitions, in interactions, of which the plan `cover` is counted without being asked for: a
vertex cover takes 50 bytes and more than a microsecond for each of them."""
_FILES = 64


def rows_per_layer(
    graph: StoredGraph, assignment: Assignment, halos: Sequence[str], wanted: str, spool: Spool
) -> dict[str, int]:
    """For each halo the number of rows that all partitions together send in one layer, as `halo.rows_per_layer`.

    wanted: the halo of training. `cover` is left out if a cut is larger than COVER_EDGES and training is sure to `pull`.

    Raises:
        InputError: the spool's disk is full, or fails.
    """
    count, num_users = assignment.num_partitions, len(assignment.owner_of_user)
    num_nodes = num_users + len(assignment.owner_of_item)
    node = np.dtype(np.int32 if num_nodes <= np.iinfo(np.int32).max else np.int64)
    # The edges of a pair of partitions lie in one file. In most cases a file has one pair.
    files = min(_FILES, count * (count - 1) // 2)
    parts = [[spool.column(np.int64), spool.column(node), spool.column(node)] for _ in range(files)]
    for block in graph.blocks():
        of_user, of_item = assignment.owner_of_user[block.users], assignment.owner_of_item[block.items]
        cut = np.flatnonzero(of_user != of_item)
        if not len(cut):
            continue
        p, q = of_user[cut].astype(np.int64), of_item[cut].astype(np.int64)
        users, items = block.users[cut].astype(node), (block.items[cut].astype(np.int64) + num_users).astype(node)
        pair, swap = np.minimum(p, q) * count + np.maximum(p, q), p > q
        low, high = np.where(swap, items, users), np.where(swap, users, items)
        place = (pair % files).astype(np.int16)
        for k in np.unique(place):
            here = np.flatnonzero(place == k)
            for column, values in zip(parts[k], (pair, low, high), strict=True):
                column.append(values[here])
    found: dict[str, int | None] = dict.fromkeys(halos, 0)
    for columns in parts:
        pair, low, high = (column.read() for column in columns)
        order = np.argsort(pair, kind="stable") if len(pair) and pair.min() != pair.max() else slice(None)
        pair, low, high = pair[order], low[order], high[order]
        for edges in _runs(pair):
            for halo in halos:
                rows = found[halo]
                if rows is None or (halo == "cover" and wanted == "pull" and edges.stop - edges.start > COVER_EDGES):
                    found[halo] = None
                else:
                    found[halo] = rows + rows_between(low[edges], high[edges], halo, num_nodes)
        for column in columns:
            column.close()
    return {halo: rows for halo, rows in found.items() if rows is not None}


def _runs(values: npt.NDArray[np.int64]) -> list[slice]:
    """The runs of equal values in ascending ones."""
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]][: len(values)])
    return [slice(int(first), int(end)) for first, end in pairwise(np.append(starts, len(values)))]
