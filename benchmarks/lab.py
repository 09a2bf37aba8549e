"""Training runs on one data set in this process, to compare ways to forget. Each run is made once and kept in a store.

The name of a run depends on everything that its result depends on. An interrupted run goes on from its last checkpoint. The
code is the same as on a cluster, with one partition.

Shape legend: N = nodes, users first, d = embedding size, n = interactions of a request.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..distributed.backbones import Backbone
from ..distributed.backbones.registry import make_backbone
from ..distributed.comm import Comm
from ..distributed.encoder.common_change import without_common_change, without_linear_change
from ..distributed.encoder.examples import make_examples
from ..distributed.encoder.forks import Fork, as_whole
from ..distributed.encoder.gains import calibrate
from ..distributed.encoder.influence import HUB_DEGREE, AroundEncoder, InfluenceEncoder, NodeRows
from ..distributed.encoder.pretrain import (
    POPULAR_SHARE,
    PretrainSettings,
    explains_unseen_nodes,
    fit,
    simulated_requests,
    stays_whole,
)
from ..distributed.encoder.second_order import whitening
from ..distributed.graph.local_graph import LocalGraph
from ..distributed.graph.removal import Removal, Simulated
from ..distributed.measures.ranking import pair_scores
from ..distributed.training.checkpoint import Checkpoints, from_bytes, to_bytes
from ..distributed.training.run import Kept, TrainRun, kept_rows, run_training
from ..distributed.training.trainer import TrainSettings
from ..partitioning.assignment import Assignment
from ..partitioning.shard import build_shards
from ..partitioning.storage import Store

Ids = npt.NDArray[np.int64]
Pairs = tuple[Ids, Ids]
NOTHING: Pairs = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


@dataclass(frozen=True)
class Data:
    """The interactions of a data set by dense id: `users` and `items` to train on, sorted by user and then item without
    repetitions, and the held-out `test_users` and `test_items`."""

    users: Ids
    items: Ids
    test_users: Ids
    test_items: Ids
    num_users: int
    num_items: int

    def codes(self, pairs: Pairs) -> Ids:
        """One integer for each pair, int64 [n]."""
        codes: Ids = pairs[0] * self.num_items + pairs[1]
        return codes

    def pairs(self, codes: Ids) -> Pairs:
        """The pairs with these codes: the inverse of `codes`."""
        return codes // self.num_items, codes % self.num_items

    def with_pairs(self, added: Pairs) -> Data:
        """The same data with more interactions to train on."""
        users, items = self.pairs(np.union1d(self.codes((self.users, self.items)), self.codes(added)))
        return replace(self, users=users, items=items)


@dataclass(frozen=True)
class Recipe:
    """How the backbone and the encoder are trained. The keys are those of the configuration."""

    backbone: dict[str, Any]
    train: dict[str, Any]
    epochs: int
    pretrain: dict[str, Any]
    """The keys of the section `pretrain` that a fit to counterfactuals needs."""
    around: bool = False
    """Whether the encoder is an `AroundEncoder` (`pretrain.tries_around_encoder`)."""


@dataclass
class Model:
    """A recommender: its graph, its embeddings e0 [N, d], its backbone, and the seconds that its training took."""

    graph: LocalGraph
    e0: Tensor
    backbone: Backbone
    seconds: float = 0.0

    @cached_property
    def nodes(self) -> NodeRows:
        """What the encoder reads of each node."""
        z = self.readout
        return NodeRows(self.e0, z, self.graph.neighbour_means(z), self.graph.degrees)

    @cached_property
    def readout(self) -> Tensor:
        """The readouts of all nodes, [N, readout_size]."""
        with torch.no_grad():
            return self.backbone.readout(self.e0, self.graph.propagation)

    def scores(self, pairs: Pairs) -> npt.NDArray[np.float64]:
        """The scores of these pairs, [n]."""
        found = pair_scores(self.graph, self.readout, *self.tensors(pairs))[1]
        return found.cpu().numpy().astype(np.float64)

    def tensors(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """(users, items) of these pairs, int64 [n], on the device of the model."""
        users, items = (torch.from_numpy(x).to(self.e0.device) for x in pairs)
        return users, items

    def rows(self, pairs: Pairs) -> Tensor:
        """The rows of the nodes that these interactions touch, int64, ascending."""
        users, items = self.tensors((np.unique(pairs[0]), np.unique(pairs[1])))
        return torch.cat([users, items + self.graph.num_users])


class Lab:
    """The training runs on one data set with one recipe and seed, which are kept in a store."""

    def __init__(
        self, store: Store, data: Data, recipe: Recipe, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        self.store, self.data, self.recipe, self.seed = store, data, recipe, seed
        self.device = torch.device(device)
        self._comm = Comm(device=device)
        self._counterfactuals: list[tuple[Pairs, Model]] = []
        self._fork = Fork.of(recipe.epochs, recipe.pretrain["fork"])
        self.learned_seconds = 0.0
        self._owners = Assignment(np.zeros(data.num_users, dtype=np.int16), np.zeros(data.num_items, dtype=np.int16), 1)
        pairs = np.concatenate([data.users, data.items])
        # A device of another kind adds numbers in another order, so its runs have other bits and need other names.
        kind = "" if self.device.type == "cpu" else f" {self.device.type}"
        self._fingerprint = hashlib.sha256(pairs.tobytes()).hexdigest() + kind

    def with_data(self, data: Data) -> Lab:
        """A lab with the same recipe and other data."""
        return Lab(self.store, data, self.recipe, self.seed, self.device)

    def clock(self) -> float:
        """The time in seconds, after waiting until the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def digest(self, keys: Sequence[Any]) -> str:
        """A name for something that depends on the data, the recipe, the seed and `keys`."""
        named = json.dumps([self._fingerprint, asdict(self.recipe), self.seed, list(keys)], sort_keys=True)
        return hashlib.sha256(named.encode()).hexdigest()[:20]

    def graph(self, removed: Pairs = NOTHING) -> LocalGraph:
        """The graph without some interactions. A node that loses all of its interactions keeps an empty row."""
        data = self.data
        counts = np.ones(len(data.users), dtype=np.int32)
        shard = build_shards(data.users, data.items, counts, self._owners)[0].without(*removed)
        return LocalGraph(shard, self._owners, self._comm)

    def simulated(self, number: int, share: float) -> Pairs:
        """A keyed random share of the interactions. The encoder learns from requests with a number below 1,000."""
        return self._pairs(Simulated(self.seed, number, share))

    def _pairs(self, request: Simulated) -> Pairs:
        return Removal(simulated=(request,)).pairs(self.graph().shard)

    def _requests(self) -> list[Simulated]:
        """The simulated requests that methods may learn from."""
        recipe, data = self.recipe, self.data
        most = max(1, round(POPULAR_SHARE * data.num_items))
        popular = np.argsort(-np.bincount(data.items, minlength=data.num_items), kind="stable")[:most]
        items = sorted(popular.tolist())
        return simulated_requests(
            self.seed, recipe.pretrain["counterfactuals"], recipe.pretrain["request_share"], items
        )

    def train(self, removed: Pairs = NOTHING, seed: int | None = None) -> Model:
        """The run without some interactions, made now unless it is in the store. With the lab's own seed it is the
        counterfactual of a request for them."""
        seed = self.seed if seed is None else seed
        name = self._name_of_run(removed, seed)
        run = TrainRun(self._train_settings(seed), self.recipe.backbone, self.recipe.epochs, name, checkpoint_every=5)
        if self._fork is not None and not len(removed[0]) and seed == self.seed:
            run = replace(run, keep=self._kept())
        return self._made(run, removed)

    def _made(self, run: TrainRun, removed: Pairs) -> Model:
        """The result of this run, from the store if it is there."""
        name, graph = run.folder, self.graph(removed)
        if self.store.exists(f"{name}.safetensors"):
            state = from_bytes(self.store.read(f"{name}.safetensors"))
            seconds = float(state.pop("seconds"))
            e0 = state.pop("e0").to(self.device)
            backbone = make_backbone(run.backbone, run.settings.seed).to(self.device)
            backbone.load_state_dict(state)
            return Model(graph, e0, backbone, seconds)
        checkpoints = Checkpoints(self.store, name)
        trainer, curve = run_training(graph, run, checkpoints, lambda **_: None)
        model = Model(graph, trainer.table.rows.clone(), trainer.backbone, curve[-1]["seconds"])
        seconds_ = torch.tensor(model.seconds, dtype=torch.float64)
        state = {"e0": model.e0, "seconds": seconds_} | model.backbone.state_dict()
        self.store.write(f"{name}.safetensors", to_bytes(state))
        checkpoints.clear()
        return model

    def _forked(self, request: Simulated, original: Model, fork: Fork) -> Model:
        """The run without a simulated request, forked from the original, with rows as of a whole run (`forks.as_whole`)."""
        removal, kept = Removal(simulated=(request,)), self._kept()
        pairs = removal.pairs(original.graph.shard)
        name = f"{self._name_of_run(pairs, self.seed)}-from-{fork.after}"
        settings, epochs = self._train_settings(self.seed), self.recipe.epochs
        half = Kept(fork.halfway, f"{name}-halfway", moments=False)
        run = TrainRun(settings, self.recipe.backbone, epochs, name, start=kept[0].folder, keep=[half])
        if any(Checkpoints(self.store, one.folder).read_manifest() is None for one in kept):
            folder = f"{kept[0].folder}-run"
            first = TrainRun(settings, self.recipe.backbone, fork.halfway, folder, keep=kept)
            run_training(self.graph(), first, Checkpoints(self.store, folder), lambda **_: None)
        model = self._made(run, pairs)
        earlier, dense = kept_rows(self.store, kept[1].folder, original.graph)
        half_trained = make_backbone(self.recipe.backbone, self.seed).to(self.device)
        half_trained.load_state_dict(dense)
        rows = model.e0, kept_rows(self.store, half.folder, original.graph)[0]
        known = (original.graph, original.backbone, original.nodes)
        return replace(model, e0=as_whole(*known, removal, fork, rows, (half_trained, earlier)))

    def _train_settings(self, seed: int) -> TrainSettings:
        return TrainSettings(seed=seed, total_pairs=len(self.data.users), **self.recipe.train)

    def _name_of_run(self, removed: Pairs, seed: int) -> str:
        settings, recipe = self._train_settings(seed), self.recipe
        # What is None has no part in the run: it is named as it was before the setting.
        known = {name: value for name, value in asdict(settings).items() if value is not None}
        key = json.dumps([self._fingerprint, known, recipe.backbone, recipe.epochs], sort_keys=True)
        hashed = hashlib.sha256(key.encode() + self.data.codes(removed).tobytes())
        return f"runs/{hashed.hexdigest()[:20]}"

    def _kept(self) -> tuple[Kept, Kept]:
        """What the original keeps for forks: its state, and its rows half way from there to the end."""
        assert self._fork is not None
        name = self._name_of_run(NOTHING, self.seed)
        epochs = self._fork.after, self._fork.halfway
        return Kept(epochs[0], f"{name}-after-{epochs[0]}"), Kept(epochs[1], f"{name}-rows-{epochs[1]}", moments=False)

    def counterfactuals(self) -> list[tuple[Pairs, Model]]:
        """The requests that methods may learn from, each with the run without it. `learned_seconds` is then the time of
        these runs."""
        if not self._counterfactuals:
            fork = self._fork
            original = self.train()
            for number, request in enumerate(self._requests()):
                pairs = self._pairs(request)
                whole = fork is None or stays_whole(number)
                model = self.train(pairs) if fork is None or whole else self._forked(request, original, fork)
                self._counterfactuals.append((pairs, model))
        self.learned_seconds = sum(model.seconds for _, model in self._counterfactuals)
        return self._counterfactuals

    def encoder(self, original: Model) -> InfluenceEncoder | AroundEncoder:
        """The Influence Encoder, fitted to the counterfactuals.

        It is an `AroundEncoder` if the recipe wants one and it explains nodes that it was not fitted on.
        """
        recipe, size = self.recipe, original.e0.shape[1]
        settings = PretrainSettings(
            self.seed, *(recipe.pretrain[key] for key in ("epochs", "batch_size", "learning_rate"))
        )
        targets = [
            (Removal(simulated=(request,)), model.e0)
            for request, (_, model) in zip(self._requests(), self.counterfactuals(), strict=True)
        ]
        blocks = original.readout.shape[1] // size
        shape = {"blocks": blocks, "seed": self.seed, "hub_degree": HUB_DEGREE, "size": size}
        # As `pretrain`.
        turning = any(True for _ in original.backbone.parameters())
        shape |= {"common": int(not turning), "gain_by_share": int(not turning), "across": int(turning)}
        model = (original.graph, original.backbone, original.nodes)
        matrices = whitening(original.graph, original.nodes)
        learned, common = without_common_change(original.graph, original.nodes, targets)
        # As `Partition.fit_encoder`.
        if turning:
            learned = without_linear_change(original.graph, original.nodes, targets)
        known = targets if recipe.around else learned
        examples = partial(
            make_examples, *model, known, seed=self.seed, hub_degree=HUB_DEGREE, whitening=matrices, turning=turning
        )
        data = examples()
        if recipe.around:
            both = AroundEncoder(**shape).to(self.device)
            both.use(matrices)
            fit(self._comm, both.rows, data, settings)
            if explains_unseen_nodes(fit(self._comm, both.readouts, examples(of_readouts=True), settings)):
                return both
            data = make_examples(*model, learned, **examples.keywords)
        encoder = InfluenceEncoder(**shape).to(self.device)
        encoder.use(matrices)
        if encoder.common is not None:
            encoder.common.copy_(common)
        fit(self._comm, encoder, data, settings)
        calibrate(*model, encoder, targets)
        return encoder
