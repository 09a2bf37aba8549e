"""The measures of the gate and its verdict, as pure functions of arrays (docs/forgetting.md, "The gate")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...distributed.measures.standing import Standing
from ...distributed.partition.results import BaselineStanding, Recall

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Pairs = tuple[Ids, Ids]
"""Users and items [n], by dense id."""

MIN_FORGOTTEN_PAIRS = 10
"""The least number of forgotten pairs whose user and item both stay, below which `gap_closed` is not measured."""
COMPARABLE_PAIRS = 200
"""Each forgotten pair is compared with the mean of this number of held-out pairs, and with that of as many trained pairs:
those whose items have the nearest degrees."""

PASSED, FINE_TUNED, MISSED, NOT_APPLICABLE = "passed", "fine_tuned", "missed", "not_applicable"


def missed_measures(measures: Mapping[str, Mapping[str, Any]], bounds: Mapping[str, float]) -> list[str]:
    """The names of the measures that miss their bounds by more than twice their standard error, or that are NaN.

    `gap_closed` has a lower bound b and an upper bound 1 / b, because a pair that moved too far can be recognized as
    well. A measure that could not be made ("left_out") does not count as missed.
    """
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
    """MISSED if a bound is missed; otherwise NOT_APPLICABLE if a measure could not be made; otherwise PASSED."""
    if missed_measures(measures, bounds):
        return MISSED
    return PASSED if all("value" in measures[name] for name in bounds) else NOT_APPLICABLE


@dataclass(frozen=True)
class Baseline:
    """Measures of the version before, with which the gate compares a new version."""

    held_out: Pairs
    """Test interactions, which no training sees."""
    parts: Sequence[BaselineStanding]
    """The results of `Partition.baseline`, one for each rank."""

    def standing_of(self, group: Literal["held_out", "trained"]) -> tuple[Floats, Ids]:
        """(percentiles [n], degrees of the items [n]) of those pairs of a group that have a percentile."""
        found: list[Standing] = [part[group] for part in self.parts]
        percentiles = np.concatenate([x.percentiles for x in found]).astype(np.float64)
        there = ~np.isnan(percentiles)
        return percentiles[there], np.concatenate([x.degrees for x in found])[there]


def gap_closed(base: Baseline, before: Sequence[Standing], after: Sequence[Standing], count: int) -> dict[str, Any]:
    """How far the forgotten pairs moved from the percentiles of trained pairs towards those of held-out pairs, as a share.

    The percentile of a pair is the share of comparable items that score lower for its user (`measures.standing`). Let m be
    the mean of (percentile before - percentile after) over the forgotten pairs, and T and H the mean percentiles of trained
    and of held-out pairs whose items have similar degrees. The value is m / (T - H). A retrain is expected to give 1;
    a model that was not changed gives 0.

    Args:
        before, after: the standings of the forgotten pairs, one part for each rank.
        count: the number of forgotten pairs.

    Returns:
        {"value", "error": its standard error, "pairs": their number}, or {"left_out": why it cannot be measured}.
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
    if count < MIN_FORGOTTEN_PAIRS or len(moved) < MIN_FORGOTTEN_PAIRS:
        return {"left_out": f"fewer than {MIN_FORGOTTEN_PAIRS} of the forgotten pairs keep both ends"}
    trained, held_out = (_expected_standing(*base.standing_of(group), degrees) for group in ("trained", "held_out"))
    if trained is None or held_out is None:
        return {"left_out": f"fewer than {COMPARABLE_PAIRS} held-out pairs have both ends"}
    gap, error = trained[0] - held_out[0], np.hypot(trained[1], held_out[1])
    if gap <= 2 * error:
        return {"left_out": "the model before does not tell trained from held-out pairs of this kind: nothing to close"}
    value = moved.mean() / gap
    own = moved.std(ddof=1) / np.sqrt(len(moved))
    return {"value": float(value), "error": float(np.hypot(own, value * error) / gap), "pairs": len(moved)}


def recall_loss(before: Sequence[Recall], after: Sequence[Recall]) -> dict[str, Any]:
    """The share of the mean Recall@K that was lost, over the users that have a value before and after.

    before, after: (users, Recall@K of each user), one part for each rank.

    Returns:
        {"value", "error": its standard error over users, "users": their number}, or {"left_out": why it cannot be
        measured}.
    """
    old, new = (dict(zip(*map(np.concatenate, zip(*parts, strict=True)), strict=True)) for parts in (before, after))
    users = sorted(old.keys() & new.keys())
    was, lost = (np.array([f(u) for u in users]) for f in (old.__getitem__, lambda u: old[u] - new[u]))
    if len(users) < 2 or not was.any():
        return {"left_out": "no recommendation to these users was right before"}
    error = lost.std(ddof=1) / np.sqrt(len(users))
    return {"value": float(lost.mean() / was.mean()), "error": float(error / was.mean()), "users": len(users)}


def _expected_standing(percentiles: Floats, degrees: Ids, wanted: Ids) -> tuple[float, float] | None:
    """(mean, standard error) of the percentiles of pairs whose items have degrees near those in `wanted` [n]; None if there
    are fewer than COMPARABLE_PAIRS pairs.

    For each wanted degree the mean is over the COMPARABLE_PAIRS pairs around its place in the order of degrees.

    percentiles, degrees: of the pairs to choose from, [m] each.
    """
    if len(percentiles) < COMPARABLE_PAIRS:
        return None
    order = np.argsort(degrees, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(percentiles[order])])
    middle = sum(np.searchsorted(degrees[order], wanted, side=side) for side in ("left", "right")) // 2
    first = middle - COMPARABLE_PAIRS // 2
    first = np.clip(first, 0, len(order) - COMPARABLE_PAIRS)
    means = (sums[first + COMPARABLE_PAIRS] - sums[first]) / COMPARABLE_PAIRS
    return float(means.mean()), float(percentiles.std() / np.sqrt(COMPARABLE_PAIRS))
