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
"""The least number of forgotten pairs of a kind from which the share of the gap is judged."""
COMPARABLE_PAIRS = 200
"""Each forgotten pair is compared with the mean of this number of held-out pairs, and with that of as many trained pairs:
those whose items have the nearest degrees. Of larger samples it is COMPARABLE_SHARE of them."""
COMPARABLE_SHARE = 0.4
SPREAD_OF_USERS = 0.8
"""The standard deviation over deleted users of the share of the gap that a retrain closes (docs/log.md, "The gate for whole
users"). A value of few users is as uncertain as that, however many pairs they have."""
GAPS = ("gap_closed", "user_gap_closed")
"""The measures of forgotten pairs: of users that stay, and of deleted users."""

PASSED, FINE_TUNED, MISSED, NOT_CHECKED = "passed", "fine_tuned", "missed", "not_checked"


def missed_measures(measures: Mapping[str, Mapping[str, Any]], bounds: Mapping[str, float]) -> list[str]:
    """The names of the measures that miss their bounds by more than twice their standard error, or that are NaN.

    The measures of GAPS have a lower bound b and an upper bound 1 / b, because a pair that moved too far can be recognized
    as well. If such a measure misses with those of earlier requests, its name ends with ".pooled". A measure that could not
    be made ("left_out") does not count as missed.
    """
    found = []
    for name, bound in bounds.items():
        measure = measures.get(name, {})
        least, most = (bound, 1 / bound) if name in GAPS else (-np.inf, bound)
        for shown, part in ((name, measure), (f"{name}.pooled", measure.get("pooled", {}))):
            if "value" in part:
                error = 2 * part.get("error", 0.0)
                if not (part["value"] + error >= least and part["value"] - error <= most):
                    found.append(shown)
    return found


def verdict(measures: Mapping[str, Mapping[str, Any]], bounds: Mapping[str, float]) -> str:
    """MISSED if a bound is missed; otherwise NOT_CHECKED if a measure could not be made; otherwise PASSED.

    A measure of forgotten pairs counts as made if, by this request alone or together with earlier ones, its error is so
    small that a model which was not changed at all would miss the bound.
    """
    if missed_measures(measures, bounds):
        return MISSED
    return (
        PASSED
        if all(_made(name, found, bounds[name]) for name, found in measures.items() if name in bounds)
        else NOT_CHECKED
    )


def _made(name: str, found: Mapping[str, Any], bound: float) -> bool:
    if name not in GAPS:
        return "value" in found
    return any("value" in part and 2 * part["error"] < bound for part in (found, found.get("pooled", {})))


Group = Literal["held_out", "trained", "stand_in_held_out", "stand_in_trained"]
ROWS: tuple[Group, Group] = ("trained", "held_out")
STAND_INS: tuple[Group, Group] = ("stand_in_trained", "stand_in_held_out")
"""The groups with which pairs of users that stay, and of deleted users, are compared."""


@dataclass(frozen=True)
class Baseline:
    """Measures of the version before, with which the gate compares a new version."""

    held_out: Pairs
    """Test interactions, which no training sees."""
    parts: Sequence[BaselineStanding]
    """The results of `Partition.baseline`, one for each rank."""

    def standing_of(self, group: Group) -> tuple[Floats, Ids]:
        """(percentiles [n], degrees of the items [n]) of those pairs of a group that have a percentile."""
        found: list[Standing] = [part[group] for part in self.parts]
        percentiles = np.concatenate([x.percentiles for x in found]).astype(np.float64)
        there = ~np.isnan(percentiles)
        return percentiles[there], np.concatenate([x.degrees for x in found])[there]


def gap_closed(
    base: Baseline,
    before: Sequence[Standing],
    after: Sequence[Standing],
    count: int,
    groups: tuple[Group, Group] = ROWS,
    earlier: Mapping[str, Any] | None = None,
    users: int | None = None,
) -> dict[str, Any]:
    """How far the forgotten pairs moved from the percentiles of trained pairs towards those of held-out pairs, as a share.

    The percentile of a pair is the share of comparable items that score lower for its user (`measures.standing`). Let m be
    the mean of (percentile before - percentile after) over the forgotten pairs, and T and H the mean percentiles of trained
    and of held-out pairs whose items have similar degrees. The value is m / (T - H). A retrain is expected to give 1;
    a model that was not changed gives 0.

    Args:
        before, after: the standings of the forgotten pairs, one part for each rank.
        count: the number of forgotten pairs.
        groups: the groups of the baseline whose means are T and H.
        earlier: what was pooled of earlier requests, as "pooled" in the result.
        users: the number of users whose pairs they are, if these are deleted users.

    Returns:
        {"value", "error": its standard error, "pairs": their number}, or {"left_out": why it cannot be measured}. With
        earlier requests also "pooled": {"value", "error", "pairs", "requests"} over their pairs and these. A request with
        fewer than MIN_FORGOTTEN_PAIRS has no value of its own, and counts in the pool.
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
    if not len(moved):
        return {
            "left_out": "none of the forgotten pairs has comparable pairs before and after",
            **pooled(earlier, None),
        }
    trained, held_out = (_expected_standing(*base.standing_of(group), degrees) for group in groups)
    if trained is None or held_out is None:
        return {"left_out": f"fewer than {COMPARABLE_PAIRS} held-out pairs have both ends", **pooled(earlier, None)}
    gap, error = trained[0] - held_out[0], np.hypot(trained[1], held_out[1])
    if gap <= 2 * error:
        why = "the model before does not tell trained from held-out pairs of this kind: nothing to close"
        return {"left_out": why, **pooled(earlier, None)}
    enough = len(moved) >= MIN_FORGOTTEN_PAIRS
    # Few pairs do not tell their own spread. That of the percentiles is at least as large.
    spread = moved.std(ddof=1) if enough else base.standing_of(groups[0])[0].std()
    value = moved.mean() / gap
    of_users = SPREAD_OF_USERS / np.sqrt(users) if users else 0.0
    own = {
        "value": float(value),
        "error": float(np.linalg.norm([spread / np.sqrt(len(moved)) / gap, value * error / gap, of_users])),
        "pairs": len(moved),
    }
    told = own if enough else {"left_out": f"fewer than {MIN_FORGOTTEN_PAIRS} forgotten pairs ({len(moved)})"}
    return told | pooled(earlier, own)


def pooled(earlier: Mapping[str, Any] | None, own: Mapping[str, Any] | None) -> dict[str, Any]:
    """{"pooled": the mean over the pairs of earlier requests and of this one}; {} if neither has any."""
    parts = [part for part in (earlier, own) if part is not None]
    if not parts:
        return {}
    pairs = np.array([part["pairs"] for part in parts])
    values, errors = (np.array([part[name] for part in parts]) for name in ("value", "error"))
    together = {
        "value": float(pairs @ values / pairs.sum()),
        "error": float(np.linalg.norm(pairs * errors) / pairs.sum()),
        "pairs": int(pairs.sum()),
        "requests": sum(part.get("requests", 1) for part in parts),
    }
    return {"pooled": together}


def recall_loss(before: Sequence[Recall], after: Sequence[Recall]) -> dict[str, Any]:
    """The share of the mean Recall@K that was lost, over the users that have a value before and after.

    before, after: (users, Recall@K of each user), one part for each rank.

    Returns:
        {"value", "error": its standard error over users, "users": their number, "before" and "after": the mean
        Recall@K itself}, or {"left_out": why it cannot be measured}.
    """
    old, new = (dict(zip(*map(np.concatenate, zip(*parts, strict=True)), strict=True)) for parts in (before, after))
    users = sorted(old.keys() & new.keys())
    was, lost = (np.array([f(u) for u in users]) for f in (old.__getitem__, lambda u: old[u] - new[u]))
    if len(users) < 2 or not was.any():
        return {"left_out": "no recommendation to these users was right before"}
    error = lost.std(ddof=1) / np.sqrt(len(users))
    return {
        "value": float(lost.mean() / was.mean()),
        "error": float(error / was.mean()),
        "users": len(users),
        "before": float(was.mean()),
        "after": float((was - lost).mean()),
    }


def _expected_standing(percentiles: Floats, degrees: Ids, wanted: Ids) -> tuple[float, float] | None:
    """(mean, standard error) of the percentiles of pairs whose items have degrees near those in `wanted` [n]; None if there
    are fewer than COMPARABLE_PAIRS pairs.

    For each wanted degree the mean is over the COMPARABLE_PAIRS, or COMPARABLE_SHARE of all, around its place in the order
    of degrees.

    percentiles, degrees: of the pairs to choose from, [m] each.
    """
    if len(percentiles) < COMPARABLE_PAIRS:
        return None
    width = max(COMPARABLE_PAIRS, int(COMPARABLE_SHARE * len(percentiles)))
    order = np.argsort(degrees, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(percentiles[order])])
    middle = sum(np.searchsorted(degrees[order], wanted, side=side) for side in ("left", "right")) // 2
    first = np.clip(middle - width // 2, 0, len(order) - width)
    means = (sums[first + width] - sums[first]) / width
    return float(means.mean()), float(percentiles.std() / np.sqrt(width))
