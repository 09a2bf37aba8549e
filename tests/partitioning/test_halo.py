"""Halo plans: exchanging what they say gives the sums of the whole graph, and `cover` sends as little as can be."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearnrec.partitioning.assignment import Assignment
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.halo import HALOS, HaloPlan, check_plans, chosen, plan, rows_per_layer
from unlearnrec.partitioning.shard import GraphShard, build_shards

USERS, ITEMS = 9, 7
Pairs = set[tuple[int, int]]

graphs = st.sets(st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1)), max_size=40)
partitions = st.integers(1, 4)
seeds = st.integers(0, 30)


def cut_up(pairs: Pairs, num_partitions: int, seed: int) -> tuple[list[GraphShard], Assignment]:
    """Random owners; of four partitions one is often empty, and of these graphs many nodes are isolated."""
    rng = np.random.default_rng(seed)
    used = rng.integers(1, num_partitions + 1)
    owner_of_user, owner_of_item = (rng.integers(0, used, n).astype(np.int16) for n in (USERS, ITEMS))
    assignment = Assignment(owner_of_user, owner_of_item, num_partitions)
    users, items = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2).T
    return build_shards(users, items, np.ones(len(users)), assignment), assignment


def own_nodes(shard: GraphShard) -> np.ndarray:
    return np.concatenate([shard.user_ids, USERS + shard.item_ids])


def segments(indptr: np.ndarray, columns: np.ndarray) -> list[np.ndarray]:
    return np.split(columns, indptr[1:-1]) if len(indptr) > 1 else []


def sums(x: np.ndarray, indptr: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """One row for each segment, its rows of x added one by one in the order of the columns."""
    rows = [sum(x[segment], np.zeros(x.shape[1], x.dtype)) for segment in segments(indptr, columns)]
    return np.array(rows, dtype=x.dtype).reshape(-1, x.shape[1])


def propagate(shards: Sequence[GraphShard], plans: Sequence[HaloPlan], x: np.ndarray) -> np.ndarray:
    """y [N, d] of x [N, d] by the exchange that the plans say."""
    parts = [x[own_nodes(shard)] for shard in shards]
    sent = []
    for p, own in zip(plans, parts, strict=True):
        rows = sums(own, p.send_indptr, p.send_columns)
        assert len(rows) == p.send_counts.sum()
        sent.append(np.split(rows, np.cumsum(p.send_counts)[:-1]))
    y = np.full_like(x, np.nan)  # every row has an owner, who overwrites it
    for k, (shard, p) in enumerate(zip(shards, plans, strict=True)):
        buffer = np.concatenate([parts[k], *(from_other[k] for from_other in sent)])
        assert len(buffer) == p.num_own + p.num_received
        y[own_nodes(shard)] = sums(buffer, p.indptr, p.columns)
    return y


@settings(max_examples=200, deadline=None)
@given(graphs, partitions, seeds, st.sampled_from(HALOS))
def test_the_exchange_gives_the_sums_of_the_whole_graph(pairs: Pairs, parts: int, seed: int, halo: str) -> None:
    shards, assignment = cut_up(pairs, parts, seed)
    plans = [plan(shard, assignment, halo) for shard in shards]
    check_plans(plans)
    adjacency = np.zeros((USERS + ITEMS, USERS + ITEMS))
    for u, i in pairs:
        adjacency[u, USERS + i] = adjacency[USERS + i, u] = 1
    x = np.random.default_rng(seed).integers(-1000, 1000, (USERS + ITEMS, 2)).astype(np.float64)
    np.testing.assert_array_equal(propagate(shards, plans, x), adjacency @ x)
    assert rows_per_layer(shards, assignment, halo) == sum(p.send_counts.sum() for p in plans)
    for p in plans:
        assert p.send_counts[p.partition] == p.recv_counts[p.partition] == 0
        assert all(len(columns) > 0 for columns in segments(p.send_indptr, p.send_columns))
        assert {a.dtype for a in (p.send_indptr, p.send_columns, p.indptr, p.columns)} == {np.dtype(np.int32)}
        assert p.gathers_only == (halo == "pull")


@settings(max_examples=60, deadline=None)
@given(graphs, partitions, seeds)
def test_pull_adds_in_the_same_order_for_any_number_of_partitions(pairs: Pairs, parts: int, seed: int) -> None:
    shards, assignment = cut_up(pairs, parts, seed)
    plans = [plan(shard, assignment, "pull") for shard in shards]
    for shard, p in zip(shards, plans, strict=True):
        np.testing.assert_array_equal(p.send_indptr, np.arange(len(p.send_columns) + 1))
        for columns in np.split(p.send_columns, np.cumsum(p.send_counts)):
            assert (np.diff(columns) > 0).all()
        sources = [own_nodes(shards[q])[message(plans[q], p.partition)] for q in range(parts)]
        nodes = np.concatenate([own_nodes(shard), *sources])
        assert len(np.unique(nodes)) == len(nodes)
        for columns in segments(p.indptr, p.columns):
            assert (np.diff(nodes[columns]) > 0).all()
    # Floats as they come: equal bits, not nearly equal values.
    x = np.random.default_rng(seed).standard_normal((USERS + ITEMS, 3)).astype(np.float32)
    alone, owners = cut_up(pairs, 1, seed)
    expected = propagate(alone, [plan(alone[0], owners, "pull")], x)
    np.testing.assert_array_equal(propagate(shards, plans, x), expected)


def message(p: HaloPlan, receiver: int) -> np.ndarray:
    """Local rows that a pull plan sends to a partition."""
    return np.split(p.send_columns, np.cumsum(p.send_counts))[receiver]


def smallest_cover(edges: Pairs) -> int:
    """Over all sets of left ends: those, and every right end that is left over."""
    left = sorted({u for u, _ in edges})
    sizes = []
    for size in range(len(left) + 1):
        for covered in combinations(left, size):
            sizes.append(size + len({i for u, i in edges if u not in covered}))
    return min(sizes)


@settings(max_examples=60, deadline=None)
@given(graphs, partitions, seeds)
def test_cover_sends_the_least_that_any_cover_can(pairs: Pairs, parts: int, seed: int) -> None:
    shards, assignment = cut_up(pairs, parts, seed)
    plans = [plan(shard, assignment, "cover") for shard in shards]
    owner = np.concatenate([assignment.owner_of_user, assignment.owner_of_item])
    for p, q in combinations(range(parts), 2):
        cut = {(u, i) for u, i in pairs if {owner[u], owner[USERS + i]} == {p, q}}
        assert plans[p].send_counts[q] == plans[q].send_counts[p] == smallest_cover(cut)
    # A cover's two messages are never more than what pull sends in both directions together.
    assert rows_per_layer(shards, assignment, "cover") <= rows_per_layer(shards, assignment, "pull")


@pytest.mark.parametrize("turned", [False, True])
def test_a_star_travels_as_one_sum_and_one_row(turned: bool) -> None:
    owner_of_user, owner_of_item = np.ones(5, dtype=np.int16), np.zeros(1, dtype=np.int16)
    assignment = Assignment(1 - owner_of_user if turned else owner_of_user, owner_of_item + turned, 2)
    shards = build_shards(np.arange(5), np.zeros(5), np.ones(5), assignment)
    assert rows_per_layer(shards, assignment, "pull") == 6
    assert rows_per_layer(shards, assignment, "cover") == 2
    item, users = (plan(shards[k], assignment, "cover") for k in ((1, 0) if turned else (0, 1)))
    assert item.send_columns.tolist() == [0] and item.columns.tolist() == [1]
    assert users.send_columns.tolist() == [0, 1, 2, 3, 4] and users.columns.tolist() == [5] * 5


@settings(max_examples=40, deadline=None)
@given(graphs, partitions, seeds, st.sampled_from(HALOS))
def test_what_a_deletion_removes_is_gone_from_the_plan(pairs: Pairs, parts: int, seed: int, halo: str) -> None:
    gone = set(sorted(pairs)[::2])
    shards, assignment = cut_up(pairs, parts, seed)
    users, items = np.array(sorted(gone), dtype=np.int64).reshape(-1, 2).T
    shrunk = [plan(shard.without(users, items), assignment, halo) for shard in shards]
    fresh = [plan(shard, assignment, halo) for shard in cut_up(pairs - gone, parts, seed)[0]]
    assert [p.digest() for p in shrunk] == [p.digest() for p in fresh]
    cut_users = [u for u, i in gone if assignment.owner_of_user[u] != assignment.owner_of_item[i]]
    if cut_users:
        # One partition that missed the deletion is noticed, though the numbers of rows may agree.
        stale = int(assignment.owner_of_user[min(cut_users)])
        with pytest.raises(ValueError, match="reload"):
            check_plans([*shrunk[:stale], plan(shards[stale], assignment, halo), *shrunk[stale + 1 :]])


def test_a_plan_is_the_same_every_time_and_differs_from_others() -> None:
    pairs = {(u, i) for u in range(USERS) for i in range(ITEMS) if (u * 5 + i * 3) % 4 == 0}
    shards, assignment = cut_up(pairs, 3, 2)
    digests = [plan(shard, assignment, halo).digest() for shard in shards for halo in HALOS]
    assert len(set(digests)) == len(digests)
    again = [plan(GraphShard.from_bytes(s.to_bytes()), assignment, halo).digest() for s in shards for halo in HALOS]
    assert again == digests


def test_plans_that_do_not_fit_are_refused() -> None:
    pairs = {(0, 0), (1, 1), (2, 2), (3, 3)}
    shards, assignment = cut_up(pairs, 2, 4)
    pull, cover = ([plan(shard, assignment, halo) for shard in shards] for halo in HALOS)
    with pytest.raises(ValueError, match="partitions 0 and 1"):
        check_plans([pull[0], cover[1]])


@pytest.mark.parametrize("parts", [1, 2])
def test_an_unknown_halo_is_refused(parts: int) -> None:
    shards, assignment = cut_up({(0, 0)}, parts, 0)
    for act in (lambda: plan(shards[0], assignment, "push"), lambda: rows_per_layer(shards, assignment, "push")):
        with pytest.raises(InputError, match=r"'push'.*pull, cover"):
            act()


@pytest.mark.parametrize(
    ("halo", "pull", "cover", "taken"),
    [("auto", 6, 2, "cover"), ("auto", 2, 2, "pull"), ("pull", 6, 2, "pull"), ("cover", 2, 2, "cover")],
)
def test_auto_takes_the_plan_that_sends_fewer_rows(halo: str, pull: int, cover: int, taken: str) -> None:
    assert chosen(halo, {"pull": pull, "cover": cover}) == taken
