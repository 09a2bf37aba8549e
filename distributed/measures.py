"""Measures of forgetting on arrays of scores. Definitions and sources in the docstrings.

P = forgotten pairs, H = held-out pairs (of the test set: never seen by any model), n = random pairs,
m = retrains under other seeds. Attackers that see more than one score a pair are in attacks.py.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from scipy.stats import t as student

Scores = npt.NDArray[np.floating]
Ids = npt.NDArray[np.integer]
AnyArray = npt.NDArray[Any]
Interval = tuple[float, float]


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
    return float(np.mean(_sigmoid(before)) / np.mean(_sigmoid(after)))


def mi_ng(random_after: Scores, forgotten_after: Scores) -> float:
    """Mean sigmoid(score) of random non-interactions over that of the forgotten pairs, after (UnlearnRec, SIGIR 2025)."""
    return float(np.mean(_sigmoid(random_after)) / np.mean(_sigmoid(forgotten_after)))


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


def auc_by_stratum(
    positives: Scores, negatives: Scores, positive_bins: Ids, negative_bins: Ids, minimum: int = 20
) -> dict[int, tuple[float, int, int]]:
    """Bin -> (auc, number of positives, number of negatives), where there are at least `minimum` of either."""
    found = {}
    for stratum in np.intersect1d(positive_bins, negative_bins).tolist():
        inside, outside = positives[positive_bins == stratum], negatives[negative_bins == stratum]
        if min(len(inside), len(outside)) >= minimum:
            found[int(stratum)] = (auc(inside, outside), len(inside), len(outside))
    return found


def returns_to_top(ranks: Ids, k: int) -> float:
    """Share of forgotten items that stand in the top k of their user's list.

    Ranks are 0-based, among the items that the user is not known to have after the request. The target is the retrained
    model's share, which is not 0: some would be recommended without ever having been seen.
    """
    return float(np.mean(ranks < k))


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


def bootstrap(
    statistic: Callable[..., float],
    arrays: Sequence[AnyArray | tuple[AnyArray, ...]],
    repetitions: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Bootstrap percentile interval (Efron 1979) of `statistic(*arrays)`, tuples unpacked.

    Unpaired: `bootstrap(auc, [positives, negatives])`; paired: `bootstrap(explained, [(needed, delivered)])`. Each array is
    resampled along its first axis on an index of its own, the arrays of a tuple on a common one. Rows are taken as
    independent; pairs of one user are not quite, and the spread over training seeds is not covered.
    """
    rng = np.random.default_rng(seed)
    groups = [array if isinstance(array, tuple) else (array,) for array in arrays]
    for group in groups:
        if len({len(array) for array in group}) > 1:
            raise ValueError(f"aligned arrays differ in length: {[len(array) for array in group]}")
    values = []
    for _ in range(repetitions):
        drawn: list[AnyArray] = []
        for group in groups:
            index = rng.integers(len(group[0]), size=len(group[0]))
            drawn.extend(array[index] for array in group)
        values.append(statistic(*drawn))
    return _percentiles(values, confidence)


def gap_closed_interval(
    before: tuple[Scores, Scores],
    after: tuple[Scores, Scores],
    target: tuple[Scores, Scores],
    repetitions: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Bootstrap percentile interval of `gap_closed` of three models' `auc`.

    Each model gives its scores of (forgotten [P], held-out [H]) pairs. Forgotten pairs are resampled jointly across the
    models, and so are held-out ones. As of any ratio, the interval means nothing where the gap itself may be zero: look at
    the intervals of the AUCs first.
    """
    rng = np.random.default_rng(seed)
    if len({(len(forgotten), len(held_out)) for forgotten, held_out in (before, after, target)}) > 1:
        raise ValueError("the three models must score the same forgotten and the same held-out pairs")
    num_forgotten, num_held_out = len(before[0]), len(before[1])
    ordered = []
    for forgotten, held_out in (before, after, target):
        order = np.argsort(held_out)
        sides = [np.searchsorted(held_out[order], forgotten, side) for side in ("left", "right")]
        ordered.append((order, *sides))
    values = []
    for _ in range(repetitions):
        times_P = np.bincount(rng.integers(num_forgotten, size=num_forgotten), minlength=num_forgotten)
        times_H = np.bincount(rng.integers(num_held_out, size=num_held_out), minlength=num_held_out)
        aucs = []
        for order, left, right in ordered:
            below = np.concatenate([[0], np.cumsum(times_H[order])])
            aucs.append(float(times_P @ (below[left] + below[right])) / 2 / num_forgotten / num_held_out)
        values.append(gap_closed(*aucs))
    return _percentiles(values, confidence)


def _against_retrains(value: float, retrains: Scores) -> Interval:
    """(Difference to the mean of the retrains, standard error of that difference)."""
    if len(retrains) < 3:
        raise ValueError(f"{len(retrains)} retrains: their spread takes at least 3")
    return value - float(np.mean(retrains)), float(np.std(retrains, ddof=1) * np.sqrt(1 + 1 / len(retrains)))


def _percentiles(values: Sequence[float], confidence: float) -> Interval:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _sigmoid(x: Scores) -> Scores:
    return 1 / (1 + np.exp(-np.clip(x.astype(np.float64), -500, 500)))
