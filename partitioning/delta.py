"""What a deletion changes in one partition, as two small files: one for its shard, one for its rows of a table.

The files of a partition form a chain: a base, and deltas in the order of their versions. Whoever reads the chain gets the
same arrays as from one file that was written as a whole. The base still holds what the deltas remove, until it is written
anew without it (docs/commit.md, "Deltas").

Shape legend: n = interactions that are removed, m = interactions that lose some of their events, t = rows that change,
g = rows that go, N = rows of the table, d = columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from .shard import GraphShard

FORMAT = 1

Ids = npt.NDArray[np.int64]


def _none() -> Ids:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class _Arrays:
    """Arrays that are kept in one safetensors file under the names of their fields."""

    def to_bytes(self) -> bytes:
        """The file. The same arrays always give the same bytes."""
        arrays = {field.name: np.ascontiguousarray(getattr(self, field.name)) for field in fields(self)}
        return bytes(save({"header": np.array([FORMAT], dtype=np.int64), **arrays}))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` gave these bytes for.

        Raises:
            ValueError: the file has a format that this release does not read.
        """
        arrays = load(data)
        found = int(arrays.pop("header")[0])
        if found != FORMAT:
            raise ValueError(f"a delta has format {found}, this version of unlearnrec reads format {FORMAT}")
        return cls(**arrays)


@dataclass(frozen=True, eq=False)
class ShardDelta(_Arrays):
    """What a deletion changes in a shard.

    Shapes: users, items int64 [n]: removed interactions with an end in the partition, by global dense id.
    thinned_users, thinned_items, thinned_counts int64 [m], thinned_times int64 [sum of counts]: as `GraphShard.thinned`
    takes them. gone_users, gone_items: the nodes of the partition that have no interaction any more.
    """

    users: Ids
    items: Ids
    thinned_users: Ids
    thinned_items: Ids
    thinned_counts: Ids
    thinned_times: Ids
    gone_users: Ids
    gone_items: Ids

    @property
    def thinned(self) -> tuple[Ids, Ids, Ids, Ids]:
        """The arguments of `GraphShard.thinned`."""
        return self.thinned_users, self.thinned_items, self.thinned_counts, self.thinned_times

    def applied_to(self, shard: GraphShard) -> GraphShard:
        """The shard after this deletion; the one given stays as it is."""
        if len(self.thinned_users):
            shard = shard.thinned(*self.thinned)
        return shard.without(self.users, self.items).drop_nodes(self.gone_users, self.gone_items)


def joined(deltas: Sequence[ShardDelta], num_items: int) -> ShardDelta:
    """One delta that changes a shard as these do one after the other. num_items: of the whole graph."""
    names = [field.name for field in fields(ShardDelta)]
    together = {name: np.concatenate([_none(), *(getattr(delta, name) for delta in deltas)]) for name in names}
    codes = together["thinned_users"] * num_items + together["thinned_items"]
    # Of an interaction that was thinned more than once the last state counts; of one that went later, none. Most have none.
    _, last = np.unique(codes[::-1], return_index=True)
    last = len(codes) - 1 - last
    if len(last):
        last = last[~np.isin(codes[last], together["users"] * num_items + together["items"])]
    counts = together["thinned_counts"]
    ends = np.cumsum(counts)
    times = [together["thinned_times"][ends[j] - counts[j] : ends[j]] for j in last]
    for name in ("thinned_users", "thinned_items", "thinned_counts"):
        together[name] = together[name][last]
    return ShardDelta(**together | {"thinned_times": np.concatenate([_none(), *times])})


@dataclass(frozen=True, eq=False)
class RowsDelta(_Arrays):
    """What a deletion changes in the rows of a table: `rows` int64 [t] get the values `e0` float32 [t, d], and then the
    rows `gone` int64 [g] are taken out. Both are positions before anything is taken out, ascending."""

    rows: Ids
    e0: npt.NDArray[np.float32]
    gone: Ids


def joined_rows(deltas: Sequence[RowsDelta]) -> RowsDelta:
    """One delta that changes a table of rows as these, at least one, do one after the other."""
    rows, values, gone = [_none()], [], _none()
    for delta in deltas:
        rows.append(_in_base(delta.rows, gone))
        values.append(delta.e0)
        if len(delta.gone):
            gone = np.sort(np.concatenate([gone, _in_base(delta.gone, gone)]))
    together = np.concatenate(rows)
    # Of a row that changed more than once the last values count; of one that went, none.
    _, last = np.unique(together[::-1], return_index=True)
    last = len(together) - 1 - last
    last = last[~np.isin(together[last], gone)]
    return RowsDelta(together[last], np.concatenate(values)[last], gone)


def _in_base(places: Ids, gone: Ids) -> Ids:
    """Where rows stand in a table, whose places are given as they are without the rows `gone`, ascending. It costs what is
    asked for: no array of the size of the table is made."""
    return places + np.searchsorted(gone - np.arange(len(gone)), places, side="right")


def with_rows(base: npt.NDArray[np.float32], deltas: Sequence[RowsDelta]) -> npt.NDArray[np.float32]:
    """The table [., d] that these deltas make of `base` [N, d], one after the other. `base` is overwritten."""
    place: Ids = np.arange(len(base))  # of each row that is left: where it stands in `base`
    for delta in deltas:
        base[place[delta.rows]] = delta.e0
        place = np.delete(place, delta.gone)
    return base if len(place) == len(base) else base[place]


@dataclass(frozen=True, eq=False)
class GoneNodes(_Arrays):
    """The dense ids users [.], items [.] that are deleted though the files of the id maps still have them."""

    users: Ids
    items: Ids

    def of(self, side: str) -> Ids:
        """Those of a side ("user" or "item")."""
        return {"user": self.users, "item": self.items}[side]
