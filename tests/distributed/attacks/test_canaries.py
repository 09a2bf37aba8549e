"""Canaries are what they are called, and the attacks on them find a trace and nothing else."""

import numpy as np
import pytest

from unlearnrec.distributed.attacks.canaries import KINDS, LEFT, QUIET, RANDOM, RARE, WHOLE, draw_canaries, never_met
from unlearnrec.distributed.attacks.likelihood import balanced_halves
from unlearnrec.distributed.attacks.runs import MARGINS, ROWS, SCORES, Runs, attack_runs
from unlearnrec.distributed.attacks.told import AS_RETRAINED, FOUND
from unlearnrec.distributed.attacks.view import Nodes, View

USERS, ITEMS, SIZE = 1500, 200, 8


def interactions():
    """Users with 4 to 40 items, items more and less popular."""
    draw = np.random.default_rng(0)
    chance = 1 / np.arange(5, ITEMS + 5)
    lists = [
        np.sort(draw.choice(ITEMS, draw.integers(4, 40), replace=False, p=chance / chance.sum())) for _ in range(USERS)
    ]
    return np.repeat(np.arange(USERS), [len(x) for x in lists]), np.concatenate(lists)


def test_the_pool_is_of_all_kinds_and_leaves_every_node_something():
    users, items = interactions()
    pool = draw_canaries(users, items, ITEMS, 60, seed=1)
    counts = np.bincount(pool.kind, minlength=len(KINDS))
    assert counts[[KINDS.index(k) for k in (RANDOM, QUIET, WHOLE)]].tolist() == [60, 60, 12]
    assert counts[KINDS.index(RARE)] > 10
    codes = pool.pairs[0] * ITEMS + pool.pairs[1]
    known = users * ITEMS + items
    assert len(np.unique(codes)) == len(codes) and np.isin(codes, known).all()
    rest = np.isin(known, codes, invert=True)
    whole = np.unique(pool.pairs[0][pool.kind[pool.owner] == KINDS.index(WHOLE)])
    degrees, after = np.bincount(users, minlength=USERS), np.bincount(users[rest], minlength=USERS)
    assert (after[whole] == 0).all() and (np.delete(after, whole) >= LEFT).all()
    assert (np.bincount(items[rest], minlength=ITEMS)[np.unique(pool.pairs[1])] >= LEFT).all()
    quiet = pool.pairs[0][pool.kind[pool.owner] == KINDS.index(QUIET)]
    assert degrees[quiet].max() <= np.quantile(degrees, 0.21)
    rivals = np.repeat(pool.pairs[0], pool.rivals.shape[1]) * ITEMS + pool.rivals.reshape(-1)
    assert not np.isin(rivals, known).any()
    again = draw_canaries(users, items, ITEMS, 60, seed=1)
    assert (again.pairs[0] == pool.pairs[0]).all() and (again.rivals == pool.rivals).all()


def test_never_met_follows_popularity_and_gives_up_in_time():
    users, items = interactions()
    draw = np.random.default_rng(0)
    found = never_met(np.arange(USERS), users * ITEMS + items, ITEMS, 4, draw, like=items)
    assert not np.isin(np.arange(USERS)[:, None] * ITEMS + found, users * ITEMS + items).any()
    assert np.median(found) < ITEMS / 2
    everything = np.arange(10)
    assert never_met(np.zeros(1, int), everything, 10, 3, draw).shape == (1, 3)


def runs_with(leak: float, pool, count: int = 8) -> tuple[Runs, list[np.ndarray]]:
    """Runs whose models differ by noise, and in which what a run forgot is drawn to its other end by `leak`; and the
    statistics of two models that never had any of it."""
    base = np.random.default_rng(5)
    tables = [base.normal(size=(n, SIZE)) for n in (USERS, ITEMS)]
    inside = balanced_halves(len(pool), count, seed=0)
    statistics, margins = [], []
    for k in range(count + 2):
        draw = np.random.default_rng(100 + k)
        user, item = (table + 0.05 * draw.normal(size=table.shape) for table in tables)
        if k < count:
            mine = inside[k][pool.owner]
            users, items = pool.pairs[0][mine], pool.pairs[1][mine]
            np.add.at(user, users, leak * tables[1][items] / SIZE)
            np.add.at(item, items, leak * tables[0][users] / SIZE)
        sides = [Nodes(np.arange(len(x)), x, x, x, np.ones(len(x)), np.zeros(len(x))) for x in (user, item)]
        found = pool.statistics(View(*sides))
        statistics.append(found[0])
        margins.append(found[1])
    return Runs(pool, inside, np.array(statistics[:count]), np.array(margins[:count])), statistics[count:]


def test_attacks_on_canaries_find_a_trace_and_nothing_else():
    users, items = interactions()
    pool = draw_canaries(users, items, ITEMS, 150, seed=1)
    clean, never = runs_with(0.0, pool)
    told = attack_runs(clean, never[0], never[1:])
    for name in (SCORES, ROWS):
        assert told[name]["pairs"].told.value == pytest.approx(0.5, abs=0.06)
    assert told[SCORES]["pairs"].told.verdict == AS_RETRAINED
    assert told[MARGINS]["pairs"].told.advantage < 0.5 * told[MARGINS]["pairs"].told.retrained
    leaky, never = runs_with(0.3, pool)
    told = attack_runs(leaky, never[0], never[1:], before=leaky)
    for name in (SCORES, ROWS, MARGINS):
        assert told[name]["pairs"].told.verdict == FOUND, name
    assert told[SCORES]["pairs"].told.value > 0.8
    assert told[SCORES][WHOLE].told.value > 0.6
    assert told[SCORES]["pairs"].rates[0.001] is None and told[SCORES]["pairs"].rates[0.01] is not None
    assert attack_runs(Runs(pool, leaky.inside[:3], leaky.statistics[:3], leaky.margins[:3]), None, []) == {
        name: {} for name in (SCORES, ROWS, MARGINS)
    }
