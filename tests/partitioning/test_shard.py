"""Graph shards: each interaction stands at both owners, and removing pairs removes exactly those pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearnrec.partitioning import shard as module
from unlearnrec.partitioning.assignment import Assignment
from unlearnrec.partitioning.shard import GraphShard, build_shards

USERS, ITEMS = 7, 5
Pairs = set[tuple[int, int]]

pairs_of_graph = st.sets(st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1)))
# Ids outside the graph as well: a request may name what is not here.
pairs_of_request = st.lists(st.tuples(st.integers(-1, USERS), st.integers(-1, ITEMS)))


def make_assignment(num_partitions: int, seed: int) -> Assignment:
    rng = np.random.default_rng(seed)
    owner_of_user, owner_of_item = (rng.integers(0, num_partitions, n).astype(np.int16) for n in (USERS, ITEMS))
    return Assignment(owner_of_user, owner_of_item, num_partitions)


def make_shards(pairs: Pairs, num_partitions: int, seed: int = 0) -> list[GraphShard]:
    users, items = np.array(sorted(pairs), dtype=np.int32).reshape(-1, 2).T
    return build_shards(users, items, counts_of(users, items), make_assignment(num_partitions, seed))


def counts_of(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    return (1 + users * ITEMS + items).astype(np.int32)


def rows(ids: np.ndarray, indptr: np.ndarray, neighbours: np.ndarray) -> dict[int, list[int]]:
    return {int(node): neighbours[indptr[j] : indptr[j + 1]].tolist() for j, node in enumerate(ids)}


def check(shards: list[GraphShard], pairs: Pairs, assignment: Assignment) -> None:
    """The shards hold exactly `pairs`, each at both owners, in order of global id, with the right counts."""
    for k, shard in enumerate(shards):
        assert shard.partition == k and shard.num_partitions == len(shards)
        assert (shard.num_users, shard.num_items) == (USERS, ITEMS)
        expected_users = {
            u: sorted(i for v, i in pairs if v == u) for u in range(USERS) if assignment.owner_of_user[u] == k
        }
        expected_items = {
            i: sorted(u for u, j in pairs if j == i) for i in range(ITEMS) if assignment.owner_of_item[i] == k
        }
        assert rows(shard.user_ids, shard.user_indptr, shard.user_neighbours) == expected_users
        assert rows(shard.item_ids, shard.item_indptr, shard.item_neighbours) == expected_items
        users, items, counts = shard.interactions()
        np.testing.assert_array_equal(counts, counts_of(users, items))
        owners = np.repeat(shard.item_ids, np.diff(shard.item_indptr))
        np.testing.assert_array_equal(shard.item_counts, counts_of(shard.item_neighbours, owners))
        for name in ("user_ids", "user_indptr", "item_ids", "item_indptr"):
            assert getattr(shard, name).dtype == np.int64
        for name in ("user_neighbours", "user_counts", "item_neighbours", "item_counts"):
            assert getattr(shard, name).dtype == np.int32


@settings(max_examples=150, deadline=None)
@given(pairs_of_graph, pairs_of_request, st.integers(1, 4), st.integers(0, 9))
def test_without_matches_brute_force(pairs: Pairs, request: list[tuple[int, int]], parts: int, seed: int) -> None:
    shards = make_shards(pairs, parts, seed)
    check(shards, pairs, make_assignment(parts, seed))
    users, items = np.array(request, dtype=np.int64).reshape(-1, 2).T
    check([s.without(users, items) for s in shards], pairs - set(request), make_assignment(parts, seed))
    check(shards, pairs, make_assignment(parts, seed))


@settings(max_examples=30, deadline=None)
@given(pairs_of_graph, st.integers(1, 4))
def test_bytes_round_trip(pairs: Pairs, parts: int) -> None:
    shards = make_shards(pairs, parts)
    copies = [GraphShard.from_bytes(s.to_bytes()) for s in shards]
    check(copies, pairs, make_assignment(parts, 0))
    assert [c.to_bytes() for c in copies] == [s.to_bytes() for s in shards]


def test_interactions_of_all_shards_rebuild_the_graph_in_any_order() -> None:
    pairs = {(0, 0), (0, 4), (3, 1), (6, 4), (6, 0)}
    shards = make_shards(pairs, 3)
    users, items, counts = (np.concatenate(x)[::-1] for x in zip(*(s.interactions() for s in shards), strict=True))
    again = build_shards(users, items, counts, make_assignment(3, 0))
    assert [s.to_bytes() for s in again] == [s.to_bytes() for s in shards]


@settings(max_examples=60, deadline=None)
@given(pairs_of_graph, st.integers(1, 4), st.integers(0, 9), st.data())
def test_dropped_nodes_lose_their_rows_and_nothing_else(
    pairs: Pairs, parts: int, seed: int, data: st.DataObject
) -> None:
    # Ids that no shard owns as well, and some twice.
    gone_users = data.draw(st.lists(st.integers(0, USERS + 1)))
    gone_items = data.draw(st.lists(st.integers(0, ITEMS + 1)))
    left = {(u, i) for u, i in pairs if u not in gone_users and i not in gone_items}
    users, items = np.array(sorted(pairs - left), dtype=np.int64).reshape(-1, 2).T
    for shard in make_shards(pairs, parts, seed):
        emptied = shard.without(users, items)
        dropped = emptied.drop_nodes(gone_users, gone_items)
        assert dropped.user_ids.tolist() == [u for u in shard.user_ids if u not in gone_users]
        assert dropped.item_ids.tolist() == [i for i in shard.item_ids if i not in gone_items]
        assert (dropped.num_users, dropped.num_items) == (USERS, ITEMS)
        for side, gone in (("user", gone_users), ("item", gone_items)):
            before, after = (
                rows(*(getattr(s, f"{side}_{name}") for name in ("ids", "indptr", "neighbours")))
                for s in (emptied, dropped)
            )
            assert after == {node: row for node, row in before.items() if node not in gone}
            assert getattr(dropped, f"{side}_indptr").dtype == getattr(dropped, f"{side}_ids").dtype == np.int64
        assert GraphShard.from_bytes(dropped.to_bytes()).to_bytes() == dropped.to_bytes()


def test_a_node_with_interactions_is_not_dropped() -> None:
    shard = make_shards({(0, 0), (0, 1), (3, 2)}, 1)[0]
    with pytest.raises(ValueError, match="user 0 still has 2 interactions"):
        shard.drop_nodes([1, 0], [])
    with pytest.raises(ValueError, match="item 2 still has 1 interactions"):
        shard.drop_nodes([], [2])


def test_a_node_owned_elsewhere_is_left_alone() -> None:
    pairs = {(u, 0) for u in range(USERS)}
    shards = make_shards(pairs, 2)
    other = next(s for s in shards if not len(s.item_ids) or 0 not in s.item_ids)
    assert other.drop_nodes([], [0]).to_bytes() == other.to_bytes()


def test_untouched_side_is_shared_not_copied() -> None:
    shard = make_shards({(0, 0), (1, 1)}, 1)[0]
    same = shard.without([5], [4])
    assert same.user_neighbours is shard.user_neighbours and same.item_neighbours is shard.item_neighbours


def test_another_format_is_refused() -> None:
    from safetensors.numpy import load, save

    arrays = load(make_shards({(0, 0)}, 1)[0].to_bytes())
    arrays["header"] = arrays["header"] + np.array([2, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="format 3"):
        GraphShard.from_bytes(save(arrays))


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_entries_are_marked_block_by_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    pairs = {(u, i) for u in range(USERS) for i in range(ITEMS) if (u * 3 + i) % 4 and u != 2}
    for shard in make_shards(pairs, 2):
        users, items = shard.marked(lambda u, i: (u + i) % 3 == 0)
        (u_of_users, i_of_users), (u_of_items, i_of_items) = shard.entries()
        np.testing.assert_array_equal(users, (u_of_users + i_of_users) % 3 == 0)
        np.testing.assert_array_equal(items, (u_of_items + i_of_items) % 3 == 0)
