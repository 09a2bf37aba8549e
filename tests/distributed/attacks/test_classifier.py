"""The trained attacker: on data of known answer."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from unlearnrec.distributed.attacks import classifier
from unlearnrec.distributed.measures import scores as measures


def trained_auc(members: np.ndarray, others: np.ndarray, groups: tuple | None = None, seed: int = 0) -> float:
    return measures.auc(*classifier.cross_fitted_scores(members, others, groups, seed=seed))


def test_trained_attack_finds_what_a_score_misses():
    rng = np.random.default_rng(6)
    members, others = rng.normal(0, 2, (2000, 1)), rng.normal(0, 1, (3000, 1))
    assert measures.auc(members[:, 0], others[:, 0]) == pytest.approx(0.5, abs=0.03)
    found = classifier.cross_fitted_scores(members, others)
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
        classifier.cross_fitted_scores(x[:20], x[20:40], (users[:20], users[20:40]))
    with pytest.raises(ValueError, match="two folds"):
        classifier.cross_fitted_scores(x[:20], x[20:], (np.zeros(20, int), np.arange(1, 341)))


@pytest.mark.parametrize("l2", [0.1, 30.0])
def test_fit_is_where_the_penalised_loss_is_flat(l2):
    """Weights are the penalty's share of the summed, class-balanced residuals; those of the intercept sum to zero."""
    rng = np.random.default_rng(12)
    member = rng.random(200) < 0.2
    x = rng.normal(size=(200, 3)) + member[:, None]
    w, bias = classifier._fit(x, member, l2)
    balance = np.where(member, 100 / member.sum(), 100 / (~member).sum())
    residuals = balance * (member - 1 / (1 + np.exp(-(x @ w + bias))))
    assert x.T @ residuals == pytest.approx(l2 * w, abs=0.05)
    assert residuals.sum() == pytest.approx(0, abs=0.05)


def test_cross_fitting_never_uses_the_pair_itself():
    """Turning one pair's features about changes the scores of other folds, not those of its own."""
    rng = np.random.default_rng(10)
    members, others = rng.normal(1, 1, (20, 2)), rng.normal(0, 1, (30, 2))
    folds = classifier._folds(np.arange(50), 5, 0)
    assert np.bincount(folds).tolist() == [10] * 5
    changed = members.copy()
    changed[3] *= -5
    first = np.concatenate(classifier.cross_fitted_scores(members, others))
    second = np.concatenate(classifier.cross_fitted_scores(changed, others))
    same = first == second
    own = folds == folds[3]
    assert same[own].sum() == 9 and not same[3]
    assert not same[~own].any()
