"""One method on one request, beside the original and the counterfactual retrain: every measure, as plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from ..distributed.measures import gap as shares
from ..distributed.measures import scores as measures
from ..distributed.measures.gap import Measure
from .lab import Data
from .panel import Panel, Scores, Seen
from .shadows import Shadows

BINS = 4
"""Strata of user degree and of item popularity."""
MIN_STRATUM = 20
"""Forgotten and held-out pairs that a stratum has at least."""
MIN_TRAINED = 200
"""Forgotten pairs that it takes to train an attacker."""
EQUIVALENCE_MARGIN = {"attack auc": 0.01, "recall": 0.002}
"""How far from a retrained model still counts as equivalent: fixed beforehand, in the measure's own unit."""

T = TypeVar("T")
Seens = tuple[Seen, Seen, Seen]
"""Before the request, after the method, and retrained; so is the next."""
Three = tuple[Measure, Measure, Measure]


def judge(
    data: Data, panel: Panel, seen: Seens, others: Sequence[Seen], shadows: Shadows | None = None
) -> dict[str, Any]:
    """Every measure by name, with its values "... before" and "... retrained", and under "shares" the share of that gap that
    was closed, as (share, low, high): `shares.share_of_gap`. NaN where there is no gap to close.

    others: retrains under other seeds.
    """
    before, after, target = seen
    result: dict[str, Any] = {"recall, share of retrained": after.recall / target.recall}
    found = _quality(seen) | _rows(panel, seen)
    if len(panel.untouched):
        result["top lists as before"] = measures.overlap_at(after.top, before.top)
        result["top lists as retrained"] = measures.overlap_at(after.top, target.top)
    apart = ~np.isin(panel.held_out[0], panel.request[0])
    if apart.any():
        for name, one in (("", after), (" retrained", target)):
            change = measures.relative_change(before.held_out[apart], one.held_out[apart])
            result[f"change on untouched users{name}"] = change
    if len(panel.forgotten[0]):
        found |= _pairs(seen, shadows)
        result |= _strata(panel, data, seen)
    result["shares"] = {name: shares.share_of_gap(*three) for name, three in found.items()}
    if "attack auc" in found:
        result["gap closed"] = result["shares"]["attack auc"].value
    for name, three in found.items():
        for when, measure in zip((" before", "", " retrained"), three, strict=True):
            result[f"{name}{when}"] = measure.value
    if len(others) >= 3:
        for name, value, values in (
            ("attack auc", after.attack, [o.attack for o in others]),
            ("recall", after.recall, [o.recall for o in others]),
        ):
            spread = np.array(values)
            result[f"{name}, z"] = measures.retrain_z(value, spread)
            result[f"{name}, equivalence p"] = measures.equivalence_p(value, spread, EQUIVALENCE_MARGIN[name])
    return result


def _quality(seen: Seens) -> dict[str, Three]:
    return {
        "recall": _three(seen, lambda s: shares.mean(s.quality.recall[:, 0].cpu().numpy())),
        "ndcg": _three(seen, lambda s: shares.mean(s.quality.ndcg[:, 0].cpu().numpy())),
    }


def _rows(panel: Panel, seen: Seens) -> dict[str, Three]:
    """How far the rows of E0 that the request touches and that are left went to where the retrain has them."""
    rows = seen[0].model.rows(panel.request)
    rows = rows[panel.graph.degrees[rows] > 0]
    before, after, target = (s.model.e0[rows].cpu().numpy() for s in seen)
    return _changes("row", target - before, after - before)


def _changes(name: str, needed: Scores, delivered: Scores) -> dict[str, Three]:
    """Measures that are shares themselves: 0 before, 1 retrained."""
    steps = np.zeros_like(needed), delivered, needed
    return {
        f"{name} R2": _three(steps, lambda step: shares.explained(needed, step)),
        f"{name} slope": _three(steps, lambda step: shares.slope(needed, step)),
    }


def _pairs(seen: Seens, shadows: Shadows | None) -> dict[str, Three]:
    """What takes scores of forgotten pairs."""
    before, after, target = seen
    found = _changes("shift", target.forgotten - before.forgotten, after.forgotten - before.forgotten)
    attackers: dict[str, Callable[[Seen], tuple[Scores, Scores]]] = {"attack": lambda s: (s.forgotten, s.held_out)}
    if len(before.forgotten) >= MIN_TRAINED:
        attackers["trained attack"] = lambda s: s.trained_attack
    if shadows is not None:
        attackers["shadow attack"] = lambda s: shadows.ratios(s.model)
    for name, attacker in attackers.items():
        told = [attacker(s) for s in seen]
        found[f"{name} auc"] = _three(told, lambda two: shares.auc(*two))
        found[f"{name} tpr"] = _three(told, lambda two: shares.true_positives_at(*two))
    return found | {
        "difference attack auc": _three(
            seen, lambda s: shares.difference_attack(s.forgotten - before.forgotten, s.kept - before.kept)
        ),
        "returns to top": _three(seen, lambda s: shares.mean(s.returned)),
        "MI-BF": _three(seen, lambda s: shares.mi_bf(before.forgotten, s.forgotten)),
        "MI-NG": _three(seen, lambda s: shares.mi_ng(s.random, s.forgotten)),
    }


def _three(of: Sequence[T], measure: Callable[[T], Measure]) -> Three:
    before, after, target = map(measure, of)
    return before, after, target


def _strata(panel: Panel, data: Data, seen: Seens) -> dict[str, list[float]]:
    """The attack within strata of users and of items: shares of its gap, and how far from the retrained model's it is."""
    degrees = np.bincount(data.users, minlength=data.num_users)
    popularity = np.bincount(data.items, minlength=data.num_items)
    result = {}
    for name, values, end in (("user degree", degrees, 0), ("item popularity", popularity, 1)):
        both = np.concatenate([values[panel.forgotten[end]], values[panel.held_out[end]]])
        inside, outside = np.split(measures.strata(both, BINS), [len(panel.forgotten[0])])
        parts = [(inside == stratum, outside == stratum) for stratum in range(BINS)]
        threes = [
            _three([(s.forgotten[ours], s.held_out[theirs]) for s in seen], lambda two: shares.auc(*two))
            for ours, theirs in parts
            if min(ours.sum(), theirs.sum()) >= MIN_STRATUM
        ]
        result[f"gap closed by {name}"] = [shares.share_of_gap(*three).value for three in threes]
        result[f"attack auc off by {name}"] = [three[1].value - three[2].value for three in threes]
    return result
