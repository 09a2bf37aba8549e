"""Which share of the gap between the original and the retrained model a method closed, by any measure, with an interval.

A measure is prepared once on a model's values, as a function of how often each of them is drawn; a bootstrap sample then
costs a few passes over counts, no sorting. `value` is what the function of the same name in measures.py gives, where there
is one.

P = forgotten pairs, H = held-out pairs, R = bootstrap samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .scores import Scores, sigmoid

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Measure:
    """A measure of one model. Groups of rows (pairs, users) are resampled apart from each other."""

    sizes: tuple[int, ...]
    """Rows in each group."""
    from_counts: Callable[..., float]
    """The measure from how often each row is drawn: one array of counts for each group."""

    @property
    def value(self) -> float:
        """With every row once."""
        return self.from_counts(*(np.ones(size, dtype=np.int64) for size in self.sizes))


class Share(NamedTuple):
    """A share of the gap, and its interval. All are NaN where there is no gap to close."""

    value: float
    low: float
    high: float


def share_of_gap(
    before: Measure, after: Measure, target: Measure, repetitions: int = 300, seed: int = 0, confidence: float = 0.95
) -> Share:
    """(after - before) / (target - before) with its bootstrap percentile interval: 0 is nothing done, 1 as retrained.

    Every sample is drawn once for all three models. One rule for all measures says when there is a gap to close: the
    percentile interval of target - before does not hold 0. Else the share is NaN, since a ratio to noise says nothing.
    The interval covers the draw of pairs or users, taken as independent; the spread over training seeds it does not.

    Raises:
        ValueError: the three are not of the same rows.
    """
    if not before.sizes == after.sizes == target.sizes:
        raise ValueError(f"the three models' rows differ: {before.sizes}, {after.sizes}, {target.sizes}")
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(repetitions):
        counts = [np.bincount(rng.integers(size, size=size), minlength=size) for size in before.sizes]
        drawn.append([measure.from_counts(*counts) for measure in (before, after, target)])
    before_R, after_R, target_R = np.array(drawn).T
    bounds = (1 - confidence) / 2, (1 + confidence) / 2
    gap_R = target_R - before_R
    low, high = np.quantile(gap_R, bounds)
    if not (low > 0 or high < 0):
        return Share(np.nan, np.nan, np.nan)
    shares_R = (after_R - before_R)[gap_R != 0] / gap_R[gap_R != 0]
    low, high = np.quantile(shares_R, bounds)
    share = (after.value - before.value) / (target.value - before.value)
    return Share(float(share), float(low), float(high))


def mean(values: Scores | Counts | npt.NDArray[np.bool_]) -> Measure:
    """Of one number a row: a user's Recall, whether a forgotten item returned."""
    return Measure((len(values),), lambda n: float(n @ values / n.sum()))


def auc(positives: Scores, negatives: Scores) -> Measure:
    """`measures.auc`. Groups: positives, negatives."""
    order_H = np.argsort(negatives)
    left_P, right_P = (np.searchsorted(negatives[order_H], positives, side) for side in ("left", "right"))

    def of(times_P: Counts, times_H: Counts) -> float:
        below = np.concatenate([[0], np.cumsum(times_H[order_H])])
        return float(times_P @ (below[left_P] + below[right_P]) / 2 / times_P.sum() / times_H.sum())

    return Measure((len(positives), len(negatives)), of)


def true_positives_at(positives: Scores, negatives: Scores, false_positive_rate: float = 0.01) -> Measure:
    """`measures.true_positives_at`. Groups: positives, negatives."""
    order_H = np.argsort(negatives)
    sorted_H = negatives[order_H]

    def of(times_P: Counts, times_H: Counts) -> float:
        upto = np.cumsum(times_H[order_H])
        place = (upto[-1] - 1) * (1 - false_positive_rate)
        low, high = sorted_H[np.searchsorted(upto, [np.floor(place), np.ceil(place)], "right")]
        threshold = low + (high - low) * (place - np.floor(place))
        return float(times_P @ (positives > threshold) / times_P.sum())

    return Measure((len(positives), len(negatives)), of)


def difference_attack(change_forgotten: Scores, change_kept: Scores) -> Measure:
    """AUC of telling forgotten from kept pairs by the change of their scores between two versions that an attacker has seen.

    The larger of the two-sided AUCs, max(a, 1 - a), of the signed change and of its absolute value: never below 0.5, and a
    little above it by chance. Which of the four that is, all rows say, and samples keep to it: the largest of each sample
    would be above 0.5 in all of them, and chance a gap.
    The retrained model's value, not 0.5, is the target: it moves forgotten pairs too. Before the request there is no second
    version: all changes are 0 and the value is 0.5, nothing to be told. The share is then of what the retrain itself gives
    away to a holder of both versions: above 1 is more.
    """
    both = auc(change_forgotten, change_kept), auc(np.abs(change_forgotten), np.abs(change_kept))
    best = max(both, key=lambda measure: abs(measure.value - 0.5))
    if best.value >= 0.5:
        return best
    return Measure(best.sizes, lambda *times: 1 - best.from_counts(*times))


def mi_bf(before: Scores, after: Scores) -> Measure:
    """`measures.mi_bf`. One group: the forgotten pairs. Before the request it is 1 by definition."""
    above, below = sigmoid(before), sigmoid(after)
    return Measure((len(before),), lambda n: float((n @ above) / (n @ below)))


def mi_ng(random_after: Scores, forgotten_after: Scores) -> Measure:
    """`measures.mi_ng`. Groups: random, forgotten."""
    above, below = mean(sigmoid(random_after)), mean(sigmoid(forgotten_after))
    return Measure((*above.sizes, *below.sizes), lambda n, m: above.from_counts(n) / below.from_counts(m))


def explained(needed: Scores, delivered: Scores) -> Measure:
    """`measures.explained`, of scores [n] or rows [n, d]. It is a share of the gap itself."""
    error, whole = (_by_row(x**2) for x in (needed - delivered, needed))
    return Measure((len(needed),), lambda n: float(1 - (n @ error) / (n @ whole)))


def slope(needed: Scores, delivered: Scores) -> Measure:
    """`measures.slope`, of scores [n] or rows [n, d]. It is a share of the gap itself."""
    common, whole = (_by_row(x) for x in (needed * delivered, needed**2))
    return Measure((len(needed),), lambda n: float((n @ common) / (n @ whole)))


def _by_row(values: Scores) -> Scores:
    summed: Scores = values.reshape(len(values), -1).sum(1, dtype=np.float64)
    return summed
