"""Measures of forgetting on arrays of scores. Definitions and sources in the docstrings.

P = forgotten pairs, H = held-out pairs (of the test set: never seen by any model), n = random pairs.
"""

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Scores = npt.NDArray[np.floating]


def auc(positives: Scores, negatives: Scores) -> float:
    """Area under the ROC curve of telling positives from negatives by score (Mann-Whitney U with ties at one half).

    The attack of docs/forgetting.md: forgotten pairs against held-out ones. 0.5 means that the score gives nothing away,
    but the target is the value of a retrained model, which need not be 0.5.
    """
    ranks = rankdata(np.concatenate([positives, negatives]))
    count = len(positives)
    return float((ranks[:count].sum() - count * (count + 1) / 2) / count / len(negatives))


def true_positives_at(positives: Scores, negatives: Scores, false_positive_rate: float = 0.01) -> float:
    """Share of positives above the score that this share of negatives exceeds (Carlini et al., S&P 2022)."""
    return float(np.mean(positives > np.quantile(negatives, 1 - false_positive_rate)))


def explained(needed: Scores, delivered: Scores) -> float:
    """R2 of each pair's change of score against the counterfactual retrain's: 1 - SSE / sum of squares of the needed.

    Nothing done is 0, an exact retrain 1.
    """
    return float(1 - ((needed - delivered) ** 2).sum() / (needed**2).sum())


def slope(needed: Scores, delivered: Scores) -> float:
    """Share of the needed change delivered: the least-squares slope through the origin."""
    return float((needed * delivered).sum() / (needed**2).sum())


def mi_bf(before: Scores, after: Scores) -> float:
    """Mean sigmoid(score) of the forgotten pairs before over after (UnlearnRec, SIGIR 2025; there higher is better,
    here the retrained model's value is)."""
    return float(np.mean(_sigmoid(before)) / np.mean(_sigmoid(after)))


def mi_ng(random_after: Scores, forgotten_after: Scores) -> float:
    """Mean sigmoid(score) of random non-interactions over that of the forgotten pairs, after (UnlearnRec, SIGIR 2025)."""
    return float(np.mean(_sigmoid(random_after)) / np.mean(_sigmoid(forgotten_after)))


def gap_closed(before: float, after: float, target: float) -> float:
    """Share of the way from `before` to `target` that `after` has gone; NaN where there is no way to go."""
    return (after - before) / (target - before) if target != before else float("nan")


def _sigmoid(x: Scores) -> Scores:
    return 1 / (1 + np.exp(-np.clip(x.astype(np.float64), -500, 500)))
