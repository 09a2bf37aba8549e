"""Strata, lists, comparison with retrains, attackers: by hand, by brute force, on data of known answer."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from unlearnrec.benchmarks import attacks
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


def trained_auc(members: np.ndarray, others: np.ndarray, groups: tuple | None = None, seed: int = 0) -> float:
    return measures.auc(*attacks.cross_fitted_scores(members, others, groups, seed=seed))


def test_trained_attack_finds_what_a_score_misses():
    rng = np.random.default_rng(6)
    members, others = rng.normal(0, 2, (2000, 1)), rng.normal(0, 1, (3000, 1))
    assert measures.auc(members[:, 0], others[:, 0]) == pytest.approx(0.5, abs=0.03)
    found = attacks.cross_fitted_scores(members, others)
    auc, true_positives = measures.auc(*found), measures.true_positives_at(*found)
    # The best attack takes |x|: AUC 2/pi atan(2); above 2.576, 1% of the others and 19.8% of the members.
    assert auc == pytest.approx(2 / math.pi * math.atan(2), abs=0.02)
    assert true_positives == pytest.approx(2 * norm.sf(2.5758 / 2), abs=0.05)


def test_trained_attack_finds_products_at_any_scale():
    rng = np.random.default_rng(7)
    members, others = rng.normal(size=(800, 3)), rng.normal(size=(800, 3))
    members[:, 1] = np.abs(members[:, 1]) * np.sign(members[:, 0])
    unit = np.array([1e-6, 1e5, 1.0])
    offset = np.array([0.0, 1e7, 3.0])
    auc = trained_auc(members, others)
    assert auc > 0.7
    assert trained_auc(members * unit + offset, others * unit + offset) == pytest.approx(auc, abs=1e-3)


def test_trained_attack_is_blind_on_noise():
    """Unequal classes, few pairs, a constant feature: neither overfitting nor the folds' class shares may show."""
    rng = np.random.default_rng(8)
    aucs = []
    for seed in range(30):
        x = np.column_stack([rng.normal(size=(300, 3)), np.full(300, 0.1)])
        aucs.append(trained_auc(x[:60], x[60:], seed=seed))
    assert np.mean(aucs) == pytest.approx(0.5, abs=4 * 0.042 / math.sqrt(30))


def test_groups_keep_users_out_of_two_folds():
    """Features are a user's fingerprint and users are members as a whole: only an attacker who has met the user can tell."""
    rng = np.random.default_rng(9)
    grouped, alone = [], []
    for seed in range(10):
        prints = rng.normal(size=(24, 6))
        users = np.repeat(np.arange(24), 15)
        x = prints[users] + 0.01 * rng.normal(size=(360, 6))
        member = users < 12
        groups = (users[member], users[~member])
        grouped.append(trained_auc(x[member], x[~member], groups, seed=seed))
        alone.append(trained_auc(x[member], x[~member], seed=seed))
    assert np.mean(alone) > 0.95
    assert np.mean(grouped) == pytest.approx(0.5, abs=0.15)
    with pytest.raises(ValueError, match="5 folds"):
        attacks.cross_fitted_scores(x[:20], x[20:40], (users[:20], users[20:40]))
    with pytest.raises(ValueError, match="two folds"):
        attacks.cross_fitted_scores(x[:20], x[20:], (np.zeros(20, int), np.arange(1, 341)))


@pytest.mark.parametrize("l2", [0.1, 30.0])
def test_fit_is_where_the_penalised_loss_is_flat(l2):
    """Weights are the penalty's share of the summed, class-balanced residuals; those of the intercept sum to zero."""
    rng = np.random.default_rng(12)
    member = rng.random(200) < 0.2
    x = rng.normal(size=(200, 3)) + member[:, None]
    w, bias = attacks._fit(x, member, l2)
    balance = np.where(member, 100 / member.sum(), 100 / (~member).sum())
    residuals = balance * (member - 1 / (1 + np.exp(-(x @ w + bias))))
    assert x.T @ residuals == pytest.approx(l2 * w, abs=0.05)
    assert residuals.sum() == pytest.approx(0, abs=0.05)


def test_cross_fitting_never_uses_the_pair_itself():
    """Turning one pair's features about changes the scores of other folds, not those of its own."""
    rng = np.random.default_rng(10)
    members, others = rng.normal(1, 1, (20, 2)), rng.normal(0, 1, (30, 2))
    folds = attacks._folds(np.arange(50), 5, 0)
    assert np.bincount(folds).tolist() == [10] * 5
    changed = members.copy()
    changed[3] *= -5
    first = np.concatenate(attacks.cross_fitted_scores(members, others))
    second = np.concatenate(attacks.cross_fitted_scores(changed, others))
    same = first == second
    own = folds == folds[3]
    assert same[own].sum() == 9 and not same[3]
    assert not same[~own].any()


def test_shadow_ratios_by_hand():
    in_mask = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 1], [0, 0, 1]], bool)
    shadows = np.array([[4.0, 9.0, 1.0], [6.0, 1.0, 1.0], [1.0, 11.0, 1.0], [3.0, 7.0, 1.0]])
    # In: means 5, 10, deviations 1, 1, 1, 1 and none of the third pair, which has 3 of the 5 degrees of freedom.
    # Out: means 2, 4, deviations 1, 1, 3, 3, 2 degrees of freedom.
    variance_in, variance_out = 4 / 5, 20 / 2
    target = np.array([5.0, 4.0, 1.0])
    expected = norm.logpdf(target[:2], [5, 10], math.sqrt(variance_in)) - norm.logpdf(
        target[:2], [2, 4], math.sqrt(variance_out)
    )
    found = attacks.shadow_log_ratios(target, shadows, in_mask)
    assert found[:2] == pytest.approx(expected) and np.isnan(found[2])
    with pytest.raises(ValueError, match="two shadows"):
        attacks.shadow_log_ratios(target, shadows[:2], np.array([[1, 0, 1], [0, 1, 0]], bool))


def test_shadows_know_how_hard_a_pair_is():
    """Pairs differ far more than membership moves them: the score says little, its place among the shadows nearly all."""
    rng = np.random.default_rng(11)
    base, effect, shadows = rng.normal(0, 10, 4000), 2.0, 32
    in_mask = rng.random((shadows, 4000)) < 0.5
    scores = base + effect * in_mask + rng.normal(size=in_mask.shape)
    member = rng.random(4000) < 0.5
    target = base + effect * member + rng.normal(size=4000)
    best = norm.cdf(effect / math.sqrt(2))
    assert measures.auc(target[member], target[~member]) < 0.6
    ratios = attacks.shadow_log_ratios(target, scores, in_mask)
    assert best - 0.03 < measures.auc(ratios[member], ratios[~member]) < best + 0.01
