"""Read two versions of an output back from their files, to see what a committed request changed.

Everything is read from the store. Nothing comes from the memory of the process that made the files. An interaction of user u
and item i has the code u * items + i in rows of users, and i * users + u in rows of items. These are dense ids; no report
contains one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load

from ...distributed.graph.removal import merged
from ...partitioning.delta import RowsDelta, with_rows
from ...partitioning.ingest import load_ids, shard_of
from ...partitioning.shard import GraphShard
from ...partitioning.storage import Store
from ..output.manifest import Manifest
from ..requests.matching import Effect, effect, resolve, union
from ..requests.request import Request

Ids = npt.NDArray[np.int64]
Marks = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.floating]
NONE: Ids = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Change:
    """Two versions as they are in their files.

    It takes 16 bytes of memory for each interaction, and 16 more when the codes are needed.
    """

    before: Manifest
    after: Manifest
    affected: list[int]
    """The partitions whose shard or rows are other files in the two versions."""
    old: dict[int, GraphShard]
    """The shards of the affected partitions before; empty if a purge has removed files of that version."""
    new: list[GraphShard]
    """All shards after; empty if a purge has removed files of that version."""
    rows: tuple[dict[int, int], list[int]]
    """The numbers of rows of E0 that belong to the shards in `old` and in `new`."""
    found: dict[str, dict[str, Any] | None]
    """SHA-256 and size in bytes of each file that was looked for, as it is in the store; None if it is missing."""
    live: tuple[Ids, Ids]
    """Dense ids of the users and the items in the id maps of the new version."""
    compared: tuple[Ids, Ids] = (NONE, NONE)
    """Users and items that have a row of E0 in an affected partition in both versions, if the files are still there."""
    moved: tuple[Ids, Ids] = (NONE, NONE)
    """The users and items in `compared` whose rows differ in at least one bit."""

    @classmethod
    def read(cls, store: Store, before: Manifest, after: Manifest) -> Change:
        """Read both versions, as far as their files are still there.

        Raises:
            OSError: a file cannot be read, or is removed at this moment.
            InputError: one of the id maps is damaged.
        """
        size = after.graph.partitions
        pairs = [(files_of_partition(before, k), files_of_partition(after, k)) for k in range(size)]
        affected = [k for k, (old, new) in enumerate(pairs) if old != new]
        found: dict[str, dict[str, Any] | None] = {}

        def get(name: str) -> bytes | None:
            """The bytes of a file, whose hash and size are noted in `found`; None if it is missing."""
            try:
                data = store.read(name)
            except FileNotFoundError:
                found[name] = None
                return None
            found[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            return data

        bases: dict[str, bytes | None] = {}

        def chain(names: Sequence[str]) -> list[bytes] | None:
            """The bytes of a base and of its deltas; None if one of them is missing. The bases of a partition are kept for
            the other version, which often has the same."""
            if names[0] not in bases:
                bases[names[0]] = get(names[0])
            data = [bases[names[0]], *map(get, names[1:])]
            known = [one for one in data if one is not None]
            return known if len(known) == len(data) else None

        def partition(names: Mapping[str, Sequence[str]]) -> tuple[GraphShard, Rows] | None:
            """A partition's shard and rows of E0; None if one of their files is missing."""
            shard, rows = chain(names["shard"]), chain(names["embeddings"])
            if shard is None or rows is None:
                return None
            e0 = load(rows[0])["e0"]
            return shard_of(shard), with_rows(e0.copy(), [RowsDelta.from_bytes(x) for x in rows[1:]]) if rows[
                1:
            ] else e0

        old: dict[int, tuple[GraphShard, int] | None] = {}
        new: dict[int, tuple[GraphShard, int] | None] = {}
        rows = []
        # One partition after the other: of the rows of E0 only their number and the comparison are kept.
        for k, (was, now) in enumerate(pairs):
            bases.clear()
            if k in affected:
                first, second = partition(was), partition(now)
                old[k] = first and (first[0], len(first[1]))
                if first and second:
                    rows.append(_compared(*first, *second))
            else:
                second = partition(now)
            new[k] = second and (second[0], len(second[1]))
        compared, moved = ((_joined(x[n] for x in rows), _joined(x[n + 1] for x in rows)) for n in (0, 2))
        bases.clear()
        maps = {graph.id_file(side) for graph in (before.graph, after.graph) for side in ("user", "item")}
        changed = before.files.keys() ^ after.files.keys()
        for name in sorted((maps | changed) - found.keys()):
            get(name)
        old_read = {k: read for k, read in old.items() if read is not None and _there(before, found)}
        new_read = [read for read in new.values() if read is not None and _there(after, found)]
        live = [load_ids(store, after.graph, side)[1] if new_read else NONE for side in ("user", "item")]
        return cls(
            before,
            after,
            affected,
            {k: shard for k, (shard, _) in old_read.items()},
            [shard for shard, _ in new_read],
            ({k: rows for k, (_, rows) in old_read.items()}, [rows for _, rows in new_read]),
            found,
            (live[0], live[1]),
            compared,
            moved,
        )

    @property
    def has_before(self) -> bool:
        """Whether all files of the version before that were looked for are still there."""
        return _there(self.before, self.found)

    @property
    def has_after(self) -> bool:
        """Whether all files of the new version that were looked for are still there."""
        return _there(self.after, self.found)

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
        maps = [load_ids(store, graph, side) for side in ("user", "item")]
        named = {request_id: resolve(one, maps[0], maps[1], graph.time) for request_id, one in requests.items()}
        removal, timed = union(named.values())
        found = merged([removal.find(shard, timed) for shard in self.old.values()])
        return {request_id: effect(found, [one], graph.items) for request_id, one in named.items()}

    @cached_property
    def user_codes(self) -> list[Ids]:
        """The codes of the interactions in the rows of users of each shard, ascending."""
        return [_ascending(u * s.num_items + i) for s in self.new for u, i in (s.user_entries(),)]

    @cached_property
    def item_codes(self) -> list[Ids]:
        """The codes of the interactions in the rows of items of each shard, ascending."""
        return [_ascending(i * s.num_users + u) for s in self.new for u, i in (s.item_entries(),)]

    @cached_property
    def connected(self) -> tuple[Marks, Marks]:
        """(which users are in a row of an item, which items are in a row of a user), by dense id."""
        rows = [[getattr(shard, f"{side}_neighbours") for shard in self.new] for side in ("item", "user")]
        return self._marks(0, rows[0]), self._marks(1, rows[1])

    @cached_property
    def with_rows(self) -> tuple[Marks, Marks]:
        """(which users, which items) have a row in a shard or an external id, by dense id."""
        nodes = [[getattr(shard, f"{side}_ids") for shard in self.new] for side in ("user", "item")]
        return self._marks(0, [*nodes[0], self.live[0]]), self._marks(1, [*nodes[1], self.live[1]])

    def _marks(self, side: int, parts: Sequence[npt.NDArray[np.integer]]) -> Marks:
        """Which users (side 0) or items (side 1) are in one of the arrays of dense ids."""
        marks = np.zeros(self.after.graph.nodes(("user", "item")[side]), dtype=bool)
        for part in parts:
            marks[part] = True
        return marks

    def partitions(self) -> list[dict[str, Any]]:
        """The numbers of rows and bytes of each affected partition, as {"before", "after"}; None for a purged version.

        `entries` counts an interaction once for the row of its user and once for that of its item, if this partition has
        that row.
        """
        lines = []
        for k in self.affected:
            line: dict[str, Any] = {"partition": k}
            shards = self.old.get(k), self.new[k] if self.new else None
            for name in ("users", "items", "entries"):
                line[name] = _both(*(None if shard is None else _count(shard, name) for shard in shards))
            line["embedding_rows"] = _both(self.rows[0].get(k), self.rows[1][k] if self.new else None)
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


def _compared(old: GraphShard, old_rows: Rows, new: GraphShard, new_rows: Rows) -> tuple[Ids, Ids, Ids, Ids]:
    """(users, items, moved users, moved items): the nodes that have a row in both versions, and those whose rows differ.

    All are empty if the number of rows is not the number of nodes: then it is not known which row belongs to which node.
    """
    if len(old_rows) != len(old.user_ids) + len(old.item_ids) or len(new_rows) != len(new.user_ids) + len(new.item_ids):
        return NONE, NONE, NONE, NONE
    found = []
    for side, old_skip, new_skip in (("user_ids", 0, 0), ("item_ids", len(old.user_ids), len(new.user_ids))):
        ids = getattr(old, side), getattr(new, side)
        both, at_old, at_new = np.intersect1d(*ids, assume_unique=True, return_indices=True)
        was, now = old_rows[at_old + old_skip].view(np.uint8), new_rows[at_new + new_skip].view(np.uint8)
        found.append((both, both[(was != now).any(axis=1)]))
    (users, moved_users), (items, moved_items) = found
    return users, items, moved_users, moved_items


def _joined(parts: Iterable[Ids]) -> Ids:
    return np.concatenate([NONE, *parts])


def contains(codes: Ids, wanted: Ids) -> Marks:
    """Which of `wanted` [n] are in `codes`, which are ascending; bool [n]."""
    if not len(codes):
        return np.zeros(len(wanted), dtype=bool)
    return np.asarray(codes[np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)] == wanted)


def _ascending(codes: Ids) -> Ids:
    return codes if np.all(codes[1:] >= codes[:-1]) else np.sort(codes)


def _both(before: int | None, after: int | None) -> dict[str, int | None]:
    return {"before": before, "after": after}


def _count(shard: GraphShard, name: str) -> int:
    if name == "entries":
        return len(shard.user_neighbours) + len(shard.item_neighbours)
    return len(getattr(shard, f"{name[:-1]}_ids"))
