"""Who owns which node: every strategy covers every node and repeats itself; METIS cuts little; a file is checked."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unlearnrec.partitioning import assignment
from unlearnrec.partitioning.assignment import STRATEGIES, Assignment, assign, balance, edge_cut, hash_owner
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.graph import InteractionGraph

GOLDEN_USERS = [0, 1, 2, 0, 0, 0, 0, 0, 0, 3, 1, 1]
GOLDEN_ITEMS = [3, 1, 2, 1, 2, 2, 0, 3, 2, 0, 2, 1]


def make_graph(pairs: set[tuple[int, int]], num_users: int, num_items: int, text: bool = False) -> InteractionGraph:
    users, items = np.array(sorted(pairs), dtype=np.int32).reshape(-1, 2).T
    if text:
        user_ids, item_ids = (
            pa.array([f"{x}{j:03d}" for j in range(n)]) for x, n in (("u", num_users), ("i", num_items))
        )
    else:
        user_ids, item_ids = (pa.array(np.arange(n) * 10) for n in (num_users, num_items))
    return InteractionGraph(user_ids, item_ids, users, items, np.ones(len(users), dtype=np.int32))


def communities(num: int = 4, seed: int = 0) -> InteractionGraph:
    """`num` groups of 30 users and 20 items, dense inside and sparse between; the last user and item are isolated."""
    rng = np.random.default_rng(seed)
    users, items = rng.permutation(30 * num), rng.permutation(20 * num)
    same = (users[:, None] % num) == (items[None, :] % num)
    linked = rng.random(same.shape) < np.where(same, 0.5, 0.01)
    return make_graph({(int(u), int(i)) for u, i in np.argwhere(linked)}, 30 * num + 1, 20 * num + 1)


@pytest.mark.parametrize("strategy", STRATEGIES)
class TestEveryStrategy:
    """What a strategy must hold to; a new line in the registry is tested by these."""

    @pytest.mark.parametrize("parts", [1, 2, 3, 8])
    def test_every_node_has_an_owner(self, strategy: str, parts: int) -> None:
        graph = communities()
        owners = assign(graph, strategy, parts, seed=1)
        assert owners.num_partitions == parts
        for owner, ids in ((owners.owner_of_user, graph.user_ids), (owners.owner_of_item, graph.item_ids)):
            assert owner.dtype == np.int16 and len(owner) == len(ids)
        both = np.concatenate([owners.owner_of_user, owners.owner_of_item])
        assert set(both.tolist()) == set(range(parts))

    def test_the_same_seed_gives_the_same_owners(self, strategy: str) -> None:
        first, second = (assign(communities(), strategy, 4, seed=7) for _ in range(2))
        np.testing.assert_array_equal(first.owner_of_user, second.owner_of_user)
        np.testing.assert_array_equal(first.owner_of_item, second.owner_of_item)

    def test_more_partitions_than_nodes(self, strategy: str) -> None:
        owners = assign(make_graph({(0, 0), (1, 0)}, 3, 1), strategy, 10, seed=0)
        assert all((owner >= 0).all() and (owner < 10).all() for owner in (owners.owner_of_user, owners.owner_of_item))

    @pytest.mark.parametrize("seed", [0, 2**31, 2**40, -1])
    def test_any_seed_will_do(self, strategy: str, seed: int) -> None:
        assert assign(make_graph({(u, u % 4) for u in range(9)}, 9, 4), strategy, 2, seed).num_partitions == 2


def test_metis_cuts_less_than_hash_and_stays_balanced() -> None:
    graph = communities()
    metis, hashed = (assign(graph, strategy, 4, seed=0) for strategy in ("metis", "hash"))
    assert edge_cut(graph, metis) < 0.1 < 0.6 < edge_cut(graph, hashed)
    assert 1 <= balance(graph, metis) < 1.1


def test_metis_leaves_isolated_nodes_to_the_hash() -> None:
    graph = communities()
    owners, hashed = (assign(graph, strategy, 4, seed=5) for strategy in ("metis", "hash"))
    assert owners.owner_of_user[-1] == hashed.owner_of_user[-1]
    assert owners.owner_of_item[-1] == hashed.owner_of_item[-1]


def test_metis_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    assign(communities(), "metis", 2, seed=0)
    assert [p.name for p in tmp_path.rglob("*")] == ["scratch"]


def test_a_failure_of_metis_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignment, "_METIS", "import os, sys; print('no room', file=sys.stderr); os._exit(3)")
    with pytest.raises(
        RuntimeError, match=r"exit status 3.*200 nodes.*no room.*partitioning\.strategy=stream"
    ) as error:
        assign(communities(), "metis", 2, seed=0)
    assert not isinstance(error.value, InputError)


def test_the_hash_is_a_written_rule() -> None:
    """Golden numbers: a node that comes later is placed by this rule, wherever and whenever it is asked."""
    assert hash_owner(np.arange(12), "user", 4, seed=0).tolist() == GOLDEN_USERS
    assert hash_owner(np.arange(12), "item", 4, seed=0).tolist() == GOLDEN_ITEMS
    assert hash_owner([7], "user", 4, seed=0).tolist() == GOLDEN_USERS[7:8]
    assert hash_owner([], "user", 4, seed=0).tolist() == []


@pytest.mark.parametrize("parts", [2, 7, 64])
def test_the_hash_spreads_evenly_and_sides_and_seeds_are_unrelated(parts: int) -> None:
    nodes = np.arange(64_000)
    draws = [
        hash_owner(nodes, "user", parts, 0),
        hash_owner(nodes, "item", parts, 0),
        hash_owner(nodes, "user", parts, 1),
    ]
    for owner in draws:
        assert np.abs(np.bincount(owner, minlength=parts) / (len(nodes) / parts) - 1).max() < 0.15
    for j, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.mean(draws[j] == draws[other]) - 1 / parts) < 0.02


def test_cut_and_balance_of_a_small_graph() -> None:
    graph = make_graph({(0, 0), (0, 1), (1, 1), (2, 1)}, 3, 2)
    owners = Assignment(np.array([0, 1, 1], np.int16), np.array([0, 1], np.int16), 2)
    assert edge_cut(graph, owners) == 0.25
    assert balance(graph, owners) == 5 / 4
    assert balance(graph, Assignment(owners.owner_of_user * 0, owners.owner_of_item * 0, 2)) == 2


@pytest.mark.parametrize(
    ("strategy", "parts", "words"),
    [
        ("random", 2, r"partitioning\.strategy is 'random'; it must be one of metis, hash, stream, file"),
        ("hash", 0, r"cluster\.partitions is 0; it must be from 1 to 32767"),
        ("hash", 40_000, r"cluster\.partitions is 40000"),
        ("file", 2, "no assignment file is named"),
    ],
)
def test_bad_settings(strategy: str, parts: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        assign(make_graph({(0, 0)}, 1, 1), strategy, parts, seed=0)


FILE: dict[str, list[Any]] = {"side": ["user", "item", "user", "item"], "id": [0, 0, 10, 10], "partition": [1, 0, 0, 1]}


def from_file(folder: Path, columns: dict[str, Any], text: bool = False) -> Assignment:
    pq.write_table(pa.table(columns), folder / "owners.parquet")
    graph = make_graph({(0, 0), (1, 1)}, 2, 2, text)
    return assign(graph, "file", 2, seed=0, assignment_file=str(folder / "owners.parquet"))


def test_owners_from_a_file(tmp_path: Path) -> None:
    numbers = from_file(tmp_path, FILE)
    texts = from_file(tmp_path, FILE | {"id": ["u000", "i000", "u001", "i001"]}, text=True)
    spelled = from_file(tmp_path, FILE | {"id": ["0", "0", "10", "10"]})
    more = from_file(
        tmp_path,
        {"side": [*FILE["side"], "user"], "id": [*FILE["id"], 99], "partition": [*FILE["partition"], 0]},
    )
    for owners in (numbers, texts, spelled, more):
        assert (owners.owner_of_user.tolist(), owners.owner_of_item.tolist()) == ([1, 0], [0, 1])
        assert owners.owner_of_user.dtype == owners.owner_of_item.dtype == np.int16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"side": ["user", "item", "user", "shop"]}, "column 'side' holds 'shop'; it must be 'user' or 'item'"),
        ({"partition": [1, 0, 0, 2]}, r"column 'partition' holds 2; it must be from 0 to 1.*cluster\.partitions is 2"),
        ({"partition": [1, 0, 0, -1]}, "column 'partition' holds -1"),
        ({"partition": ["1", "0", "0", "1"]}, "column 'partition' is string; it must be an integer"),
        ({"partition": [1, 0, 0, None]}, "column 'partition' is null in row 4"),
        ({"id": [0, 0, 10, 20]}, "1 items of the interactions have no row, the first is 10"),
        ({"id": [0, 0, 0, 10]}, "a user is given to two partitions"),
        ({"side": [1, 2, 1, 2]}, "column 'side' holds '1'"),
        ({"id": [0.5, 0.0, 1.0, 2.0]}, "column 'id' is double"),
    ],
)
def test_bad_assignment_files(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        from_file(tmp_path, FILE | change)
    assert str(tmp_path / "owners.parquet") in str(error.value)


def test_assignment_files_without_rows_or_columns(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the assignment file has no rows"):
        from_file(tmp_path, {name: pa.array([], pa.int64()) for name in FILE})
    with pytest.raises(InputError, match="no column 'side'"):
        from_file(tmp_path, {"id": [0], "partition": [1]})
    os.remove(tmp_path / "owners.parquet")
    with pytest.raises(InputError, match=r"owners\.parquet: no such file"):
        assign(make_graph({(0, 0)}, 1, 1), "file", 2, 0, str(tmp_path / "owners.parquet"))
