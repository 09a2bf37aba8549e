"""Training on a partition: the backbone, and the Influence Encoder."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...partitioning.ingest import load_shard
from ...partitioning.manifest import Graph
from ...partitioning.storage import Store
from ..backbones import Backbone
from ..encoder.chaos import moves_of_kept
from ..encoder.common_change import share_of, without_common_change, without_linear_change
from ..encoder.examples import Examples, make_examples
from ..encoder.forks import Fork, as_whole
from ..encoder.gains import calibrate
from ..encoder.influence import AroundEncoder, InfluenceEncoder, NodeRows
from ..encoder.pretrain import PretrainSettings, fit
from ..encoder.published import PublishedEncoder, PublishedSettings, TrainedModel, pretrain_published
from ..encoder.second_order import whitening
from ..graph.removal import Ids, Pairs, Removal
from ..training.checkpoint import Checkpoints, from_bytes, to_bytes
from ..training.run import TrainRun, kept_rows, run_training
from ..training.trainer import TrainSettings
from ..training.validation import validation_pairs, validation_users
from .files import write_file
from .results import Fitted, FittedPublished, Trained
from .state import Location, PartitionState, node_rows


@dataclass(frozen=True)
class FinishedRun:
    """A counterfactual: what it left out; names[k] holds rank k's rows of E0. halfway: the folder of the rows that it kept
    half way, if it is a fork."""

    removal: Removal
    names: Sequence[str]
    halfway: str | None = None


@dataclass(frozen=True)
class FinishedRuns:
    """The files of the training runs that an encoder is fitted on.

    `original`: (names, the file of the dense weights) of the run on the whole graph; None where that is the loaded version
    itself. `fork`: None where all counterfactuals are whole runs. `halfway`: the folder of the rows that the original kept
    after `fork.halfway` epochs.
    """

    counterfactuals: Sequence[FinishedRun]
    original: tuple[Sequence[str], str] | None = None
    fork: Fork | None = None
    halfway: str | None = None


class PartitionTraining(PartitionState):
    """The methods that the commands `train`, `pretrain` and `retrain` call."""

    def train(
        self, location: Location, manifest: Graph, run: TrainRun, names: Sequence[str] | None, dense_name: str | None
    ) -> Trained:
        """Train on the graph of this manifest without `run.removal`. Rank k writes its rows of E0 to names[k], and rank
        0 the dense weights to `dense_name`; where these are None, nothing.

        Nodes that the removal leaves without interactions keep their rows.
        """
        self.unload()  # a training and a version side by side would need twice the memory
        self._say(phase="load")
        store = location.store()
        graph, nodes = self._graph_to_train_on(store, manifest, run.halo, run.kernel, run.removal)
        trainer, curve = run_training(graph, run, Checkpoints(store, run.folder), self._say)
        files = []
        if names is not None:
            users, items = self._tensors(nodes)
            rows = torch.cat([graph.user_rows(users), graph.item_rows(items)])
            files.append(write_file(store, names[self._rank], to_bytes({"e0": trainer.table.rows[rows]})))
        if dense_name is not None and self._rank == 0:
            files.append(write_file(store, dense_name, to_bytes(trainer.backbone.state_dict())))
        return {"curve": curve, "files": files, "has_dense": bool(list(trainer.backbone.parameters()))}

    def validation_pairs(
        self, location: Location, manifest: Graph, removal: Removal, seed: int, share: float, users: float
    ) -> Pairs:
        """The interactions (users [n], items [n]) of this partition's users that are held out for validation, as
        `validation.validation_pairs`. `users` says of how many users."""
        shard = load_shard(location.store(), manifest, self._rank)
        if removal:
            shard = shard.without(*removal.pairs(shard))
        of_users, items, _ = shard.interactions()
        users_of, items_of = (torch.from_numpy(x.astype(np.int64)) for x in (of_users, items))
        chosen = validation_users(shard.num_users, seed, users)
        held = validation_pairs(users_of, items_of, seed, share, chosen)
        return held[0].numpy(), held[1].numpy()

    def validate(self, location: Location, manifest: Graph, run: TrainRun) -> list[dict[str, float]]:
        """Train as `train` and write nothing. Returns the curve, with the measures of `run.probe`."""
        self._say(phase="load")
        store = location.store()
        graph, _ = self._graph_to_train_on(store, manifest, run.halo, run.kernel, run.removal)
        return run_training(graph, run, Checkpoints(store, run.folder), self._say)[1]

    def degrees_of_items(self, location: Location, manifest: Graph) -> tuple[Ids, Ids]:
        """(ids int64 [i], degrees int64 [i]) of the items that this partition owns in the graph of this manifest."""
        shard = load_shard(location.store(), manifest, self._rank)
        return shard.item_ids, np.diff(shard.item_indptr)

    def fit_encoder(
        self,
        location: Location,
        runs: FinishedRuns,
        shape: dict[str, Any],
        settings: PretrainSettings,
        name: str,
        around: bool = False,
    ) -> Fitted:
        """Train an `InfluenceEncoder`, or with `around` an `AroundEncoder`, on runs that left something out.

        shape: arguments of the encoder's class. Rank 0 writes the trained encoder to `name`."""
        self.complete()
        self._say(phase="encoder")
        model, store = self._loaded_model(), location.store()
        backbone, nodes, targets = self._targets(store, runs)
        matrices = whitening(model.graph, nodes)
        # Gains are those of the changes as they are, examples are of what is not common to all nodes.
        learned, common = (targets, None) if around else without_common_change(model.graph, nodes, targets)
        turning = bool(shape.get("across"))
        if turning:
            learned = without_linear_change(model.graph, nodes, targets)
        examples = partial(
            make_examples,
            model.graph,
            backbone,
            nodes,
            learned,
            seed=settings.seed,
            most=settings.examples,
            hub_degree=shape.get("hub_degree"),
            whitening=matrices,
            turning=turning,
        )
        data = examples()
        largest = max((float(x.needed.norm(dim=1).max()) for x in data if len(x.needed)), default=0.0)
        encoder: InfluenceEncoder | AroundEncoder
        if around:
            encoder = AroundEncoder(**shape).to(self._device)
            encoder.use(matrices)
            fitted = self._fit(encoder.rows, data, settings)
            readouts = examples(of_readouts=True)
            more = self._fit(encoder.readouts, readouts, settings)
            fitted |= {f"readout_{key}": value for key, value in more.items()}
        else:
            encoder = InfluenceEncoder(**shape).to(self._device)
            encoder.use(matrices)
            if encoder.common is not None and common is not None:
                encoder.common.copy_(common)
            fitted = self._fit(encoder, data, settings)
            del data, learned  # the gains need memory for a second graph
            fitted["user_gain"], fitted["item_gain"] = calibrate(model.graph, backbone, nodes, encoder, targets)
        # Of the smallest request: what a large one does to others may be its own doing.
        smallest = min(targets, key=lambda run: share_of(model.graph, self._users_of(run[0])))
        fitted["moves_of_kept"] = moves_of_kept(model.graph, backbone, nodes, smallest, settings.seed)
        files = [write_file(store, name, to_bytes(encoder.state_dict()))] if self._rank == 0 else []
        return {"fit": fitted, "files": files, "largest_shift": largest}

    def _users_of(self, removal: Removal) -> Tensor:
        """The users of the interactions of a removal with an end in this partition, int64 [n]."""
        return torch.from_numpy(removal.pairs(self._loaded_model().graph.shard)[0]).to(self._device)

    def _targets(self, store: Store, runs: FinishedRuns) -> tuple[Backbone, NodeRows, list[tuple[Removal, Tensor]]]:
        """(the original's backbone, its nodes, (removal, rows of E0 [N, d]) of each counterfactual; those of forks are
        stretched)."""
        model = self._loaded_model()

        def rows(names: Sequence[str]) -> Tensor:
            return from_bytes(store.read(names[self._rank]))["e0"].to(self._device)

        nodes, backbone = model.nodes, model.backbone
        if runs.original is not None:
            names, dense = runs.original
            backbone = copy.deepcopy(backbone)
            backbone.load_state_dict(from_bytes(store.read(dense)))
            nodes = node_rows(model.graph, backbone, rows(names))
        if runs.fork is None:
            return backbone, nodes, [(run.removal, rows(run.names)) for run in runs.counterfactuals]
        assert runs.halfway is not None
        earlier, weights = kept_rows(store, runs.halfway, model.graph)
        half_trained = copy.deepcopy(backbone)
        half_trained.load_state_dict(weights)
        targets = []
        for run in runs.counterfactuals:
            if run.halfway is None:
                targets.append((run.removal, rows(run.names)))
                continue
            forked = rows(run.names), kept_rows(store, run.halfway, model.graph)[0]
            whole = as_whole(model.graph, backbone, nodes, run.removal, runs.fork, forked, (half_trained, earlier))
            targets.append((run.removal, whole))
        return backbone, nodes, targets

    def _fit(
        self, encoder: InfluenceEncoder, data: tuple[Examples, Examples], settings: PretrainSettings
    ) -> dict[str, float]:
        assert self._comm is not None
        return fit(
            self._comm,
            encoder,
            data,
            settings,
            self._say_fitted,
        )

    def _say_fitted(self, epoch: int, loss: float) -> None:
        """An epoch of the encoder, counted from 0, has ended."""
        finished = {"epoch": epoch + 1.0, "loss": loss}
        self._say(phase="encoder", epoch=epoch + 1, loss=round(loss, 5), finished=finished)

    def fit_published(
        self,
        location: Location,
        shape: dict[str, Any],
        settings: PublishedSettings,
        train: TrainSettings,
        name: str,
        tables: Sequence[str],
    ) -> FittedPublished:
        """Train the encoder in the form of the paper (`encoder.published`) on the loaded version.

        shape: arguments of `PublishedEncoder`. train: the settings with which the version was trained. Rank k writes
        its tables to tables[k], rank 0 the dense part to `name`."""
        model, store = self._loaded_model(), location.store()
        encoder = PublishedEncoder(**shape).to(self._device)
        h0, gate = pretrain_published(
            model.graph,
            TrainedModel(model.backbone, model.e0, model.nodes.readout),
            encoder,
            settings,
            train,
            self._say_fitted,
        )
        files = [write_file(store, tables[self._rank], to_bytes({"h0": h0, "gate": gate}))]
        if self._rank == 0:
            files.append(write_file(store, name, to_bytes(encoder.state_dict())))
        return {"fit": {}, "files": files}
