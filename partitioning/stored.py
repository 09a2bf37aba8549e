"""A graph that may be too large for the memory: its interactions are sorted in blocks and lie in the columns of a spool.

Rows of the table come in as codes, in any order. When all are there, the rank of every id is known, and how many rows each
user has. So the rows are dealt out to ranges of users with about as many rows each, and each range is sorted and its
repeated pairs are counted in memory. What is left is one column of items and one of counts, sorted by (user, item).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .spool import Column, Spool

Ints = npt.NDArray[np.int64]

BLOCK_ROWS = 1 << 22
"""About so many rows are sorted at a time, if no single user or item has more."""
MOST_RANGES = 128
"""So many ranges at most, since each has open files."""


@dataclass(frozen=True, eq=False)
class Block:
    """Some interactions, sorted by (user, item): all those of the users in it. Shapes: users, items, counts int32 [n]."""

    users: npt.NDArray[np.int32]
    items: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int32]
    times: Ints | None
    """[sum of counts], as in `InteractionGraph`."""


class Interactions(Protocol):
    """What a partitioner needs of a graph, in memory or stored. Shapes as in `StoredGraph`."""

    @property
    def user_degrees(self) -> Ints: ...

    @property
    def item_degrees(self) -> Ints: ...

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator[Block]: ...


@dataclass(frozen=True, eq=False)
class StoredGraph:
    """As `graph.InteractionGraph`, with the interactions in columns of a spool. In memory are only what each node needs.

    Shapes: user_degrees int64 [U], item_degrees int64 [I]: the numbers of interactions by dense id.
    """

    user_ids: pa.Array
    item_ids: pa.Array
    user_degrees: Ints
    item_degrees: Ints
    events: int
    skipped: int
    suppressed: int
    time_unit: str | None
    table: Mapping[str, Any]
    items: Column
    counts: Column
    times: Column | None
    ranges: tuple[tuple[int, int, int, int], ...]
    """Of each block (first user, end, first interaction, first event)."""

    def __len__(self) -> int:
        """The number of interactions."""
        return len(self.items)

    def blocks(self) -> Iterator[Block]:
        """The interactions, sorted by (user, item), block after block."""
        ends = [*self.ranges[1:], (0, 0, len(self.items), self.events)]
        for (low, high, first, event), (_, _, end, last) in zip(self.ranges, ends, strict=True):
            users = np.repeat(np.arange(low, high, dtype=np.int32), self.user_degrees[low:high])
            times = None if self.times is None else self.times.read(event, last)
            yield Block(users, self.items.read(first, end), self.counts.read(first, end), times)


@dataclass
class Rows:
    """The rows of a table, as codes of users and items in order of appearance, and with times if it has any."""

    spool: Spool
    timed: bool
    rows_of_user: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """By code, the number of rows."""

    def __post_init__(self) -> None:
        self.users, self.items = self.spool.column(np.int32), self.spool.column(np.int32)
        self.times = self.spool.column(np.int64) if self.timed else None

    def add(self, users: Ints, items: Ints, times: pa.Array | None) -> None:
        """Add rows: codes [n] and times [n]."""
        counts = np.bincount(users, minlength=len(self.rows_of_user))
        counts[: len(self.rows_of_user)] += self.rows_of_user
        self.rows_of_user = counts
        self.users.append(users.astype(np.int32))
        self.items.append(items.astype(np.int32))
        if self.times is not None and times is not None:
            self.times.append(times.cast(pa.int64()).to_numpy())

    def sorted(self, rank_of_user: Ints, rank_of_item: Ints) -> _Sorted:
        """Sort the rows, which are given up on the way. rank_of_user, rank_of_item: by code, the dense id."""
        rows_of_rank = np.empty_like(self.rows_of_user)
        rows_of_rank[rank_of_user] = self.rows_of_user
        bounds = even_ranges(rows_of_rank)
        parts = [self._part() for _ in bounds] if len(bounds) > 1 else []
        if parts:
            range_of_rank = np.repeat(np.arange(len(bounds), dtype=np.int16), [high - low for low, high in bounds])
        found = _Sorted(self.spool, self.timed, len(rank_of_user), len(rank_of_item))
        # With one range the rows are sorted as they are.
        size = BLOCK_ROWS if parts else max(1, len(self.users))
        for first in range(0, len(self.users), size):
            end = min(first + size, len(self.users))
            users = rank_of_user[self.users.read(first, end)].astype(np.int32)
            items = rank_of_item[self.items.read(first, end)].astype(np.int32)
            times = None if self.times is None else self.times.read(first, end)
            if parts:
                _deal(range_of_rank[users], parts, (users, items, times))
            else:
                found.add(bounds[0], users, items, times)
        self._close()
        for bound, columns in zip(bounds if parts else [], parts, strict=True):
            users, items, *rest = (column.read() for column in columns)
            found.add(bound, users, items, rest[0] if rest else None)
            for column in columns:
                column.close()
        return found

    def _part(self) -> list[Column]:
        types = [np.int32, np.int32] + ([np.int64] if self.timed else [])
        return [self.spool.column(dtype) for dtype in types]

    def _close(self) -> None:
        for column in (self.users, self.items, self.times):
            if column is not None:
                column.close()


class _Sorted:
    """The columns of a `StoredGraph` while they grow."""

    def __init__(self, spool: Spool, timed: bool, num_users: int, num_items: int) -> None:
        self.items, self.counts = spool.column(np.int32), spool.column(np.int32)
        self.times = spool.column(np.int64) if timed else None
        self.user_degrees, self.item_degrees = np.zeros(num_users, np.int64), np.zeros(num_items, np.int64)
        self.events = 0
        self.ranges: list[tuple[int, int, int, int]] = []

    def add(
        self,
        bound: tuple[int, int],
        users: npt.NDArray[np.int32],
        items: npt.NDArray[np.int32],
        times: Ints | None,
    ) -> None:
        """Sort all rows of a range of users (first, end), and count those of a pair."""
        low, high = bound
        self.ranges.append((low, high, len(self.items), self.events))
        keys = (users.astype(np.int64) << 32) | items
        if times is None or self.times is None:
            keys.sort()
        else:
            order = np.lexsort((times, keys))
            keys = keys[order]
            self.times.append(times[order])
        self.events += len(keys)
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]][: len(keys)])
        self.counts.append(np.diff(np.append(starts, len(keys))).astype(np.int32))
        keys = keys[starts]
        items = (keys & 0xFFFFFFFF).astype(np.int32)
        self.items.append(items)
        self.user_degrees[low:high] = np.bincount((keys >> 32) - low, minlength=high - low)
        self.item_degrees += np.bincount(items, minlength=len(self.item_degrees))


def even_ranges(rows_of_node: Ints) -> list[tuple[int, int]]:
    """Cut nodes into ranges (first, end) with about as many rows each: [N] -> at least one range, that has all of them."""
    total = int(rows_of_node.sum())
    count = min(max(1, -(-total // BLOCK_ROWS)), MOST_RANGES)
    cuts = np.searchsorted(np.cumsum(rows_of_node), total * np.arange(1, count) // count, side="left") + 1
    bounds = np.unique(np.r_[0, np.minimum(cuts, len(rows_of_node)), len(rows_of_node)])
    return [(int(low), int(high)) for low, high in pairwise(bounds)]


def _deal(place: npt.NDArray[np.int16], parts: list[list[Column]], arrays: tuple[Any, ...]) -> None:
    """Append each row of the arrays [n] to the columns of its part, in their order. place [n]: which part."""
    # numpy's stable sort of integers of 16 bits is a radix sort.
    order = np.argsort(place, kind="stable")
    ends = np.cumsum(np.bincount(place, minlength=len(parts)))
    for k, columns in enumerate(parts):
        chosen = order[ends[k - 1] if k else 0 : ends[k]]
        for column, values in zip(columns, (x for x in arrays if x is not None), strict=True):
            column.append(values[chosen])


class ByItem:
    """The interactions of a graph sorted by (item, user), without times, in columns of a spool."""

    def __init__(self, graph: Interactions, spool: Spool) -> None:
        self.bounds = even_ranges(graph.item_degrees)
        self._parts = [[spool.column(np.int32) for _ in range(3)] for _ in self.bounds]
        range_of_item = np.repeat(
            np.arange(len(self.bounds), dtype=np.int16), [high - low for low, high in self.bounds]
        )
        for block in graph.blocks():
            _deal(range_of_item[block.items], self._parts, (block.users, block.items, block.counts))

    def blocks(self) -> Iterator[Block]:
        """The interactions, block after block; all those of an item are in one block."""
        for (low, high), columns in zip(self.bounds, self._parts, strict=True):
            users, items, counts = (column.read() for column in columns)
            # The rows come in order of their users, so a stable sort by item is all that is missing.
            local = items - np.int32(low)
            order = np.argsort(local.astype(np.uint16) if high - low <= 1 << 16 else local, kind="stable")
            yield Block(users[order], items[order], counts[order], None)

    def close(self) -> None:
        """Give the columns back."""
        for columns in self._parts:
            for column in columns:
                column.close()
