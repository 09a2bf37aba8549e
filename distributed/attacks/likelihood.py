"""Attacks that know each example: the likelihood ratio of what a model says of it, under models with and without it.

LiRA is by Carlini et al., "Membership inference attacks from first principles", S&P 2022; U-LiRA, its form for unlearned
models, by Hayes et al., "Inexact unlearning needs more careful evaluations to avoid a false sense of privacy", SaTML 2025.
Ratios are larger for examples that look like members of the training data.

Shape legend: n = examples (pairs, or canaries), S = shadow models, K = runs, F = statistics of an example.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..measures.gap import Counts, Measure
from ..measures.gap import auc as auc_measure
from ..measures.gap import true_positives_at as tpr_measure
from ..measures.scores import Scores

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

LEAST_BEYOND = 10
"""A true-positive rate is told only if at least so many of the false cases are expected above the threshold. With fewer the
threshold itself is a matter of chance."""


def shadow_log_ratios(target: Scores, shadows: Scores, in_mask: Mask) -> Floats:
    """The log likelihood ratio [n] of each example for "member" against "not a member" (LiRA, algorithm 1).

    For each example there are two Gaussians: of its statistics in shadow models trained with it, and in those trained
    without it. The covariance of each kind is pooled over all examples, as the paper advises for few shadow models: the
    products of the deviations from each example's mean, divided by their degrees of freedom. Statistics should be on the
    scale of log odds, as scores under BPR are. An example that lacks one of the two kinds of shadow models gets NaN.

    Args:
        target: the examples' statistics in the attacked model, [n] or [n, F].
        shadows: the examples' statistics in the shadow models, [S, n] or [S, n, F].
        in_mask: whether the shadow model was trained with the example, [S, n].

    Raises:
        ValueError: no example has two shadow models of a kind.
    """
    target_nF = np.asarray(target, dtype=np.float64).reshape(len(target), -1)
    shadows_SnF = np.asarray(shadows, dtype=np.float64).reshape(*shadows.shape[:2], -1)
    logs = [_log_density(target_nF, shadows_SnF, mask) for mask in (in_mask, ~in_mask)]
    return logs[0] - logs[1]


def left_out_log_ratios(statistics: Scores, in_mask: Mask, target: Scores | None = None) -> Floats:
    """The ratio of each example in each run, with all other runs as the shadow models, [K, n] (U-LiRA).

    Run k was trained with the examples in_mask[k], and then forgot these. So the two kinds are "trained and forgotten" and
    "never trained": a method that forgets as a retrain does leaves nothing to tell them apart.

    Args:
        statistics: of each example in each run after it forgot, [K, n] or [K, n, F].
        target: statistics [n] or [n, F] of one other model, which is attacked in the place of every run. A retrain without
            all examples does not depend on in_mask, so that its ratios show what this attack finds where nothing is.

    Raises:
        ValueError: as `shadow_log_ratios`.
    """
    runs = np.arange(len(statistics))
    found = [
        shadow_log_ratios(statistics[k] if target is None else target, statistics[runs != k], in_mask[runs != k])
        for k in runs
    ]
    return np.array(found)


def balanced_halves(examples: int, runs: int, seed: int) -> Mask:
    """Which examples each run is trained with, [K, n]: each example in half of the runs, at random.

    Two runs one after the other are each other's complement. So every example has both kinds, as many of each if the number
    of runs is even, and the runs of a smaller number are the first ones of a larger one."""
    draw = np.random.default_rng(seed)
    inside = np.empty((runs, examples), dtype=bool)
    for run in range(0, runs, 2):
        inside[run] = draw.random(examples) < 0.5
        inside[run + 1 : run + 2] = ~inside[run]
    return inside


def clustered_auc(ratios: Floats, in_mask: Mask) -> Measure:
    """The AUC of telling (run, example) inside from outside, where an example with all of its runs is drawn together. Group:
    the examples [n]."""
    return _clustered(auc_measure, ratios, in_mask)


def clustered_tpr(ratios: Floats, in_mask: Mask, false_positive_rate: float) -> Measure | None:
    """As `clustered_auc`, of the true-positive rate at this false-positive rate; None if there are too few examples to tell
    (LEAST_BEYOND)."""
    known = ~np.isnan(ratios)
    if (known & ~in_mask).sum() * false_positive_rate < LEAST_BEYOND:
        return None
    return _clustered(lambda p, n: tpr_measure(p, n, false_positive_rate), ratios, in_mask)


def _clustered(measure: Callable[[Floats, Floats], Measure], ratios: Floats, in_mask: Mask) -> Measure:
    known = ~np.isnan(ratios)
    example_Kn = np.broadcast_to(np.arange(ratios.shape[1]), ratios.shape)
    sides = [known & in_mask, known & ~in_mask]
    of = measure(ratios[sides[0]], ratios[sides[1]])
    examples = [example_Kn[side] for side in sides]

    def from_counts(times_n: Counts) -> float:
        return float(of.from_counts(*(times_n[e] for e in examples)))

    return Measure((ratios.shape[1],), from_counts)


def _log_density(target_nF: Floats, shadows_SnF: Floats, mask: Mask) -> Floats:
    """The log density of the target under the Gaussian of the shadow models in the mask, [n], without its constant."""
    mean_nF, covariance = shadow_moments(shadows_SnF, mask)
    # Statistics that are nearly the same number would make the covariance singular.
    covariance += 1e-9 * np.diag(np.diag(covariance)) + 1e-300 * np.eye(len(covariance))
    off_nF = target_nF - mean_nF
    distance_n = np.einsum("nf,nf->n", off_nF @ np.linalg.inv(covariance), off_nF)
    log_n: Floats = -(distance_n + np.linalg.slogdet(covariance)[1]) / 2
    return log_n


def shadow_moments(shadows_SnF: Floats, mask: Mask) -> tuple[Floats, Floats]:
    """(mean [n, F] of each example over its models in the mask, the covariance [F, F] pooled over examples). The mean is NaN
    for an example without such a model.

    Raises:
        ValueError: no example has two models in the mask.
    """
    count_n = mask.sum(axis=0)
    sum_nF = np.where(mask[:, :, None], shadows_SnF, 0).sum(axis=0)
    there_n = count_n > 0
    mean_nF = np.full(sum_nF.shape, np.nan)
    mean_nF[there_n] = sum_nF[there_n] / count_n[there_n, None]
    freedom = int(np.maximum(count_n - 1, 0).sum())
    if freedom == 0:
        raise ValueError("no pair has two shadows of a kind: there is no variance to pool")
    off = (shadows_SnF - mean_nF)[mask]
    return mean_nF, off.T @ off / freedom
