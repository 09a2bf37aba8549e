"""KLoM: how far the margins of unlearned models are from those of retrained ones, example by example.

Georgiev et al., "Attribute-to-Delete: machine unlearning via datamodel matching", ICLR 2025. The paper has a hundred models
of each kind and compares histograms. Here are a few of each kind, and the divergence is that of two Gaussians whose
variances are pooled over the examples.

Shape legend: n = examples, K = runs.
"""

import numpy as np

from ..measures.gap import Counts, Measure
from ..measures.scores import Scores
from .likelihood import Floats, Mask, shadow_moments

QUANTILE = 0.95
"""Of the divergences of the examples. The paper too reports the tail, as a mean hides the few that are far off."""


def divergences(margins: Scores, in_mask: Mask) -> Floats:
    """The divergence KL(unlearned || never trained) of the margin of each example, in nats, [n].

    margins: of each example in each run, [K, n]. in_mask: whether the run was trained with the example and forgot it,
    [K, n]. NaN for an example without both kinds of runs.

    Raises:
        ValueError: no example has two runs of a kind.
    """
    margins_Kn1 = np.asarray(margins, dtype=np.float64)[:, :, None]
    (mean, (variance,)), (other, (other_variance,)) = (
        (m[:, 0], v[0]) for m, v in (shadow_moments(margins_Kn1, mask) for mask in (in_mask, ~in_mask))
    )
    floor = 1e-300
    ratio = (variance + floor) / (other_variance + floor)
    found: Floats = ((mean - other) ** 2 / (other_variance + floor) + ratio - 1 - np.log(ratio)) / 2
    return found


def klom(margins: Scores, in_mask: Mask) -> Measure:
    """The QUANTILE of `divergences` over the examples. Group: the examples [n]."""
    return _quantile(divergences(margins, in_mask))


def klom_of_chance(margins: Scores, in_mask: Mask, seed: int, repetitions: int = 10) -> Measure:
    """What `klom` is where nothing distinguishes the two kinds: each example's runs are divided into two kinds of the same
    sizes at random. With few runs it is far above 0, and only what is above it counts."""
    draw = np.random.default_rng(seed)
    found = [_quantile(divergences(margins, draw.permuted(in_mask, axis=0))) for _ in range(repetitions)]
    return Measure(found[0].sizes, lambda times: float(np.mean([one.from_counts(times) for one in found])))


def _quantile(values: Floats) -> Measure:
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known])]
    ranked = values[order]

    def from_counts(times_n: Counts) -> float:
        upto = np.cumsum(times_n[order])
        return float(ranked[np.searchsorted(upto, QUANTILE * upto[-1])])

    return Measure((len(values),), from_counts)
