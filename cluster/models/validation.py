"""Choose the number of epochs of a training on interactions that are held out of it (docs/evaluation.md).

The run that is looked at leaves out a keyed share of the interactions and is measured on them. The model is then trained
on all interactions for as many epochs. So no model lacks data because of the choice, and the choice leaves no data behind
that `forget` would have to find.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...distributed.graph.removal import Removal
from ...distributed.partition.partition import Partition
from ...distributed.training.run import Probe, TrainRun, first_best
from ...partitioning.errors import InputError
from ...partitioning.manifest import IngestedGraph
from ...workers import WorkerGroup, Workers, calling
from ..config.schema import Config
from ..output.ingests import lake_graph
from ..output.session import Session
from ..reporting.progress import Progress, epoch_callback
from .training import make_run

CHOICE = "validation.json"
"""The file in the folder of the checkpoints that has the curve of a finished choice, for `--resume`."""


@dataclass(frozen=True)
class Choice:
    """What validation chose: the best number of epochs, its measures, and the whole curve."""

    epochs: int
    metric: str
    value: float
    curve: Sequence[dict[str, float]]

    @classmethod
    def of(cls, curve: Sequence[dict[str, float]], metric: str) -> Choice:
        """curve: as `run_training` returns it, with the measures of a probe at some epochs."""
        measured = [entry for entry in curve if metric in entry]
        best = measured[first_best([entry[metric] for entry in measured]) - 1]
        return cls(int(best["epoch"]), metric, best[metric], curve)

    def document(self) -> dict[str, Any]:
        """What the commands return of it."""
        return {
            "epochs": self.epochs,
            self.metric: self.value,
            "seconds": self.curve[-1]["seconds"],
            "epochs_tried": len(self.curve),
            "curve": list(self.curve),
        }


def with_chosen_epochs(
    config: Config, progress: Progress, group: Workers | None, resume: bool = False
) -> tuple[Config, Choice | None]:
    """(the configuration with the number of epochs that validation chooses, the choice); as it is, and None, if
    validation.share is 0.

    group: workers that run already; None: workers are started and ended here. resume: take a finished choice for the same
    graph and settings, if there is one.

    Raises:
        InputError: as `lake_graph`; or no user has enough interactions to hold one out.
        WorkerFailure: as `WorkerGroup.run`.
    """
    if not config.validation.share:
        return config, None
    session = Session(config)
    graph = lake_graph(session)
    run = _run(config, graph)
    choice = _finished(session, run, config) if resume else None
    if choice is None:
        with session.workers(group) as workers:
            choice = validate(session, workers, graph, run, progress)
        session.store.write(f"{run.folder}/{CHOICE}", json.dumps(list(choice.curve)).encode())
    progress.note(
        f"validation: {choice.metric} is best after {choice.epochs} of {len(choice.curve)} epochs ({choice.value:.4f}); "
        "now training on all interactions"
    )
    chosen = config.model_copy(update={"train": config.train.model_copy(update={"epochs": choice.epochs})})
    return chosen, choice


def clear_choice(config: Config) -> None:
    """Remove the file of the choice that `with_chosen_epochs` made for this configuration."""
    if config.validation.share:
        session = Session(config)
        with suppress(FileNotFoundError):
            session.store.remove(f"{_run(config, lake_graph(session)).folder}/{CHOICE}")


def validate(
    session: Session,
    group: WorkerGroup,
    graph: IngestedGraph,
    run: TrainRun,
    progress: Progress,
    on_progress: Callable[[list[dict[str, Any]]], None] | None = None,
) -> Choice:
    """Train without the validation interactions until `validation.patience` or train.epochs ends it, and choose.

    Raises:
        InputError: no interaction was drawn.
    """
    config = session.config
    section = config.validation
    rebuilds = config.cluster.max_rebuilds
    draw = calling(
        Partition.validation_pairs, session.location, graph, run.removal, config.seed, section.share, section.users
    )
    parts = group.run(draw, restore=lambda: None, max_rebuilds=rebuilds)
    users, items = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    if not len(users):
        raise InputError(
            f"validation.share={section.share:g} of the interactions of validation.users={section.users:g} users is not one "
            "interaction. Raise them, or set validation.share=0 and train.epochs yourself"
        )
    metric = f"{section.metric}@{config.evaluate.k[0]}"
    cutoffs = tuple(config.evaluate.k)
    probe = Probe(section.every, users, items, cutoffs, config.evaluate.batch_users, metric, section.patience)
    run = replace(
        run, removal=replace(run.removal, pair_users=users, pair_items=items), probe=probe, checkpoint_every=0
    )
    with progress.task("validate", run.epochs) as task:
        call = calling(Partition.validate, session.location, graph, run)
        shown = on_progress or epoch_callback(task, "train")
        curve = group.run(call, restore=lambda: None, max_rebuilds=rebuilds, on_progress=shown)[0]
    return Choice.of(curve, metric)


def _run(config: Config, graph: IngestedGraph) -> TrainRun:
    """The run to be looked at. Its folder is that of no other run, since its settings have those of validation."""
    run = make_run(config, graph, Removal())
    section = config.validation
    return replace(run, folder=f"{run.folder}-v{section.share:g}-{section.users:g}-{section.every}-{section.patience}")


def _finished(session: Session, run: TrainRun, config: Config) -> Choice | None:
    """The choice that an interrupted training had made."""
    try:
        curve = json.loads(session.store.read(f"{run.folder}/{CHOICE}"))
    except FileNotFoundError:
        return None
    return Choice.of(curve, f"{config.validation.metric}@{config.evaluate.k[0]}")
