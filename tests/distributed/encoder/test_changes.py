"""Forgetting on one and on several partitions: who takes part, what changes, what is left, and how the encoder is fitted."""

import math

import numpy as np
import pytest
import spmd
import spmd_forget
import torch

from unlearnrec.distributed.backbones import BACKBONES
from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.encoder.changes import shrink
from unlearnrec.distributed.encoder.examples import make_examples
from unlearnrec.distributed.encoder.gains import calibrate
from unlearnrec.distributed.encoder.pretrain import PretrainSettings, explains_unseen_nodes, fit
from unlearnrec.distributed.graph.keyed import REQUEST, REQUEST_RATE, REQUEST_USER, keyed_uniform
from unlearnrec.distributed.graph.removal import Removal, Simulated, empty_nodes, restricted_to, with_empty_rows
from unlearnrec.distributed.processes import run_processes
from unlearnrec.partitioning.shard import GraphShard, build_shards

# Of a row or its change, which are of size 0.1: what adding floats in another order may cost.
TOLERANCE = 2e-7
# One request after the other sees readouts and degrees without the earlier ones: this share of the change's norm, on a
# tiny graph of which the requests take a tenth. NGCF's layers multiply, and react more.
SEQUENCE_TOLERANCE = {"ngcf": 0.5}

Pairs = set[tuple[int, int]]


def shards(size: int) -> list[GraphShard]:
    users, items = spmd.pairs()
    return build_shards(users, items, np.ones_like(users), spmd.assignment(size))


def rows_of(shard: GraphShard) -> tuple[Pairs, Pairs]:
    """The interactions that stand in the user rows and in the item rows."""
    by_user = np.repeat(shard.user_ids, np.diff(shard.user_indptr)), shard.user_neighbours
    by_item = shard.item_neighbours, np.repeat(shard.item_ids, np.diff(shard.item_indptr))
    return as_set(*by_user), as_set(*by_item)


def as_set(users: np.ndarray, items: np.ndarray) -> Pairs:
    return set(zip(users.tolist(), items.tolist(), strict=True))


def assert_same(one: GraphShard, other: GraphShard) -> None:
    assert vars(one).keys() == vars(other).keys()
    for name, value in vars(one).items():
        assert np.array_equal(value, getattr(other, name)), name


# ---- which interactions ----------------------------------------------------------------------------------------------


def draw(stream: int, request: Simulated, *key: int) -> float:
    return float(keyed_uniform(request.seed, stream, request.number, *key[:-1], torch.tensor(key[-1:])))


def chance(request: Simulated, user: int, item: int) -> float:
    """That an interaction goes."""
    stays = 1 - request.share
    if draw(REQUEST_USER, request, user) < request.users:
        stays *= 1 - request.most_of_users * draw(REQUEST_RATE, request, 0, user)
    if item in request.items:
        stays *= 1 - request.most_of_items * draw(REQUEST_RATE, request, 1, item)
    return 1 - stays


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_a_removal_finds_what_brute_force_finds(size, seed):
    rng = np.random.default_rng(seed)
    users, items = spmd.pairs()
    edges = as_set(users, items)
    gone_users, gone_items = (rng.choice(n, 3, replace=False).astype(np.int64) for n in (spmd.USERS, spmd.ITEMS))
    # Some pairs stand in the graph, some do not, one is named twice.
    some = rng.choice(len(users), 5, replace=False)
    pair_users = np.concatenate([users[some], users[some[:1]], rng.integers(0, spmd.USERS, 4)]).astype(np.int64)
    pair_items = np.concatenate([items[some], items[some[:1]], rng.integers(0, spmd.ITEMS, 4)]).astype(np.int64)
    some_items = tuple(sorted(set(items[::9].tolist())))
    simulated = (Simulated(seed, 0, 0.1), Simulated(seed, 7, 0.02, 0.3, 0.5, some_items, 0.2))
    parts = [
        ({"users": gone_users}, {e for e in edges if e[0] in gone_users}),
        ({"items": gone_items}, {e for e in edges if e[1] in gone_items}),
        ({"pair_users": pair_users, "pair_items": pair_items}, edges & as_set(pair_users, pair_items)),
        (
            {"simulated": simulated},
            {
                (u, i)
                for u, i in edges
                for request in simulated
                if draw(REQUEST, request, u * spmd.ITEMS + i) < chance(request, u, i)
            },
        ),
    ]
    everything = ({k: v for fields, _ in parts for k, v in fields.items()}, set.union(*(found for _, found in parts)))
    for fields, expected in [*parts, everything]:
        removal = Removal(**fields)
        assert removal and expected
        total: Pairs = set()
        for shard in shards(size):
            found = removal.pairs(shard)
            by_user, by_item = rows_of(shard)
            assert as_set(*found) == expected & (by_user | by_item)
            codes = found[0] * spmd.ITEMS + found[1]
            assert (np.diff(codes) > 0).all()
            total |= as_set(*found)
        assert total == expected


def test_a_removal_of_nothing():
    assert not Removal()
    for shard in shards(2):
        assert [len(x) for x in Removal().pairs(shard)] == [0, 0]
        # Ids that exist but have no interactions.
        nobody = Removal(users=np.array([spmd.USERS - 1]), items=np.array([spmd.ITEMS - 1]))
        assert nobody and not len(nobody.pairs(shard)[0])


def test_a_simulated_share_is_about_the_share():
    users, items = spmd.pairs()
    found = Removal(simulated=(Simulated(1, 0, 0.3),)).pairs(shards(1)[0])
    assert 0.2 < len(found[0]) / len(users) < 0.4
    popular = np.argsort(-np.bincount(items))[:5]
    tilted = Removal(simulated=(Simulated(1, 0, items=tuple(popular.tolist()), most_of_items=1.0),)).pairs(shards(1)[0])
    assert np.isin(tilted[1], popular).all()
    assert 0.3 < len(tilted[0]) / np.isin(items, popular).sum() < 0.7
    # Each of the items has a part of its own.
    parts = np.bincount(tilted[1], minlength=spmd.ITEMS)[popular] / np.bincount(items, minlength=spmd.ITEMS)[popular]
    assert parts.max() - parts.min() > 0.3


def test_only_keeps_the_rows_and_these_interactions():
    users, items = spmd.pairs()
    kept = np.random.default_rng(0).random(len(users)) < 0.4
    wanted_users = np.concatenate([users[kept], [0]]).astype(np.int64)
    wanted_items = np.concatenate([items[kept], [spmd.ITEMS - 1]]).astype(np.int64)  # one that does not stand there
    expected = build_shards(users[kept], items[kept], np.ones(kept.sum()), spmd.assignment(3))
    for shard, want in zip(shards(3), expected, strict=True):
        assert_same(restricted_to(shard, wanted_users, wanted_items), want)


def test_deleted_nodes_get_their_empty_rows_back():
    users, items = spmd.pairs()
    gone = (users <= 4) | (items == items[0])
    for shard in shards(3):
        smaller = shard.without(users[gone], items[gone])
        deleted = smaller.drop_nodes(*empty_nodes(smaller))
        assert len(deleted.user_ids) < len(shard.user_ids)
        assert_same(with_empty_rows(deleted, spmd.assignment(3)), smaller)


def test_shrinking_drops_pairs_from_both_sides_and_lone_nodes_with_their_rows():
    users, items = spmd.pairs()
    edges = as_set(users, items)
    whole_user, whole_item = int(users[0]), int(items[len(items) // 2])
    some = np.random.default_rng(1).choice(len(users), 10, replace=False)
    gone = {e for e in edges if e[0] == whole_user or e[1] == whole_item} | as_set(users[some], items[some])
    left = edges - gone
    asked = np.array(sorted(gone))
    deleted_users, deleted_items = ({e[side] for e in edges} - {e[side] for e in left} for side in (0, 1))
    assert whole_user in deleted_users and whole_item in deleted_items
    found: Pairs = set()
    for whole in shards(3):
        shard = whole.drop_nodes(*empty_nodes(whole))
        # Each row holds its node's number.
        e0 = torch.from_numpy(np.concatenate([shard.user_ids, shard.item_ids + spmd.USERS]))[:, None].float()
        smaller, rows = shrink(shard, e0, asked[:, 0], asked[:, 1])
        before, after = rows_of(shard), rows_of(smaller)
        assert after == (before[0] & left, before[1] & left)
        assert set(smaller.user_ids) == set(shard.user_ids) - deleted_users
        assert set(smaller.item_ids) == set(shard.item_ids) - deleted_items
        assert rows[:, 0].tolist() == [*smaller.user_ids, *(smaller.item_ids + spmd.USERS)]
        assert e0.shape[0] == len(shard.user_ids) + len(shard.item_ids)
        found |= after[0]
    assert found == left


# ---- what changes ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone():
    return spmd_forget.both_backbones(Comm())


@pytest.fixture(scope="module")
def four():
    return run_processes(4, spmd_forget.both_backbones)


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_only_the_ends_of_the_request_change(backbone, alone, four):
    users, items = spmd_forget.joined(spmd_forget.requests())
    expected = np.unique(np.concatenate([users, items + spmd.USERS]))
    for results in ([alone[backbone]], [r[backbone] for r in four]):
        assert np.sort(np.concatenate([r["touched"] for r in results])).tolist() == expected.tolist()
        for r in results:
            touched = torch.isin(r["ids"], r["touched"])
            assert torch.equal(r["after"][~touched], r["e0"][~touched])
            assert (r["after"][touched] != r["e0"][touched]).any(1).all()


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_one_and_four_partitions_forget_alike(backbone, alone, four):
    results = [r[backbone] for r in four]
    assert any(peers for r in results for peers in r["peers"])
    for name in ("after", "batch", "sum", "sequence"):
        mine, theirs = spmd.whole([alone[backbone]], name), spmd.whole(results, name)
        assert mine.shape == (spmd.USERS + spmd.ITEMS, spmd_forget.SIZE) and theirs.abs().max() > 0.01
        assert (mine - theirs).abs().max() < TOLERANCE, name


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_a_batch_is_about_the_sum_of_its_requests(backbone, alone, four):
    users, items = spmd_forget.joined(spmd_forget.requests())
    degree = [np.bincount(x)[x] for x in (users, items)]
    more = (degree[0] > 1) | (degree[1] > 1)
    shared = np.concatenate([users[more], items[more] + spmd.USERS])
    lone = np.setdiff1d(np.concatenate([users, items + spmd.USERS]), shared)
    assert len(lone) > 5
    for results in ([alone[backbone]], [r[backbone] for r in four]):
        batch, total, sequence = (spmd.whole(results, name) for name in ("batch", "sum", "sequence"))
        # The encoder is told what else goes of a node; where nothing does, it is the sum.
        assert (batch - total)[lone].abs().max() < TOLERANCE
        assert 0 < (batch - total).norm() < SEQUENCE_TOLERANCE.get(backbone, 0.2) * batch.norm()
        assert 0 < (batch - sequence).norm() < SEQUENCE_TOLERANCE.get(backbone, 0.2) * batch.norm()


def test_ranks_without_an_end_call_nothing():
    """One request within partition 0, one cut between 0 and 1: rank 2 is busy elsewhere, and nobody waits for it."""
    users, items = (x.astype(np.int64) for x in spmd.pairs())
    cut = spmd.assignment(3)
    owners = np.stack([cut.owner_of_user[users], cut.owner_of_item[items]])
    inside = np.flatnonzero((owners == 0).all(0))[:4]
    across = np.flatnonzero((np.sort(owners, axis=0) == [[0], [1]]).all(0))[:4]
    assert len(inside) == len(across) == 4
    single = [(users[x], items[x]) for x in (inside, across)]
    results = run_processes(3, spmd_forget.few_ranks, single)
    assert [r["called"] for r in results] == [[True, True], [False, True], [False, False]]
    assert [r["peers"] for r in results] == [[set(), {1}], [set(), {0}], [set(), set()]]
    first = spmd_forget.few_ranks(Comm(), single)
    for name in ("after", "sum"):
        assert (spmd.whole(results, name) - spmd.whole([first], name)).abs().max() < TOLERANCE


def test_an_empty_request_gives_nothing():
    graph = spmd.local_graph(Comm())
    nodes = spmd_forget.node_rows(graph, spmd_forget.start(graph), "lightgcn")
    nothing = torch.empty(0, dtype=torch.int64)
    rows, change = spmd_forget.influence(graph, nodes, spmd_forget.encoder_for(nodes), nothing, nothing)
    assert len(rows) == 0 and change.shape == (0, spmd_forget.SIZE)


# ---- pre-training ----------------------------------------------------------------------------------------------------


def test_an_encoder_learns_a_fixed_combination_the_same_on_two_ranks():
    first = spmd_forget.fitted(Comm())
    second = run_processes(2, spmd_forget.fitted)
    for name, value in first["quality"].items():
        assert value > 0.5, name
        for result in second:
            assert result["quality"][name] == pytest.approx(value, abs=1e-4)
    assert first["losses"][-1] < 0.3 * first["losses"][0]
    # The targets are this encoder's own combination, so it delivers them as they are; and twice them with twice the gain.
    assert first["gains"][0] == pytest.approx((1, 1), abs=0.1)
    assert first["gains"][1] == pytest.approx([2 * gain for gain in first["gains"][0]], rel=0.1)
    for number in (0, 1):
        assert all(r["gains"][number] == pytest.approx(first["gains"][number], rel=1e-4) for r in second)
    for side in (0, 1):
        error, size = first["left"][side]
        assert 1 - error / size > 0.5
        for name in ("targets", "interactions"):
            assert first[name][side] == sum(r[name][side] for r in second) > 50
    for name, value in first["state"].items():
        assert torch.equal(second[0]["state"][name], second[1]["state"][name]), name
        assert torch.allclose(second[0]["state"][name], value, atol=1e-4), name


def test_an_encoder_fitted_where_all_degrees_are_equal_goes_on_when_they_are_not():
    length, moved = spmd_forget.of_equal_degrees()
    assert 0 < moved < length


def test_counterfactuals_that_leave_out_nothing_teach_nothing():
    graph = spmd.local_graph(Comm())
    nodes = spmd_forget.node_rows(graph, spmd_forget.start(graph), "lightgcn")
    nothing = [(Removal(), nodes.e0)]
    backbone, encoder = BACKBONES["lightgcn"](nodes.e0.shape[1], 2, seed=1), spmd_forget.encoder_for(nodes)
    data = make_examples(graph, backbone, nodes, nothing, whitening=encoder.whitening)
    quality = fit(Comm(), encoder, data, PretrainSettings(3, 2, 16, 0.01))
    assert all(math.isnan(value) for value in quality.values()) and not explains_unseen_nodes(quality)
    assert calibrate(graph, backbone, nodes, encoder, nothing) == (1.0, 1.0)
