"""Shares of the gap to the retrain: against brute force, on data of known answer, and where there is no gap."""

from collections.abc import Callable

import numpy as np
import pytest

from unlearnrec.distributed.measures import gap as shares
from unlearnrec.distributed.measures import scores as measures
from unlearnrec.distributed.measures.gap import Measure


def counts(measure: Measure, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A bootstrap sample, as indices and as how often each row is drawn."""
    rng = np.random.default_rng(seed)
    indices = [rng.integers(size, size=size) for size in measure.sizes]
    return indices, [np.bincount(i, minlength=s) for i, s in zip(indices, measure.sizes, strict=True)]


def rounded(seed: int, *shape: int) -> np.ndarray:
    """With many ties."""
    return np.round(np.random.default_rng(seed).normal(size=shape), 1)


@pytest.mark.parametrize(
    ("measure", "plain", "arrays"),
    [
        (shares.auc, measures.auc, (rounded(0, 60), rounded(1, 90))),
        (shares.true_positives_at, measures.true_positives_at, (2 * rounded(0, 300), rounded(1, 250))),
        (shares.mi_ng, measures.mi_ng, (rounded(0, 50), rounded(1, 40))),
        (shares.mean, np.mean, (rounded(0, 70),)),
    ],
)
def test_counts_are_as_good_as_drawn_rows(measure: Callable, plain: Callable, arrays: tuple) -> None:
    """Of groups drawn apart from each other."""
    prepared = measure(*arrays)
    assert prepared.value == pytest.approx(plain(*arrays))
    for seed in range(20):
        indices, drawn = counts(prepared, seed)
        expected = plain(*(x[i] for x, i in zip(arrays, indices, strict=True)))
        assert prepared.from_counts(*drawn) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("measure", "plain", "shape"),
    [
        (shares.mi_bf, measures.mi_bf, (50,)),
        (shares.explained, measures.explained, (50,)),
        (shares.explained, measures.explained, (30, 4)),
        (shares.slope, measures.slope, (30, 4)),
    ],
)
def test_two_values_of_a_row_are_drawn_together(measure: Callable, plain: Callable, shape: tuple) -> None:
    first, second = rounded(0, *shape), rounded(1, *shape)
    prepared = measure(first, second)
    assert prepared.value == pytest.approx(plain(first, second))
    (index,), drawn = counts(prepared, 0)
    assert prepared.from_counts(*drawn) == pytest.approx(plain(first[index], second[index]))


def test_a_share_of_a_mean_and_its_interval() -> None:
    """Every row goes its own part of the way, of the same length: the share is their mean, its error the mean's."""
    rng = np.random.default_rng(2)
    before, part = rng.normal(size=400), rng.normal(0.7, 0.2, 400)
    three = [shares.mean(before + step * 3.0) for step in (np.zeros(400), part, np.ones(400))]
    share = shares.share_of_gap(*three, repetitions=2000)
    assert share.value == pytest.approx(part.mean())
    half = 1.96 * part.std() / 20
    assert (share.low, share.high) == pytest.approx((part.mean() - half, part.mean() + half), abs=0.1 * half)
    narrow = shares.share_of_gap(*three, repetitions=2000, confidence=0.5)
    assert narrow.high - narrow.low == pytest.approx((share.high - share.low) * 0.6745 / 1.96, rel=0.1)
    assert shares.share_of_gap(*three) == shares.share_of_gap(*three) != shares.share_of_gap(*three, seed=1)


def test_the_interval_covers_the_share_as_often_as_it_says() -> None:
    """An AUC from .76 (1 apart) to .5; 0.4 apart closes (.7602 - .6114) / (.7602 - .5) = .57 of it."""
    rng, covered, trials = np.random.default_rng(3), 0, 100
    for _ in range(trials):
        forgotten, held_out = rng.normal(size=150), rng.normal(size=150)
        three = [
            shares.auc(forgotten + apart + rng.normal(0, 0.05, 150), held_out + rng.normal(0, 0.05, 150))
            for apart in (1.0, 0.4, 0.0)
        ]
        share = shares.share_of_gap(*three, repetitions=100)
        covered += share.low <= 0.572 <= share.high
    assert covered / trials > 0.88


def test_ends_of_the_gap_are_exact() -> None:
    forgotten, held_out = rounded(4, 200), rounded(5, 300)
    before, target = shares.auc(forgotten + 1, held_out), shares.auc(forgotten, held_out)
    assert shares.share_of_gap(before, before, target) == (0, 0, 0)
    assert shares.share_of_gap(before, target, target) == (1, 1, 1)


def test_without_a_gap_there_is_no_share() -> None:
    """Neither of nothing nor of noise, however far the method went; of the same gap in more rows there is."""
    rng = np.random.default_rng(6)
    before, noise = rng.normal(size=100), rng.normal(size=100)
    noise += 0.1 - noise.mean()  # a gap of one standard error
    after = shares.mean(before - 50.0)
    for target in (before, before + noise):
        assert np.isnan(shares.share_of_gap(shares.mean(before), after, shares.mean(target))).all()
    many = [np.tile(x, 20) for x in (before, before + noise / 2, before + noise)]
    share = shares.share_of_gap(*map(shares.mean, many))
    assert share.value == pytest.approx(0.5) and share.low == pytest.approx(0.5)


def test_models_are_compared_on_the_same_rows() -> None:
    with pytest.raises(ValueError, match="differ"):
        shares.share_of_gap(shares.mean(np.ones(3)), shares.mean(np.ones(3)), shares.mean(np.ones(4)))


def test_what_is_defined_before_the_request() -> None:
    scores = rounded(7, 30)
    assert shares.mi_bf(scores, scores).value == 1
    assert shares.difference_attack(0 * scores, 0 * scores[:20]).value == 0.5


def test_difference_attack_takes_the_better_of_sign_and_size():
    def told(forgotten: np.ndarray, kept: np.ndarray) -> float:
        return shares.difference_attack(forgotten, kept).value

    forgotten = np.array([-3.0, -4.0, -5.0])
    assert told(forgotten, np.array([0.1, -0.2])) == 1
    # All fell, the forgotten ones least: both by sign and by size told apart from below.
    assert told(forgotten / 100, np.array([-1.0, -2.0])) == 1
    # In either direction: only the size tells; and the other way round.
    both_ways, still = np.array([-2.0, 2.0]), np.array([-1.0, 1.0])
    assert measures.auc(both_ways, still) == 0.5
    assert told(both_ways, still) == told(still, both_ways) == 1
    # Only the sign tells.
    assert told(np.array([-1.0, -2.0]), np.array([1.0, 2.0])) == 1
    assert told(both_ways, both_ways) == 0.5


def test_a_difference_attack_that_finds_chance_finds_no_gap() -> None:
    rng = np.random.default_rng(8)
    before = shares.difference_attack(np.zeros(200), np.zeros(200))
    found = 0
    for _ in range(20):
        chance = shares.difference_attack(rng.normal(size=200), rng.normal(size=200))
        found += not np.isnan(shares.share_of_gap(before, chance, chance, repetitions=100).value)
    assert found < 8  # the best of four at 2.5% each, not all
    fallen = shares.difference_attack(rng.normal(size=200) - 1, rng.normal(size=200))
    assert shares.share_of_gap(before, fallen, fallen, repetitions=100) == (1, 1, 1)
