"""What one worker hosts: the partition's shard, its rows of the tables, and the operations that a driver calls on them.

Every method is SPMD (all ranks call it with the same arguments, except where it says "only the affected") and reads
committed files or writes files that count only once a version names them. So a call can be repeated after a failure:
load the committed version, call again.
"""

import copy
import hashlib
import json
import os
import posixpath
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..partitioning.assignment import Assignment
from ..partitioning.ingest import load_assignment, load_shard
from ..partitioning.shard import GraphShard
from ..partitioning.storage import StorageOptions, Store
from . import comm as communication
from .backbones import Backbone
from .checkpoint import Checkpoints, from_bytes, to_bytes
from .comm import Comm
from .evaluate import evaluate, pair_scores, rank
from .fine_tune import fine_tune
from .forget import influence, shrink
from .influence import FORMAT, InfluenceEncoder, NodeRows
from .local_graph import LocalGraph
from .membership import Standing, standing, trained_pairs
from .pretrain import PretrainSettings, calibrate, examples, fit
from .published import Published, PublishedEncoder, PublishedSettings, pretrain_published, published_influence
from .removal import Found, Pairs, Removal, with_empty_rows
from .run import TrainRun, make_backbone, run_training

Ids = npt.NDArray[np.int64]
_NOBODY: Ids = np.empty(0, dtype=np.int64)
Written = dict[str, Any]
"""{"name", "sha256", "bytes"} of a file."""


@dataclass(frozen=True)
class Location:
    """Where the output lies."""

    root_uri: str
    options: StorageOptions

    def store(self) -> Store:
        """The store there."""
        return Store(self.root_uri, self.options)


@dataclass
class Model:
    """A version in memory: graph, rows of E0 [N, d], and what is computed from them."""

    graph: LocalGraph
    e0: Tensor
    backbone: Backbone
    nodes: NodeRows
    encoder: InfluenceEncoder | Published | None


class Partition:
    """Rank `partition` of `num_partitions`; see `workers.actor.PartitionHost` for the control methods."""

    def __init__(self, partition: int, num_partitions: int) -> None:
        self._rank, self._size = partition, num_partitions
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if threads := os.environ.get("OMP_NUM_THREADS"):
            torch.set_num_threads(int(threads))
        self._store_server: Any = None
        self._comm = Comm() if num_partitions == 1 else None
        self._generation = 0
        self._progress: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._model: Model | None = None
        self._held: str | None = None

    # ---- control -------------------------------------------------------------------------------------------------

    def open_store(self, host: str) -> tuple[str, int]:
        """Rank 0: a meeting point for the next `join`."""
        self._store_server = communication.open_store(host, self._size, 60.0)
        return host, self._store_server.port

    def join(self, address: str, port: int, generation: int, timeout_seconds: float) -> None:
        """Form the process groups of a generation.

        Raises:
            CollectiveError: not everybody came.
        """
        if self._comm is not None:
            self._comm.close()
        store = (
            self._store_server
            if self._rank == 0
            else communication.reach_store(address, port, self._size, timeout_seconds)
        )
        self._model, self._generation = None, generation
        self._comm = Comm(self._rank, self._size, store, timeout_seconds, self._device)
        self._say(phase="idle", generation=generation)

    def abort(self) -> None:
        """End the process groups, from any thread."""
        if self._comm is not None:
            self._comm.abort()

    def progress(self) -> dict[str, Any]:
        """What it does now."""
        with self._lock:
            return dict(self._progress)

    def _say(self, **fields: Any) -> None:
        with self._lock:
            self._progress = fields

    # ---- versions ------------------------------------------------------------------------------------------------

    def load(self, location: Location, version: dict[str, Any], halo: str, kernel: str) -> None:
        """Load a version: shard, rows, dense weights, encoder; and compute the readouts."""
        self._say(phase="load")
        store, spec = location.store(), version["model"]
        graph = self._graph(store, version["graph"], halo, kernel)
        e0 = from_bytes(_read(store, version, spec["embeddings"][self._rank]))["e0"].to(self._device)
        backbone = make_backbone(spec["backbone"], spec["seed"]).to(self._device)
        if spec["dense"]:
            backbone.load_state_dict(from_bytes(_read(store, version, spec["dense"])))
        usable = spec["encoder"] and spec["encoder"].get("format") == FORMAT
        encoder = self._encoder(store, version, spec["encoder"]) if usable else None
        self._model = Model(graph, e0, backbone, _node_rows(graph, backbone, e0), encoder)
        self._held = fingerprint(version, halo, kernel)

    def _encoder(self, store: Store, version: dict[str, Any], spec: dict[str, Any]) -> InfluenceEncoder | Published:
        kind = PublishedEncoder if spec["tables"] else InfluenceEncoder
        dense = kind(**spec["shape"]).to(self._device)
        dense.load_state_dict(from_bytes(_read(store, version, spec["file"])))
        if isinstance(dense, InfluenceEncoder):
            return dense
        tables = from_bytes(_read(store, version, spec["tables"][self._rank]))
        return Published(dense, tables["h0"].to(self._device), tables["gate"].to(self._device))

    def holds(self) -> str | None:
        """The `fingerprint` of what is loaded."""
        return self._held if self._model is not None else None

    def _graph(
        self, store: Store, manifest: dict[str, Any], halo: str, kernel: str, removal: Removal | None = None
    ) -> LocalGraph:
        shard, assignment = load_shard(store, manifest, self._rank), load_assignment(store, manifest)
        if removal is not None:
            pairs = removal.pairs(shard)
            shard = with_empty_rows(shard.without(*pairs), assignment)
        return self._local(shard, assignment, halo, kernel)

    def _local(self, shard: GraphShard, assignment: Assignment, halo: str, kernel: str) -> LocalGraph:
        assert self._comm is not None, "called before join"
        return LocalGraph(shard, assignment, self._comm, halo, kernel)

    # ---- training ------------------------------------------------------------------------------------------------

    def train(
        self, location: Location, manifest: dict[str, Any], run: TrainRun, names: Sequence[str], dense_name: str | None
    ) -> dict[str, Any]:
        """Train on the graph of this manifest minus `run.removal`; rank k writes its rows of E0 to names[k].

        Nodes that the removal leaves without interactions keep their rows. Returns the curve and the files written.
        """
        self._say(phase="load")
        store = location.store()
        graph = self._graph(store, manifest, run.halo, run.kernel, run.removal)
        trainer, curve = run_training(graph, run, Checkpoints(store, run.folder), self._say)
        shard = load_shard(store, manifest, self._rank)
        ids = [torch.from_numpy(x).to(self._device) for x in (shard.user_ids, shard.item_ids)]
        rows = torch.cat([graph.user_rows(ids[0]), graph.item_rows(ids[1])])
        files = [_write(store, names[self._rank], to_bytes({"e0": trainer.table.rows[rows]}))]
        if dense_name is not None and self._rank == 0:
            files.append(_write(store, dense_name, to_bytes(trainer.backbone.state_dict())))
        return {"curve": curve, "files": files, "has_dense": bool(list(trainer.backbone.parameters()))}

    def reduce(
        self,
        location: Location,
        manifest: dict[str, Any],
        removal: Removal,
        embeddings: Sequence[str],
        names: Sequence[tuple[str, str]],
    ) -> dict[str, Any]:
        """Write shard and rows of E0 (from embeddings[k]) without a removal to names[k]."""
        store = location.store()
        e0 = from_bytes(store.read(embeddings[self._rank]))["e0"]
        shard = load_shard(store, manifest, self._rank)
        pairs = removal.pairs(shard)
        return self._write_shrunk(store, shard, e0, pairs, names[self._rank])

    def _write_shrunk(
        self, store: Store, shard: GraphShard, e0: Tensor, pairs: Pairs, names: Sequence[str]
    ) -> dict[str, Any]:
        smaller, e0 = shrink(shard, e0, *pairs)
        return {
            "shard": _write(store, names[0], smaller.to_bytes()),
            "files": [_write(store, names[1], to_bytes({"e0": e0}))],
            "removed": len(shard.user_neighbours) - len(smaller.user_neighbours),
            "removed_events": int(shard.user_counts.sum() - smaller.user_counts.sum()),
            "gone_users": np.setdiff1d(shard.user_ids, smaller.user_ids),
            "gone_items": np.setdiff1d(shard.item_ids, smaller.item_ids),
        }

    def degrees_of_items(self) -> tuple[Ids, Ids]:
        """(ids, degrees) of the items here."""
        shard = self._loaded().graph.shard
        return shard.item_ids, np.diff(shard.item_indptr)

    def fit_encoder(
        self,
        location: Location,
        manifest: dict[str, Any],
        original: tuple[Sequence[str], str] | None,
        counterfactuals: Sequence[tuple[Removal, Sequence[str]]],
        shape: dict[str, Any],
        settings: PretrainSettings,
        name: str,
    ) -> dict[str, Any]:
        """Train the encoder on runs that left out these removals; rank 0 writes it to `name`.

        original: files of the run on the whole graph, rows by rank and dense weights; None where that is the loaded
        version itself. Each
        counterfactual's files hold its rows of E0, by rank.
        """
        self._say(phase="encoder")
        model, store = self._loaded(), location.store()

        def rows(names: Sequence[str]) -> Tensor:
            return from_bytes(store.read(names[self._rank]))["e0"].to(self._device)

        nodes, backbone = model.nodes, model.backbone
        if original is not None:
            backbone = copy.deepcopy(backbone)
            backbone.load_state_dict(from_bytes(store.read(original[1])))
            nodes = _node_rows(model.graph, backbone, rows(original[0]))
        targets = [(removal, rows(names)) for removal, names in counterfactuals]
        data = examples(model.graph, nodes, targets)
        largest = max((float(x.needed.norm(dim=1).max()) for x in data if len(x.needed)), default=0.0)
        encoder = InfluenceEncoder(**shape).to(self._device)
        assert self._comm is not None
        fitted = fit(
            self._comm,
            encoder,
            data,
            settings,
            lambda epoch, loss: self._say(phase="encoder", epoch=epoch, loss=round(loss, 5)),
        )
        fitted["user_gain"], fitted["item_gain"] = calibrate(model.graph, backbone, nodes, encoder, targets)
        files = [_write(store, name, to_bytes(encoder.state_dict()))] if self._rank == 0 else []
        return {"fit": fitted, "files": files, "largest_shift": largest}

    def fit_published(
        self, location: Location, shape: dict[str, Any], settings: PublishedSettings, name: str, tables: Sequence[str]
    ) -> dict[str, Any]:
        """Train the encoder in the paper's form on the loaded version; rank k writes its tables to tables[k], rank 0 the
        dense part to `name`."""
        model, store = self._loaded(), location.store()
        encoder = PublishedEncoder(**shape).to(self._device)
        h0, gate = pretrain_published(
            model.graph,
            model.backbone,
            model.e0,
            model.nodes.readout,
            encoder,
            settings,
            lambda epoch, loss: self._say(phase="encoder", epoch=epoch, loss=round(loss, 5)),
        )
        files = [_write(store, tables[self._rank], to_bytes({"h0": h0, "gate": gate}))]
        if self._rank == 0:
            files.append(_write(store, name, to_bytes(encoder.state_dict())))
        return {"fit": {}, "files": files}

    # ---- forgetting ----------------------------------------------------------------------------------------------

    def find(self, removal: Removal, timed: Ids) -> Found:
        """The interactions here that a request may remove, as `Removal.find`. Only the owners of what it names need be
        asked."""
        return removal.find(self._loaded().graph.shard, timed)

    def forget(
        self,
        location: Location,
        users: Ids,
        items: Ids,
        names: Mapping[int, tuple[str, ...]],
        cut_only: bool = False,
        thinned: tuple[Ids, Ids, Ids, Ids] | None = None,
    ) -> dict[str, Any]:
        """Only the affected partitions: forget interactions users, items [n] (sorted; others than with an end here are
        left alone), and write shard and rows of E0 to names[rank], to which the generation is added: what a worker of an
        earlier one still writes is no file of this attempt.

        thinned: interactions that lose some of their events, as for `GraphShard.thinned`. They change counts and times,
        and no row: a partition that has no other writes its shard only.

        The model in memory is not changed: the driver commits, and then loads the new version.
        """
        start = time.perf_counter()
        model, store = self._loaded(), location.store()
        pairs = [torch.from_numpy(x.copy()).to(self._device) for x in (users, items)]
        graph = model.graph
        here = (graph.owner_of_user[pairs[0]] == self._rank) | (graph.owner_of_item[pairs[1]] == self._rank)
        mine = [x[here] for x in pairs]
        shard = graph.shard if thinned is None else graph.shard.thinned(*thinned)
        own = [self._own_name(name) for name in names[self._rank]]
        if not len(mine[0]):
            kept = _kept_rows(_write(store, own[0], shard.to_bytes()))
            return kept | {"seconds": time.perf_counter() - start}
        e0, rows = model.e0.clone(), torch.empty(0, dtype=torch.int64, device=self._device)
        change = e0[rows]
        if not cut_only:
            if model.encoder is None:
                raise RuntimeError("the loaded version has no encoder")
            if isinstance(model.encoder, Published):
                rows, change = published_influence(graph, model.nodes.readout, model.encoder, mine[0], mine[1])
            else:
                rows, change = influence(graph, model.nodes, model.encoder, mine[0], mine[1])
            e0[rows] += change
        pairs_here = (mine[0].cpu().numpy(), mine[1].cpu().numpy())
        result = self._write_shrunk(store, shard, e0, pairs_here, own[:2])
        if isinstance(model.encoder, Published):
            # What the encoder knew of touched nodes goes with them: rows of deleted nodes, and the rest start again.
            tables = {}
            for name, table in model.encoder.fresh_rows(rows).items():
                _, tables[name] = shrink(graph.shard, table, *pairs_here)
            result["files"].append(_write(store, own[2], to_bytes(tables)))
        gone = [torch.from_numpy(result[f"gone_{side}s"]).to(self._device) for side in ("user", "item")]
        deleted = torch.cat([graph.user_rows(gone[0]), graph.item_rows(gone[1])])
        sizes = change[~torch.isin(rows, deleted)].norm(dim=1)
        largest = float(sizes.max()) if len(sizes) else 0.0
        return result | {"touched": len(rows), "largest_change": largest, "seconds": time.perf_counter() - start}

    def fine_tune(
        self, location: Location, users: Ids, items: Ids, run: TrainRun, steps: int, names: Sequence[str]
    ) -> dict[str, Any]:
        """Training steps of the loaded version after the last epoch of `run`, in which only the rows of these nodes move.

        A rank that has any of them writes its rows of E0 to names[rank], named as by `forget`.
        """
        self._say(phase="fine-tune")
        model = self._loaded()
        ids = [torch.from_numpy(x.copy()).to(self._device) for x in (users, items)]
        rows = torch.cat([model.graph.user_rows(ids[0]), model.graph.item_rows(ids[1])])
        rows = rows[rows >= 0]
        e0 = fine_tune(model.graph, model.backbone, model.e0, rows, run.settings, run.epochs, steps)
        name = self._own_name(names[self._rank])
        files = [_write(location.store(), name, to_bytes({"e0": e0}))] if len(rows) else []
        return {"files": files}

    def _own_name(self, name: str) -> str:
        stem, suffix = posixpath.splitext(name)
        return f"{stem}-g{self._generation}{suffix}"

    # ---- use -----------------------------------------------------------------------------------------------------

    def evaluate(self, test_users: Ids, test_items: Ids, cutoffs: Sequence[int], batch_users: int) -> dict[str, float]:
        """Recall and NDCG over all partitions; the same on every rank."""
        model = self._loaded()
        self._say(phase="evaluate")
        test = [torch.from_numpy(x.copy()).to(self._device) for x in (test_users, test_items)]
        return evaluate(model.graph, model.nodes.readout, test[0], test[1], cutoffs, batch_users)

    def scores(self, users: Ids, items: Ids) -> tuple[Ids, npt.NDArray[np.float32]]:
        """(positions, scores) of those pairs whose user lies here; pairs are the same on every rank."""
        model = self._loaded()
        pairs = [torch.from_numpy(x.copy()).to(self._device) for x in (users, items)]
        positions, scores = pair_scores(model.graph, model.nodes.readout, pairs[0], pairs[1])
        return positions.cpu().numpy(), scores.cpu().numpy()

    def baseline(self, held_out: Pairs, seed: int, cutoff: int, batch_users: int) -> dict[str, Any]:
        """{"metrics", "held_out", "trained"}: quality on held-out pairs (the same on every rank), and how they, and as many
        trained pairs of the same users, stand among comparable ones."""
        graph, z = self._loaded().graph, self._loaded().nodes.readout
        users, items = self._tensors(held_out)
        never = (users * graph.num_items + items).sort().values
        return {
            "metrics": evaluate(graph, z, users, items, [cutoff], batch_users),
            "held_out": standing(graph, z, users, items, never, seed),
            "trained": standing(graph, z, *trained_pairs(graph, users, seed), never, seed),
        }

    def standing(
        self, pairs: Pairs, held_out: Pairs, seed: int, references: Sequence[Standing] | None = None
    ) -> Standing:
        """How pairs stand among comparable ones, which are no pairs of either kind.

        references: by rank, of an earlier call with the same pairs; None draws them.
        """
        graph = self._loaded().graph
        mine, test = self._tensors(pairs), self._tensors(held_out)
        never = torch.cat([users * graph.num_items + items for users, items in (mine, test)]).sort().values
        known = (
            None if references is None else torch.from_numpy(references[self._rank].references.copy()).to(self._device)
        )
        return standing(graph, self._loaded().nodes.readout, *mine, never, seed, known)

    def judge(
        self,
        pairs: Pairs,
        held_out: Pairs,
        seed: int,
        references: Sequence[Standing] | None,
        cutoff: int,
        batch_users: int,
    ) -> dict[str, Any]:
        """{"metrics", "standing"}: quality on held-out pairs as `baseline`, and `standing`; in one call, since the way to
        the workers is most of its time."""
        graph, z = self._loaded().graph, self._loaded().nodes.readout
        return {
            "metrics": evaluate(graph, z, *self._tensors(held_out), [cutoff], batch_users),
            "standing": self.standing(pairs, held_out, seed, references),
        }

    def _tensors(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        users, items = (torch.from_numpy(x.copy()).to(self._device) for x in pairs)
        return users, items

    def embeddings(self) -> tuple[Ids, npt.NDArray[np.float32], Ids, npt.NDArray[np.float32]]:
        """User ids, their readouts, item ids, their readouts."""
        graph, z = self._loaded().graph, self._loaded().nodes.readout.cpu().numpy()
        users = graph.num_local_users
        return graph.user_ids.cpu().numpy(), z[:users], graph.item_ids.cpu().numpy(), z[users:]

    def recommend(self, k: int, batch_users: int) -> tuple[Ids, Ids, npt.NDArray[np.float32]]:
        """Users [n], their best items [n, k], and scores [n, k] (-inf: no item left)."""
        model = self._loaded()
        blocks = list(rank(model.graph, model.nodes.readout, model.graph.user_ids, k, batch_users))
        empty = torch.empty((0, k))
        items, scores = (
            torch.cat([getattr(b, name) for b in blocks]) if blocks else empty for name in ("items", "scores")
        )
        return model.graph.user_ids.cpu().numpy(), items.cpu().numpy().astype(np.int64), scores.cpu().numpy()

    def _loaded(self) -> Model:
        if self._model is None:
            raise RuntimeError("no version is loaded")
        return self._model


def fingerprint(version: dict[str, Any], halo: str, kernel: str) -> str:
    """What tells one loaded version from another: its number would not, where outputs share workers. A version has the
    same before and after its commit."""
    held = [version[part] for part in ("graph", "model", "files")]
    return hashlib.sha256(json.dumps([held, halo, kernel], sort_keys=True).encode()).hexdigest()


@torch.no_grad()
def _node_rows(graph: LocalGraph, backbone: Backbone, e0: Tensor) -> NodeRows:
    z = backbone.readout(e0, graph.propagation.layer)
    return NodeRows(e0, z, graph.neighbour_means(z), graph.degrees)


def _kept_rows(shard: Written) -> dict[str, Any]:
    """What `forget` returns where only the shard changed."""
    nothing = {"files": [], "gone_users": _NOBODY, "gone_items": _NOBODY, "touched": 0, "largest_change": 0.0}
    return {"shard": shard, **nothing}


def _write(store: Store, name: str, data: bytes) -> Written:
    store.write(name, data)
    return {"name": name, "sha256": store.sha256(data), "bytes": len(data)}


def _read(store: Store, version: dict[str, Any], name: str) -> bytes:
    data = store.read(name)
    if store.sha256(data) != version["files"][name]["sha256"]:
        raise OSError(
            f"{store.root_uri}/{name} is damaged: its SHA-256 is not the one that version {version['version']} names"
        )
    return data
