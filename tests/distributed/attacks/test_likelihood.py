"""Attacks that know each example: by hand, and on data of known answer."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from unlearnrec.distributed.attacks import likelihood, margins
from unlearnrec.distributed.measures import scores as measures


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
    found = likelihood.shadow_log_ratios(target, shadows, in_mask)
    assert found[:2] == pytest.approx(expected) and np.isnan(found[2])
    with pytest.raises(ValueError, match="two shadows"):
        likelihood.shadow_log_ratios(target, shadows[:2], np.array([[1, 0, 1], [0, 1, 0]], bool))


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
    ratios = likelihood.shadow_log_ratios(target, scores, in_mask)
    assert best - 0.03 < measures.auc(ratios[member], ratios[~member]) < best + 0.01


def forgotten_runs(leak: float, runs: int = 8, examples: int = 1500, noise: float = 1.0, statistics: int = 1):
    """(statistics of each example in each run, which run was trained with it): examples differ far more than a trace of
    what was forgotten moves them."""
    rng = np.random.default_rng(3)
    inside = likelihood.balanced_halves(examples, runs, 0)
    base = rng.normal(0, 10, (examples, statistics))
    values = base + leak * inside[:, :, None] + noise * rng.normal(size=(runs, examples, statistics))
    return values, inside, base


def test_halves_are_balanced_and_differ():
    inside = likelihood.balanced_halves(200, 8, 0)
    assert (inside.sum(0) == 4).all()
    assert len(np.unique(inside, axis=0)) == 8 and 70 < inside[0].sum() < 130
    fewer = likelihood.balanced_halves(200, 5, 0)
    assert (fewer == inside[:5]).all() and set(fewer.sum(0)) == {2, 3}


def test_left_out_ratios_find_a_planted_trace_and_nothing_else():
    """The population sees nothing in either; example by example the trace shows, and only where there is one."""
    values, inside, base = forgotten_runs(leak=2.0)
    assert measures.auc(values[..., 0][inside], values[..., 0][~inside]) < 0.57
    found = likelihood.clustered_auc(likelihood.left_out_log_ratios(values, inside), inside).value
    assert 0.8 < found < norm.cdf(2 / math.sqrt(2))
    # A model that never saw any of them is the same whatever a run was trained with.
    ratios = likelihood.left_out_log_ratios(values, inside, target=base)
    assert likelihood.clustered_auc(ratios, inside).value == pytest.approx(0.5, abs=0.05)
    values, inside, _ = forgotten_runs(leak=0.0)
    found = likelihood.clustered_auc(likelihood.left_out_log_ratios(values, inside), inside).value
    assert found == pytest.approx(0.5, abs=0.03)


def test_more_statistics_find_more():
    values, inside, _ = forgotten_runs(leak=0.8, statistics=4)
    one, four = (
        likelihood.clustered_auc(likelihood.left_out_log_ratios(x, inside), inside).value
        for x in (values[..., 0], values)
    )
    assert four > one + 0.1
    # The same number twice adds nothing, and does not break the covariance either.
    twice = np.concatenate([values[..., :1], values[..., :1]], axis=2)
    found = likelihood.clustered_auc(likelihood.left_out_log_ratios(twice, inside), inside).value
    assert found == pytest.approx(one, abs=0.01)


def test_rates_are_told_only_where_the_examples_suffice():
    values, inside, _ = forgotten_runs(leak=4.0)
    ratios = likelihood.left_out_log_ratios(values, inside)
    at_one = likelihood.clustered_tpr(ratios, inside, 0.01)
    assert at_one is not None and at_one.value > 0.3  # 6,000 false cases, 60 beyond the threshold
    assert likelihood.clustered_tpr(ratios, inside, 0.001) is None
    assert likelihood.clustered_tpr(ratios[:, :100], inside[:, :100], 0.01) is None


def test_klom_is_what_chance_gives_unless_margins_moved():
    quiet, inside, _ = forgotten_runs(leak=0.0)
    loud, _, _ = forgotten_runs(leak=3.0)
    chance = margins.klom_of_chance(quiet[..., 0], inside, 0).value
    assert margins.klom(quiet[..., 0], inside).value == pytest.approx(chance, rel=0.15)
    assert margins.klom(loud[..., 0], inside).value > 2 * chance
    # By hand, for many runs: (3 / sd)^2 / 2 in the middle, and equal variances add nothing.
    many, mask, _ = forgotten_runs(leak=3.0, runs=200, examples=200)
    assert np.median(margins.divergences(many[..., 0], mask)) == pytest.approx(4.5, rel=0.1)
