"""Shadow models: an attacker who trains models of its own with and without each pair."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from . import attacks
from .lab import Model, Pairs
from .panel import Panel, Scores
from .scenarios import Scenario

SHADOW_POOL = 5_000
"""Forgotten pairs, and as many held-out ones, that shadow models are trained with or without."""


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

    def ratios(self, model: Model) -> tuple[Scores, Scores]:
        """Log likelihood ratios (LiRA) of the scores in `model`, of forgotten and of held-out pairs of the pool."""
        found = attacks.shadow_log_ratios(model.scores(self.pairs), self.scores, self.inside)
        known = ~np.isnan(found)
        return found[known & self.forgotten], found[known & ~self.forgotten]
