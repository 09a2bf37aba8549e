"""Pre-training: fit the Influence Encoder of a version's model (docs/encoder.md).

`pretrain` does it for the current version, `retrain` for the model that it has just trained.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from ...distributed.backbones.registry import make_backbone
from ...distributed.encoder.influence import HUB_DEGREE, format_of
from ...distributed.encoder.pretrain import (
    POPULAR_SHARE,
    PretrainSettings,
    explains_unseen_nodes,
    simulated_requests,
    stays_whole,
    tries_around_encoder,
)
from ...distributed.encoder.published import PublishedSettings
from ...distributed.graph.removal import Removal, Simulated
from ...distributed.partition.partition import Partition
from ...distributed.partition.results import Fitted, FittedPublished
from ...distributed.partition.training import FinishedRuns
from ...distributed.partition.version import Encoder
from ...partitioning.errors import InputError
from ...partitioning.manifest import File, Graph
from ...workers import WorkerGroup, calling
from ..config.schema import Config
from ..layout import PRETRAIN, pretraining_folder
from ..output.ingests import graph_key
from ..output.leases import leased_places
from ..output.manifest import FORMAT, Manifest, files_of, needed_files
from ..output.session import Session
from ..planning.runs import carry_fork_of, fork_of
from ..reporting.progress import Progress, epoch_callback, with_callback
from .carried_encoder import carried_encoder
from .carrying import encoder_to_carry, not_carried_text, why_not_carried
from .counterfactual_runs import Cost, Runs
from .forks import is_of_state, kept_by_original, runs_folder
from .training import as_trained, make_run

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

APART = 0.25
"""The part of a retrain's changes that an encoder cannot know from which on `pretrain` says so. On MovieLens-1M
LightGCN and SGL have less, NGCF may have much more (docs/log.md)."""
TRAININGS_DRIFT_APART = (
    "two trainings of this model that differ in a few interactions end far apart: a retrain moves interactions that stay by "
    "{moves_of_kept:.2f} of how far it moves forgotten ones (mean squares). So at most about {known:.2f} of what a retrain "
    "changes can be known, and requests are forgotten in the mean rather than one by one. {advice}"
)
ADVICE_OF_DENSE = "A lower train.dense_learning_rate mends much of it; where it matters, `unlearnrec retrain`"
ADVICE = "A lower train.learning_rate may help; where it matters, `unlearnrec retrain`"


def clear_runs_of_others(session: Session, version: Manifest, states_only: bool = False) -> None:
    """Remove the finished runs of other models on this version's graph, and what its own training kept only for the check of
    a carried encoder. Runs of its own model stay, so that a pre-training with other settings of the fit finds them. Runs on
    another graph are left to `purge`.

    It is called when an encoder is committed. When a training is committed it is called with `states_only`, for the states
    that trainings keep, each of which is three times as large as a run. What another command has a lease on stays, such as
    the runs of a `retrain` that is under way.
    """
    own = folder_of_runs(session.config, version)
    of_graph = pretraining_folder(graph_key(version.graph), "")
    others = [name for name in session.store.list(PRETRAIN) if name.startswith(of_graph)]
    spent = () if states_only else _spent_states(session.config, version, own)
    others = [
        name
        for name in others
        if (not name.startswith(f"{own}/") and (is_of_state(name) or not states_only)) or name.startswith(spent)
    ]
    if others:
        held = leased_places(session, others)
        # The marks of finished runs and of states go first: whoever finds a mark finds the rows as well.
        for name in sorted(set(others) - held, key=lambda name: not name.endswith(("/done.json", "/manifest.json"))):
            with suppress(FileNotFoundError):
                session.store.remove(name)


def _spent_states(config: Config, version: Manifest, folder: str) -> tuple[str, ...]:
    """What a training kept, below the folder of its runs, only for the check of a carried encoder. It is of no use once
    there is an encoder."""
    trained = as_trained(config, version.model)
    check, fork = carry_fork_of(trained), fork_of(trained)
    kept = () if check is None or version.model.earlier is None else kept_by_original(folder, check)
    wanted = () if fork is None else kept_by_original(folder, fork)
    return tuple(f"{one.folder}/" for one in kept if one not in wanted)


def folder_of_runs(config: Config, version: Manifest) -> str:
    """The folder of the runs on which encoders of a version's model are fitted."""
    model = version.model
    return runs_folder(config, version.graph, model.seed, model.train, model.backbone)


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
    if session.config.pretrain.objective == "published":
        fitted: tuple[Encoder, Sequence[Fitted | FittedPublished]] = _fit_published(
            session, version, group, progress, look
        )
    else:
        fitted = _carry(session, version, group, progress, look) or _fit_counterfactual(
            session, version, group, progress, look
        )
    encoder, results = fitted
    numbers = {name: None if value != value else value for name, value in results[0]["fit"].items()}  # JSON has no NaN
    told = {"epochs": session.config.pretrain.epochs, "seconds": time.perf_counter() - started, **numbers}
    if encoder.carried_from is not None:
        told |= {"epochs": 0, "carried_from": encoder.carried_from}
    return encoder, files_of(results), told


def with_encoder(version: Manifest, encoder: Encoder, files: Mapping[str, File]) -> Manifest:
    """The manifest of a version with the same graph and rows and with this encoder. files: the encoder's."""
    model, known = version.model.replaced(encoder=encoder), {**version.files, **files}
    if model.earlier is not None:
        model = model.replaced(earlier=None)
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


def _carry(
    session: Session, version: Manifest, group: WorkerGroup, progress: Progress, look: Callable[[], None]
) -> tuple[Encoder, list[Fitted]] | None:
    """Carry the encoder over that the version's training left; None where it left none, or it does badly on this model."""
    config = as_trained(session.config, version.model)
    earlier = encoder_to_carry(config, version)
    if earlier is None:
        return None
    why = why_not_carried(config, earlier, version.model.backbone, version.model.train)
    if why is not None:
        progress.note(not_carried_text(earlier, why))
        return None
    requests = _simulated_requests(session, version, group)
    return carried_encoder(session, version, group, requests, folder_of_runs(session.config, version), progress, look)


def _simulated_requests(session: Session, version: Manifest, group: WorkerGroup) -> list[Simulated]:
    """The requests that the counterfactuals of a pre-training leave out."""
    config = session.config
    popular = _popular_items(session, version, group)
    return simulated_requests(config.seed, config.pretrain.counterfactuals, config.pretrain.request_share, popular)


def _fit_counterfactual(
    session: Session, version: Manifest, group: WorkerGroup, progress: Progress, look: Callable[[], None]
) -> tuple[Encoder, list[Fitted]]:
    """Fit the encoder on counterfactual trainings (`pretrain.objective: counterfactual`).

    Returns:
        (the encoder's entry in a manifest, the workers' results).
    """
    config, graph, model = session.config, version.graph, version.model
    began, cost, settings = time.perf_counter(), Cost(), config.pretrain
    trained, folder = as_trained(config, model), folder_of_runs(config, version)
    made = Runs(session, group, trained, graph, folder, fork_of(trained), progress, look, cost)
    removals = [Removal(simulated=(request,)) for request in _simulated_requests(session, version, group)]
    # The slow part. Each run is written when it is finished, so that a crash loses at most one. The original comes first,
    # since the others may be forked from it. It is needed if requests have changed the graph and the rows since the
    # training: the counterfactual runs are compared with a training on the present graph.
    original = None if model.was_trained_on(graph) else made.original()
    halfway = made.halfway()
    runs = []
    for number, removal in enumerate(removals):
        title = f"counterfactual {number + 1}/{len(removals)}"
        runs.append(made.counterfactual(removal, title, whole=stays_whole(number)))
    blocks = make_backbone(model.backbone, 0).readout_size // model.backbone["embedding_size"]
    shape = {
        "blocks": blocks,
        "mlp_layers": config.influence.mlp_layers,
        "seed": config.seed,
        "hub_degree": HUB_DEGREE,
        "size": model.backbone["embedding_size"],
        # Dense weights let all rows drift together (docs/encoder.md): lengths of rows then say nothing of a request.
        "common": int(model.dense is None),
        "gain_by_share": int(model.dense is None),
        "across": int(model.dense is not None),
    }
    fit = PretrainSettings(config.seed, settings.epochs, settings.batch_size, settings.learning_rate, settings.examples)
    name = session.versions.new_name(session.versions.next_number(), "encoder", "safetensors")
    finished = FinishedRuns(runs, original, made.fork, halfway)

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
    apart = results[0]["fit"]["moves_of_kept"]
    if apart > APART:
        advice = ADVICE if model.dense is None else ADVICE_OF_DENSE
        known = max(0.0, 1 - apart)
        progress.note(TRAININGS_DRIFT_APART.format(moves_of_kept=apart, known=known, advice=advice))
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
        format=format_of(objective, bool(shape.get("across"))),
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
