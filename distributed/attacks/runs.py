"""The attacks on each canary by itself, over runs that were trained with a random half of the canaries and forgot it.

Shape legend: n = canaries, K = runs, F = statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..measures.gap import Measure
from .attacks import Attack
from .canaries import KINDS, WHOLE, Canaries
from .likelihood import Floats, Mask, clustered_auc, clustered_tpr, left_out_log_ratios
from .margins import klom, klom_of_chance
from .told import Told, tell

LEAST_RUNS = 4
"""Without one run, each canary then has still one run of each kind, and some have two."""
LEAST_CANARIES = 20
RATES = (0.01, 0.001)
"""False-positive rates at which the true-positive rate is told, where the canaries suffice."""

SCORES, ROWS, MARGINS = "u-lira", "u-lira on rows", "klom"
SAME_SEED = "with the same seed"
"""In what an attack takes for granted: the runs are like the model but for what they were trained with."""
ATTACKS_ON_CANARIES: Mapping[str, Attack] = {
    SCORES: Attack(
        "canaries that a run forgot against canaries that it never had, each by the law of its own score",
        "U-LiRA, Hayes et al., SaTML 2025",
        f"The attacker can train and unlearn as the owner does, {SAME_SEED}, and knows all other data.",
    ),
    ROWS: Attack(
        "the same by four statistics: of a pair the score, the product of the rows of E0, and each end against the other's "
        "neighbours; of a whole user four of how close the items are",
        "U-LiRA with several statistics; these are our own",
        "As `u-lira`, and the attacker has the model's rows.",
    ),
    MARGINS: Attack(
        "how far the margins of forgotten canaries are from those of canaries never trained with: 95% quantile, in nats",
        "KLoM, Georgiev et al., Attribute-to-Delete, ICLR 2025",
        "Margins of one canary are normal over runs, with one variance for all canaries.",
        None,
    ),
}


@dataclass(frozen=True, eq=False)
class Runs:
    """What runs say of a pool of canaries after each forgot those that it was trained with."""

    canaries: Canaries
    inside: Mask
    """Which canaries each run was trained with, [K, n]."""
    statistics: Floats
    """[K, n, F], as `Canaries.statistics`."""
    margins: Floats
    """[K, n]."""

    def groups(self) -> dict[str, Mask]:
        """Masks [n] of the canaries that are judged together: by kind, and first those of one pair all together."""
        single = self.canaries.kind != KINDS.index(WHOLE)
        groups = {"pairs": single} | {name: self.canaries.kind == k for k, name in enumerate(KINDS)}
        return {name: mask for name, mask in groups.items() if mask.sum() >= LEAST_CANARIES}

    def ratios(self, mask: Mask, columns: slice, target: Floats | None = None) -> Floats:
        """`left_out_log_ratios` of the canaries in a mask, by these columns of the statistics. target [n, F]: of another
        model."""
        of_target = None if target is None else target[mask][:, columns]
        return left_out_log_ratios(self.statistics[:, mask, columns], self.inside[:, mask], of_target)


@dataclass(frozen=True)
class ToldOfRuns:
    """The outcome of one attack on one group of canaries."""

    told: Told
    rates: dict[float, tuple[float, float, float] | None]
    """By false-positive rate: the true-positive rate and its 95% bootstrap interval over canaries; None where the canaries
    do not suffice."""
    canaries: int
    false_cases: int = 0
    """The number of (run, canary) where the run never had the canary."""


def attack_runs(
    runs: Runs, retrained: Floats | None, floors: Sequence[Floats], before: Runs | None = None
) -> dict[str, dict[str, ToldOfRuns]]:
    """By attack and group: what the attacks of ATTACKS_ON_CANARIES tell.

    Args:
        retrained: the statistics [n, F] in a retrain without all canaries. It has no part in what a run was trained with, so
            it is attacked in the place of each run to see what the attack finds by chance. None: .5 is taken.
        floors: the same of retrains with other seeds.
        before: the same runs before they forgot.
    """
    found: dict[str, dict[str, ToldOfRuns]] = {name: {} for name in ATTACKS_ON_CANARIES}
    if len(runs.inside) < LEAST_RUNS:
        return found
    for group, mask in runs.groups().items():
        inside = runs.inside[:, mask]
        for name, columns in ((SCORES, slice(0, 1)), (ROWS, slice(0, None))):
            ratios = runs.ratios(mask, columns)
            after = clustered_auc(ratios, inside)
            target = _even(after) if retrained is None else clustered_auc(runs.ratios(mask, columns, retrained), inside)
            others = [clustered_auc(runs.ratios(mask, columns, one), inside) for one in floors]
            first = None if before is None else clustered_auc(before.ratios(mask, columns), inside)
            rates = {rate: _with_interval(clustered_tpr(ratios, inside, rate)) for rate in RATES}
            never = int((~np.isnan(ratios) & ~inside).sum())
            found[name][group] = ToldOfRuns(tell(after, target, others, first), rates, int(mask.sum()), never)
        margins = runs.margins[:, mask]
        chance = klom_of_chance(margins, inside, 0)
        first = None if before is None else klom(before.margins[:, mask], inside)
        again = [klom_of_chance(margins, inside, 1, repetitions=1)]
        found[MARGINS][group] = ToldOfRuns(tell(klom(margins, inside), chance, again, first), {}, int(mask.sum()))
    return found


def _even(like: Measure) -> Measure:
    return Measure(like.sizes, lambda *times: 0.5)


def _with_interval(measure: Measure | None) -> tuple[float, float, float] | None:
    if measure is None:
        return None
    draw, (size,) = np.random.default_rng(0), measure.sizes
    values = [measure.from_counts(np.bincount(draw.integers(size, size=size), minlength=size)) for _ in range(200)]
    low, high = np.quantile(values, [0.025, 0.975])
    return measure.value, float(low), float(high)
