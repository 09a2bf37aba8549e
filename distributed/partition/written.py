"""What a request writes of one partition: a delta of its shard and one of its rows of E0, or new files of the whole.

A chain of files is kept short in two ways. When it has MOST_DELTAS deltas, they become one. When the deltas have grown to
LARGEST_SHARE of their base, the base is written anew without what they remove. In both cases the delta of this request is
written as well: workers that hold the version before need nothing else (`version.Follows`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...partitioning.delta import RowsDelta, ShardDelta, joined, joined_rows
from ...partitioning.framed import write_parts
from ...partitioning.shard import GraphShard
from ...partitioning.storage import Store
from ..training.checkpoint import to_bytes
from .files import read_file, write_file
from .results import Written
from .version import Version

MOST_DELTAS = 16
LARGEST_SHARE = 0.25


class FileNames(NamedTuple):
    """The names for what a request may write of one partition."""

    shard: str
    embeddings: str
    encoder: str
    shard_delta: str
    shard_deltas: str
    rows_delta: str
    rows_deltas: str

    @staticmethod
    def stems(partition: int) -> "FileNames":
        """The beginnings of these names for a partition."""
        shard, rows = f"shard-{partition:03d}", f"embeddings-{partition:03d}"
        encoder, deltas = f"encoder-{partition:03d}", ("delta", "deltas")
        return FileNames(shard, rows, encoder, *(f"{one}-{kind}" for one in (shard, rows) for kind in deltas))


@dataclass
class Writer:
    """Writes the files of a version that is made from the one that a partition holds, under names of its own."""

    store: Store
    version: Version
    """The version that the partition holds."""
    partition: int
    names: FileNames
    largest_share: float = LARGEST_SHARE
    files: list[Written] = field(default_factory=list)
    """What was written so far."""

    def shard(self, delta: ShardDelta, shard: GraphShard) -> tuple[str, ...]:
        """Write what a delta changes in `shard`, that of the version held; returns the new chain."""
        base, *old = self.version.graph.shard_chain(self.partition)
        new = self._write(self.names.shard_delta, delta.to_bytes())
        if self._too_large(base, [*old, new]):
            return (self.whole_shard(delta.applied_to(shard)),)
        if len(old) < MOST_DELTAS:
            return base, *old, new
        deltas = [ShardDelta.from_bytes(read_file(self.store, self.version, name)) for name in old]
        return base, self._write(self.names.shard_deltas, joined([*deltas, delta], shard.num_items).to_bytes())

    def rows(self, delta: RowsDelta, e0: Tensor) -> tuple[str, ...]:
        """Write what a delta changes in the rows `e0` [N, d], those of the version held; returns the new chain."""
        base, *old = self.version.model.embedding_chain(self.partition)
        new = self._write(self.names.rows_delta, delta.to_bytes())
        if self._too_large(base, [*old, new]):
            return (self.whole_rows(rows_after(delta, e0)),)
        if len(old) < MOST_DELTAS:
            return base, *old, new
        deltas = [RowsDelta.from_bytes(read_file(self.store, self.version, name)) for name in old]
        return base, self._write(self.names.rows_deltas, joined_rows([*deltas, delta]).to_bytes())

    def whole_shard(self, shard: GraphShard) -> str:
        """Write a whole shard, without a copy of it; returns the name."""
        file = write_parts(self.store, self.names.shard, shard.parts())
        self.files.append({"name": self.names.shard, "sha256": file.sha256, "bytes": file.bytes})
        return self.names.shard

    def whole_rows(self, e0: Tensor) -> str:
        """Write all rows of E0; returns the name."""
        return self._write(self.names.embeddings, to_bytes({"e0": e0}))

    def tables(self, tables: dict[str, Tensor]) -> str:
        """Write the tables of an encoder; returns the name."""
        return self._write(self.names.encoder, to_bytes(tables))

    def _write(self, name: str, data: bytes) -> str:
        self.files.append(write_file(self.store, name, data))
        return name

    def _too_large(self, base: str, deltas: Sequence[str]) -> bool:
        sizes = {name: file.bytes for name, file in self.version.files.items()} | {
            file["name"]: file["bytes"] for file in self.files
        }
        return sum(sizes[name] for name in deltas) > self.largest_share * sizes[base]


def rows_after(delta: RowsDelta, e0: Tensor) -> Tensor:
    """A copy of the rows e0 [N, d] with what the delta changes."""
    rows = e0.clone()
    if len(delta.rows):
        rows[torch.from_numpy(delta.rows).to(rows.device)] = torch.from_numpy(delta.e0).to(rows.device)
    keep = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    keep[torch.from_numpy(delta.gone).to(rows.device)] = False
    return rows[keep]


def emptied(
    shard: GraphShard, users: npt.NDArray[np.int64], items: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(users, items) of a shard that have no interaction any more without the interactions users, items int64 [n]."""
    found = []
    for ids, indptr, ends in ((shard.user_ids, shard.user_indptr, users), (shard.item_ids, shard.item_indptr, items)):
        place = np.minimum(np.searchsorted(ids, ends), max(0, len(ids) - 1))
        mine = place[ids[place] == ends] if len(ids) else place[:0]
        found.append(ids[np.diff(indptr) == np.bincount(mine, minlength=len(ids))])
    return found[0], found[1]
