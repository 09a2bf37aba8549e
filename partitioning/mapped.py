"""A shard and a table of rows as they lie in their files: the bases stay on the disk, and only what is looked at is read.

Shape legend: u, i = users and items of the shard; n = what is asked about; N = rows of a table; d = columns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .delta import RowsDelta, ShardDelta, joined, joined_rows
from .shard import BLOCK, GraphShard, entries_of, place_of_each, spans

Ids = npt.NDArray[np.int64]
Marks = npt.NDArray[np.bool_]
_TYPES = {"I64": np.int64, "I32": np.int32, "F32": np.float32}


def mapped_arrays(data: memoryview) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a safetensors file, as views of its content that must not be written to.

    Raises:
        ValueError: the content is no such file.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    head: dict[str, Any] = json.loads(bytes(data[8:start]))
    head.pop("__metadata__", None)
    arrays = {}
    for name, about in head.items():
        first, end = about["data_offsets"]
        values = np.frombuffer(data[start + first : start + end], dtype=_TYPES[about["dtype"]])
        arrays[name] = values.reshape(about["shape"])
    return arrays


class MappedShard:
    """The shard of a chain of files, for looks at some of its nodes and interactions.

    It says what the whole shard says (`ingest.load_shard`). The memory is that of the deltas and of what is asked for.
    """

    def __init__(self, base: GraphShard, deltas: Sequence[ShardDelta] = ()) -> None:
        self._base = base
        self._delta = joined(deltas, base.num_items)

    @classmethod
    def of(cls, chain: Sequence[memoryview]) -> MappedShard:
        """The shard of a base and its deltas, as the contents of their files.

        Raises:
            ValueError: as `GraphShard.from_arrays`.
        """
        base = GraphShard.from_arrays(mapped_arrays(chain[0]))
        return cls(base, [ShardDelta.from_bytes(bytes(data)) for data in chain[1:]])

    @cached_property
    def user_ids(self) -> Ids:
        """The users that have a row, int64 [u], ascending."""
        return without(self._base.user_ids, self._delta.gone_users)

    @cached_property
    def item_ids(self) -> Ids:
        """The items that have a row, int64 [i], ascending."""
        return without(self._base.item_ids, self._delta.gone_items)

    @cached_property
    def entries(self) -> int:
        """The number of entries in the rows of users and of items together."""
        base, delta = self._base, self._delta
        gone = marks(base.user_ids, base.num_users)[delta.users].sum()
        gone += marks(base.item_ids, base.num_items)[delta.items].sum()
        return len(base.user_neighbours) + len(base.item_neighbours) - int(gone)

    def has_rows(self, side: str, nodes: Ids) -> Marks:
        """Which of the nodes [n] of a side ("user" or "item") have a row: bool [n]."""
        return contains(getattr(self, f"{side}_ids"), nodes)

    def degrees(self, side: str, nodes: Ids) -> Ids:
        """The number of interactions in the row of each of the nodes [n]: int64 [n]; 0 for those without a row."""
        ids, indptr = getattr(self._base, f"{side}_ids"), getattr(self._base, f"{side}_indptr")
        if not len(ids):
            return np.zeros(len(nodes), dtype=np.int64)
        row = np.minimum(np.searchsorted(ids, nodes), len(ids) - 1)
        lost = np.sort(getattr(self._delta, f"{side}s"))
        lost_of = np.searchsorted(lost, nodes, "right") - np.searchsorted(lost, nodes)
        return np.where(ids[row] == nodes, indptr[row + 1] - indptr[row] - lost_of, 0)

    def counts(self, side: str, users: Ids, items: Ids) -> Ids:
        """The number of events of each of the pairs (users[j], items[j]) [n], by the rows of a side: int64 [n]; 0 for those
        that do not stand there."""
        base, delta = self._base, self._delta
        nodes, others = (users, items) if side == "user" else (items, users)
        ids, indptr, neighbours, stored = (
            getattr(base, f"{side}_{name}") for name in ("ids", "indptr", "neighbours", "counts")
        )
        place = place_of_each(ids, indptr, neighbours, nodes, others)
        found = np.zeros(len(users), dtype=np.int64)
        here = place >= 0
        found[here] = stored[place[here]]
        codes = users * base.num_items + items
        asked = marks(users, base.num_users)
        gone = asked[delta.users]
        found[contains(np.sort(delta.users[gone] * base.num_items + delta.items[gone]), codes)] = 0
        fewer = np.flatnonzero(asked[delta.thinned_users])
        thinned = delta.thinned_users[fewer] * base.num_items + delta.thinned_items[fewer]
        order = np.argsort(thinned)
        hit = contains(thinned[order], codes) & (found > 0)
        found[hit] = delta.thinned_counts[fewer[order[np.searchsorted(thinned[order], codes[hit])]]]
        return found

    def rows(self, users: Ids, items: Ids) -> GraphShard:
        """The shard with only the rows of these nodes, of those that it has."""
        base, delta = self._base, self._delta
        arrays: dict[str, Any] = {"user_times": None}
        for side, nodes in (("user", users), ("item", items)):
            ids, indptr = getattr(base, f"{side}_ids"), getattr(base, f"{side}_indptr")
            nodes = np.flatnonzero(marks(nodes, getattr(base, f"num_{side}s")))
            nodes = nodes[contains(ids, nodes)]
            places = entries_of(ids, indptr, nodes)
            row = np.searchsorted(ids, nodes)
            arrays |= {f"{side}_ids": nodes, f"{side}_indptr": _running(indptr[row + 1] - indptr[row])}
            arrays |= {f"{side}_{name}": getattr(base, f"{side}_{name}")[places] for name in ("neighbours", "counts")}
            if side == "user" and base.user_times is not None:
                counts = arrays["user_counts"].astype(np.int64)
                starts = _sums_before(base.user_counts, places)
                arrays["user_times"] = base.user_times[spans(starts, starts + counts)]
        whole = replace(base, **arrays)
        of_user, of_item = marks(users, base.num_users), marks(items, base.num_items)
        gone = of_user[delta.users] | of_item[delta.items]
        thinned = of_user[delta.thinned_users] | of_item[delta.thinned_items]
        return ShardDelta(
            users=delta.users[gone],
            items=delta.items[gone],
            thinned_users=delta.thinned_users[thinned],
            thinned_items=delta.thinned_items[thinned],
            thinned_counts=delta.thinned_counts[thinned],
            thinned_times=delta.thinned_times[np.repeat(thinned, delta.thinned_counts)],
            gone_users=delta.gone_users[of_user[delta.gone_users]],
            gone_items=delta.gone_items[of_item[delta.gone_items]],
        ).applied_to(whole)

    @property
    def drawn_from(self) -> int:
        """The number of places from which `at` draws."""
        return len(self._base.user_neighbours)

    def at(self, places: Ids) -> tuple[Ids, Ids]:
        """The interactions (users, items), int64 [m], at these places [n] of the base's rows of users, without those that a
        delta removes. Places drawn with equal chances give the interactions of the shard with equal chances."""
        base = self._base
        users = base.user_ids[np.searchsorted(base.user_indptr, places, side="right") - 1]
        items = base.user_neighbours[places].astype(np.int64)
        there = self.counts("user", users, items) > 0
        return users[there], items[there]


class MappedRows:
    """The rows of a table of a chain of files, for looks at some of them."""

    def __init__(self, base: npt.NDArray[np.float32], deltas: Sequence[RowsDelta] = ()) -> None:
        self._base = base
        self.changed = joined_rows([RowsDelta(_NONE, base[:0], _NONE), *deltas])
        """What the deltas change in the base, as one."""

    @classmethod
    def of(cls, chain: Sequence[memoryview]) -> MappedRows:
        """The rows of a base and its deltas, as the contents of their files."""
        return cls(mapped_arrays(chain[0])["e0"], [RowsDelta.from_bytes(bytes(data)) for data in chain[1:]])

    def __len__(self) -> int:
        return len(self._base) - len(self.changed.gone)

    @cached_property
    def places(self) -> Ids:
        """Where each row stands in the base: int64 [N], ascending."""
        return without(np.arange(len(self._base)), self.changed.gone)

    def values(self, places: Ids) -> npt.NDArray[np.float32]:
        """The rows that stand at these places [n] of the base: float32 [n, d]."""
        found = np.array(self._base[places])
        order = np.argsort(self.changed.rows)
        rows = self.changed.rows[order]
        hit = contains(rows, places)
        found[hit] = self.changed.e0[order[np.searchsorted(rows, places[hit])]]
        return found


_NONE: Ids = np.empty(0, dtype=np.int64)


def contains(codes: Ids, wanted: Ids) -> Marks:
    """Which of `wanted` [n] are in `codes`, which are ascending; bool [n]."""
    if not len(codes):
        return np.zeros(len(wanted), dtype=bool)
    return np.asarray(codes[np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)] == wanted)


def without(ids: Ids, gone: Ids) -> Ids:
    """The ids [n], ascending, without those in `gone`."""
    if not len(gone) or not len(ids):
        return ids
    place = np.minimum(np.searchsorted(ids, gone), len(ids) - 1)
    stays = np.ones(len(ids), dtype=bool)
    stays[place[ids[place] == gone]] = False
    return ids[stays]


def marks(ids: Ids, total: int) -> Marks:
    """Which of the numbers below `total` are in `ids`: bool [total]."""
    found = np.zeros(total, dtype=bool)
    found[ids] = True
    return found


def _running(sizes: Ids) -> Ids:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])


def _sums_before(counts: npt.NDArray[np.int32], places: Ids) -> Ids:
    """The sum of all counts before each of the places, which are ascending: int64 [n]. All sums at once would take more
    memory than the counts."""
    found, total = np.empty(len(places), dtype=np.int64), 0
    for start in range(0, len(counts), BLOCK):
        low, high = np.searchsorted(places, (start, start + BLOCK))
        sums = np.cumsum(counts[start : start + BLOCK], dtype=np.int64)
        before = np.concatenate([[0], sums])
        found[low:high] = total + before[places[low:high] - start]
        total += int(sums[-1])
    return found
