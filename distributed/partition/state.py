"""What one worker keeps in memory: its rank in the process groups, and the loaded version."""

import hashlib
import json
import os
import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...partitioning.ingest import load_assignment, load_shard
from ...partitioning.manifest import Graph
from ...partitioning.storage import StorageOptions, Store
from .. import comm as communication
from ..backbones import Backbone
from ..backbones.registry import make_backbone
from ..comm import Comm
from ..encoder.influence import AroundEncoder, InfluenceEncoder, NodeRows
from ..encoder.published import Published, PublishedEncoder
from ..environment import EXCHANGE_DTYPE
from ..graph.local_graph import LocalGraph
from ..graph.removal import Pairs, Removal, with_empty_rows
from ..training.checkpoint import from_bytes
from .results import Written
from .version import Encoder, Version


@dataclass(frozen=True)
class Location:
    """The output: its path or URI, and how to open its storage. Picklable, which a `Store` is not."""

    root_uri: str
    options: StorageOptions

    def store(self) -> Store:
        """The store at this place."""
        return Store(self.root_uri, self.options)


@dataclass
class Model:
    """A version in memory: its graph, the local rows of E0 [N, d], and what is computed from them. `encoder` is None if
    the version has none in a format that this release reads."""

    graph: LocalGraph
    e0: Tensor
    backbone: Backbone
    nodes: NodeRows
    encoder: InfluenceEncoder | AroundEncoder | Published | None


class PartitionState:
    """Rank `partition` of `num_partitions`; see `workers.actor.PartitionHost` for the control methods."""

    def __init__(self, partition: int, num_partitions: int) -> None:
        self._rank, self._size = partition, num_partitions
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if threads := os.environ.get("OMP_NUM_THREADS"):
            torch.set_num_threads(int(threads))
        self._store_server: Any = None
        self._row_dtype = getattr(torch, os.environ.get(EXCHANGE_DTYPE, "float32"))
        self._comm = Comm(device=self._device) if num_partitions == 1 else None
        self._generation = 0
        self._progress: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._model: Model | None = None
        self._fingerprint: str | None = None

    # ---- control -------------------------------------------------------------------------------------------------

    def open_store(self, host: str) -> tuple[str, int]:
        """Open the store at which the ranks meet in the next `join`, on rank 0 only. Returns its (address, port)."""
        self._store_server = communication.open_store(host, self._size, 60.0)
        return host, self._store_server.port

    def join(self, address: str, port: int, own_address: str, generation: int, timeout_seconds: float) -> None:
        """Form the process groups of a generation. The loaded version is dropped.

        address, port: of the store. own_address: where this rank listens for the others.

        Raises:
            CollectiveError: not all ranks came within the time-out.
        """
        if self._comm is not None:
            self._comm.close()
        store = (
            self._store_server
            if self._rank == 0
            else communication.reach_store(address, port, self._size, timeout_seconds)
        )
        self._model, self._generation = None, generation
        self._comm = Comm(self._rank, self._size, store, timeout_seconds, self._device, own_address, self._row_dtype)
        self._say(phase="idle", generation=generation)

    def abort(self) -> None:
        """End the process groups. May be called from any thread."""
        if self._comm is not None:
            self._comm.abort()

    def progress(self) -> dict[str, Any]:
        """What this partition is doing, as fields such as phase, epoch and loss."""
        with self._lock:
            return dict(self._progress)

    def _say(self, **fields: Any) -> None:
        with self._lock:
            self._progress = fields

    def check_exchange(self) -> None:
        """Exchange some rows with all other ranks, over the group that training uses.

        Raises:
            CollectiveError, RuntimeError: they do not arrive, or not as they were sent.
        """
        assert self._comm is not None, "called before join"
        communication.check_exchange(self._comm)

    # ---- versions ------------------------------------------------------------------------------------------------

    def load(self, location: Location, version: Version, halo: str, kernel: str) -> None:
        """Load a version: its shard, rows of E0, dense weights and encoder. Then compute the readouts, all ranks
        together.

        Raises:
            InputError, OSError: a file is missing or not the one that was written.
        """
        self._say(phase="load")
        store, spec = location.store(), version.model
        graph = self._graph(store, version.graph, halo, kernel)
        e0 = from_bytes(_read(store, version, spec.embeddings[self._rank]))["e0"].to(self._device)
        backbone = make_backbone(spec.backbone, spec.seed).to(self._device)
        if spec.dense:
            backbone.load_state_dict(from_bytes(_read(store, version, spec.dense)))
        encoder = self._encoder(store, version, spec.encoder) if spec.encoder and spec.encoder.readable else None
        self._model = Model(graph, e0, backbone, node_rows(graph, backbone, e0), encoder)
        self._fingerprint = fingerprint(version, halo, kernel)

    def _encoder(self, store: Store, version: Version, spec: Encoder) -> InfluenceEncoder | AroundEncoder | Published:
        around = AroundEncoder if spec.around else InfluenceEncoder
        kind = PublishedEncoder if spec.tables else around
        dense = kind(**spec.shape).to(self._device)
        dense.load_state_dict(from_bytes(_read(store, version, spec.file)))
        if not isinstance(dense, PublishedEncoder):
            return dense
        assert spec.tables is not None
        tables = from_bytes(_read(store, version, spec.tables[self._rank]))
        return Published(dense, tables["h0"].to(self._device), tables["gate"].to(self._device))

    def loaded_fingerprint(self) -> str | None:
        """The `fingerprint` of the loaded version; None if none is loaded."""
        return self._fingerprint if self._model is not None else None

    def _graph(
        self, store: Store, manifest: Graph, halo: str, kernel: str, removal: Removal | None = None
    ) -> LocalGraph:
        shard, assignment = load_shard(store, manifest, self._rank), load_assignment(store, manifest)
        if removal is not None:
            pairs = removal.pairs(shard)
            shard = with_empty_rows(shard.without(*pairs), assignment)
        assert self._comm is not None, "called before join"
        return LocalGraph(shard, assignment, self._comm, halo, kernel)

    def _tensors(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        users, items = (torch.from_numpy(x.copy()).to(self._device) for x in pairs)
        return users, items

    def _loaded_model(self) -> Model:
        if self._model is None:
            raise RuntimeError("no version is loaded")
        return self._model


def fingerprint(version: Version, halo: str, kernel: str) -> str:
    """A SHA-256 that tells loaded versions apart. Their numbers do not, since several outputs may share workers. A
    version has the same fingerprint before and after its commit."""
    parts = ("graph", "model", "files")
    document = version.model_dump(mode="json", exclude_unset=True, include=set(parts))
    held = [document[part] for part in parts]
    return hashlib.sha256(json.dumps([held, halo, kernel], sort_keys=True).encode()).hexdigest()


@torch.no_grad()
def node_rows(graph: LocalGraph, backbone: Backbone, e0: Tensor) -> NodeRows:
    """The readouts, neighbour means and degrees of the local rows, computed from E0 [N, d]. All ranks call it."""
    z = backbone.readout(e0, graph.propagation)
    return NodeRows(e0, z, graph.neighbour_means(z), graph.degrees)


def write_file(store: Store, name: str, data: bytes) -> Written:
    """Write a file. It counts only after a version names it."""
    store.write(name, data)
    return {"name": name, "sha256": store.sha256(data), "bytes": len(data)}


def _read(store: Store, version: Version, name: str) -> bytes:
    data = store.read(name)
    if store.sha256(data) != version.files[name].sha256:
        raise OSError(
            f"{store.root_uri}/{name} is damaged: its SHA-256 is not the one that version {version.version} names"
        )
    return data
