"""Measures of forgetting on arrays of scores. The docstrings give definitions and sources.

P = forgotten pairs, H = held-out pairs (of the test set: never seen by any model), n = random pairs,
m = retrains under other seeds. Attacks that use more than one score of a pair are in distributed/attacks/,
and intervals of shares of a gap in gap.py.
"""

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from scipy.stats import t as student

Scores = npt.NDArray[np.floating]
Ids = npt.NDArray[np.integer]


def auc(positives: Scores, negatives: Scores) -> float:
    """Area under the ROC curve of telling positives [P] from negatives [H] by score: Mann-Whitney U / (P H), where a
    tie counts one half.

    In the attack of docs/forgetting.md the positives are forgotten pairs and the negatives held-out ones. At 0.5 the
    score reveals nothing. The target is the value of a retrained model, which need not be 0.5.
    """
    ranks = rankdata(np.concatenate([positives, negatives]))
    count = len(positives)
    return float((ranks[:count].sum() - count * (count + 1) / 2) / count / len(negatives))


def true_positives_at(positives: Scores, negatives: Scores, false_positive_rate: float = 0.01) -> float:
    """True-positive rate at a false-positive rate: the share of positives above the score that this share of negatives
    exceeds (Carlini et al., S&P 2022)."""
    return float(np.mean(positives > np.quantile(negatives, 1 - false_positive_rate)))


def explained(needed: Scores, delivered: Scores) -> float:
    """R2 of the delivered changes, where the needed changes are those of the counterfactual retrain:
    1 - sum (needed - delivered)^2 / sum needed^2.

    Changes of scores [n] or of rows of embeddings [n, d]. If nothing was changed it is 0, for an exact retrain 1. Rows
    are compared entry by entry, so large rows count for more.
    """
    return float(1 - ((needed - delivered) ** 2).sum() / (needed**2).sum())


def slope(needed: Scores, delivered: Scores) -> float:
    """Share of the needed change that was delivered: the least-squares slope through the origin, sum (needed delivered)
    / sum needed^2. Changes of scores [n] or of rows [n, d]."""
    return float((needed * delivered).sum() / (needed**2).sum())


def mi_bf(before: Scores, after: Scores) -> float:
    """Mean sigmoid(score) of the forgotten pairs before the request, divided by that after it (UnlearnRec, SIGIR 2025).

    In the paper a higher value is better. Here the target is the value of the retrained model."""
    return float(np.mean(sigmoid(before)) / np.mean(sigmoid(after)))


def mi_ng(random_after: Scores, forgotten_after: Scores) -> float:
    """Mean sigmoid(score) of random pairs that are no interactions, divided by that of the forgotten pairs, both after
    the request (UnlearnRec, SIGIR 2025)."""
    return float(np.mean(sigmoid(random_after)) / np.mean(sigmoid(forgotten_after)))


def gap_closed(before: float, after: float, target: float) -> float:
    """(after - before) / (target - before): the share of the gap that is closed. NaN if there is no gap."""
    return (after - before) / (target - before) if target != before else float("nan")


def strata(values: npt.NDArray[np.number], num_bins: int) -> npt.NDArray[np.int64]:
    """Put values [n], such as user degrees or item popularity, into quantile bins. Returns the bin of each, int64 [n],
    from 0.

    Equal values share the bin in which their middle falls. Empty bins get no number. To compare two groups, bin them
    together.
    """
    bins = (rankdata(values) - 0.5) * num_bins // len(values)
    return np.unique(bins, return_inverse=True)[1].astype(np.int64)


def overlap_at(lists_a: Ids, lists_b: Ids) -> float:
    """Mean share of the items that two top-k lists of a user have in common. Shapes: both [n, k]; -1 stands for no
    item.

    The share is relative to the longer of the two lists. Users with two empty lists are left out.
    """
    both = np.sort(np.concatenate([lists_a, lists_b], axis=1), axis=1)
    common = ((both[:, 1:] == both[:, :-1]) & (both[:, 1:] >= 0)).sum(axis=1)
    longer = np.maximum((lists_a >= 0).sum(axis=1), (lists_b >= 0).sum(axis=1))
    return float(np.mean(common[longer > 0] / longer[longer > 0]))


def relative_change(before: Scores, after: Scores) -> float:
    """Root mean square of the change, divided by that of the values before. Values are scores [n] or rows [n, d]."""
    return float(np.sqrt(((after - before) ** 2).sum() / (before**2).sum()))


def retrain_z(value: float, retrains: Scores) -> float:
    """Compare a method's value of a statistic with m >= 3 retrains under other seeds: (value - mean) / (sd sqrt(1 +
    1/m)).

    sd is the sample's. Under "the method is one more retrain" it follows a t distribution with m - 1 degrees of freedom
    (a prediction interval for one further observation), provided that the statistic is normal over seeds and the seeds
    are independent. With few retrains a small |z| is no evidence of equality; `equivalence_p` tests that.

    Raises:
        ValueError: fewer than 3 retrains.
    """
    difference, error = _against_retrains(value, retrains)
    return float(difference / error)


def equivalence_p(value: float, retrains: Scores, margin: float) -> float:
    """p-value of equivalence to retraining within +-margin, by two one-sided t tests (TOST, Schuirmann 1987).

    The null hypothesis is that the method's expected value is `margin` or more away from that of retraining; t has m -
    1 degrees of freedom. Assumed, beyond what `retrain_z` assumes: over seeds, the method's value varies as a retrain's
    does. The margin is in the statistic's units and chosen beforehand; one in sample standard deviations is itself
    estimated, so that p is then approximate. The one value's own noise limits the power: p < .05 within 2 standard
    deviations takes m >= 9, within 3 m >= 4.
    """
    difference, error = _against_retrains(value, retrains)
    return float(student.sf((margin - abs(difference)) / error, len(retrains) - 1))


def sigmoid(x: Scores) -> Scores:
    """1 / (1 + exp(-x)) in double precision. x is clipped to +-500, so that nothing overflows."""
    return 1 / (1 + np.exp(-np.clip(x.astype(np.float64), -500, 500)))


def _against_retrains(value: float, retrains: Scores) -> tuple[float, float]:
    """(difference from the mean of the retrains, standard error of that difference)."""
    if len(retrains) < 3:
        raise ValueError(f"{len(retrains)} retrains: their spread takes at least 3")
    return value - float(np.mean(retrains)), float(np.std(retrains, ddof=1) * np.sqrt(1 + 1 / len(retrains)))
