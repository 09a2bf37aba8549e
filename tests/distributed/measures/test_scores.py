"""Strata, lists, comparison with retrains: by hand, by brute force, on data of known answer."""

import math

import numpy as np
import pytest

from unlearnrec.distributed.measures import scores as measures


def test_strata_are_equal_shares_where_values_differ():
    values = np.random.default_rng(0).permutation(103) * 7.0
    bins = measures.strata(values, 4)
    sizes = np.bincount(bins)
    assert len(sizes) == 4 and sizes.max() - sizes.min() <= 1
    in_order = bins[np.argsort(values)]
    assert (np.diff(in_order) >= 0).all()


def test_strata_keep_equal_values_together():
    degrees = np.array([1] * 6 + [2, 3, 4, 5])
    assert measures.strata(degrees, 2).tolist() == [0] * 6 + [1] * 4
    # In five bins of two, the ones' middle is in the second; the first and third get nobody.
    assert measures.strata(degrees, 5).tolist() == [0] * 6 + [1, 1, 2, 2]
    # The twos' middle is past the first quarter of nine.
    assert measures.strata(np.array([1, 2, 2, 2, 3, 4, 5, 6, 7]), 4).tolist() == [0, 1, 1, 1, 2, 2, 2, 3, 3]
    assert measures.strata(np.ones(7), 3).tolist() == [0] * 7


def test_lists():
    a = np.array([[1, 2, 3, 4], [1, 2, -1, -1], [-1, -1, -1, -1], [5, -1, -1, -1]])
    b = np.array([[4, 9, 1, 8], [2, 1, 3, 7], [-1, -1, -1, -1], [-1, -1, -1, -1]])
    # 2 of 4, 2 of 4, left out, 0 of 1.
    assert measures.overlap_at(a, b) == pytest.approx(1 / 3)
    assert measures.overlap_at(b, a) == pytest.approx(1 / 3)
    assert measures.overlap_at(a, a[:, ::-1]) == 1


def test_changes_of_rows():
    before, after = np.array([[3.0, 0.0], [0.0, 4.0]]), np.array([[3.0, 3.0], [0.0, 0.0]])
    assert measures.relative_change(before, after) == 1
    assert measures.relative_change(before, 1.1 * before) == pytest.approx(0.1)
    needed, delivered = np.array([[1.0, 2.0], [2.0, 4.0]]), np.array([[1.0, 0.0], [2.0, 4.0]])
    assert measures.explained(needed, delivered) == pytest.approx(1 - 4 / 25)
    assert measures.slope(needed, delivered) == pytest.approx(21 / 25)


def test_distance_to_retrains_by_hand():
    retrains = np.array([1.0, 2.0, 3.0])  # mean 2, sd 1
    error = math.sqrt(4 / 3)

    def tail(t: float) -> float:
        """Of the t distribution with 2 degrees of freedom, in closed form."""
        return 0.5 - t / 2 / math.sqrt(2 + t * t)

    assert measures.retrain_z(3.0, retrains) == pytest.approx(1 / error)
    assert measures.retrain_z(0.0, retrains) == pytest.approx(-2 / error)
    assert measures.equivalence_p(2.0, retrains, 2.0) == pytest.approx(tail(2 / error))
    for value in (1.0, 3.0):
        assert measures.equivalence_p(value, retrains, 2.0) == pytest.approx(tail(1 / error))
    assert measures.equivalence_p(4.0, retrains, 2.0) == pytest.approx(0.5)
    assert measures.equivalence_p(9.0, retrains, 2.0) > 0.95
    with pytest.raises(ValueError, match="at least 3"):
        measures.retrain_z(1.0, retrains[:2])


def test_equivalence_keeps_its_level_and_has_power():
    """A method exactly a margin away is called equivalent in 5% of trials, one without bias nearly always."""
    rng = np.random.default_rng(2)
    margin, trials = 5.0, rng.normal(size=(1500, 9))
    at_margin = [measures.equivalence_p(trial[0] + margin, trial[1:], margin) < 0.05 for trial in trials]
    unbiased = [measures.equivalence_p(trial[0], trial[1:], margin) < 0.05 for trial in trials]
    assert np.mean(at_margin) == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 1500))
    assert np.mean(unbiased) > 0.95


def test_two_standard_deviations_take_nine_retrains():
    """As the docstring says: with fewer, not even a method at the very mean passes."""
    for sds, needed in ((2, 9), (3, 4)):
        for count in (needed - 1, needed):
            retrains = np.arange(count, dtype=float)
            best = measures.equivalence_p(float(retrains.mean()), retrains, sds * float(retrains.std(ddof=1)))
            assert (best < 0.05) == (count == needed)
