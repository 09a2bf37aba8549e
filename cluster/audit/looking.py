"""Look at models as an attacker sees them: the current version, and runs that are made for the audit.

A run is one training. When it is finished, what attackers see of it is written, and its rows are removed; so a run that is
found there is not made again, and an audit goes on where it was killed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ...distributed.attacks.view import Nodes, View
from ...distributed.graph.removal import Removal
from ...distributed.partition.auditing import Ask, AuditedRun
from ...distributed.partition.partition import Partition
from ...distributed.partition.results import Looked
from ...distributed.training.checkpoint import Checkpoints
from ...workers import WorkerGroup, calling
from ..config.schema import Config
from ..models.training import RunFiles, make_run, run_training
from ..output.manifest import Manifest
from ..output.session import Session
from ..reporting.progress import Progress, epoch_callback, with_callback

Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Look:
    """What an attacker sees of one model."""

    view: View
    returned: npt.NDArray[np.bool_]
    """Whether the item of each pair that was listed is in its user's list, [P]."""


def merged(parts: Sequence[Looked], listed: int) -> Look:
    """The answers of all partitions as one. listed: the number of pairs that were asked about."""
    sides = []
    for side in ("users", "items"):
        columns = [np.concatenate(column) for column in zip(*(part[side] for part in parts), strict=True)]
        order = np.argsort(columns[0])
        sides.append(Nodes(*(column[order] for column in columns)))
    returned = np.zeros(listed, dtype=bool)
    for part in parts:
        positions, found = part["returned"]
        returned[positions] = found.astype(bool)
    return Look(View(*sides), returned)


@dataclass(frozen=True, eq=False)
class Looking:
    """Looks at models with the workers of one session."""

    session: Session
    group: WorkerGroup
    version: Manifest
    """The version that is audited. The workers hold it while they look at a run."""
    trained: Config
    """The configuration of its training."""
    folder: str
    """Where what is seen of runs is kept (`layout.auditing_folder`)."""
    progress: Progress
    look_out: Callable[[], None] = lambda: None
    """Called while a run is made; it may end it by raising."""
    seconds: list[float] = field(default_factory=list)
    """Of each run, those of its training, also of runs that were found."""

    def at_version(self, version: Manifest, asks: Sequence[Ask]) -> list[Look]:
        """Look at a version."""
        self.session.call(self.group, version, calling(Partition.complete))
        call = calling(Partition.look, self.session.location, asks)
        return _merged(self.session.call(self.group, version, call), asks)

    def at_run(self, name: str, removal: Removal, seed: int, asks: Sequence[Ask], title: str) -> list[Look]:
        """Look at the training without `removal`, with this seed. It is made unless it is there.

        name: of the run, in the folder. title: of its progress bar.
        """
        store, place = self.session.store, f"{self.folder}/{name}.npz"
        if not store.exists(place):
            trained = self.trained.model_copy(update={"seed": seed})
            run = make_run(trained, self.version.graph, removal)
            names = [f"{self.folder}/{name}-{k:03d}.safetensors" for k in range(self.version.graph.partitions)]
            dense = f"{self.folder}/{name}-dense.safetensors"
            with self.progress.task(title, run.epochs) as task:
                on_progress = with_callback(epoch_callback(task, "train"), self.look_out)
                files = RunFiles(names, dense)
                results = run_training(self.session, self.group, self.version.graph, run, files, on_progress)
            weights = dense if results[0]["has_dense"] else None
            audited = AuditedRun(self.version.graph, run, names, weights, seed == self.trained.seed)
            # All workers together make what the encoder reads of the version that they hold.
            self.session.call(self.group, self.version, calling(Partition.complete))
            call = calling(Partition.look, self.session.location, asks, audited)
            looks = _merged(self.session.call(self.group, self.version, call), asks)
            # This file makes the run count. The rows and the checkpoints are needed until it is there.
            store.write(place, _packed(looks, results[0]["curve"][-1]["seconds"]))
            Checkpoints(store, run.folder).clear()
            for file in (*names, dense):
                with suppress(FileNotFoundError):
                    store.remove(file)
        looks, seconds = _unpacked(store.read(place))
        self.seconds.append(seconds)
        return looks


def _merged(results: Sequence[list[Looked]], asks: Sequence[Ask]) -> list[Look]:
    """The answers by rank and ask, as one look for each ask."""
    return [merged([of_rank[n] for of_rank in results], len(ask.listed[0])) for n, ask in enumerate(asks)]


def _packed(looks: Sequence[Look], seconds: float) -> bytes:
    arrays: dict[str, Any] = {"about": np.array(json.dumps({"looks": len(looks), "seconds": seconds}))}
    for n, look in enumerate(looks):
        arrays[f"{n} returned"] = look.returned
        for side, nodes in (("users", look.view.users), ("items", look.view.items)):
            arrays |= {f"{n} {side} {column}": np.asarray(x) for column, x in zip(Nodes._fields, nodes, strict=True)}
    file = io.BytesIO()
    partial(np.savez, file)(**arrays)
    return file.getvalue()


def _unpacked(content: bytes) -> tuple[list[Look], float]:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        about = json.loads(str(arrays["about"]))
        looks = []
        for n in range(about["looks"]):
            sides = [Nodes(*(arrays[f"{n} {side} {c}"] for c in Nodes._fields)) for side in ("users", "items")]
            looks.append(Look(View(*sides), arrays[f"{n} returned"]))
    return looks, about["seconds"]
