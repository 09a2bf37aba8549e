"""What an attack tells of an unlearned model, beside a retrained one and the noise of retraining."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..measures.gap import Measure, share_of_gap

REPETITIONS = 300
"""Bootstrap samples."""
CONFIDENCE = 0.95

AS_RETRAINED, FOUND, WITHIN_NOISE = "as retrained", "found", "within the noise of retraining"


@dataclass(frozen=True)
class Told:
    """The outcome of one attack."""

    value: float
    """Of the unlearned model. An AUC, unless the attack is another measure."""
    retrained: float
    """Of the model trained without the request, with the same seed."""
    advantage: float
    """value - retrained."""
    interval: tuple[float, float]
    """The 95% bootstrap interval of the advantage, over pairs (or canaries)."""
    floor: float
    """The largest |value of a retrain with another seed - retrained|; NaN without such a retrain."""
    before: float
    """Of the version before the request; NaN without one."""
    share: tuple[float, float, float]
    """The share of the gap between before and retrained that was closed, and its interval; NaN if there is no gap."""
    noise: float | None = None
    """The largest difference that is noise of retraining, where it is less than `floor` (`tell`); None: it is `floor`."""

    @property
    def verdict(self) -> str:
        """FOUND: the model differs from a retrained one by more than chance and by more than another seed does."""
        low, high = self.interval
        if low <= 0 <= high:
            return AS_RETRAINED
        noise = self.floor if self.noise is None else self.noise
        return WITHIN_NOISE if abs(self.advantage) <= noise else FOUND


def tell(
    after: Measure,
    retrained: Measure,
    floors: Sequence[Measure],
    before: Measure | None = None,
    of_two_versions: bool = False,
) -> Told:
    """Compare the measures of one attack on several models. The same pairs are drawn for all of them.

    of_two_versions: whether the attack sets the model against the version before. A retrain with another seed then hides
    what went, since it moves all rows. That it tells less is no noise in which a model that tells more could lie: only what
    it tells more counts.

    Raises:
        ValueError: the measures do not have the same numbers of rows.
    """
    value, target = after.value, retrained.value
    draw = np.random.default_rng(0)
    if after.sizes != retrained.sizes:
        raise ValueError(f"the models' rows differ: {after.sizes}, {retrained.sizes}")
    differences = []
    for _ in range(REPETITIONS):
        counts = [np.bincount(draw.integers(size, size=size), minlength=size) for size in after.sizes]
        differences.append(after.from_counts(*counts) - retrained.from_counts(*counts))
    low, high = np.quantile(differences, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    apart = [one.value - target for one in floors]
    noise = max((max(x, 0.0) for x in apart), default=None) if of_two_versions and value > target else None
    share = (np.nan,) * 3 if before is None else tuple(share_of_gap(before, after, retrained))
    return Told(
        value,
        target,
        value - target,
        (float(low), float(high)),
        max((abs(x) for x in apart), default=np.nan),
        np.nan if before is None else before.value,
        (share[0], share[1], share[2]),
        noise,
    )
