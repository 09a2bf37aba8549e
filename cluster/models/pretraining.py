"""Pre-training: fit the Influence Encoder of a version's model (docs/encoder.md).

`pretrain` does it for the current version, `retrain` for the model that it has just trained.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...distributed.backbones.registry import make_backbone
from ...distributed.encoder.influence import FORMATS, HUB_DEGREE
from ...distributed.encoder.pretrain import (
    POPULAR_SHARE,
    PretrainSettings,
    explains_unseen_nodes,
    simulated_requests,
    tries_around_encoder,
)
from ...distributed.encoder.published import PublishedSettings
from ...distributed.graph.removal import Removal
from ...distributed.partition.partition import Partition
from ...distributed.partition.results import Fitted, FittedPublished
from ...distributed.partition.training import FinishedRuns
from ...distributed.partition.version import Encoder
from ...distributed.training.checkpoint import Checkpoints
from ...partitioning.errors import InputError
from ...partitioning.halo import chosen
from ...partitioning.manifest import File, Graph, IngestedGraph
from ...workers import WorkerGroup, calling
from ..config.schema import Config
from ..layout import PRETRAIN, pretraining_folder
from ..output.ingests import graph_key
from ..output.leases import leased_places
from ..output.manifest import FORMAT, Manifest, files_of, needed_files
from ..output.session import Session
from ..reporting.progress import Progress, epoch_callback, with_callback
from .training import RunFiles, as_trained, make_run, run_training

NOT_AROUND = (
    "influence.around: the changes of readouts cannot be predicted on these data (R2 on held-out nodes: users "
    "{readout_user_r2_held_out:.2f}, items {readout_item_r2_held_out:.2f}; above 0 is needed). Requests will change their "
    "nodes' own rows only, as with influence.around=false"
)

EXPLAINS_NOTHING = (
    "the encoder explains nothing of how nodes change that it was not fitted on (R2: users {user_r2_held_out:.2f}, items "
    "{item_r2_held_out:.2f}; nan where there are none). Its answers to requests are guesses: too few interactions are left "
    "out (pretrain.counterfactuals, pretrain.request_share), or a retrain moves everything here"
)


def clear_runs_of_others(session: Session, version: Manifest) -> None:
    """Remove the finished runs of other models on this version's graph. Those of its own model stay, so that a pre-training
    with other settings of the fit finds them. Runs on another graph are left to `purge`.

    It is called when an encoder is committed. Runs on which another command has a lease stay, such as those of a `retrain`
    that is under way.
    """
    own = _folder_of_runs(session.config, version)
    of_graph = pretraining_folder(graph_key(version.graph), "")
    others = [name for name in session.store.list(PRETRAIN) if name.startswith(of_graph)]
    others = [name for name in others if not name.startswith(f"{own}/")]
    if others:
        held = leased_places(session, others)
        # The marks of finished runs go first: whoever finds a mark finds the rows as well.
        for name in sorted(set(others) - held, key=lambda name: not name.endswith("/done.json")):
            with suppress(FileNotFoundError):
                session.store.remove(name)


def _folder_of_runs(config: Config, version: Manifest) -> str:
    """The folder of the runs on which encoders of a version's model are fitted. Its name depends on the graph and on every
    setting of the training. It depends on nothing else: a setting of the fit or of `serve` that is changed, or is new in a
    later release, does not begin the runs anew."""
    graph, model = version.graph, version.model
    halo = chosen(config.partitioning.halo, graph.rows_per_layer)
    trained = {"seed": model.seed, "train": model.train, "backbone": model.backbone, "halo": halo}
    if config.cluster.exchange_dtype != "float32":
        trained["exchange_dtype"] = config.cluster.exchange_dtype
    key = json.dumps([graph.document(), trained], sort_keys=True)
    return pretraining_folder(graph_key(graph), hashlib.sha256(key.encode()).hexdigest()[:16])


def _place_of_run(config: Config, version: Manifest, removal: Removal) -> str:
    """The folder of the run without the simulated requests of `removal`, or of the original on the present graph."""
    if not removal:
        return f"{_folder_of_runs(config, version)}/original"
    left_out = hashlib.sha256(repr(tuple(removal.simulated)).encode()).hexdigest()[:16]
    return f"{_folder_of_runs(config, version)}/{left_out}"


def wants_around(config: Config, backbone: dict[str, Any]) -> bool:
    """Whether requests shall also change rows around the touched nodes, with a model of this backbone.

    Raises:
        InputError: `influence.around` is true, and there is no such encoder for this objective or backbone.
    """
    model = make_backbone(backbone, 0)
    if config.pretrain.objective == "published":
        if config.influence.around:
            raise InputError("influence.around=true needs pretrain.objective=counterfactual, got published")
        return False
    if config.influence.around and next(model.parameters(), None) is not None:
        raise InputError(
            "influence.around=true needs a backbone without dense weights (lightgcn, sgl, simgcl); the model is of "
            f"{backbone['name']}. Leave it out"
        )
    return tries_around_encoder(config.influence.around, model)


def fit_encoder(
    session: Session,
    version: Manifest,
    group: WorkerGroup,
    progress: Progress,
    look: Callable[[], None] = lambda: None,
) -> tuple[Encoder, dict[str, File], dict[str, Any]]:
    """Fit an encoder for the model of a version, which may be committed or not.

    look: called while the pre-training runs; it may end it by raising.

    Returns:
        (the encoder's entry in a manifest, its files, what the commands report of the pre-training).
    """
    started = time.perf_counter()
    fit = _fit_published if session.config.pretrain.objective == "published" else _fit_counterfactual
    encoder, results = fit(session, version, group, progress, look)
    numbers = {name: None if value != value else value for name, value in results[0]["fit"].items()}  # JSON has no NaN
    told = {"epochs": session.config.pretrain.epochs, "seconds": time.perf_counter() - started, **numbers}
    return encoder, files_of(results), told


def with_encoder(version: Manifest, encoder: Encoder, files: Mapping[str, File]) -> Manifest:
    """The manifest of a version with the same graph and rows and with this encoder. files: the encoder's."""
    model, known = version.model.replaced(encoder=encoder), {**version.files, **files}
    manifest = Manifest(
        format=FORMAT,
        reason="pretrain",
        version=version.version,
        graph=version.graph,
        lake_graph=version.lake_graph,
        model=model,
        files={name: known[name] for name in needed_files(version.graph, model)},
    )
    return manifest.replaced(needs_retrain=True) if version.needs_retrain else manifest


def _fit_counterfactual(
    session: Session, version: Manifest, group: WorkerGroup, progress: Progress, look: Callable[[], None]
) -> tuple[Encoder, list[Fitted]]:
    """Fit the encoder on counterfactual trainings (`pretrain.objective: counterfactual`).

    Returns:
        (the encoder's entry in a manifest, the workers' results).
    """
    config, graph, model = session.config, version.graph, version.model
    began, cost = time.perf_counter(), _Cost()
    made = _Runs(session, group, as_trained(config, model), graph, progress, look, cost)
    settings = config.pretrain
    popular = _popular_items(session, version, group)
    requests = simulated_requests(config.seed, settings.counterfactuals, settings.request_share, popular)
    removals = [Removal(simulated=(request,)) for request in requests]
    # The slow part: one whole training for each simulated request. Each is written when it is finished, so that a crash
    # loses at most one.
    runs = []
    for number, removal in enumerate(removals):
        title = f"counterfactual {number + 1}/{len(removals)}"
        names = made.finished(removal, _place_of_run(config, version, removal), title)
        runs.append((removal, names))
    original = None
    if not model.was_trained_on(graph):
        # Requests have changed the graph and the rows since the training. The counterfactual runs are compared with a
        # training on the present graph, so that one is made too.
        title = "original on the present graph"
        place = _place_of_run(config, version, Removal())
        dense = f"{place}/dense.safetensors"
        names = made.finished(Removal(), place, title, dense)
        original = (names, dense)
    blocks = make_backbone(model.backbone, 0).readout_size // model.backbone["embedding_size"]
    shape = {
        "blocks": blocks,
        "mlp_layers": config.influence.mlp_layers,
        "seed": config.seed,
        "hub_degree": HUB_DEGREE,
    }
    fit = PretrainSettings(config.seed, settings.epochs, settings.batch_size, settings.learning_rate, settings.examples)
    name = session.versions.new_name(session.versions.next_number(), "encoder", "safetensors")
    finished = FinishedRuns(runs, original)

    def fitted(around: bool) -> list[Fitted]:
        """Fit the encoder on the finished runs, as the workers return it. around: whether it changes rows around too."""
        call = calling(Partition.fit_encoder, session.location, finished, shape, fit, name, around=around)
        with progress.task("encoder", settings.epochs) as task:
            on_progress = with_callback(epoch_callback(task, "encoder"), look)
            return session.call(group, version, call, on_progress=on_progress)

    around = wants_around(config, model.backbone)
    results = fitted(around)
    if around:
        # An encoder that does not predict the readouts of held-out nodes better than their mean is fitted again without
        # the rows around. R2 tells: 0 is what the mean reaches.
        readouts = {key: value for key, value in results[0]["fit"].items() if key.startswith("readout_")}
        around = explains_unseen_nodes({key.removeprefix("readout_"): value for key, value in readouts.items()})
        if not around:
            progress.note(NOT_AROUND.format(**readouts))
            results = fitted(around)
            results[0]["fit"] |= readouts
        results[0]["fit"]["around"] = around
    if not explains_unseen_nodes(results[0]["fit"]):
        progress.note(EXPLAINS_NOTHING.format(**results[0]["fit"]))
    results[0]["fit"]["step_seconds"] = float(np.mean(made.step_seconds)) if made.step_seconds else math.nan
    results[0]["fit"] |= cost.told(time.perf_counter() - began)
    largest = max(result["largest_shift"] for result in results)
    entry = _entry("counterfactual", name, None, shape, graph)
    return entry.replaced(around=around, largest_shift=largest), results


def _entry(objective: str, file: str, tables: Sequence[str] | None, shape: dict[str, int], graph: Graph) -> Encoder:
    """The encoder's entry in a manifest. graph: the one that it is fitted on; its size is the base of the drift."""
    return Encoder(
        file=file,
        tables=None if tables is None else tuple(tables),
        objective=objective,
        format=FORMATS[objective],
        shape=shape,
        interactions=graph.interactions,
    )


def _popular_items(session: Session, version: Manifest, group: WorkerGroup) -> list[int]:
    """The dense ids of the share POPULAR_SHARE of items with the highest degrees."""
    parts = group.run(
        calling(Partition.degrees_of_items, session.location, version.graph),
        restore=lambda: None,
        max_rebuilds=session.config.cluster.max_rebuilds,
    )
    items, degrees = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    most = np.lexsort((items, -degrees))[: max(1, round(POPULAR_SHARE * len(items)))]
    return sorted(items[most].tolist())


def _fit_published(
    session: Session, version: Manifest, group: WorkerGroup, progress: Progress, look: Callable[[], None]
) -> tuple[Encoder, list[FittedPublished]]:
    """Fit the encoder in the form of the paper (`pretrain.objective: published`); no counterfactual trainings are needed.

    Returns:
        (the encoder's entry in a manifest, the workers' results).
    """
    config, number = session.config, session.versions.next_number()
    settings = config.pretrain
    shape = {
        "size": version.model.backbone["embedding_size"],
        "num_layers": config.influence.num_layers,
        "mlp_layers": config.influence.mlp_layers,
    }
    fit = PublishedSettings(
        seed=config.seed,
        epochs=settings.epochs,
        batch_size=settings.batch_size or 4096,
        learning_rate=settings.learning_rate,
        request_share=settings.request_share,
        forget_weight=settings.forget_weight,
        preserve_weight=settings.preserve_weight,
        contrast_weight=settings.contrast_weight,
        edge_drop=settings.edge_drop,
    )
    name = session.versions.new_name(number, "encoder", "safetensors")
    partitions = range(version.graph.partitions)
    tables = [session.versions.new_name(number, f"encoder-{k:03d}", "safetensors") for k in partitions]
    train = make_run(as_trained(config, version.model), version.graph, Removal()).settings
    call = calling(Partition.fit_published, session.location, shape, fit, train, name, tables)
    with progress.task("encoder", settings.epochs) as task:
        on_progress = with_callback(epoch_callback(task, "encoder"), look)
        results = session.call(group, version, call, on_progress=on_progress)
    return _entry("published", name, tables, shape, version.graph), results


@dataclass(frozen=True)
class _Runs:
    """Makes the training runs on which the encoder of one version is fitted. A finished run is found again after a crash."""

    session: Session
    group: WorkerGroup
    trained: Config
    """The configuration of the version's training. A counterfactual is the same training without some interactions."""
    graph: IngestedGraph
    progress: Progress
    look: Callable[[], None]
    cost: _Cost
    step_seconds: list[float] = field(default_factory=list)
    """Of each run that was made and not found: the seconds of a step."""

    def finished(self, removal: Removal, place: str, title: str, dense: str | None = None) -> list[str]:
        """Make the run without `removal`, unless it is finished already; returns the names of its files of E0, one a rank.

        place: the folder of the run. title: of its progress bar. dense: where its dense weights are written.
        """
        store, done = self.session.store, f"{place}/done.json"
        names = [f"{place}/embeddings-{k:03d}.safetensors" for k in range(self.graph.partitions)]
        if not store.exists(done):
            run = make_run(self.trained, self.graph, removal)
            with self.progress.task(title, run.epochs) as task:
                on_progress = with_callback(epoch_callback(task, "train"), self.look)
                began = time.perf_counter()
                results = run_training(self.session, self.group, self.graph, run, RunFiles(names, dense), on_progress)
                self.cost.made_now += time.perf_counter() - began
            self.step_seconds.append(results[0]["curve"][-1]["seconds"] / (run.epochs * run.settings.num_batches))
            # This file is written after the rows, so whoever finds it finds all of them. The checkpoints are removed last:
            # a crash before `done` still needs them.
            seconds = results[0]["curve"][-1]["seconds"]
            store.write(done, json.dumps({"files": names, "seconds": seconds}).encode())
            Checkpoints(store, run.folder).clear()
        self.cost.runs.append(json.loads(store.read(done)).get("seconds"))
        return names


@dataclass
class _Cost:
    """What the runs of a pre-training cost."""

    runs: list[float | None] = field(default_factory=list)
    """The seconds of training of each run, over all attempts; None of a run that an earlier state of this release made."""
    made_now: float = 0.0
    """The seconds that this command waited for runs."""

    def told(self, elapsed: float) -> dict[str, float]:
        """What `pretrain` says of them. elapsed: the seconds of the whole command.

        `retrains` is the cost of the encoder as a multiple of a training, since each run is a training: the runs, also those
        that were found finished, and the fit.
        """
        if (known := [x for x in self.runs if x]) != self.runs or not known:
            return {}
        fit = max(0.0, elapsed - self.made_now)
        return {"run_seconds": sum(known), "fit_seconds": fit, "retrains": (sum(known) + fit) * len(known) / sum(known)}
