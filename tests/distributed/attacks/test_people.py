"""Attacks on whole users: what is looked at, and that they find a person who left a trace and nobody else."""

import numpy as np
import pytest

from unlearnrec.distributed.attacks.people import NEAREST, TRACES, People, attack_people
from unlearnrec.distributed.attacks.view import Nodes, View
from unlearnrec.distributed.measures.scores import auc

USERS, ITEMS, SIZE, EACH = 400, 600, 16, 8


def people() -> People:
    draw = np.random.default_rng(0)
    items = np.concatenate([np.sort(draw.permutation(ITEMS)[:EACH]) for _ in range(USERS)])
    return People.of((np.repeat(np.arange(USERS), EACH), items), np.ones(ITEMS, dtype=bool))


def view(seed: int, drawn: People | None = None, size: float = 0.0) -> View:
    """Rows that differ by noise. drawn: the items of these people are drawn to a direction of each person."""
    base, more, own = np.random.default_rng(5), np.random.default_rng(100 + seed), np.random.default_rng(6)
    columns = [[base.normal(size=(n, SIZE)) for _ in range(3)] for n in (60, ITEMS)]
    sides = []
    for n, tables in zip((60, ITEMS), columns, strict=True):
        e0, readout, mean = (table + 0.03 * more.normal(size=table.shape) for table in tables)
        if drawn is not None and n == ITEMS:
            direction = own.normal(size=(len(drawn), SIZE))
            np.add.at(readout, drawn.items, size * direction[drawn.owner])
        sides.append(Nodes(np.arange(n), e0, readout, mean, np.arange(n) % 7 + 1.0, np.zeros(n)))
    return View(*sides)


def test_features_are_means_over_two_different_items():
    some, seen = people().some(np.array([3, 7])), view(0)
    assert some.ids.tolist() == [3, 7] and some.owner.tolist() == [0] * EACH + [1] * EACH
    found = some.features(seen)
    for place, row in enumerate(found):
        mine = seen.items.at(some.items[some.owner == place])

        def over_two(one: np.ndarray, other: np.ndarray) -> float:
            return float(np.mean([one[a] @ other[b] for a in range(EACH) for b in range(EACH) if a != b]))

        lengths = np.linalg.norm(mine.readout, axis=1)
        unit = mine.readout / lengths[:, None]
        stand_in = (mine.readout / np.sqrt(mine.degree)[:, None]).sum(0)
        users = seen.users.readout
        alike = users @ stand_in / np.linalg.norm(users, axis=1) / np.linalg.norm(stand_in)
        assert row[0] == pytest.approx(over_two(mine.readout, mine.readout))
        assert row[1] == pytest.approx(over_two(unit, unit))
        assert row[2] == pytest.approx(over_two(mine.e0, mine.e0))
        assert row[4] == pytest.approx(over_two(mine.readout, mine.mean))
        assert row[5] == pytest.approx(np.sort(alike)[-NEAREST:].mean())
        assert row[TRACES:] == pytest.approx([np.log1p(EACH), np.log1p(mine.degree).mean(), lengths.mean()])


def test_items_that_are_gone_tell_nothing():
    left = np.array([True, True, False, True])
    some = People.of((np.array([9, 9, 9, 4, 4, 2, 2]), np.array([3, 0, 2, 2, 1, 0, 1])), left)
    assert some.ids.tolist() == [2, 9] and some.items.tolist() == [0, 1, 0, 3] and some.owner.tolist() == [0, 0, 1, 1]
    nobody = some.some(np.array([], dtype=np.int64))
    assert nobody.features(view(0)).shape == (0, TRACES + 3)


def test_attacks_find_who_left_a_trace_and_nobody_else():
    everybody = people()
    half = everybody.some(np.arange(USERS // 2)), everybody.some(np.arange(USERS // 2, USERS))
    reference = tuple(np.mean([one.features(view(seed)) for seed in (1, 2)], axis=0) for one in half)
    clean = attack_people(tuple(one.features(view(3)) for one in half), reference)
    leaky = attack_people(tuple(one.features(view(3, half[0], 0.2)) for one in half), reference)
    assert list(clean) == ["user attack", "calibrated user attack", "trained user attack"]
    for name, two in clean.items():
        assert auc(*two) == pytest.approx(0.5, abs=0.09), name
    assert auc(*leaky["user attack"]) < auc(*leaky["calibrated user attack"])
    assert min(auc(*leaky[name]) for name in list(leaky)[1:]) > 0.7
    few = tuple(one.some(np.arange(40)).features(view(3)) for one in half)
    assert "trained user attack" not in attack_people(few, tuple(x[:40] for x in reference))
