"""Judge one method on one request: compute every measure of it, of the original and of the counterfactual retrain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from ..distributed.attacks.told import tell
from ..distributed.measures import gap as shares
from ..distributed.measures import scores as measures
from ..distributed.measures.gap import Measure
from .lab import Data
from .panel import Panel, Scores, Seen
from .people import Alone, OfPeople, told_of_people
from .shadows import Shadows

BINS = 4
"""The number of strata of user degree and of item popularity."""
MIN_STRATUM = 20
"""The least number of forgotten pairs, and of held-out pairs, in a stratum that is measured."""
MIN_TRAINED = 200
"""The least number of forgotten pairs with which an attacker is trained."""
EQUIVALENCE_MARGIN = {"attack auc": 0.01, "recall": 0.002}
"""The distance from a retrained model that still counts as equivalent, in the unit of the measure. It was set beforehand."""

T = TypeVar("T")
Seens = tuple[Seen, Seen, Seen]
"""What three models say of a panel: the one before the request, the one after the method, and the retrained one."""
Three = tuple[Measure, Measure, Measure]
"""A measure of the same three models, in the same order."""


def judge(
    data: Data,
    panel: Panel,
    seen: Seens,
    others: Sequence[Seen],
    shadows: Shadows | None = None,
    references: Sequence[OfPeople] = (),
    each_alone: Alone | None = None,
) -> dict[str, Any]:
    """Every measure by name.

    "NAME before" and "NAME retrained" are its values in the other two models. "shares" has, by name, the share of the gap
    between those two that the method closed, as (share, low, high) of `shares.share_of_gap`; NaN if there is no gap to
    close.

    others: retrains with other seeds. With three or more, the spread of retraining is measured too.
    references: what the attacker's own models say of the panel's people. each_alone: where each is forgotten alone.
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
    if panel.people is not None:
        of_users = told_of_people([s.people for s in seen], references, each_alone)
        found |= of_users
        told = {name: tell(three[1], three[2], []) for name, three in of_users.items() if " auc" in name}
        result["off the retrain"] = {name: (one.advantage, *one.interval) for name, one in told.items()}
        if each_alone is not None:
            result["seconds of one user"] = each_alone.seconds
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
    """Mean Recall@K and NDCG@K over users."""
    return {
        "recall": _three(seen, lambda s: shares.mean(s.quality.recall[:, 0].cpu().numpy())),
        "ndcg": _three(seen, lambda s: shares.mean(s.quality.ndcg[:, 0].cpu().numpy())),
    }


def _rows(panel: Panel, seen: Seens) -> dict[str, Three]:
    """How well the method changed the touched rows of E0 that are left, against the change that the retrain made."""
    rows = seen[0].model.rows(panel.request)
    rows = rows[panel.graph.degrees[rows] > 0]
    before, after, target = (s.model.e0[rows].cpu().numpy() for s in seen)
    return _changes("row", target - before, after - before)


def _changes(name: str, needed: Scores, delivered: Scores) -> dict[str, Three]:
    """R2 and slope of the delivered changes against the needed ones. They are shares themselves: 0 for the model before, and
    1 for the retrained one."""
    steps = np.zeros_like(needed), delivered, needed
    return {
        f"{name} R2": _three(steps, lambda step: shares.explained(needed, step)),
        f"{name} slope": _three(steps, lambda step: shares.slope(needed, step)),
    }


def _pairs(seen: Seens, shadows: Shadows | None) -> dict[str, Three]:
    """The measures that need scores of forgotten pairs: their changes, and the attacks on them."""
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
    """The measure of each of three things."""
    before, after, target = map(measure, of)
    return before, after, target


def _strata(panel: Panel, data: Data, seen: Seens) -> dict[str, list[float]]:
    """The attack inside each stratum of users and of items: the share of its gap that was closed, and the difference of its
    AUC from the retrained model's."""
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
