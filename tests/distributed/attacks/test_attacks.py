"""Each attack finds a trace that was planted, and finds nothing where the models differ by noise alone."""

from dataclasses import replace

import numpy as np
import pytest

from unlearnrec.distributed.attacks.attacks import ATTACKS, CANDIDATES, AttackedPairs, attack, untold
from unlearnrec.distributed.attacks.canaries import never_met
from unlearnrec.distributed.attacks.told import AS_RETRAINED, FOUND, WITHIN_NOISE, tell
from unlearnrec.distributed.attacks.view import Nodes, View
from unlearnrec.distributed.measures.gap import mean

USERS, ITEMS, SIZE = 400, 300, 16


def world(seed: int = 0):
    """(users, items of all interactions): each user has 12 items."""
    draw = np.random.default_rng(seed)
    items = np.concatenate([np.sort(draw.permutation(ITEMS)[:12]) for _ in range(USERS)])
    return np.repeat(np.arange(USERS), 12), items


def pairs_of(seed: int = 0, share: float = 0.08) -> AttackedPairs:
    draw = np.random.default_rng(seed)
    users, items = world()
    # Half of the nodes have no part in the request.
    able = np.flatnonzero((users < USERS // 2) & (items < ITEMS // 2))
    gone = np.sort(draw.permutation(able)[: int(share * len(users))])
    kept = np.setdiff1d(np.arange(len(users)), gone)
    known = users * ITEMS + items
    held = never_met(np.arange(USERS), known, ITEMS, 3, draw)
    forgotten = users[gone], items[gone]
    never = never_met(forgotten[0], known, ITEMS, CANDIDATES, draw)
    return AttackedPairs(
        forgotten,
        (np.repeat(np.arange(USERS), 3), held.reshape(-1)),
        (users[kept], items[kept]),
        (np.repeat(forgotten[0], CANDIDATES), never.reshape(-1)),
    )


def view(seed: int, noise: float = 0.0) -> View:
    """Rows that know nothing of who has what."""
    draw, more = np.random.default_rng(seed), np.random.default_rng(seed + 1000)
    sides = []
    for count in (USERS, ITEMS):
        e0, readout, mean_ = (
            draw.normal(size=(count, SIZE)) + noise * more.normal(size=(count, SIZE)) for _ in range(3)
        )
        sides.append(Nodes(np.arange(count), e0, readout, mean_, draw.integers(3, 20, count), draw.normal(size=count)))
    return View(*sides)


def towards(base: View, pairs: tuple, part: str, size: float) -> View:
    """The rows of these pairs' ends are drawn to each other, in e0 or in the readout."""
    rows = [getattr(side, part).copy() for side in (base.users, base.items)]
    old = [row.copy() for row in rows]
    np.add.at(rows[0], pairs[0], size * old[1][pairs[1]] / SIZE)
    np.add.at(rows[1], pairs[1], size * old[0][pairs[0]] / SIZE)
    sides = [side._replace(**{part: row}) for side, row in zip((base.users, base.items), rows, strict=True)]
    return replace(base, users=sides[0], items=sides[1])


def values(pairs: AttackedPairs, model: View, before: View | None = None) -> dict[str, float]:
    return {name: one.value for name, one in attack(pairs, model, before, None).items()}


def test_nothing_is_found_where_nothing_was_left():
    pairs = pairs_of()
    before = view(0)
    found = values(pairs, view(1), before)
    assert set(found) == set(ATTACKS) - {"returns to top"}
    for name, value in found.items():
        assert value == pytest.approx(0.5, abs=0.07), name


@pytest.mark.parametrize(
    ("part", "finders", "blind"),
    [
        ("e0", {"trained", "two versions"}, {"score", "reconstruction"}),
        ("readout", {"score", "trained", "score change", "two versions", "reconstruction"}, set()),
    ],
)
def test_a_planted_trace_is_found_by_those_who_can_see_it(part, finders, blind):
    pairs = pairs_of()
    before = view(0)
    left = values(pairs, towards(view(0, noise=0.3), pairs.forgotten, part, 4.0), before)
    none = values(pairs, view(0, noise=0.3), before)
    for name in finders:
        assert left[name] > 0.75 and abs(none[name] - 0.5) < 0.08, name
    for name in blind:
        assert left[name] == pytest.approx(none[name], abs=0.03), name


def test_rows_that_alone_moved_say_who_asked():
    pairs = pairs_of()
    before = view(0)
    touched = [np.unique(ends) for ends in pairs.forgotten]
    users, items = before.users.e0.copy(), before.items.e0.copy()
    users[touched[0]] += 0.01
    items[touched[1]] += 0.01
    after = View(before.users._replace(e0=users), before.items._replace(e0=items))
    assert values(pairs, after, before)["touched rows"] == 1.0
    assert values(pairs, view(0, noise=0.1), before)["touched rows"] == pytest.approx(0.5, abs=0.07)


def test_those_who_stay_are_attacked_too():
    pairs = pairs_of()
    near = pairs.kept[0][pairs.near], pairs.kept[1][pairs.near]
    assert len(near[0]) > 200
    assert values(pairs, towards(view(0), near, "e0", 4.0))["those who stay"] > 0.7


def test_what_cannot_be_asked_is_said():
    pairs = pairs_of()
    few = AttackedPairs(*((u[:5], i[:5]) for u, i in (pairs.forgotten, pairs.held_out, pairs.kept, pairs.never)))
    assert attack(few, view(0), None, None) == {} and set(untold(few, None)) == set(ATTACKS)
    blind = replace(pairs, held_out=(np.empty(0, int), np.empty(0, int)))
    told = attack(blind, view(0), None, np.zeros(len(pairs.forgotten[0]), bool))
    assert set(told) | set(untold(blind, None)) == set(ATTACKS) and not set(told) & set(untold(blind, None))
    assert "test_interactions" in untold(blind, None)["score"]


def test_a_difference_is_found_only_beyond_chance_and_another_seed():
    draw = np.random.default_rng(0)
    base = draw.random(2000) < 0.1
    more = base | (draw.random(2000) < 0.05)
    assert tell(mean(base), mean(base), [mean(more)]).verdict == AS_RETRAINED
    assert tell(mean(more), mean(base), [mean(base)]).verdict == FOUND
    assert tell(mean(more), mean(base), [mean(more | (draw.random(2000) < 0.2))]).verdict == WITHIN_NOISE
    # Another seed hides what went from who has two versions. That it tells less is no noise; that it tells more is.
    less = [mean(base & (draw.random(2000) < 0.1))]
    assert tell(mean(more), mean(base), less).verdict == WITHIN_NOISE
    assert tell(mean(more), mean(base), less, of_two_versions=True).verdict == FOUND
    assert tell(mean(base), mean(more), less, of_two_versions=True).verdict == WITHIN_NOISE
    much = [mean(more | (draw.random(2000) < 0.2))]
    assert tell(mean(more), mean(base), much, of_two_versions=True).verdict == WITHIN_NOISE
    assert {name for name, one in ATTACKS.items() if one.of_two_versions} == {
        "two versions",
        "score change",
        "touched rows",
    }
    told = tell(mean(more), mean(base), [], before=mean(more))
    assert told.share == pytest.approx((0, 0, 0), abs=0.01) and np.isnan(told.floor) and told.verdict == FOUND
