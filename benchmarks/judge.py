"""One method on one request, beside the original and the counterfactual retrain: every measure, as plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..distributed import attacks, measures
from ..distributed.evaluate import rank
from .lab import Ids, Lab, Model, Pairs
from .scenarios import Scenario

SAMPLE = 20_000
"""Held-out, kept and random pairs that scores are compared with, at most."""
BINS = 4
"""Strata of user degree and of item popularity."""
MIN_TRAINED = 200
"""Forgotten pairs that it takes to train an attacker."""
SHADOW_POOL = 5_000
"""Forgotten pairs, and as many held-out ones, that shadow models are trained with or without."""
UNTOUCHED = 2_000
"""Users without a part in the request whose top lists are compared."""
K = 20
EQUIVALENCE_MARGIN = {"attack auc": 0.01, "recall": 0.002}
"""How far from a retrained model still counts as equivalent: fixed beforehand, in the measure's own unit."""

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """The pairs that a request is judged on: forgotten ones whose user is still there, held-out, kept, random ones."""

    forgotten: Pairs
    held_out: Pairs
    kept: Pairs
    random: Pairs
    untouched: Ids
    """Users."""

    @classmethod
    def of(cls, scenario: Scenario) -> Panel:
        """Drawn with a fixed seed."""
        data, request = scenario.lab.data, scenario.request
        draw = np.random.default_rng(0)
        gone = np.isin(data.codes((data.users, data.items)), data.codes(request))
        left = [
            np.bincount(side[~gone], minlength=total) > 0
            for side, total in ((data.users, data.num_users), (data.items, data.num_items))
        ]

        def sample(pairs: Pairs) -> Pairs:
            there = np.flatnonzero(left[0][pairs[0]] & left[1][pairs[1]])
            chosen = np.sort(draw.permutation(there)[:SAMPLE])
            return pairs[0][chosen], pairs[1][chosen]

        known = np.union1d(data.codes((data.users, data.items)), data.codes((data.test_users, data.test_items)))
        random = draw.integers(data.num_users, size=SAMPLE) * data.num_items + draw.integers(
            data.num_items, size=SAMPLE
        )
        still = left[0][request[0]] & left[1][request[1]]
        untouched = np.setdiff1d(np.flatnonzero(left[0]), request[0])
        return cls(
            (request[0][still], request[1][still]),
            sample((data.test_users, data.test_items)),
            sample((data.users[~gone], data.items[~gone])),
            sample(data.pairs(np.setdiff1d(random, known))),
            np.sort(draw.permutation(untouched)[:UNTOUCHED]),
        )


@dataclass(frozen=True)
class Seen:
    """What a model says of a panel."""

    forgotten: Scores
    held_out: Scores
    kept: Scores
    random: Scores
    quality: dict[str, float]
    top: Ids
    """[untouched, K]."""

    @classmethod
    def by(cls, model: Model, panel: Panel, lab: Lab) -> Seen:
        """Scores, quality and top lists."""
        scores = [model.scores(pairs) for pairs in (panel.forgotten, panel.held_out, panel.kept, panel.random)]
        users = torch.from_numpy(panel.untouched)
        lists = [ranked.items for ranked in rank(model.graph, model.readout, users, K, 1024)]
        top = torch.cat(lists).numpy() if lists else np.empty((0, K), dtype=np.int64)
        return cls(scores[0], scores[1], scores[2], scores[3], lab.quality(model, (K,)), top)

    @property
    def attack(self) -> float:
        """AUC of forgotten against held-out."""
        return measures.auc(self.forgotten, self.held_out) if len(self.forgotten) else float("nan")


@dataclass(frozen=True)
class Shadows:
    """Models of an attacker who trains on all but the request, and on a random half of a pool of forgotten and held-out
    pairs: what a pair's score is with it and without it.

    Shapes: S shadows, n pairs of the pool.
    """

    pairs: Pairs
    forgotten: npt.NDArray[np.bool_]
    inside: npt.NDArray[np.bool_]
    scores: Scores

    @classmethod
    def train(cls, scenario: Scenario, panel: Panel, count: int) -> Shadows:
        """`count` of them, each under a seed of its own."""
        lab, draw = scenario.lab, np.random.default_rng(1)
        data = lab.data
        size = min(len(panel.forgotten[0]), len(panel.held_out[0]), SHADOW_POOL)
        chosen = [np.sort(draw.permutation(len(p[0]))[:size]) for p in (panel.forgotten, panel.held_out)]
        parts = [(p[0][c], p[1][c]) for p, c in zip((panel.forgotten, panel.held_out), chosen, strict=True)]
        pairs = tuple(np.concatenate([p[side] for p in parts]) for side in (0, 1))
        kept = data.pairs(np.setdiff1d(data.codes((data.users, data.items)), data.codes(scenario.request)))
        rest = replace(data, users=kept[0], items=kept[1])
        inside, scores = [], []
        for number in range(count):
            mask = draw.random(2 * size) < 0.5
            shadow = lab.with_data(rest.with_pairs((pairs[0][mask], pairs[1][mask])))
            scores.append(shadow.train(seed=lab.seed + 100 + number).scores((pairs[0], pairs[1])))
            inside.append(mask)
        forgotten = np.arange(2 * size) < size
        return cls((pairs[0], pairs[1]), forgotten, np.array(inside), np.array(scores))

    def attack(self, model: Model) -> tuple[float, float]:
        """(AUC, TPR at 1% FPR) of the likelihood ratio of each pair's score in `model` (LiRA)."""
        ratios = attacks.shadow_log_ratios(model.scores(self.pairs), self.scores, self.inside)
        known = ~np.isnan(ratios)
        members, others = ratios[known & self.forgotten], ratios[known & ~self.forgotten]
        return measures.auc(members, others), measures.true_positives_at(members, others)


def judge(
    scenario: Scenario,
    panel: Panel,
    models: tuple[Model, Model, Model],
    seen: tuple[Seen, Seen, Seen],
    others: Sequence[Seen],
    shadows: Shadows | None = None,
) -> dict[str, Any]:
    """models, seen: before the request, after the method, and retrained. others: retrains under other seeds."""
    before, after, target = seen
    data = scenario.lab.data
    result: dict[str, Any] = {
        "recall": after.quality[f"recall@{K}"],
        "ndcg": after.quality[f"ndcg@{K}"],
        "recall, share of retrained": after.quality[f"recall@{K}"] / target.quality[f"recall@{K}"],
    }
    touched = models[1].rows(scenario.request)
    alive = models[1].graph.degrees[touched] > 0
    rows = touched[alive]
    if models[0].e0 is models[1].e0 or models[0].e0.shape == models[2].e0.shape:
        needed, delivered = ((m.e0 - models[0].e0)[rows].numpy() for m in (models[2], models[1]))
        result["row R2"] = measures.explained(needed, delivered)
        result["row slope"] = measures.slope(needed, delivered)
    if len(panel.untouched):
        result["top lists as before"] = measures.overlap_at(after.top, before.top)
        result["top lists as retrained"] = measures.overlap_at(after.top, target.top)
    if len(panel.forgotten[0]):
        result |= _pairs(panel, data, models, seen)
    if shadows is not None:
        names = (" before", "", " retrained")
        for name, model in zip(names, models, strict=True):
            result[f"shadow attack auc{name}"], result[f"shadow attack tpr{name}"] = shadows.attack(model)
    if len(others) >= 3:
        for name, value, values in (
            ("attack auc", after.attack, [o.attack for o in others]),
            ("recall", after.quality[f"recall@{K}"], [o.quality[f"recall@{K}"] for o in others]),
        ):
            spread = np.array(values)
            result[f"{name}, z"] = measures.retrain_z(value, spread)
            result[f"{name}, equivalence p"] = measures.equivalence_p(value, spread, EQUIVALENCE_MARGIN[name])
    return result


def _pairs(
    panel: Panel, data: Any, models: tuple[Model, Model, Model], seen: tuple[Seen, Seen, Seen]
) -> dict[str, Any]:
    """What takes scores of forgotten pairs."""
    before, after, target = seen
    needed, delivered = target.forgotten - before.forgotten, after.forgotten - before.forgotten
    aucs = [s.attack for s in seen]
    tested = ((before.forgotten, before.held_out), (after.forgotten, after.held_out))
    closed = measures.gap_closed_interval(*tested, (target.forgotten, target.held_out), repetitions=300)
    result = {
        "shift R2": measures.explained(needed, delivered),
        "shift R2, interval": measures.bootstrap(measures.explained, [(needed, delivered)], repetitions=300),
        "shift slope": measures.slope(needed, delivered),
        "attack auc": aucs[1],
        "attack auc before": aucs[0],
        "attack auc retrained": aucs[2],
        "gap closed": measures.gap_closed(*aucs),
        "gap closed, interval": closed,
        "attack tpr": measures.true_positives_at(after.forgotten, after.held_out),
        "attack tpr retrained": measures.true_positives_at(target.forgotten, target.held_out),
        "difference attack auc": _difference(before, after),
        "difference attack auc retrained": _difference(before, target),
        "returns to top": _returns(models[1], panel),
        "returns to top, retrained": _returns(models[2], panel),
        "MI-BF": measures.mi_bf(before.forgotten, after.forgotten),
        "MI-BF retrained": measures.mi_bf(before.forgotten, target.forgotten),
        "MI-NG": measures.mi_ng(after.random, after.forgotten),
        "MI-NG retrained": measures.mi_ng(target.random, target.forgotten),
    }
    if len(needed) >= MIN_TRAINED:
        trained = [_trained_attack(model, panel) for model in models[1:]]
        result["trained attack auc"], result["trained attack tpr"] = trained[0]
        result["trained attack auc retrained"], result["trained attack tpr retrained"] = trained[1]
    degrees = np.bincount(data.users, minlength=data.num_users)
    popularity = np.bincount(data.items, minlength=data.num_items)
    for name, values, end in (("user degree", degrees, 0), ("item popularity", popularity, 1)):
        both = np.concatenate([values[panel.forgotten[end]], values[panel.held_out[end]]])
        inside, outside = np.split(measures.strata(both, BINS), [len(panel.forgotten[0])])
        tables = [measures.auc_by_stratum(s.forgotten, s.held_out, inside, outside) for s in seen]
        result[f"gap closed by {name}"] = [
            measures.gap_closed(*(table[b][0] for table in tables)) for b in sorted(tables[0])
        ]
        result[f"attack auc off by {name}"] = [tables[1][b][0] - tables[2][b][0] for b in sorted(tables[0])]
    return result


def _difference(before: Seen, after: Seen) -> float:
    """Who holds both versions tells forgotten from kept pairs by how their scores changed."""
    return attacks.difference_attack(after.forgotten - before.forgotten, after.kept - before.kept)


def _trained_attack(model: Model, panel: Panel) -> tuple[float, float]:
    """A classifier on what a holder of the model and of the remaining graph can compute of a pair."""
    features = [_features(model, pairs) for pairs in (panel.forgotten, panel.held_out)]
    return attacks.trained_attack(features[0], features[1], groups=(panel.forgotten[0], panel.held_out[0]))


def _features(model: Model, pairs: Pairs) -> npt.NDArray[np.float64]:
    """[n, 9]: score, cosine, log degrees and lengths of both ends, products with the means of their neighbours."""
    nodes, offset = model.nodes, model.graph.num_users
    own, other = (nodes.at(torch.from_numpy(x)) for x in (pairs[0], pairs[1] + offset))
    score = (own.readout * other.readout).sum(1)
    lengths = [x.readout.norm(dim=1) for x in (own, other)]
    columns = [
        score,
        score / (lengths[0] * lengths[1]).clamp(min=1e-12),
        own.degree.double().log1p(),
        other.degree.double().log1p(),
        *lengths,
        (other.readout * own.mean).sum(1),
        (own.readout * other.mean).sum(1),
        (own.e0 * other.e0).sum(1),
    ]
    return torch.stack([c.double() for c in columns], dim=1).numpy()


def _returns(model: Model, panel: Panel) -> float:
    """How often a forgotten item is among the K best that its user is not known to have."""
    pairs = panel.forgotten
    users, places = np.unique(pairs[0], return_inverse=True)
    lists = torch.cat([r.items for r in rank(model.graph, model.readout, torch.from_numpy(users), K, 1024)]).numpy()
    found = lists[places] == pairs[1][:, None]
    ranks = np.where(found.any(1), found.argmax(1), K)
    return measures.returns_to_top(ranks, K)
