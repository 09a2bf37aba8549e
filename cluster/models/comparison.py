"""One request under several models: as it was, edges cut, unlearned, retrained. For the quickstart and the benchmarks."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...distributed.measures import scores as measures
from ...workers import WorkerGroup
from ..config.schema import Config
from ..layout import COPIED
from ..output.manifest import Manifest
from ..output.session import Session
from .held_out import held_out_pairs

Ids = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Probe:
    """The pairs (users, items) whose scores are compared, by dense id."""

    forgotten: tuple[Ids, Ids]
    held_out: tuple[Ids, Ids]
    random: tuple[Ids, Ids]


@dataclass(frozen=True)
class Measured:
    """What one model says of them, and its quality on the test interactions."""

    forgotten: Scores
    held_out: Scores
    random: Scores
    metrics: Mapping[str, float]


def copy_output(source: str | Path, target: str | Path) -> None:
    """The output of a run (a local folder) at another place: graph, versions, log and requests.

    Everything in it is named relative to it.
    """
    for name in COPIED:
        if (Path(source) / name).is_dir():
            shutil.copytree(Path(source) / name, Path(target) / name)


def measure(config: Config, group: WorkerGroup, probe: Probe) -> Measured:
    """The current version of this output, its quality on all test interactions that it knows both ends of."""
    session = Session(config)
    version = session.version()
    users, items, _ = held_out_pairs(session, version.graph)
    return measure_version(session, version, group, probe, (users, items))


def measure_version(
    session: Session, version: Manifest, group: WorkerGroup, probe: Probe, tests: tuple[Ids, Ids]
) -> Measured:
    """Some version, its quality on these tests. Pairs with a deleted user or item are left out of the scores (NaN)."""
    settings = session.config.evaluate
    metrics = session.call(group, version, "evaluate", *tests, settings.k, settings.batch_users)[0]
    found = []
    for pairs in (probe.forgotten, probe.held_out, probe.random):
        scores = np.full(len(pairs[0]), np.nan)
        for positions, values in session.call(group, version, "scores", *pairs):
            scores[positions] = values
        found.append(scores)
    return Measured(found[0], found[1], found[2], metrics)


def compare(models: Mapping[str, Measured], original: str | None, retrained: str, k: int = 20) -> list[dict[str, Any]]:
    """One row a model: quality, attack, and how much of the counterfactual's change it delivers.

    Pairs that any of the models cannot score are left out everywhere. Columns that nothing can be said in are left out too:
    of the change where there is no original, of the attack and the change where there is no forgotten pair.
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
