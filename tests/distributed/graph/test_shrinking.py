"""Graphs from which interactions are taken out in place: they are those that are made anew, array by array."""

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from unlearnrec.distributed.graph import propagation, shrinking
from unlearnrec.distributed.graph.gaps import MOST_MOVES, close_gaps
from unlearnrec.distributed.graph.local_graph import LocalGraph
from unlearnrec.distributed.graph.shrinking import shrink, writable
from unlearnrec.distributed.partition.written import emptied
from unlearnrec.partitioning.assignment import Assignment
from unlearnrec.partitioning.delta import GoneNodes, RowsDelta, ShardDelta, joined, joined_rows, with_rows
from unlearnrec.partitioning.halo import check_plans
from unlearnrec.partitioning.shard import GraphShard, build_shards

USERS, ITEMS = 60, 25
NONE = np.empty(0, dtype=np.int64)


def comm(rank: int, size: int) -> Any:
    """A world in which every rank has what this one has."""
    return SimpleNamespace(
        rank=rank,
        size=size,
        device=torch.device("cpu"),
        all_to_all=lambda rows, *_: rows,
        sparse_all_to_all=None,
        exchange_rows=None,
    )


def owners(size: int) -> Assignment:
    draw = np.random.default_rng(size)
    users, items = (draw.integers(size, size=n).astype(np.int16) for n in (USERS, ITEMS))
    return Assignment(users, items, size)


def interactions(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    codes = np.unique(draw.integers(USERS * ITEMS, size=240))
    return codes // ITEMS, codes % ITEMS


def shards(size: int, times: bool = False) -> list[GraphShard]:
    users, items = interactions()
    counts = np.random.default_rng(1).integers(1, 4, size=len(users))
    stamps = np.arange(counts.sum()) * 10 if times else None
    return build_shards(users, items, counts, owners(size), stamps)


def delta_of(shard: GraphShard, users: np.ndarray, items: np.ndarray, assignment: Assignment) -> ShardDelta:
    here = (assignment.owner_of_user[users] == shard.partition) | (assignment.owner_of_item[items] == shard.partition)
    mine = users[here], items[here]
    return ShardDelta(*mine, NONE, NONE, NONE, NONE, *emptied(shard, *mine))


def same(one: Any, other: Any) -> None:
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        else:
            assert a == b, field.name


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("times", [False, True])
@pytest.mark.parametrize("block", [propagation.BLOCK_NODES, 16])
def test_a_graph_that_shrank_is_the_one_of_the_smaller_shard(
    size: int, times: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (propagation, shrinking):
        monkeypatch.setattr(module, "BLOCK_NODES", block)
    monkeypatch.setattr(shrinking, "_ENTRIES", block)
    users, items = interactions()
    draw = np.random.default_rng(7)
    left = draw.permutation(len(users))
    # First a few interactions, then all of some users and of an item, then nearly all that is left.
    whole_users = np.isin(users, [3, 17, 40]) | (items == 5)
    steps = [np.sort(left[:9]), np.flatnonzero(whole_users), np.sort(left[9:200])]
    graphs = [LocalGraph(writable(shard), owners(size), comm(k, size)) for k, shard in enumerate(shards(size, times))]
    fresh, gone, done = shards(size, times), GoneNodes(NONE, NONE), np.empty(0, dtype=np.int64)
    for step in steps:
        chosen = np.setdiff1d(step, done)
        done = np.union1d(done, chosen)
        deltas = [delta_of(shard, users[chosen], items[chosen], graphs[0].assignment) for shard in fresh]
        gone = GoneNodes(
            *(
                np.union1d(gone.of(s), np.concatenate([getattr(d, f"gone_{s}s") for d in deltas]))
                for s in ("user", "item")
            )
        )
        fresh = [delta.applied_to(shard) for delta, shard in zip(deltas, fresh, strict=True)]
        assignment = owners(size)
        assignment.owner_of_user[gone.users], assignment.owner_of_item[gone.items] = 0, 0
        for graph, shard, delta in zip(graphs, fresh, deltas, strict=True):
            before = graph.shard
            rows = shrink(graph, delta, gone)
            expected = LocalGraph(shard, assignment, graph.comm)
            assert len(rows) == len(before.user_ids) + len(before.item_ids) - len(shard.user_ids) - len(shard.item_ids)
            same(graph.shard, shard)
            same(graph.halo, expected.halo)
            for name in (
                "user_ids",
                "item_ids",
                "degrees",
                "pair_users",
                "pair_items",
                "owner_of_user",
                "owner_of_item",
            ):
                assert torch.equal(getattr(graph, name), getattr(expected, name)), name
            # Sums of integers are exact, and so the same only if the same rows are summed.
            buffer = torch.arange(graph.halo.num_own + graph.halo.num_received, dtype=torch.float32)[:, None] + 1
            sums = [torch.cat([part for _, part in one.propagation.local_sums(buffer)]) for one in (graph, expected)]
            assert torch.equal(*sums)
            ids = torch.arange(USERS)
            assert torch.equal(graph.user_rows(ids), expected.user_rows(ids))
        check_plans([graph.halo for graph in graphs])


def test_deltas_one_after_the_other_are_their_join() -> None:
    users, items = interactions()
    shard = shards(1, times=True)[0]
    one = users == 11
    pair = np.flatnonzero(shard.user_counts > 1)[:2]
    thinned = (users[pair], items[pair], np.ones(2, dtype=np.int64), np.array([1, 2]))
    first = ShardDelta(NONE, NONE, *thinned, NONE, NONE)
    second = ShardDelta(users[one], items[one], NONE, NONE, NONE, NONE, np.array([11]), NONE)
    later = (users[pair[:1]], items[pair[:1]], np.ones(1, dtype=np.int64), np.array([9]))
    third = ShardDelta(users[pair[1:]], items[pair[1:]], *later, NONE, NONE)
    deltas = [ShardDelta.from_bytes(delta.to_bytes()) for delta in (first, second, third)]
    expected = shard
    for delta in deltas:
        expected = delta.applied_to(expected)
    same(joined(deltas, ITEMS).applied_to(shard), expected)
    assert expected.user_times is not None and 9 in expected.user_times and 2 not in expected.user_times


def test_a_graph_shrinks_by_a_delta_that_thins() -> None:
    users, items = interactions()
    shard = shards(1, times=True)[0]
    pair = np.flatnonzero(shard.user_counts > 1)[:3]
    delta = ShardDelta(
        users[:1], items[:1], users[pair], items[pair], np.ones(3, dtype=np.int64), np.arange(3), NONE, NONE
    )
    graph = LocalGraph(writable(shard), owners(1), comm(0, 1))
    shrink(graph, delta, GoneNodes(NONE, NONE))
    same(graph.shard, delta.applied_to(shards(1, times=True)[0]))


def test_rows_one_after_the_other_are_their_join() -> None:
    table = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    first = RowsDelta(np.array([1, 4]), np.full((2, 3), 1, dtype=np.float32), np.array([0, 7]))
    second = RowsDelta(np.array([0, 9]), np.full((2, 3), 2, dtype=np.float32), np.array([3]))
    third = RowsDelta(np.array([0]), np.full((1, 3), 3, dtype=np.float32), np.array([], dtype=np.int64))
    deltas = [RowsDelta.from_bytes(delta.to_bytes()) for delta in (first, second, third)]
    step = with_rows(with_rows(with_rows(table.copy(), deltas[:1]), deltas[1:2]), deltas[2:])
    np.testing.assert_array_equal(with_rows(table.copy(), deltas), step)
    np.testing.assert_array_equal(with_rows(table.copy(), [joined_rows(deltas)]), step)
    assert len(step) == 9 and (step[0] == 3).all()


@pytest.mark.parametrize("count", [1, 7, MOST_MOVES + 1])
def test_gaps_are_closed_as_numpy_deletes(count: int) -> None:
    draw = np.random.default_rng(count)
    table = draw.normal(size=(20_000, 2)).astype(np.float32)
    gone = np.sort(draw.choice(len(table), count, replace=False))
    np.testing.assert_array_equal(close_gaps(table.copy(), gone), np.delete(table, gone, axis=0))
    column = np.arange(20_000)
    np.testing.assert_array_equal(close_gaps(column.copy(), gone), np.delete(column, gone))
