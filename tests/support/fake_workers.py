"""Worker groups without processes.

`FakeWorkers` have no model either: partitions of an output as plain shards, read and written in turn. `forget` removes what
it is told to and adds 1 to the rows of its ends that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.numpy import load, save
from small_output import with_moved_ends

from unlearnrec.distributed.encoder.changes import shrink
from unlearnrec.distributed.partition.partition import Partition
from unlearnrec.distributed.partition.state import Model, fingerprint
from unlearnrec.distributed.partition.version import Version
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
        called = range(2) if partitions is None else partitions
        return [getattr(self, f"_{call.method}")(k, *call.args, **call.kwargs) for k in called]

    def _rows(self, k: int) -> np.ndarray:
        assert self._version is not None
        name = self._version.model.embeddings[k]
        data = self._store.read(name)
        assert self._store.sha256(data) == self._version.files[name].sha256, f"{name} is damaged"
        return load(data)["e0"]

    def _load(self, k: int, *_: Any) -> None:
        return None

    def _loaded_fingerprint(self, k: int) -> str | None:
        return self._fingerprint

    def _find(self, k: int, removal: Any, timed: Any) -> Any:
        return removal.find(self._shard(k), timed)

    def _forget(
        self, k: int, location: Any, users: Any, items: Any, names: Any, cut_only: bool, thinned: None
    ) -> dict[str, Any]:
        assert thinned is None, "the shards have no times"
        shard = self._shard(k)
        smaller, rows = shrink(shard, torch.from_numpy(self._rows(k)), users, items)
        return {
            "shard": self._written(names[k][0], smaller.to_bytes()),
            "files": [self._written(names[k][1], save({"e0": with_moved_ends(smaller, rows.numpy(), users, items)}))],
            "removed": len(shard.user_neighbours) - len(smaller.user_neighbours),
            "gone_users": np.setdiff1d(shard.user_ids, smaller.user_ids),
            "gone_items": np.setdiff1d(shard.item_ids, smaller.item_ids),
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
