"""Full ranking against pytrec_eval, on one and two partitions; measures of forgetting against brute force."""

import math

import numpy as np
import pytest
import pytrec_eval
import spmd
import spmd_forget
import torch

from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.measures import scores as measures
from unlearnrec.distributed.processes import run_processes

CUTOFFS = (1, 2, 5, 20, 60)
"""60 is more than there are items."""
LONE_USER, LONE_ITEM = spmd.USERS - 1, spmd.ITEMS - 1
"""Without interactions, as a few other items: deleted in the second of the two graphs."""
WHOLE, DELETED = 0, 1


def items_of(graph: int) -> list[int]:
    return sorted(set(spmd.pairs()[1].tolist())) if graph == DELETED else list(range(spmd.ITEMS))


def held_out() -> tuple[np.ndarray, np.ndarray]:
    """Unseen pairs, one of them twice: of user 1 with more items than the smaller cut-offs, of the lone user and item,
    and of some others; user 0 has none. And one pair of user 4 that was seen, so that nothing can find it."""
    rng = np.random.default_rng(4)
    seen = seen_items()
    chosen = [(1, i) for i in range(spmd.ITEMS) if i not in seen[1]][:9]
    for u in range(2, spmd.USERS - 1, 2):
        free = [i for i in range(LONE_ITEM) if i not in seen[u]]
        chosen += [(u, int(i)) for i in rng.choice(free, rng.integers(1, 4), replace=False)]
    chosen += [(LONE_USER, 3), (LONE_USER, LONE_ITEM), (1, LONE_ITEM), (2, LONE_ITEM), (4, min(seen[4])), chosen[0]]
    rng.shuffle(chosen)
    return np.array(chosen)[:, 0], np.array(chosen)[:, 1]


def seen_items() -> dict[int, set[int]]:
    seen: dict[int, set[int]] = {u: set() for u in range(spmd.USERS)}
    for u, i in zip(*spmd.pairs(), strict=True):
        seen[int(u)].add(int(i))
    return seen


def all_scores() -> np.ndarray:
    z = spmd_forget.all_readouts().double().numpy()
    return z[: spmd.USERS] @ z[spmd.USERS :].T


@pytest.fixture(scope="module", params=[1, 2])
def results(request):
    arguments = (CUTOFFS, *held_out())
    if request.param == 1:
        return [spmd_forget.ranking(Comm(), *arguments)]
    return run_processes(2, spmd_forget.ranking, *arguments)


def reference(graph: int) -> dict[str, float]:
    """The means of pytrec_eval over the users with test items."""
    scores, seen = all_scores(), seen_items()
    items = items_of(graph)
    wanted: dict[str, dict[str, int]] = {}
    for u, i in zip(*held_out(), strict=True):
        if graph == WHOLE or u != LONE_USER:
            wanted.setdefault(str(u), {})[str(i)] = 1
    run = {u: {str(i): float(scores[int(u), i]) for i in items if i not in seen[int(u)]} for u in wanted}
    cutoffs = ",".join(map(str, CUTOFFS))
    lines = pytrec_eval.RelevanceEvaluator(wanted, {f"recall.{cutoffs}", f"ndcg_cut.{cutoffs}"}).evaluate(run)
    means = {"users": float(len(wanted))}
    for k in CUTOFFS:
        means[f"recall@{k}"] = float(np.mean([line[f"recall_{k}"] for line in lines.values()]))
        means[f"ndcg@{k}"] = float(np.mean([line[f"ndcg_cut_{k}"] for line in lines.values()]))
    return means


@pytest.mark.parametrize("graph", [WHOLE, DELETED])
def test_metrics_are_those_of_pytrec_eval(results, graph):
    expected = reference(graph)
    # The case means something: neither all nor nothing is found, and no two cut-offs agree.
    assert 0 < expected["recall@5"] < expected["recall@20"] < expected["recall@60"] <= 1
    for rank in results:
        found = rank[graph]["metrics"]
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=1e-9), name


def test_without_test_items_there_is_nothing_to_measure(results):
    for rank in results:
        assert rank[WHOLE]["nothing"]["users"] == rank[WHOLE]["nothing"]["recall@5"] == 0


@pytest.mark.parametrize("graph", [WHOLE, DELETED])
def test_lists_are_all_unseen_items_in_order_of_score(results, graph):
    scores, seen, there_are = all_scores(), seen_items(), items_of(graph)
    users = []
    for user, items, listed in (line for rank in results for line in rank[graph]["lists"]):
        users.append(user)
        there = listed > -torch.inf
        items, listed = items[there].numpy(), listed[there].numpy()
        assert not seen[user] & set(items.tolist())
        expected = [i for i in np.argsort(-scores[user]) if i not in seen[user] and i in there_are]
        assert items.tolist() == expected
        assert np.allclose(listed, scores[user][items], atol=1e-4)
    assert sorted(users) == list(range(spmd.USERS - (graph == DELETED)))


@pytest.mark.parametrize("graph", [WHOLE, DELETED])
def test_scores_of_pairs(results, graph):
    users, items = held_out()
    scores, there_are = all_scores(), items_of(graph)
    expected = {
        n: scores[u, i]
        for n, (u, i) in enumerate(zip(users, items, strict=True))
        if graph == WHOLE or (u != LONE_USER and i in there_are)
    }
    found = [rank[graph]["scores"] for rank in results]
    assert sum(map(len, found)) == len(expected) == len(set().union(*found))
    for position, score in (pair for part in found for pair in part.items()):
        assert score == pytest.approx(expected[position], abs=1e-4)


def test_auc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    for size in ((1, 1), (7, 30), (40, 25)):
        # Few distinct values: many ties.
        positives, negatives = rng.integers(1, 7, size[0]) / 2, rng.integers(0, 6, size[1]) / 2
        above = (positives[:, None] > negatives).mean() + (positives[:, None] == negatives).mean() / 2
        assert measures.auc(positives, negatives) == pytest.approx(above)
    assert measures.auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1
    assert measures.auc(np.ones(4), np.ones(5)) == 0.5


def test_other_measures_by_hand():
    negatives = np.arange(101.0)
    assert measures.true_positives_at(np.array([98.0, 99.5, 100.0, 1000.0]), negatives) == 0.75
    needed = np.array([1.0, -2.0, 3.0])
    assert measures.explained(needed, needed) == 1 and measures.explained(needed, 0 * needed) == 0
    assert measures.slope(needed, 0.25 * needed) == pytest.approx(0.25)
    assert measures.explained(needed, 0.5 * needed) == pytest.approx(0.75)
    zero, high = np.zeros(3), np.full(3, 2.0)
    sigmoid = 1 / (1 + math.exp(-2))
    assert measures.mi_bf(high, zero) == pytest.approx(2 * sigmoid)
    assert measures.mi_ng(zero, high) == pytest.approx(0.5 / sigmoid)
    assert measures.gap_closed(0.9, 0.7, 0.5) == pytest.approx(0.5)
    assert math.isnan(measures.gap_closed(0.5, 0.6, 0.5))


@pytest.mark.parametrize("size", [1, 2])
def test_pairs_are_scored_in_parts_as_all_at_once(size: int) -> None:
    whole, parts = (run_processes(size, spmd.scored_pairs, most) for most in (10_000, 7))
    for one, other in zip(whole, parts, strict=True):
        assert len(one[0]) and torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
