"""The share of the gap between the original and the retrained model that a method closed, by any measure, with a
bootstrap interval.

A measure is prepared once for the values of a model, as a function of how often each value is drawn. A bootstrap sample
then needs no sorting, only a few passes over counts. `Measure.value` equals the function of the same name in scores.py,
if there is one.

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
    """A measure of one model. Each group of rows (pairs or users) is resampled by itself."""

    sizes: tuple[int, ...]
    """Rows in each group."""
    from_counts: Callable[..., float]
    """The measure as a function of how often each row is drawn: one array of counts for each group."""

    @property
    def value(self) -> float:
        """The measure where each row counts once."""
        return self.from_counts(*(np.ones(size, dtype=np.int64) for size in self.sizes))


class Share(NamedTuple):
    """A share of the gap, and the ends of its interval. All are NaN if there is no gap to close."""

    value: float
    low: float
    high: float


def share_of_gap(
    before: Measure, after: Measure, target: Measure, repetitions: int = 300, seed: int = 0, confidence: float = 0.95
) -> Share:
    """(after - before) / (target - before), with its bootstrap percentile interval. 0 means that nothing was done, and
    1 that the model is as retrained.

    Each sample is drawn once for all three models. There is a gap to close if the percentile interval of target -
    before does not contain 0; otherwise the share is NaN, since a ratio to noise says nothing. The interval accounts
    for the draw of pairs or users, taken as independent. It does not account for differences between training seeds.

    Raises:
        ValueError: the three measures do not have the same numbers of rows.
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
    """The mean of one number a row, such as each user's Recall."""
    return Measure((len(values),), lambda n: float(n @ values / n.sum()))


def auc(positives: Scores, negatives: Scores) -> Measure:
    """`scores.auc`. Groups: positives, negatives."""
    order_H = np.argsort(negatives)
    left_P, right_P = (np.searchsorted(negatives[order_H], positives, side) for side in ("left", "right"))

    def of(times_P: Counts, times_H: Counts) -> float:
        below = np.concatenate([[0], np.cumsum(times_H[order_H])])
        return float(times_P @ (below[left_P] + below[right_P]) / 2 / times_P.sum() / times_H.sum())

    return Measure((len(positives), len(negatives)), of)


def true_positives_at(positives: Scores, negatives: Scores, false_positive_rate: float = 0.01) -> Measure:
    """`scores.true_positives_at`. Groups: positives, negatives."""
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
    """AUC of telling forgotten from kept pairs by the change of their scores between two versions that an attacker has
    seen.

    It is the larger of the two-sided AUCs, max(a, 1 - a), of the signed change and of its absolute value. So it is
    never below 0.5, and by chance a little above. Which of the four it is, is decided once on all rows, and bootstrap
    samples keep to it. If each sample took its own largest, all samples would be above 0.5, and chance would look like
    a gap.

    The target is the retrained model's value and not 0.5, since a retrain moves forgotten pairs too. Before the request
    there is no second version: all changes are 0, and the value is 0.5. The share is relative to what the retrain
    itself reveals to somebody who has both versions; above 1 the method reveals more.
    """
    both = auc(change_forgotten, change_kept), auc(np.abs(change_forgotten), np.abs(change_kept))
    best = max(both, key=lambda measure: abs(measure.value - 0.5))
    if best.value >= 0.5:
        return best
    return Measure(best.sizes, lambda *times: 1 - best.from_counts(*times))


def mi_bf(before: Scores, after: Scores) -> Measure:
    """`scores.mi_bf`. One group: the forgotten pairs. Before the request it is 1 by definition."""
    above, below = sigmoid(before), sigmoid(after)
    return Measure((len(before),), lambda n: float((n @ above) / (n @ below)))


def mi_ng(random_after: Scores, forgotten_after: Scores) -> Measure:
    """`scores.mi_ng`. Groups: random pairs, forgotten pairs."""
    above, below = mean(sigmoid(random_after)), mean(sigmoid(forgotten_after))
    return Measure((*above.sizes, *below.sizes), lambda n, m: above.from_counts(n) / below.from_counts(m))


def explained(needed: Scores, delivered: Scores) -> Measure:
    """`scores.explained`, of changes of scores [n] or rows [n, d]. It is itself a share of the gap."""
    error, whole = (_by_row(x**2) for x in (needed - delivered, needed))
    return Measure((len(needed),), lambda n: float(1 - (n @ error) / (n @ whole)))


def slope(needed: Scores, delivered: Scores) -> Measure:
    """`scores.slope`, of changes of scores [n] or rows [n, d]. It is itself a share of the gap."""
    common, whole = (_by_row(x) for x in (needed * delivered, needed**2))
    return Measure((len(needed),), lambda n: float((n @ common) / (n @ whole)))


def _by_row(values: Scores) -> Scores:
    summed: Scores = values.reshape(len(values), -1).sum(1, dtype=np.float64)
    return summed
