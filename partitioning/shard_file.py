"""Writes the shards of a stored graph block by block, with the bytes that `GraphShard.to_bytes` gives."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .assignment import Assignment
from .framed import Sizes, frame
from .manifest import File
from .shard import ARRAYS, FORMAT, FORMAT_WITH_TIMES
from .spool import Spool
from .storage import Store
from .stored import ByItem, StoredGraph

AT_ONCE = 64
"""So many shards are written at a time, since each has an open file. More take another pass over the interactions."""
_PIECE = 8 << 20


class ShardFile:
    """The file of one shard while its arrays grow, in memory or in a temporary file."""

    def __init__(self, sizes: Sizes, spool: Spool, in_memory: bool) -> None:
        head, self._places, self.length = frame(sizes)
        self._types = {name: np.dtype(dtype) for name, (dtype, _) in sizes.items()}
        self._spool = spool
        self._memory = bytearray(self.length) if in_memory else None
        self._file: BinaryIO | None = None if in_memory else spool.open()
        if not in_memory:
            spool.spilled(self.length)
        self._store(0, memoryview(head))

    def put(self, name: str, values: npt.NDArray[Any]) -> None:
        """The next values of an array.

        Raises:
            InputError: the disk is full, or fails.
        """
        if not len(values):
            return
        data = np.ascontiguousarray(values, dtype=self._types[name]).data.cast("B")
        self._store(self._places[name], data)
        self._places[name] += len(data)

    def publish(self, store: Store, name: str) -> File:
        """Write the file to the store, and give the memory or the temporary file back."""
        if self._memory is not None:
            data = bytes(self._memory)
            store.write(name, data)
            return File(sha256=store.sha256(data), bytes=self.length)
        assert self._file is not None
        digest = hashlib.sha256()
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            digest.update(piece)
        self._file.seek(0)
        store.write_file(name, self._file)
        self.close()
        return File(sha256=digest.hexdigest(), bytes=self.length)

    def close(self) -> None:
        """Give the temporary file back, if there is one."""
        if self._file is not None:
            self._file.close()
            self._spool.spilled(-self.length)
        self._file = None

    def _store(self, offset: int, data: memoryview) -> None:
        if self._memory is not None:
            self._memory[offset : offset + len(data)] = data
        else:
            assert self._file is not None
            self._spool.write(self._file, offset, data)


def write_shards(
    graph: StoredGraph, items: ByItem, assignment: Assignment, store: Store, names: Sequence[str], spool: Spool
) -> dict[str, File]:
    """Cut a stored graph into one shard for each partition, and write them; returns what a manifest says of the files.

    items: the graph's interactions by item. names [K]: of the files, in order of partition.

    Raises:
        InputError: the spool's disk is full, or fails.
        OSError: of the store.
    """
    files = {}
    for first in range(0, len(names), AT_ONCE):
        shards = range(first, min(first + AT_ONCE, len(names)))
        for k, file in zip(shards, _filled(graph, items, assignment, shards, spool), strict=True):
            files[names[k]] = file.publish(store, names[k])
    return files


def _filled(
    graph: StoredGraph, items: ByItem, assignment: Assignment, shards: range, spool: Spool
) -> Sequence[ShardFile]:
    """The files of some shards, with all that belongs into them."""
    heads = [_head(graph, assignment, k) for k in shards]
    weights = [_events(graph, assignment, shards)] if graph.times is not None else []
    all_sizes = []
    for j, head in enumerate(heads):
        sizes: dict[str, tuple[npt.DTypeLike, int]] = {name: (np.int64, len(values)) for name, values in head.items()}
        for side in ("user", "item"):
            entries = int(head[f"{side}_indptr"][-1])
            sizes |= {f"{side}_neighbours": (np.int32, entries), f"{side}_counts": (np.int32, entries)}
        if weights:
            sizes["user_times"] = (np.int64, int(weights[0][j]))
        assert {*sizes} - {"header", "user_times"} == {*ARRAYS}
        all_sizes.append(sizes)
    in_memory = sum(frame(sizes)[2] for sizes in all_sizes) <= spool.memory
    files = [ShardFile(sizes, spool, in_memory) for sizes in all_sizes]
    for head, file in zip(heads, files, strict=True):
        for name, values in head.items():
            file.put(name, values)
    for block in graph.blocks():
        owners = assignment.owner_of_user[block.users]
        for j, chosen in _by_owner(owners, shards):
            files[j].put("user_neighbours", block.items[chosen])
            files[j].put("user_counts", block.counts[chosen])
        if block.times is not None:
            for j, chosen in _by_owner(np.repeat(owners, block.counts), shards):
                files[j].put("user_times", block.times[chosen])
    for block in items.blocks():
        for j, chosen in _by_owner(assignment.owner_of_item[block.items], shards):
            files[j].put("item_neighbours", block.users[chosen])
            files[j].put("item_counts", block.counts[chosen])
    return files


def _head(graph: StoredGraph, assignment: Assignment, k: int) -> dict[str, npt.NDArray[np.int64]]:
    """The arrays of a shard that have a number for each node."""
    num_users, num_items = len(assignment.owner_of_user), len(assignment.owner_of_item)
    version = FORMAT if graph.times is None else FORMAT_WITH_TIMES
    found = {"header": np.array([version, k, assignment.num_partitions, num_users, num_items], dtype=np.int64)}
    sides = (
        ("user", assignment.owner_of_user, graph.user_degrees),
        ("item", assignment.owner_of_item, graph.item_degrees),
    )
    for side, owner, degrees in sides:
        ids = np.flatnonzero(owner == k)
        found[f"{side}_ids"] = ids
        found[f"{side}_indptr"] = np.concatenate([[0], np.cumsum(degrees[ids])])
    return found


def _events(graph: StoredGraph, assignment: Assignment, shards: range) -> npt.NDArray[np.int64]:
    """The number of events of the users of each of these shards."""
    events = np.zeros(assignment.num_partitions, dtype=np.int64)
    for block in graph.blocks():
        counted = np.bincount(assignment.owner_of_user[block.users], block.counts, minlength=assignment.num_partitions)
        events += counted.astype(np.int64)
    return events[shards.start : shards.stop]


def _by_owner(owners: npt.NDArray[np.int16], shards: range) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """For each of these shards (its place among them, the places of its entries, ascending). owners: of the entries."""
    if shards.stop - shards.start <= 2:
        for j, k in enumerate(shards):
            yield j, np.flatnonzero(owners == k)
        return
    order = np.argsort(owners, kind="stable")  # a radix sort, as these are integers of 16 bits
    bounds = np.searchsorted(owners[order], [*shards, shards.stop])
    for j in range(len(shards)):
        yield j, order[bounds[j] : bounds[j + 1]]
