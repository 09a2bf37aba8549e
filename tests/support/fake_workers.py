"""Worker groups without processes.

`FakeWorkers` have no model either: partitions of an output as plain shards, read and written in turn. `forget` removes what
it is told to and adds 1 to the rows of its ends that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from unlearnrec.distributed.partition.files import read_rows
from unlearnrec.distributed.partition.partition import Partition
from unlearnrec.distributed.partition.state import Model, fingerprint
from unlearnrec.distributed.partition.version import Version
from unlearnrec.distributed.partition.written import FileNames, Writer, emptied
from unlearnrec.partitioning.delta import RowsDelta, ShardDelta
from unlearnrec.partitioning.ingest import load_shard
from unlearnrec.partitioning.storage import Store
from unlearnrec.workers import Call

R = TypeVar("R")


class FakeWorkers:
    """What `Session.call` and `carry_out` need of a `WorkerGroup`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._version: Version | None = None
        self._fingerprint: str | None = None

    def run(
        self,
        call: Call[Any],
        *,
        restore: Callable[[], None],
        max_rebuilds: int = 0,
        partitions: Sequence[int] | None = None,
        on_progress: Any = None,
    ) -> list[Any]:
        if call.method == "load":
            _, self._version, halo, kernel = call.args
            self._fingerprint = fingerprint(self._version, halo, kernel)
            for k in range(2):
                self._rows(k)
                self._shard(k)
        called = range(2) if partitions is None else partitions
        return [getattr(self, f"_{call.method}")(k, *call.args, **call.kwargs) for k in called]

    def _rows(self, k: int) -> np.ndarray:
        assert self._version is not None
        return read_rows(self._store, self._version, k)

    def _load(self, k: int, *_: Any) -> dict[str, float]:
        return {}

    def _complete(self, k: int, users: Any, items: Any) -> float:
        return 0.0

    def _loaded_fingerprint(self, k: int) -> str | None:
        return self._fingerprint

    def _find(self, k: int, removal: Any, timed: Any) -> Any:
        return removal.find(self._shard(k), timed)

    def _forget(
        self, k: int, location: Any, users: Any, items: Any, names: Any, cut_only: bool, thinned: None
    ) -> dict[str, Any]:
        assert thinned is None, "the shards have no times"
        assert self._version is not None
        shard, rows = self._shard(k), self._rows(k)
        here = np.isin(users, shard.user_ids) | np.isin(items, shard.item_ids)
        mine = users[here], items[here]
        gone = emptied(shard, *mine)
        nodes = np.concatenate([shard.user_ids, shard.item_ids + shard.num_users])
        touched, lost = (
            np.isin(nodes, np.concatenate([of_users, of_items + shard.num_users]))
            for of_users, of_items in (mine, gone)
        )
        stay = np.flatnonzero(touched & ~lost)
        # The bases are so small that deltas are soon as large; with this share some are kept, and some written anew.
        writer = Writer(self._store, self._version, k, FileNames(*names[k]), largest_share=2.5)
        nobody = np.empty(0, dtype=np.int64)
        delta = ShardDelta(*mine, nobody, nobody, nobody, nobody, *gone)
        of_rows = RowsDelta(stay, rows[stay] + 1, np.flatnonzero(lost))
        return {
            "shard_chain": writer.shard(delta, shard),
            "embedding_chain": writer.rows(of_rows, torch.from_numpy(rows)),
            "follow": ((names[k][3],), (names[k][5],)),
            "tables": None,
            "files": writer.files,
            "gone_users": gone[0],
            "gone_items": gone[1],
            "largest_change": 1.0,
        }

    def _scores(self, k: int, users: Any, items: Any) -> Any:
        positions = np.arange(len(users)) if k == 0 else np.empty(0, dtype=np.int64)
        return positions, np.zeros(len(positions), dtype=np.float32)

    def _shard(self, k: int) -> Any:
        assert self._version is not None
        return load_shard(self._store, self._version.graph, k)

    def _written(self, name: str, data: bytes) -> dict[str, Any]:
        self._store.write(name, data)
        return {"name": name, "sha256": self._store.sha256(data), "bytes": len(data)}


class OneWorker:
    """The only partition, in this process and with its model: what `Session.call` and the commands need of a group."""

    def __init__(self) -> None:
        self._partition = Partition(0, 1)

    @property
    def loaded(self) -> Model:
        """The version in memory."""
        return self._partition._loaded_model()

    def run(self, call: Call[R], **_: Any) -> list[R]:
        return [call.on(self._partition)]
