"""The training runs on which an encoder is fitted: the counterfactuals, and where it is needed the original on the present
graph. A finished run is found again after a crash, and by another pre-training of the same model."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ...distributed.encoder.forks import Fork
from ...distributed.graph.removal import Removal
from ...distributed.partition.training import FinishedRun
from ...distributed.training.checkpoint import Checkpoints
from ...distributed.training.run import TrainRun
from ...partitioning.manifest import IngestedGraph
from ...workers import WorkerGroup
from ..config.schema import Config
from ..output.session import Session
from ..reporting.progress import Progress, epoch_callback, with_callback
from .forks import kept_by_fork, kept_by_original
from .training import RunFiles, make_run, run_training


def place_of_run(folder: str, removal: Removal, after: int = 0) -> str:
    """The folder of the run without the simulated requests of `removal`, or of the original on the present graph.

    folder: that of all runs (`forks.runs_folder`). after: the epochs of the training after which the run is forked; 0: it is
    a whole training.
    """
    if not removal:
        return f"{folder}/original"
    left_out = hashlib.sha256(repr(tuple(removal.simulated)).encode()).hexdigest()[:16]
    return f"{folder}/{left_out}{f'-{after:05d}' if after else ''}"


@dataclass
class Cost:
    """What the runs of a pre-training cost."""

    runs: list[float | None] = field(default_factory=list)
    """The seconds of training of each run, over all attempts; None of a run that an earlier state of this release made."""
    trainings: float = 0.0
    """The length of all these runs together, as a multiple of a training."""
    made_now: float = 0.0
    """The seconds that this command waited for runs."""

    def told(self, elapsed: float) -> dict[str, float]:
        """What `pretrain` says of them. elapsed: the seconds of the whole command.

        `retrains` is the cost of the encoder as a multiple of a training: of the runs, also those that were found finished,
        and of the fit.
        """
        if (known := [x for x in self.runs if x]) != self.runs or not known:
            return {}
        fit = max(0.0, elapsed - self.made_now)
        return {
            "run_seconds": sum(known),
            "fit_seconds": fit,
            "retrains": (sum(known) + fit) * self.trainings / sum(known),
        }


@dataclass(frozen=True)
class Runs:
    """Makes the runs for one version's model, or finds them finished."""

    session: Session
    group: WorkerGroup
    trained: Config
    """The configuration of the version's training. A counterfactual is the same training without some interactions."""
    graph: IngestedGraph
    folder: str
    """`forks.runs_folder` of the model."""
    fork: Fork | None
    """Where runs are forked from the training that are no whole ones. None: all are whole trainings."""
    progress: Progress
    look: Callable[[], None]
    cost: Cost
    step_seconds: list[float] = field(default_factory=list)
    """Of each run that was made and not found: the seconds of a step."""

    def original(self) -> tuple[Sequence[str], str]:
        """(the files of E0, one a rank; the file of the dense weights) of the training on the present graph."""
        place = place_of_run(self.folder, Removal())
        dense = f"{place}/dense.safetensors"
        run = make_run(self.trained, self.graph, Removal())
        if self.fork is not None:
            run = replace(run, keep=kept_by_original(self.folder, self.fork))
        return self._finished(run, place, "original on the present graph", dense), dense

    def has_kept(self) -> bool:
        """Whether the training kept all that runs are forked from."""
        fork = self.fork
        return fork is not None and all(
            Checkpoints(self.session.store, one.folder).read_manifest() is not None
            for one in kept_by_original(self.folder, fork)
        )

    def halfway(self) -> str | None:
        """The folder of the rows that the original kept half way; None without forks. Where the training did not keep them,
        or the state from which runs are forked, its epochs up to there are made again."""
        if self.fork is None:
            return None
        kept = kept_by_original(self.folder, self.fork)
        made = kept[1].folder
        if not self.has_kept():
            epochs = self.fork.halfway
            run = make_run(self.trained, self.graph, Removal())
            run = replace(run, epochs=epochs, keep=kept, folder=f"{run.folder}-to-{epochs:05d}")
            self._finished(run, made, f"original, {epochs} epochs", rows=False)
        elif self.session.store.exists(f"{made}/done.json"):
            self._count(made, self.fork.halfway)
        return made

    def counterfactual(self, removal: Removal, title: str, whole: bool = False) -> FinishedRun:
        """The run without `removal`; a whole training where `whole`. What a fork begins from is there: `halfway` was
        called."""
        run = make_run(self.trained, self.graph, removal)
        if self.fork is None or whole:
            return FinishedRun(removal, self._finished(run, place_of_run(self.folder, removal), title))
        after = self.fork.after
        place = place_of_run(self.folder, removal, after)
        start, kept = kept_by_original(self.folder, self.fork)[0].folder, kept_by_fork(place, self.fork)
        run = replace(run, start=start, keep=[kept], folder=f"{run.folder}-from-{after:05d}")
        return FinishedRun(removal, self._finished(run, place, title, after=after), kept.folder)

    def _finished(
        self, run: TrainRun, place: str, title: str, dense: str | None = None, after: int = 0, rows: bool = True
    ) -> list[str]:
        """Make a run, unless it is finished already; returns the names of its files of E0, none without `rows`.

        place: the folder of its result. title: of its progress bar. dense: where its dense weights are written. after: the
        epochs that were done when it began.
        """
        store, done = self.session.store, f"{place}/done.json"
        names = [f"{place}/embeddings-{k:03d}.safetensors" for k in range(self.graph.partitions)] if rows else []
        if not store.exists(done):
            with self.progress.task(title, run.epochs) as task:
                on_progress = with_callback(epoch_callback(task, "train"), self.look)
                began = time.perf_counter()
                files = RunFiles(names or None, dense)
                results = run_training(self.session, self.group, self.graph, run, files, on_progress)
                self.cost.made_now += time.perf_counter() - began
            seconds = results[0]["curve"][-1]["seconds"]
            self.step_seconds.append(seconds / ((run.epochs - after) * run.settings.num_batches))
            # This file is written after the rows, so whoever finds it finds all of them. The checkpoints are removed last:
            # a crash before `done` still needs them.
            store.write(done, json.dumps({"files": names, "seconds": seconds}).encode())
            Checkpoints(store, run.folder).clear()
        self._count(place, run.epochs - after)
        return names

    def _count(self, place: str, epochs: int) -> None:
        """Add the cost of the finished run in this folder."""
        self.cost.runs.append(json.loads(self.session.store.read(f"{place}/done.json")).get("seconds"))
        self.cost.trainings += epochs / self.trained.train.epochs
