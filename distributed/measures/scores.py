"""Measures of forgetting on arrays of scores. Definitions and sources in the docstrings.

P = forgotten pairs, H = held-out pairs (of the test set: never seen by any model), n = random pairs,
m = retrains under other seeds. Attackers that see more than one score a pair are in attacks.py; intervals of shares of a gap
in shares.py.
"""

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from scipy.stats import t as student

Scores = npt.NDArray[np.floating]
Ids = npt.NDArray[np.integer]


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

    Nothing done is 0, an exact retrain 1. Rows of embeddings [n, d] are taken entry by entry: large rows count for more.
    """
    return float(1 - ((needed - delivered) ** 2).sum() / (needed**2).sum())


def slope(needed: Scores, delivered: Scores) -> float:
    """Share of the needed change delivered: the least-squares slope through the origin. Of pairs or of rows [n, d]."""
    return float((needed * delivered).sum() / (needed**2).sum())


def mi_bf(before: Scores, after: Scores) -> float:
    """Mean sigmoid(score) of the forgotten pairs before over after (UnlearnRec, SIGIR 2025; there higher is better,
    here the retrained model's value is)."""
    return float(np.mean(sigmoid(before)) / np.mean(sigmoid(after)))


def mi_ng(random_after: Scores, forgotten_after: Scores) -> float:
    """Mean sigmoid(score) of random non-interactions over that of the forgotten pairs, after (UnlearnRec, SIGIR 2025)."""
    return float(np.mean(sigmoid(random_after)) / np.mean(sigmoid(forgotten_after)))


def gap_closed(before: float, after: float, target: float) -> float:
    """Share of the way from `before` to `target` that `after` has gone; NaN where there is no way to go."""
    return (after - before) / (target - before) if target != before else float("nan")


def strata(values: npt.NDArray[np.number], num_bins: int) -> npt.NDArray[np.int64]:
    """Quantile bins, numbered from 0, of what to stratify by: user degree, item popularity, request size.

    Equal values share the bin in which the middle of them falls; bins that get none vanish. To compare two groups, bin
    them together.
    """
    bins = (rankdata(values) - 0.5) * num_bins // len(values)
    return np.unique(bins, return_inverse=True)[1].astype(np.int64)


def overlap_at(lists_a: Ids, lists_b: Ids) -> float:
    """Mean share of items that two top-k lists [n, k] have in common; -1 = no item.

    A share is of the longer of the two lists. Users with two empty lists are left out.
    """
    both = np.sort(np.concatenate([lists_a, lists_b], axis=1), axis=1)
    common = ((both[:, 1:] == both[:, :-1]) & (both[:, 1:] >= 0)).sum(axis=1)
    longer = np.maximum((lists_a >= 0).sum(axis=1), (lists_b >= 0).sum(axis=1))
    return float(np.mean(common[longer > 0] / longer[longer > 0]))


def relative_change(before: Scores, after: Scores) -> float:
    """Root mean square of the change over that of the values before: of scores [n] or rows [n, d]."""
    return float(np.sqrt(((after - before) ** 2).sum() / (before**2).sum()))


def retrain_z(value: float, retrains: Scores) -> float:
    """A method's value of a statistic against m >= 3 retrains under other seeds: (value - mean) / (sd sqrt(1 + 1/m)).

    sd is the sample's. Under "the method is one more retrain" it follows a t distribution with m - 1 degrees of freedom
    (a prediction interval for one further observation), provided that the statistic is normal over seeds and the seeds
    are independent. Few retrains tell little apart: a small |z| is no evidence of equality. For that: `equivalence_p`.
    """
    difference, error = _against_retrains(value, retrains)
    return float(difference / error)


def equivalence_p(value: float, retrains: Scores, margin: float) -> float:
    """p-value of equivalence to retraining within +-margin, by two one-sided t tests (TOST, Schuirmann 1987).

    The null hypothesis is that the method's expected value is `margin` or more away from that of retraining; t has m - 1
    degrees of freedom. Assumed, beyond what `retrain_z` assumes: over seeds, the method's value varies as a retrain's does.
    The margin is in the statistic's units and chosen beforehand; one in sample standard deviations is itself estimated, so
    that p is then approximate. The one value's own noise limits the power: p < .05 within 2 standard deviations takes
    m >= 9, within 3 m >= 4.
    """
    difference, error = _against_retrains(value, retrains)
    return float(student.sf((margin - abs(difference)) / error, len(retrains) - 1))


def sigmoid(x: Scores) -> Scores:
    """In double precision, without overflow."""
    return 1 / (1 + np.exp(-np.clip(x.astype(np.float64), -500, 500)))


def _against_retrains(value: float, retrains: Scores) -> tuple[float, float]:
    """(Difference to the mean of the retrains, standard error of that difference)."""
    if len(retrains) < 3:
        raise ValueError(f"{len(retrains)} retrains: their spread takes at least 3")
    return value - float(np.mean(retrains)), float(np.std(retrains, ddof=1) * np.sqrt(1 + 1 / len(retrains)))
