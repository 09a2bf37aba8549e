"""A training run on one rank: it resumes from a checkpoint, trains the epochs, writes checkpoints and records the
curve."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...partitioning.errors import InputError
from ...partitioning.storage import Store
from ..backbones.registry import make_backbone
from ..graph.local_graph import LocalGraph
from ..graph.removal import Removal
from ..measures.quality import evaluate
from .checkpoint import Checkpoints
from .finite import are_finite, scores_are_finite
from .trainer import Trainer, TrainSettings

OnProgress = Callable[..., None]


@dataclass(frozen=True)
class Probe:
    """Evaluate after each `every` epochs and after the last. The time that this takes is not counted as training."""

    every: int
    test_users: npt.NDArray[np.int64]
    test_items: npt.NDArray[np.int64]
    cutoffs: tuple[int, ...]
    batch_users: int
    metric: str = ""
    """The name of the measure, such as "ndcg@20", that `patience` looks at."""
    patience: int | None = None
    """End the run after so many evaluations in a row that were no better than an earlier one. None: never."""

    def is_over(self, curve: Sequence[dict[str, float]]) -> bool:
        """Whether `patience` ends a run with this curve."""
        values = [entry[self.metric] for entry in curve if self.metric in entry]
        return self.patience is not None and len(values) - first_best(values) >= self.patience


def first_best(values: Sequence[float]) -> int:
    """The position, from 1, of the first of the largest values; 0 if there are none."""
    return values.index(max(values)) + 1 if values else 0


@dataclass(frozen=True)
class Kept:
    """The state of a run after an epoch, which stays when the run is over: rows, moments and dense weights, as in a
    checkpoint, from which other runs can be forked. Without `moments`: "rows" [N, d] in the order of "users", "items" (ids),
    and the dense weights."""

    epoch: int
    folder: str
    """Relative to the output."""
    moments: bool = True


@dataclass(frozen=True)
class TrainRun:
    """All settings of a run. They are the same on all ranks, and pickle."""

    settings: TrainSettings
    backbone: dict[str, Any]
    """The keys name, embedding_size, num_layers, and the backbone's own."""
    epochs: int
    folder: str
    """The folder of the checkpoints, relative to the output."""
    removal: Removal = field(default_factory=Removal)
    """Interactions that the run leaves out."""
    checkpoint_every: int = 0
    halo: str = "pull"
    kernel: str = "torch"
    probe: Probe | None = None
    keep: Sequence[Kept] = ()
    """The states that this run keeps."""
    start: str | None = None
    """The folder of the state that another run kept, at which this run begins. None: it begins at the first epoch."""


def run_training(
    graph: LocalGraph, run: TrainRun, checkpoints: Checkpoints, on_progress: OnProgress
) -> tuple[Trainer, list[dict[str, float]]]:
    """Train until the last epoch, or until the probe ends the run. Returns the trainer and the curve.

    It begins at the last checkpoint if there is one, otherwise at the state `run.start` of another run, if one is named.

    The curve has one entry for each epoch of this run: "epoch" (from 1 without `run.start`), "loss", "seconds" (of training
    since the beginning of this run, over all attempts), and after a probe its metrics.

    Raises:
        FileNotFoundError: there is no state `run.start` for this number of ranks.
        InputError: it diverged: rows, dense weights or scores became infinite or NaN. No checkpoint has such a state.
    """
    backbone = make_backbone(run.backbone, run.settings.seed).to(graph.comm.device)
    trainer = Trainer(graph, backbone, run.settings)
    curve: list[dict[str, float]] = []
    seconds = 0.0
    if (found := checkpoints.load(graph.comm)) is not None:
        state = found[1]
        table = state.pop("curve")
        curve = [dict(zip(("epoch", "loss", "seconds"), line, strict=True)) for line in table.tolist()]
        seconds = curve[-1]["seconds"]
        trainer.load_state(state)
    elif run.start is not None:
        start = Checkpoints(checkpoints.store, run.start).load(graph.comm)
        if start is None:
            raise FileNotFoundError(f"{checkpoints.store.root_uri}/{run.start}: no state for {graph.comm.size} ranks")
        trainer.load_state(start[1])
    while trainer.epoch < run.epochs:
        started = time.perf_counter()
        loss = trainer.run_epoch(
            lambda epoch, step, loss: on_progress(
                phase="train", epoch=epoch, step=step, loss=round(loss, 5), finished=curve[-1] if curve else None
            )
        )
        seconds += time.perf_counter() - started
        last = trainer.epoch == run.epochs
        _check_converges(trainer, loss, last)
        curve.append({"epoch": float(trainer.epoch), "loss": loss, "seconds": seconds})
        # Before a checkpoint of this epoch or a later one: a run that goes on from there finds what was kept.
        for kept in run.keep:
            if trainer.epoch == kept.epoch:
                state = trainer.state() if kept.moments else _without_moments(trainer)
                Checkpoints(checkpoints.store, kept.folder).save(graph.comm, trainer.epoch, state)
        if run.checkpoint_every and trainer.epoch % run.checkpoint_every == 0 and not last:
            table = torch.tensor([[c["epoch"], c["loss"], c["seconds"]] for c in curve], dtype=torch.float64)
            checkpoints.save(graph.comm, trainer.epoch, trainer.state() | {"curve": table})
        if run.probe is not None and (trainer.epoch % run.probe.every == 0 or last):
            curve[-1] |= _probe(graph, trainer.readouts(), run.probe)
            if run.probe.is_over(curve):
                break
    return trainer, curve


def _without_moments(trainer: Trainer) -> dict[str, Tensor]:
    """The rows with the ids of their nodes, and the dense weights."""
    dense = {f"dense.{name}": x for name, x in trainer.backbone.state_dict().items()}
    ids = {"users": trainer.graph.user_ids, "items": trainer.graph.item_ids}
    return {"rows": trainer.table.rows} | ids | dense


def kept_rows(store: Store, folder: str, graph: LocalGraph) -> tuple[Tensor, dict[str, Tensor]]:
    """(the rows [N, d] of this graph's nodes, the dense weights) that a run kept without moments. All ranks call it.

    Raises:
        FileNotFoundError: nothing was kept there for this number of ranks.
    """
    found = Checkpoints(store, folder).load(graph.comm)
    if found is None:
        raise FileNotFoundError(f"{store.root_uri}/{folder}: no rows for {graph.comm.size} ranks")
    kept = {name: x.to(graph.comm.device) for name, x in found[1].items()}
    # A run has a row for each node that ever was; a graph may have lost some. Both are in the order of ids.
    places = [torch.searchsorted(kept["users"], graph.user_ids)]
    places.append(len(kept["users"]) + torch.searchsorted(kept["items"], graph.item_ids))
    dense = {name.removeprefix("dense."): x for name, x in kept.items() if name.startswith("dense.")}
    return kept["rows"][torch.cat(places)], dense


@torch.no_grad()
def _check_converges(trainer: Trainer, loss: float, last: bool) -> None:
    """Raise InputError if this rank's part of the model is no longer finite; after the last epoch also for scores."""
    fine = math.isfinite(loss) and are_finite([trainer.table.rows, *trainer.backbone.parameters()])
    if not fine or (last and not scores_are_finite(trainer.readouts())):
        settings = trainer.settings
        softmax = (
            f", or raise softmax_temperature (it is {settings.softmax_temperature:g})"
            if settings.loss == "softmax"
            else ""
        )
        raise InputError(
            f"the training diverged in epoch {trainer.epoch}: rows, weights or scores are infinite or NaN. Lower "
            f"train.learning_rate (it is {settings.learning_rate:g}), or initial_deviation (it is "
            f"{settings.initial_deviation:g}){softmax}"
        )


def _probe(graph: LocalGraph, z: Tensor, probe: Probe) -> dict[str, float]:
    test = [torch.from_numpy(x).to(z.device) for x in (probe.test_users, probe.test_items)]
    return evaluate(graph, z, test[0], test[1], probe.cutoffs, probe.batch_users)
