"""Look at two versions of an output in their files, to see what a committed request changed.

All is read from the store, and nothing comes from the memory of the process that made the files. Files that only one of the
versions names are read whole, with their SHA-256. Of files that both name, such as the bases behind the deltas of a request,
the size is compared and only the rows are read that are looked at: so the time and the memory are those of the change, not
those of the graph. An interaction of user u and item i has the code u * items + i. These are dense ids; no report contains
one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from ...distributed.graph.removal import merged
from ...partitioning.assignment import Assignment
from ...partitioning.files import digest_of
from ...partitioning.ingest import load_gone
from ...partitioning.mapped import MappedRows, MappedShard, marks, without
from ...partitioning.storage import Store
from ..output.id_maps import SIDES, IdMaps
from ..output.manifest import Manifest
from ..requests.matching import Effect, effects, resolve_all, union
from ..requests.request import Request

Ids = npt.NDArray[np.int64]
Marks = npt.NDArray[np.bool_]
NONE: Ids = np.empty(0, dtype=np.int64)

BLOCK = 65_536
"""Rows of E0 that are compared at a time."""


class Shards(Sequence[MappedShard]):
    """The shards of a version by partition. Each is opened when it is first looked at."""

    def __init__(self, count: int, opened: Callable[[int], MappedShard]) -> None:
        self._count, self._opened = count, opened
        self._known: dict[int, MappedShard] = {}

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, k: int) -> MappedShard: ...
    @overload
    def __getitem__(self, k: slice) -> list[MappedShard]: ...
    def __getitem__(self, k: int | slice) -> MappedShard | list[MappedShard]:
        """Raises OSError: a file of the shard cannot be read, or is removed at this moment."""
        if isinstance(k, slice):
            return [self[n] for n in range(*k.indices(self._count))]
        if not 0 <= k < self._count:
            raise IndexError(k)
        if k not in self._known:
            self._known[k] = self._opened(k)
        return self._known[k]


@dataclass(frozen=True, eq=False)
class Change:
    """Two versions as they are in their files."""

    before: Manifest
    after: Manifest
    affected: list[int]
    """The partitions whose shard or rows are other files in the two versions."""
    old: dict[int, MappedShard]
    """The shards of the affected partitions before; empty if a purge has removed files of that version."""
    new: Sequence[MappedShard]
    """All shards after; empty if a purge has removed files of that version."""
    rows: tuple[dict[int, int], dict[int, int]]
    """The numbers of rows of E0 of the affected partitions, before and after; empty as `old` and `new`."""
    found: dict[str, dict[str, Any] | None]
    """Of each file that was looked for: its size in the store, `bytes`, and `sha256` where only one of the versions
    names it; None if it is missing."""
    live: tuple[Ids, Ids]
    """Dense ids of the users and the items in the id maps of the new version."""
    owners: Assignment | None = None
    """Who owns which node; None if a purge has removed files of the new version."""
    compared: tuple[Ids, Ids] = (NONE, NONE)
    """Users and items that have a row of E0 in an affected partition in both versions, if the files are still there."""
    moved: tuple[Ids, Ids] = (NONE, NONE)
    """The users and items in `compared` whose rows differ in at least one bit."""
    maps: IdMaps | None = field(default=None, repr=False)

    @classmethod
    def read(cls, store: Store, before: Manifest, after: Manifest, maps: IdMaps | None = None) -> Change:
        """Look at both versions, as far as their files are still there.

        maps: the id maps of this output, where they are in memory already.

        Raises:
            OSError: a file cannot be read, or is removed at this moment.
            InputError: one of the id maps is damaged.
        """
        maps = maps or IdMaps(store)
        size = after.graph.partitions
        pairs = [(files_of_partition(before, k), files_of_partition(after, k)) for k in range(size)]
        affected = [k for k, (old, new) in enumerate(pairs) if old != new]
        found: dict[str, dict[str, Any] | None] = {}
        contents: dict[str, memoryview] = {}
        named = {name for _, new in pairs for chain in new.values() for name in chain}
        named |= {name for k in affected for chain in pairs[k][0].values() for name in chain}
        named |= {graph.id_file(side) for graph in (before.graph, after.graph) for side in SIDES}
        for name in sorted(named | (before.files.keys() ^ after.files.keys())):
            try:
                if name in before.files and name in after.files:
                    found[name] = {"bytes": store.size(name)}
                else:
                    data = contents[name] = store.mapped(name)
                    found[name] = {"sha256": digest_of(data), "bytes": len(data)}
            except FileNotFoundError:
                found[name] = None

        def chain(names: Sequence[str]) -> list[memoryview]:
            for name in names:
                if name not in contents:
                    contents[name] = store.mapped(name)
            return [contents[name] for name in names]

        has_before, has_after = _there(before, found), _there(after, found)
        new = Shards(size, lambda k: MappedShard.of(chain(pairs[k][1]["shard"]))) if has_after else ()
        old = {k: MappedShard.of(chain(pairs[k][0]["shard"])) for k in affected} if has_before else {}
        old_rows: dict[int, int] = {}
        new_rows: dict[int, int] = {}
        parts = []
        # One partition after the other: of the rows of E0 only their number and the comparison are kept.
        for k in affected:
            was, now = (
                MappedRows.of(chain(names["embeddings"])) if there else None
                for names, there in zip(pairs[k], (has_before, has_after), strict=True)
            )
            old_rows |= {k: len(was)} if was is not None else {}
            new_rows |= {k: len(now)} if now is not None else {}
            if was is not None and now is not None:
                same = pairs[k][0]["embeddings"][0] == pairs[k][1]["embeddings"][0]
                parts.append(_compared(old[k], was, new[k], now, same))
            for name in {name for names in pairs[k] for name in names["embeddings"]}:
                contents.pop(name, None)
        compared, moved = ((_joined(x[n] for x in parts), _joined(x[n + 1] for x in parts)) for n in (0, 2))
        return cls(
            before,
            after,
            affected,
            old,
            new,
            (old_rows, new_rows),
            found,
            _live(store, maps, after) if has_after else (NONE, NONE),
            maps.owners(after.graph) if has_after else None,
            compared,
            moved,
            maps,
        )

    @property
    def has_before(self) -> bool:
        """Whether all files of the version before that were looked for are still there."""
        return _there(self.before, self.found)

    @property
    def has_after(self) -> bool:
        """Whether all files of the new version that were looked for are still there."""
        return _there(self.after, self.found)

    @cached_property
    def lives(self) -> tuple[Marks, Marks]:
        """Which users, bool [users], and which items, bool [items], are in the id maps of the new version."""
        users, items = (
            marks(nodes, self.after.graph.nodes(side)) for nodes, side in zip(self.live, SIDES, strict=True)
        )
        return users, items

    @property
    def around(self) -> bool:
        """Whether the encoder changes rows of nodes that no request touches."""
        return self.before.model.encoder is not None and self.before.model.encoder.around

    @property
    def unchanged_files(self) -> int:
        """The number of files that both versions name."""
        return len(self.before.files.keys() & self.after.files.keys())

    def effects(self, store: Store, requests: Mapping[str, Request]) -> dict[str, Effect]:
        """What each request removes from the version before, by its id; empty if files of one of the versions are gone."""
        graph = self.before.graph
        if not requests or not (self.has_before and self.has_after):
            return {}
        id_maps = self.maps or IdMaps(store)
        # The files of the id maps may still have nodes that were deleted earlier: these have no interactions any more.
        maps = [id_maps.file_of(graph, side) for side in SIDES]
        resolved = resolve_all(list(requests.values()), maps[0], maps[1], graph.time)
        named = dict(zip(requests, resolved, strict=True))
        removal, timed = union(named.values())
        users = np.concatenate([removal.users, removal.pair_users, timed])
        parts = [removal.find(shard.rows(users, removal.items), timed) for shard in self.old.values()]
        found = merged(parts)
        return effects(found, named, graph.items)

    def shards_of(self, users: Ids, items: Ids) -> list[MappedShard]:
        """The new shards that should have a row of one of these nodes, and all that changed."""
        asked = set(self.affected)
        if self.owners is not None:
            for owner, nodes in ((self.owners.owner_of_user, users), (self.owners.owner_of_item, items)):
                asked |= set(np.flatnonzero(np.bincount(owner[nodes])).tolist())
        return [self.new[k] for k in sorted(asked)]

    def stands(self, side: str, users: Ids, items: Ids) -> Marks:
        """Which of the pairs (users[j], items[j]) [n] are in a row of a side ("user" or "item") of the new version: bool
        [n]."""
        there = np.zeros(len(users), dtype=bool)
        for shard in self.shards_of(*((users, NONE) if side == "user" else (NONE, items))):
            there |= shard.counts(side, users, items) > 0
        return there

    def partitions(self) -> list[dict[str, Any]]:
        """The numbers of rows and bytes of each affected partition, as {"before", "after"}; None for a purged version.

        `entries` counts an interaction once for the row of its user and once for that of its item, if this partition has
        that row.
        """
        lines = []
        for k in self.affected:
            line: dict[str, Any] = {"partition": k}
            shards = self.old.get(k), self.new[k] if len(self.new) else None
            for name in ("users", "items", "entries"):
                line[name] = _both(*(None if shard is None else _count(shard, name) for shard in shards))
            line["embedding_rows"] = _both(self.rows[0].get(k), self.rows[1].get(k))
            for name, kind in (("shard_bytes", "shard"), ("embedding_bytes", "embeddings")):
                chains = (files_of_partition(version, k)[kind] for version in (self.before, self.after))
                line[name] = _both(*(self._bytes(chain) for chain in chains))
            lines.append(line)
        return lines

    def _bytes(self, names: Sequence[str]) -> int | None:
        """The size of these files together; None if one of them is missing."""
        sizes = [(self.found.get(name) or {}).get("bytes") for name in names]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    def changed_files(self) -> list[dict[str, Any]]:
        """Each file that only one of the versions names, with its hash and size in the store; those of the manifest if the
        file is gone."""
        lines = []
        for when, version, other in (("before", self.before, self.after), ("after", self.after, self.before)):
            for name in sorted(version.files.keys() - other.files.keys()):
                there = self.found[name]
                entry = version.files[name].document() if there is None else there
                state = "gone" if there is None else "there"
                lines.append(
                    {"version": when, "name": name, "state": state, "sha256": entry["sha256"], "bytes": entry["bytes"]}
                )
        return lines


def _there(version: Manifest, found: Mapping[str, dict[str, Any] | None]) -> bool:
    """Whether no file of the version that was looked for is missing."""
    return all(found[name] is not None for name in version.files.keys() & found.keys())


def files_of_partition(version: Manifest, k: int) -> dict[str, tuple[str, ...]]:
    """The names of a partition's files in a version, bases before their deltas, as {"shard", "embeddings"}."""
    return {"shard": version.graph.shard_chain(k), "embeddings": version.model.embedding_chain(k)}


def _compared(
    old: MappedShard, old_rows: MappedRows, new: MappedShard, new_rows: MappedRows, same_base: bool
) -> tuple[Ids, Ids, Ids, Ids]:
    """(users, items, moved users, moved items): the nodes that have a row in both versions, and those whose rows differ.

    same_base: the rows of both have the same base, so that only those can differ that a delta names. All are empty if the
    number of rows is not the number of nodes: then it is not known which row belongs to which node.
    """
    nodes = [np.concatenate([shard.user_ids, -1 - shard.item_ids]) for shard in (old, new)]
    if len(nodes[0]) != len(old_rows) or len(nodes[1]) != len(new_rows):
        return NONE, NONE, NONE, NONE
    if same_base:
        at = np.zeros(len(old_rows) + len(old_rows.changed.gone), dtype=np.int64)
        there = np.zeros(len(at), dtype=bool)
        at[old_rows.places], there[old_rows.places] = nodes[0], True
        if there[new_rows.places].all() and np.array_equal(at[new_rows.places], nodes[1]):
            named = np.flatnonzero(marks(old_rows.changed.rows, len(at)) | marks(new_rows.changed.rows, len(at)))
            row = np.searchsorted(new_rows.places, named)
            row = np.minimum(row, max(0, len(new_rows) - 1))
            named = named[new_rows.places[row] == named] if len(new_rows) else named[:0]
            moved = at[named[_differ(old_rows, named, new_rows, named)]]
            return new.user_ids, new.item_ids, moved[moved >= 0], -1 - moved[moved < 0]
    both, at_old, at_new = np.intersect1d(nodes[0], nodes[1], assume_unique=True, return_indices=True)
    moved = both[_differ(old_rows, old_rows.places[at_old], new_rows, new_rows.places[at_new])]
    return both[both >= 0], -1 - both[both < 0], moved[moved >= 0], -1 - moved[moved < 0]


def _differ(old: MappedRows, old_places: Ids, new: MappedRows, new_places: Ids) -> Marks:
    """Which rows [n] of two tables, at these places of their bases, differ in at least one bit: bool [n]."""
    differ = np.empty(len(old_places), dtype=bool)
    for start in range(0, len(differ), BLOCK):
        part = slice(start, start + BLOCK)
        was, now = old.values(old_places[part]), new.values(new_places[part])
        differ[part] = (was.view(np.uint8) != now.view(np.uint8)).any(axis=1)
    return differ


def _live(store: Store, maps: IdMaps, version: Manifest) -> tuple[Ids, Ids]:
    """Dense ids of the users and the items in the id maps of a version."""
    gone = load_gone(store, version.graph)
    found = []
    for side in SIDES:
        _, nodes, _ = maps.file_of(version.graph, side)
        found.append(without(nodes, gone.of(side)))
    return found[0], found[1]


def _joined(parts: Iterable[Ids]) -> Ids:
    return np.concatenate([NONE, *parts])


def _both(before: int | None, after: int | None) -> dict[str, int | None]:
    return {"before": before, "after": after}


def _count(shard: MappedShard, name: str) -> int:
    if name == "entries":
        return shard.entries
    return len(getattr(shard, f"{name[:-1]}_ids"))
