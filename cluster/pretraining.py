"""`pretrain`: the Influence Encoder of the current version."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

from ..distributed.checkpoint import Checkpoints
from ..distributed.pretrain import PretrainSettings
from ..distributed.removal import Removal
from ..workers import WorkerGroup
from .config import Config
from .progress import Progress
from .session import Manifest, Session, files_of, follow, silent
from .training import make_run, needed_files, run_on

SIZES = (1.0, 0.5)
"""The counterfactuals' shares, as parts of `pretrain.request_share`, in turn: the encoder should meet several sizes."""


def pretrain(config: Config, *, progress: Progress | None = None, group: WorkerGroup | None = None) -> dict[str, Any]:
    """Train the encoder and commit it with the current version's model.

    Counterfactual runs that are finished are kept until the encoder stands, so that an interrupted command goes on.

    Raises:
        InputError: nothing has been trained yet, or the settings of the training are not those of the configuration.
        WorkerFailure: as `WorkerGroup.run`.
    """
    progress = progress or silent()
    session = Session(config)
    version = session.version()
    if group is not None:
        return _pretrain(session, version, group, progress)
    with session.workers() as own:
        return _pretrain(session, version, own, progress)


def _pretrain(session: Session, version: Manifest, group: WorkerGroup, progress: Progress) -> dict[str, Any]:
    started = time.perf_counter()
    config, graph, model = session.config, version["graph"], version["model"]
    # The counterfactuals must be this very training minus some data, whatever the configuration says today.
    trained = config.model_copy(
        update={
            "seed": model["seed"],
            "train": type(config.train).model_validate(model["train"]),
            "backbone": type(config.backbone).model_validate(model["backbone"]),
        }
    )
    settings = config.pretrain
    key = json.dumps([graph, trained.model_dump(mode="json"), settings.counterfactuals, settings.request_share])
    folder = f"pretrain/{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    removals = [
        Removal(simulated=((config.seed, number, settings.request_share * SIZES[number % len(SIZES)]),))
        for number in range(settings.counterfactuals)
    ]
    runs = []
    for number, removal in enumerate(removals):
        title = f"counterfactual {number + 1}/{len(removals)}"
        names = _finished_run(session, trained, graph, removal, f"{folder}/{number}", group, progress, title)
        runs.append((removal, names))
    original = None
    if model["trained_on"] != graph["shard_files"]:
        # The current rows are what forgetting made of the training's, so the run on the present graph is missing.
        title = "original on the present graph"
        original = _finished_run(session, trained, graph, Removal(), f"{folder}/original", group, progress, title)
    blocks = model["backbone"]["num_layers"] + 1 if model["backbone"]["name"] == "ngcf" else 1
    shape = {"blocks": blocks, "mlp_layers": config.influence.mlp_layers, "seed": config.seed}
    fit = PretrainSettings(config.seed, settings.epochs, settings.batch_size, settings.learning_rate)
    name = session.versions.new_name(session.versions.next_number(), "encoder", "safetensors")
    head = session.journal.records()[-1].number
    with progress.task("encoder", settings.epochs) as task:
        results = session.call(
            group,
            version,
            "fit_encoder",
            session.location,
            graph,
            original,
            runs,
            shape,
            fit,
            name,
            on_progress=follow(task),
        )
    manifest = {
        "format": 1,
        "reason": "pretrain",
        "graph": graph,
        "lake_graph": version["lake_graph"],
        "model": model | {"encoder": {"file": name, "objective": settings.objective, "shape": shape}},
    }
    files = version["files"] | files_of(results)
    manifest["files"] = {name: files[name] for name in needed_files(manifest)}
    committed = session.versions.commit(manifest, after=head)
    for name in session.store.list(folder):
        session.store.remove(name)
    return {
        "epochs": settings.epochs,
        "seconds": time.perf_counter() - started,
        "version": committed["version"],
        **results[0]["fit"],
    }


def _finished_run(
    session: Session,
    trained: Config,
    graph: Manifest,
    removal: Removal,
    place: str,
    group: WorkerGroup,
    progress: Progress,
    title: str,
) -> list[str]:
    """The files with rank k's rows of E0 after this run, made now unless they are there."""
    done = f"{place}/done.json"
    names = [f"{place}/embeddings-{k:03d}.safetensors" for k in range(graph["partitions"])]
    if not session.store.exists(done):
        run = make_run(trained, graph, removal)
        run_on(session, group, graph, run, names, None, progress, title)
        session.store.write(done, json.dumps({"files": names}).encode())
        Checkpoints(session.store, run.folder).clear()
    return names
