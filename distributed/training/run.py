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


def run_training(
    graph: LocalGraph, run: TrainRun, checkpoints: Checkpoints, on_progress: OnProgress
) -> tuple[Trainer, list[dict[str, float]]]:
    """Train until the last epoch, or until the probe ends the run. Returns the trainer and the curve.

    It begins at the last checkpoint if there is one.

    The curve has one entry for each epoch: "epoch" (from 1), "loss", "seconds" (of training since the beginning of the
    run, over all attempts), and after a probe its metrics.

    Raises:
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
        if run.checkpoint_every and trainer.epoch % run.checkpoint_every == 0 and not last:
            table = torch.tensor([[c["epoch"], c["loss"], c["seconds"]] for c in curve], dtype=torch.float64)
            checkpoints.save(graph.comm, trainer.epoch, trainer.state() | {"curve": table})
        if run.probe is not None and (trainer.epoch % run.probe.every == 0 or last):
            curve[-1] |= _probe(graph, trainer.readouts(), run.probe)
            if run.probe.is_over(curve):
                break
    return trainer, curve


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
