"""What one worker keeps in memory: its rank in the process groups, and the loaded version."""

import hashlib
import json
import os
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...partitioning.delta import ShardDelta, joined
from ...partitioning.ingest import load_assignment, load_gone, load_shard
from ...partitioning.manifest import Graph
from ...partitioning.shard import distinct
from ...partitioning.storage import StorageOptions, Store
from .. import comm as communication
from ..backbones import Backbone
from ..backbones.registry import make_backbone
from ..comm import Comm
from ..encoder.influence import AroundEncoder, InfluenceEncoder, NodeRows
from ..encoder.published import Published, PublishedEncoder
from ..environment import EXCHANGE_DTYPE
from ..graph.gaps import close_row_gaps
from ..graph.local_graph import LocalGraph
from ..graph.removal import Ids, Pairs, Removal, with_empty_rows
from ..graph.shrinking import shrink, writable
from ..training.checkpoint import from_bytes
from .files import read_file, read_row_deltas, read_rows
from .version import Encoder, Version

MOST_ENTRIES = 0.5
"""The share of the graph's entries from which on the means of all nodes are computed, not only those that are needed."""


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
    version: Version
    complete: bool = True
    """Whether `nodes` has the means of the neighbours' readouts of all nodes, which only requests and the fit of an encoder
    need."""


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
        self._parts: dict[str, float] = {}
        self._since = 0.0

    # ---- control -------------------------------------------------------------------------------------------------

    def try_name_servers(self, address: str) -> None:
        """Wait until the name servers of this machine have answered, or have been given up (`comm.try_name_servers`)."""
        communication.try_name_servers(address)

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

    def load(self, location: Location, version: Version, halo: str, kernel: str) -> dict[str, float]:
        """Load a version: its shard, rows of E0, dense weights and encoder. Then compute the readouts, all ranks
        together.

        Where the version follows from the one in memory (`Version.follows`), that one is changed in place: only the deltas
        are read. The readouts are computed in either case, but not what only the next request needs (`complete`).

        Returns:
            The seconds of each part: "files" or "edges", and "readouts".

        Raises:
            InputError, OSError: a file is missing or not the one that was written.
        """
        self._parts, self._since = {}, time.perf_counter()
        store, wanted = location.store(), fingerprint(version, halo, kernel)
        model, held = self._model, self._fingerprint
        # Whatever fails below leaves nothing behind that could be taken for a version.
        self._model = self._fingerprint = None
        follows = version.follows
        if model is not None and follows is not None and follows.fingerprint == held and _can_follow(model, version):
            self._say(phase="refresh")
            self._model = self._followed(store, model, version)
        else:
            self._say(phase="load")
            del model  # before the new one takes as much memory again
            self._model = self._whole(store, version, halo, kernel)
        self._fingerprint = wanted
        return self._parts

    def unload(self) -> None:
        """Let go of the loaded version, if there is one."""
        self._model, self._fingerprint = None, None

    def _ended(self, part: str) -> None:
        """Note the seconds since the last call as those of a part of `load`."""
        now = time.perf_counter()
        self._parts[part], self._since = now - self._since, now

    @torch.no_grad()
    def complete(self, users: Ids | None = None, items: Ids | None = None) -> float:
        """Compute what of the loaded version a request needs and its readers do not: the means of the neighbours' readouts.
        All ranks call it; a call after one for all nodes does nothing.

        users, items: int64 [.], of the nodes whose means are needed, by dense id. None: all.

        Returns:
            The seconds that it took.
        """
        start, model = time.perf_counter(), self._loaded_model()
        if not model.complete:
            self._say(phase="refresh")
            graph, nodes = model.graph, model.nodes
            rows = None if users is None or items is None else self._own_rows(users, items)
            if rows is None or graph.degrees[rows].sum() > MOST_ENTRIES * graph.degrees.sum():
                means, model.complete = graph.neighbour_means(nodes.readout), True
            else:
                # The pages of rows that nobody writes to take no memory, and no time.
                means = torch.from_numpy(np.zeros(nodes.readout.shape, dtype=np.float32)).to(nodes.readout)
                means[rows] = graph.neighbour_means_of(nodes.readout, rows)
            model.nodes = NodeRows(nodes.e0, nodes.readout, means, nodes.degree)
        return time.perf_counter() - start

    def _own_rows(self, users: Ids, items: Ids) -> Tensor:
        """The local rows int64 [n], ascending, of those of these nodes that this partition owns."""
        graph, (user, item) = self._loaded_model().graph, self._tensors((distinct(users), distinct(items)))
        rows = torch.cat([graph.user_rows(user), graph.item_rows(item)])
        return rows[rows >= 0]

    def _whole(self, store: Store, version: Version, halo: str, kernel: str) -> Model:
        """A version that is read from all of its files."""
        spec = version.model
        graph = self._graph(store, version.graph, halo, kernel)
        e0 = torch.from_numpy(read_rows(store, version, self._rank)).to(self._device)
        backbone = make_backbone(spec.backbone, spec.seed).to(self._device)
        if spec.dense:
            backbone.load_state_dict(from_bytes(read_file(store, version, spec.dense)))
        encoder = self._encoder(store, version, spec.encoder) if spec.encoder and spec.encoder.readable else None
        self._ended("files")
        nodes = node_rows(graph, backbone, e0)
        self._ended("readouts")
        return Model(graph, e0, backbone, nodes, encoder, version)

    @torch.no_grad()
    def _followed(self, store: Store, model: Model, version: Version) -> Model:
        """A version that is made, in the same memory, from the one in `model`, which is of no use afterwards."""
        assert version.follows is not None
        if not version.follows.named_files():
            # The same graph and rows in other files.
            model.version = version
            return model
        names = version.follows.shards[self._rank], version.follows.embeddings[self._rank]
        graph, e0 = model.graph, model.e0
        # What other partitions lost concerns this one too: the ids of their nodes, and rows that are exchanged no more.
        deltas = [ShardDelta.from_bytes(read_file(store, version, name)) for name in names[0]]
        gone_rows = shrink(graph, joined(deltas, graph.num_items), load_gone(store, version.graph))
        for change in read_row_deltas(store, version, names[1]):
            e0[torch.from_numpy(change.rows).to(e0.device)] = torch.from_numpy(change.e0).to(e0.device)
            e0 = close_row_gaps(e0, change.gone)
        if len(e0) != graph.num_rows:
            raise RuntimeError(
                f"the deltas leave {len(e0)} rows of E0 for {graph.num_rows} nodes ({len(gone_rows)} gone)"
            )
        self._ended("edges")
        # What was computed of the version before goes first: a readout takes as much memory again while it is made.
        model.nodes = NodeRows(e0, e0[:0], e0[:0], graph.degrees)
        readout = model.backbone.readout(e0, graph.propagation)
        self._ended("readouts")
        nodes = NodeRows(e0, readout, readout[:0], graph.degrees)
        return Model(graph, e0, model.backbone, nodes, model.encoder, version, complete=False)

    def _encoder(self, store: Store, version: Version, spec: Encoder) -> InfluenceEncoder | AroundEncoder | Published:
        around = AroundEncoder if spec.around else InfluenceEncoder
        kind = PublishedEncoder if spec.tables else around
        dense = kind(**spec.shape).to(self._device)
        dense.load_state_dict(from_bytes(read_file(store, version, spec.file)))
        if not isinstance(dense, PublishedEncoder):
            return dense
        assert spec.tables is not None
        tables = from_bytes(read_file(store, version, spec.tables[self._rank]))
        return Published(dense, tables["h0"].to(self._device), tables["gate"].to(self._device))

    def loaded_fingerprint(self) -> str | None:
        """The `fingerprint` of the loaded version; None if none is loaded."""
        return self._fingerprint if self._model is not None else None

    def _graph(self, store: Store, manifest: Graph, halo: str, kernel: str) -> LocalGraph:
        """The graph of a version."""
        shard, assignment = writable(load_shard(store, manifest, self._rank)), load_assignment(store, manifest)
        assert self._comm is not None, "called before join"
        return LocalGraph(shard, assignment, self._comm, halo, kernel)

    def _graph_to_train_on(
        self, store: Store, manifest: Graph, halo: str, kernel: str, removal: Removal
    ) -> tuple[LocalGraph, Pairs]:
        """(the graph without what is removed, (users, items): the nodes whose rows are written after a training)."""
        shard, assignment = load_shard(store, manifest, self._rank), load_assignment(store, manifest)
        nodes = shard.user_ids, shard.item_ids
        shard = with_empty_rows(shard.without(*removal.pairs(shard)), assignment)
        assert self._comm is not None, "called before join"
        return LocalGraph(shard, assignment, self._comm, halo, kernel), nodes

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


def _can_follow(model: Model, version: Version) -> bool:
    """Whether a version differs from the one in memory in nothing but what deltas say. The same on all ranks.

    Tables of an encoder change as a whole; a plan of vertex covers is made anew; and only arrays of the CPU are changed in
    place.
    """
    old, new = model.version.model, version.model
    same = (old.backbone, old.seed, old.dense, old.encoder) == (new.backbone, new.seed, new.dense, new.encoder)
    cpu = model.graph.comm.device.type == "cpu"
    return same and cpu and model.graph.halo.halo == "pull" and not isinstance(model.encoder, Published)
