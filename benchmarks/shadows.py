"""Shadow models: models that an attacker trains, some with a pair and some without it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..distributed.attacks.likelihood import shadow_log_ratios
from .lab import Model, Pairs
from .panel import Panel, Scores
from .scenarios import Scenario

SHADOW_POOL = 5_000
"""The largest number of forgotten pairs, and of held-out pairs, in the pool."""


@dataclass(frozen=True)
class Shadows:
    """The shadow models of an attacker, and their scores of a pool of forgotten and held-out pairs.

    Each model is trained on all interactions without the request, and on a random half of the pool. So it is known how a
    pair scores in a model that has seen it, and in one that has not.

    Shape legend: S = shadow models, n = pairs of the pool.
    """

    pairs: Pairs
    """The pool, [n]."""
    forgotten: npt.NDArray[np.bool_]
    """Whether each pair of the pool is a forgotten one, [n]; the others are held-out."""
    inside: npt.NDArray[np.bool_]
    """Whether each model was trained with the pair, [S, n]."""
    scores: Scores
    """The score of each pair in each model, [S, n]."""

    @classmethod
    def train(cls, scenario: Scenario, panel: Panel, count: int) -> Shadows:
        """Train `count` shadow models, each with a seed of its own."""
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
        """(log likelihood ratios of the forgotten pairs, of the held-out pairs) of the pool, for their scores in `model`
        (`likelihood.shadow_log_ratios`). Pairs without a ratio are left out."""
        found = shadow_log_ratios(model.scores(self.pairs), self.scores, self.inside)
        known = ~np.isnan(found)
        return found[known & self.forgotten], found[known & ~self.forgotten]
