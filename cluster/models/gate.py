"""The quality gate: what is measured of a new version before its commit, and when that is not good enough.

Deletion does not depend on it: a version that misses is committed too, and says so (docs/forgetting.md, "The gate").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from ...distributed.measures.standing import Standing
from ...distributed.partition.partition import Partition
from ...distributed.partition.results import BaselineStanding, Recall
from ...partitioning.errors import InputError
from ...workers import WorkerGroup, calling
from ..config.schema import Forget
from ..output.manifest import Manifest
from ..output.session import Session
from .held_out import held_out_sample

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Pairs = tuple[Ids, Ids]
NOBODY: Pairs = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))

FORGOTTEN, HELD_OUT = 500, 1000
"""Pairs looked at, at most and about."""
FEWEST = 10
"""Forgotten pairs whose ends both stay, for `gap_closed`."""
NEAREST = 200
"""Held-out and trained pairs, nearest by the item's degree, that a forgotten pair is expected to stand among."""
MENDABLE = frozenset({"gap_closed", "recall_loss"})
"""What fine-tuning can change."""
PASSED, FINE_TUNED, MISSED, NOT_APPLICABLE = "passed", "fine_tuned", "missed", "not_applicable"


_baselines: WeakKeyDictionary[Session, tuple[str, Baseline]] = WeakKeyDictionary()
"""Of each session the last one, and the fingerprint of the version that it is of."""


def bounds_of(settings: Forget) -> dict[str, float]:
    """By measure, those that are on."""
    bounds = {
        "gap_closed": settings.gate_gap_closed,
        "recall_loss": settings.gate_recall_loss,
        "largest_change": settings.gate_change,
    }
    return {name: bound for name, bound in bounds.items() if bound is not None}


def missed(measures: Mapping[str, Mapping[str, Any]], bounds: Mapping[str, float]) -> list[str]:
    """The measures that miss their bounds by more than twice their standard error, or are no numbers. `gap_closed` has to be
    above its bound, and below the inverse: too far gives a pair away too."""
    found = []
    for name, bound in bounds.items():
        if "value" not in measures[name]:
            continue
        value, error = measures[name]["value"], measures[name].get("error", 0.0)
        least, most = (bound, 1 / bound) if name == "gap_closed" else (-np.inf, bound)
        if not (value + 2 * error >= least and value - 2 * error <= most):
            found.append(name)
    return found


def verdict(measures: Mapping[str, Mapping[str, Any]], bounds: Mapping[str, float]) -> str:
    """MISSED, NOT_APPLICABLE where none is missed but not all could be measured, or PASSED."""
    if missed(measures, bounds):
        return MISSED
    return PASSED if all("value" in measures[name] for name in bounds) else NOT_APPLICABLE


@dataclass(frozen=True)
class Baseline:
    """What a version was worth before it was changed: held-out pairs, and what `Partition.baseline` says of them by rank."""

    held_out: Pairs
    parts: Sequence[BaselineStanding]

    def of(self, group: Literal["held_out", "trained"]) -> tuple[Floats, Ids]:
        """(percentiles, degrees) of the pairs of a group that have one."""
        found: list[Standing] = [part[group] for part in self.parts]
        percentiles = np.concatenate([x.percentiles for x in found]).astype(np.float64)
        there = ~np.isnan(percentiles)
        return percentiles[there], np.concatenate([x.degrees for x in found])[there]


def baseline(session: Session, group: WorkerGroup, version: Manifest, gone: Pairs = NOBODY) -> Baseline | str:
    """Of a version, which the workers load if they hold another; or why there is none.

    It is kept for the version, and made again for a request that deletes some of its users or items.
    """
    if not bounds_of(session.config.forget).keys() & MENDABLE:
        return "off"
    if session.config.test_interactions is None:
        return "test_interactions is not set: no held-out pairs"
    try:
        users, items = held_out_sample(session, version, HELD_OUT)
    except (InputError, OSError) as error:
        return f"test_interactions cannot be read ({type(error).__name__})"
    stay = ~np.isin(users, gone[0]) & ~np.isin(items, gone[1])
    key = session.fingerprint(version)
    known = _baselines.get(session)
    if known is None or known[0] != key or not stay.all():
        config = session.config
        held_out = (users[stay], items[stay])
        call = calling(Partition.baseline, held_out, config.seed, config.evaluate.k[0], config.evaluate.batch_users)
        found = Baseline(held_out, session.call(group, version, call))
        known = _baselines[session] = key, found
    return known[1]


def gap_closed(base: Baseline, before: Sequence[Standing], after: Sequence[Standing], count: int) -> dict[str, Any]:
    """How far `count` forgotten pairs went from where trained pairs stand among comparable ones to where held-out ones do.

    1 is what a retrain is expected to give, 0 is nothing. {"value", "error" (standard error), "pairs"}, or {"left_out"}.
    """
    places = np.full((2, count), np.nan)
    degrees = np.zeros(count, dtype=np.int64)
    for line, parts in zip(places, (before, after), strict=True):
        for part in parts:
            line[part.positions] = part.percentiles
    for part in before:
        degrees[part.positions] = part.degrees
    moved = places[0] - places[1]
    there = ~np.isnan(moved)
    moved, degrees = moved[there], degrees[there]
    if count < FEWEST or len(moved) < FEWEST:
        return {"left_out": f"fewer than {FEWEST} of the forgotten pairs keep both ends"}
    trained, held_out = (_expected(*base.of(group), degrees) for group in ("trained", "held_out"))
    if trained is None or held_out is None:
        return {"left_out": f"fewer than {NEAREST} held-out pairs have both ends"}
    gap, error = trained[0] - held_out[0], np.hypot(trained[1], held_out[1])
    if gap <= 2 * error:
        return {"left_out": "the model before does not tell trained from held-out pairs of this kind: nothing to close"}
    value = moved.mean() / gap
    own = moved.std(ddof=1) / np.sqrt(len(moved))
    return {"value": float(value), "error": float(np.hypot(own, value * error) / gap), "pairs": len(moved)}


def recall_loss(before: Sequence[Recall], after: Sequence[Recall]) -> dict[str, Any]:
    """The share of Recall that is lost by the users who are in both, from what each rank says: {"value", "error" (standard
    error over users), "users"}, or {"left_out"}."""
    old, new = (dict(zip(*map(np.concatenate, zip(*parts, strict=True)), strict=True)) for parts in (before, after))
    users = sorted(old.keys() & new.keys())
    was, lost = (np.array([f(u) for u in users]) for f in (old.__getitem__, lambda u: old[u] - new[u]))
    if len(users) < 2 or not was.any():
        return {"left_out": "no recommendation to these users was right before"}
    error = lost.std(ddof=1) / np.sqrt(len(users))
    return {"value": float(lost.mean() / was.mean()), "error": float(error / was.mean()), "users": len(users)}


def _expected(percentiles: Floats, degrees: Ids, wanted: Ids) -> tuple[float, float] | None:
    """(mean, standard error) of where pairs stand whose items have degrees like `wanted`; None where they are too few."""
    if len(percentiles) < NEAREST:
        return None
    order = np.argsort(degrees, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(percentiles[order])])
    middle = sum(np.searchsorted(degrees[order], wanted, side=side) for side in ("left", "right")) // 2
    first = middle - NEAREST // 2
    first = np.clip(first, 0, len(order) - NEAREST)
    means = (sums[first + NEAREST] - sums[first]) / NEAREST
    return float(means.mean()), float(percentiles.std() / np.sqrt(NEAREST))


class Gate:
    """Of one batch. Made while the workers hold the version before; `judge` looks at a candidate."""

    def __init__(self, session: Session, group: WorkerGroup, version: Manifest, pairs: Pairs, gone: Pairs) -> None:
        """pairs: the interactions of the batch. gone: users and items that it deletes."""
        self._session, self._group = session, group
        self.bounds = bounds_of(session.config.forget)
        self._base = baseline(session, group, version, gone)
        draw = np.random.default_rng(session.config.seed)
        stay = np.flatnonzero(~np.isin(pairs[0], gone[0]) & ~np.isin(pairs[1], gone[1]))
        chosen = np.sort(draw.permutation(stay)[:FORGOTTEN])
        self._forgotten = (pairs[0][chosen], pairs[1][chosen])
        self._before: list[Standing] = []
        if not isinstance(self._base, str) and len(chosen) >= FEWEST:
            self._before = session.call(group, version, calling(Partition.standing, *self._asked(self._base)))

    def judge(self, candidate: Manifest, largest_change: float) -> dict[str, Any]:
        """{"status", "measures", "bounds", "missed"}. largest_change: of a row that stays, as the workers say."""
        assert candidate.model.encoder is not None
        seen = candidate.model.encoder.largest_shift
        bounds, base = self.bounds, self._base
        measures: dict[str, dict[str, Any]] = {
            "largest_change": {"value": largest_change / seen} if seen else {"left_out": "pre-training did not say"}
        }
        if isinstance(base, str):
            measures |= {name: {"left_out": base} for name in MENDABLE}
        else:
            settings = self._session.config.evaluate
            asked, before = self._asked(base), self._before or None
            call = calling(Partition.recall_and_standing, *asked, before, settings.k[0], settings.batch_users)
            after = self._session.call(self._group, candidate, call)
            standings = [part["standing"] for part in after]
            measures["gap_closed"] = gap_closed(base, self._before, standings, len(self._forgotten[0]))
            measures["recall_loss"] = recall_loss(
                *([part["recall"] for part in parts] for parts in (base.parts, after))
            )
        return {
            "status": verdict(measures, bounds),
            "measures": {name: measures[name] for name in bounds},
            "bounds": bounds,
            "missed": missed(measures, bounds),
        }

    def _asked(self, base: Baseline) -> tuple[Pairs, Pairs, int]:
        return self._forgotten, base.held_out, self._session.config.seed
