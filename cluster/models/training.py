"""Train a backbone: plan the run, let the workers train, and make the manifest of the version.

`train` and `retrain` use it, and pre-training for its counterfactual runs.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...distributed.backbones.registry import make_backbone
from ...distributed.graph.removal import Removal
from ...distributed.partition.partition import Partition
from ...distributed.partition.results import Trained, WithFiles
from ...distributed.partition.version import Model
from ...distributed.training.checkpoint import Checkpoints
from ...distributed.training.run import Probe, TrainRun
from ...distributed.training.trainer import TrainSettings
from ...partitioning.halo import chosen
from ...partitioning.manifest import IngestedGraph
from ...workers import WorkerGroup, calling
from ..config.schema import Config
from ..layout import training_folder
from ..output.ingests import graph_key
from ..output.manifest import FORMAT, Manifest, files_of, needed_files
from ..output.session import Session
from ..planning.runs import carry_fork_of, fork_of
from ..reporting.progress import Progress, epoch_callback, with_callback
from .carrying import Earlier
from .forks import kept_by_original, runs_folder
from .reduced_graph import reduced_graph

LOOK_SECONDS = 5.0
"""The interval, in seconds, at which a training checks whether its result can still be committed."""


def at_intervals(look: Callable[[], None]) -> Callable[[], None]:
    """A function that calls `look` at most once every LOOK_SECONDS. An OSError of the store is ignored: the next call looks
    again."""
    due = time.monotonic() + LOOK_SECONDS

    def sometimes() -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + LOOK_SECONDS
            with suppress(OSError):
                look()

    return sometimes


NOTHING_TO_RESUME = (
    "--resume: there is no checkpoint of a run with this graph and these settings, so the training begins at its "
    "first epoch. A changed setting of `train`, `backbone` or `seed` makes another run, and train.checkpoint_every says "
    "when one is written"
)


def prepare_run(session: Session, run: TrainRun, resume: bool, progress: Progress) -> None:
    """Prepare a training: save the configuration, and remove earlier checkpoints of this run unless `resume` is set."""
    checkpoints = Checkpoints(session.store, run.folder)
    if not resume:
        checkpoints.clear()
    elif checkpoints.read_manifest() is None:
        progress.note(NOTHING_TO_RESUME)
    session.save_config()


def training_result(committed: Manifest, curve: Sequence[dict[str, Any]], steps: int) -> dict[str, Any]:
    """What the commands return of a training. curve: {"seconds", "loss", ...} of each epoch. steps: of an epoch."""
    seconds, loss = curve[-1]["seconds"], curve[-1]["loss"]
    return {
        "epochs": len(curve),
        "seconds": seconds,
        "step_seconds": seconds / (len(curve) * steps),
        "loss": loss,
        "version": committed.version,
        "curve": curve,
    }


def trained_version(
    session: Session,
    group: WorkerGroup,
    graph: IngestedGraph,
    run: TrainRun,
    progress: Progress,
    look: Callable[[], None] = lambda: None,
    earlier: Earlier | None = None,
) -> tuple[Manifest, list[dict[str, Any]]]:
    """Train, and make the manifest of the version. All of its files are written; the caller commits it.

    look: called while the training runs; it may end it by raising. earlier: the encoder that may be carried over to the
    model.

    Returns:
        (the manifest, the curve of the training).
    """
    removal, number = run.removal, session.versions.next_number()
    names = [session.versions.new_name(number, f"embeddings-{k:03d}", "safetensors") for k in range(graph.partitions)]
    dense = session.versions.new_name(number, "dense", "safetensors")
    train = session.config.train.model_dump(mode="json")
    forks = [fork_of(session.config), carry_fork_of(session.config) if earlier is not None else None]
    if not removal:
        # A pre-training forks its runs there. With a removal the version's graph is another one.
        folder = runs_folder(session.config, graph, session.config.seed, train, run.backbone)
        kept = [one for fork in forks if fork is not None for one in kept_by_original(folder, fork)]
        run = replace(run, keep=list(dict.fromkeys(kept)))
    with progress.task("train", run.epochs) as task:
        on_progress = with_callback(epoch_callback(task, "train"), look)
        results = run_training(session, group, graph, run, RunFiles(names, dense), on_progress)
    # With a removal, the training still uses the shards of the whole graph. The version gets shards and rows without the
    # removed interactions, and `lake_graph` keeps the whole graph.
    new_graph = graph
    embedded: Sequence[WithFiles] = results
    if removal:
        new_graph, embedded = reduced_graph(session, group, graph, removal, names, number)
    model = Model(
        backbone=run.backbone,
        seed=session.config.seed,
        embeddings=tuple(result["files"][0]["name"] for result in embedded),
        dense=dense if results[0]["has_dense"] else None,
        encoder=None,
        train=train,
        trained_on=tuple(name for chain in new_graph.shard_chains for name in chain),
    )
    if not results[0]["has_dense"]:
        session.store.remove(dense)
    files = files_of(results) | files_of(embedded) | new_graph.files
    if earlier is not None:
        # The version names the file, so that a purge leaves it until an encoder is there.
        model, files = model.replaced(earlier=earlier.encoder), {**files, **earlier.files}
    manifest = Manifest(
        format=FORMAT,
        reason="train",
        version=number,
        graph=new_graph,
        lake_graph=graph,
        model=model,
        files={name: files[name] for name in needed_files(new_graph, model)},
    )
    return manifest, results[0]["curve"]


def as_trained(config: Config, model: Model) -> Config:
    """`config` with the seed, training settings and backbone with which this model was trained."""
    train = dict(model.train)
    if model.dense is not None:
        # Before there was the key, dense weights were trained with learning_rate.
        train.setdefault("dense_learning_rate", train.get("learning_rate"))
    return config.model_copy(
        update={
            "seed": model.seed,
            "train": type(config.train).model_validate(train),
            "backbone": type(config.backbone).model_validate(model.backbone),
        }
    )


def make_run(config: Config, graph: IngestedGraph, removal: Removal, probe: Probe | None = None) -> TrainRun:
    """The training run of this configuration on this graph, without the interactions of `removal`.

    The name of its folder depends on the graph and on everything else that the result depends on. So a run never goes on
    from a checkpoint of another run.
    """
    train, backbone = config.train, config.backbone.specification()
    made = make_backbone(backbone, 0)  # raises where it cannot be made, before workers are started for it
    rate = train.rate_of_dense(any(True for _ in made.parameters()))
    settings = TrainSettings(
        seed=config.seed,
        batch_size=train.batch_size,
        learning_rate=train.learning_rate,
        loss=train.loss,
        initial_deviation=train.initial_deviation,
        l2=train.l2,
        softmax_temperature=train.softmax_temperature,
        softmax_negatives=train.softmax_negatives,
        total_pairs=graph.ingested_interactions,
        dense_learning_rate=rate,
    )
    # Without dense weights a run has the name that it had before the key.
    keys = train.model_dump(exclude={"dense_learning_rate"}) | ({} if rate is None else {"dense_learning_rate": rate})
    halo = chosen(config.partitioning.halo, graph.rows_per_layer)
    hashed = hashlib.sha256(json.dumps([keys, backbone, config.seed, halo, graph.document()], sort_keys=True).encode())
    if config.cluster.exchange_dtype != "float32":
        hashed.update(config.cluster.exchange_dtype.encode())
    for ids in (removal.users, removal.items, removal.pair_users, removal.pair_items):
        hashed.update(np.ascontiguousarray(ids).tobytes() + b"|")
    hashed.update(repr(tuple(removal.simulated)).encode())
    return TrainRun(
        settings=settings,
        backbone=backbone,
        epochs=train.epochs,
        folder=training_folder(graph_key(graph), hashed.hexdigest()[:16]),
        removal=removal,
        checkpoint_every=train.checkpoint_every,
        halo=halo,
        kernel="torch" if train.kernel == "auto" else train.kernel,
        probe=probe,
    )


@dataclass(frozen=True)
class RunFiles:
    """The names of the files into which a training writes its result."""

    embeddings: Sequence[str] | None
    """Rank k writes its rows of E0 to embeddings[k]. None: they are not written."""
    dense: str | None = None
    """The file of the dense weights. None: they are not written."""


def run_training(
    session: Session,
    group: WorkerGroup,
    graph: IngestedGraph,
    run: TrainRun,
    files: RunFiles,
    on_progress: Callable[[list[dict[str, Any]]], None],
) -> list[Trained]:
    """Run a training on the workers. A failed worker is replaced, and the run goes on from its last checkpoint.

    on_progress: called with each rank's state about twice a second; it may end the training by raising.

    Raises:
        WorkerFailure: as `WorkerGroup.run`.
    """
    return group.run(
        calling(Partition.train, session.location, graph, run, files.embeddings, files.dense),
        restore=lambda: None,
        max_rebuilds=session.config.cluster.max_rebuilds,
        on_progress=on_progress,
    )
