"""Compare several models after one request: the original, one with edges cut, an unlearned and a retrained one.

The quickstart and the benchmarks use it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...distributed.measures import scores as measures
from ...distributed.measures.evaluation import Evaluation
from ...distributed.partition.partition import Partition
from ...workers import WorkerGroup, calling
from ..config.schema import Config
from ..layout import COPIED
from ..output.manifest import Manifest
from ..output.session import Session
from .held_out import held_out_pairs

Ids = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Probe:
    """The pairs whose scores are compared: users and items by dense id, [n] each."""

    forgotten: tuple[Ids, Ids]
    """Interactions that the request removes."""
    held_out: tuple[Ids, Ids]
    """Test interactions, which no training sees."""
    random: tuple[Ids, Ids]
    """Random pairs, the reference of MI-NG."""


@dataclass(frozen=True)
class Measured:
    """One model's scores of the pairs of a `Probe`, [n] each, and its ranking quality on the test interactions."""

    forgotten: Scores
    held_out: Scores
    random: Scores
    metrics: Mapping[str, Any]


def copy_output(source: str | Path, target: str | Path) -> None:
    """Copy the output of a run, a local folder: its graph, versions, log and requests.

    The copy works at any place, because all names in it are relative to the output.
    """
    for name in COPIED:
        if (Path(source) / name).is_dir():
            shutil.copytree(Path(source) / name, Path(target) / name)


def measure(config: Config, group: WorkerGroup, probe: Probe) -> Measured:
    """Measure the current version of the output; its quality is that on all test interactions whose user and item are in
    the graph."""
    session = Session(config)
    version = session.version()
    users, items, _ = held_out_pairs(session, version.graph)
    return measure_version(session, version, group, probe, (users, items))


def measure_version(
    session: Session, version: Manifest, group: WorkerGroup, probe: Probe, tests: tuple[Ids, Ids]
) -> Measured:
    """Measure one version: its scores of the probe's pairs, and its quality on the test pairs `tests`.

    A pair with a deleted user or item has the score NaN.
    """
    settings = session.config.evaluate
    # All users: a sample is drawn by dense id, and another output may have others.
    evaluation = Evaluation(settings.k, settings.batch_users)
    metrics = session.call(group, version, calling(Partition.evaluate, *tests, evaluation))[0]
    found = []
    for pairs in (probe.forgotten, probe.held_out, probe.random):
        scores = np.full(len(pairs[0]), np.nan)
        for positions, values in session.call(group, version, calling(Partition.scores, *pairs)):
            scores[positions] = values
        found.append(scores)
    return Measured(found[0], found[1], found[2], metrics)


def compare(models: Mapping[str, Measured], original: str | None, retrained: str, k: int = 20) -> list[dict[str, Any]]:
    """One row of a table for each model: ranking quality, score attacks, and the share of the needed change that it made.

    The needed change is that of the scores from the model `original` to the model `retrained`. Pairs that one of the
    models cannot score are left out for all of them. Without an original, a row has no columns of the change. Without a
    forgotten pair, it has no columns of the change or of the attacks.

    k: the K of Recall@K and NDCG@K.
    """
    rows = []
    there = {
        name: np.logical_and.reduce([~np.isnan(getattr(m, name)) for m in models.values()])
        for name in ("forgotten", "held_out", "random")
    }

    def of(model: str, name: str) -> Scores:
        scores: Scores = getattr(models[model], name)[there[name]]
        return scores

    for name, model in models.items():
        row = {"model": name} | {metric: model.metrics[metric] for metric in (f"recall@{k}", f"ndcg@{k}")}
        scores, held_out = of(name, "forgotten"), of(name, "held_out")
        if len(scores):
            row |= {
                "attack AUC": measures.auc(scores, held_out),
                "TPR at 1% FPR": measures.true_positives_at(scores, held_out),
                "mean score": float(scores.mean()),
            }
        if len(scores) and original is not None:
            before = of(original, "forgotten")
            needed = of(retrained, "forgotten") - before
            row |= {
                "shift R2": measures.explained(needed, scores - before),
                "shift slope": measures.slope(needed, scores - before),
                "MI-BF": measures.mi_bf(before, scores),
            }
        if len(scores):
            row["MI-NG"] = measures.mi_ng(of(name, "random"), scores)
        rows.append(row)
    return rows
