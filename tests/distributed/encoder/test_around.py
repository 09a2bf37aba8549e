"""Changes of readouts through the rows around a node (`influence.around`)."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import spmd
import torch
from spawned import run_by_value
from trained_output import rows_by_partition, trained_output

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import parse_config
from unlearnrec.cluster.models import pretraining
from unlearnrec.cluster.models.gate_measures import missed_measures
from unlearnrec.cluster.models.pretraining import wants_around
from unlearnrec.cluster.output.session import Session
from unlearnrec.distributed.backbones import BACKBONES
from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.encoder import around as spreading
from unlearnrec.distributed.encoder.around import solve_for_readouts
from unlearnrec.distributed.encoder.changes import around_influence, influence
from unlearnrec.distributed.encoder.examples import make_examples
from unlearnrec.distributed.encoder.influence import AroundEncoder
from unlearnrec.distributed.encoder.pretrain import explains_unseen_nodes
from unlearnrec.distributed.graph.removal import Removal, Simulated
from unlearnrec.distributed.partition.state import node_rows
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.ingest import load_ids, load_shard
from unlearnrec.partitioning.sample import make_sample

SIZE = 6


def wanted(nodes):
    """By node, whoever owns it."""
    return torch.stack([torch.randn(SIZE, generator=torch.Generator().manual_seed(int(n))) for n in nodes])


def spread_on(comm):
    """A third of the nodes change; the users 0 and 1 have lost all their interactions."""
    graph = spmd.local_graph(comm)
    users, items = spmd.pairs()
    gone = np.isin(users, [0, 1])
    rest = graph.without(users[gone], items[gone])
    nodes = torch.cat([graph.user_ids, graph.item_ids + graph.num_users])
    rows = torch.nonzero(nodes % 3 == 0)[:, 0]
    backbone = BACKBONES["simgcl"](SIZE, 2)
    change = solve_for_readouts(rest, backbone, rows, wanted(nodes[rows]))
    with torch.no_grad():
        brought = backbone(change, rest.propagation)
    return {"ids": nodes, "change": change, "brought": brought, "alone": rest.degrees == 0}


def test_one_and_three_partitions_spread_alike():
    first, results = spread_on(Comm()), run_by_value(3, spread_on)
    assert first["change"].norm() > 0
    for name in ("change", "brought"):
        whole = spmd.whole([first], name)
        assert (spmd.whole(results, name) - whole).abs().max() < 1e-4 * whole.abs().max()


def test_readouts_change_as_wanted_by_small_rows(monkeypatch):
    """Against the dense solution with the same ridge."""
    monkeypatch.setattr(spreading, "STEPS", 60)
    result = spread_on(Comm())
    rows = torch.nonzero((result["ids"] % 3 == 0) & ~result["alone"])[:, 0]
    expected = wanted(result["ids"][rows]).double()
    graph = spmd.local_graph(Comm())
    users, items = spmd.pairs()
    gone = np.isin(users, [0, 1])
    layer = graph.without(users[gone], items[gone]).propagation
    whole = BACKBONES["simgcl"](graph.num_rows, 2)(torch.eye(graph.num_rows), layer)[rows].double()
    square = whole @ whole.T
    ridge = spreading.RIDGE * (expected * (square @ expected)).sum() / (expected**2).sum()
    dense = whole.T @ torch.linalg.solve(square + ridge * torch.eye(len(rows)), expected)
    assert (result["change"] - dense).norm() < 0.02 * dense.norm()
    assert (result["brought"][rows] - expected).norm() < 0.3 * expected.norm()
    assert result["alone"].sum() >= 2


def test_nothing_wanted_changes_nothing():
    graph = spmd.local_graph(Comm())
    nobody = torch.empty(0, dtype=torch.int64)
    change = solve_for_readouts(graph, BACKBONES["simgcl"](SIZE, 2), nobody, torch.empty(0, SIZE))
    assert not change.any()


def around_on(comm):
    graph = spmd.local_graph(comm)
    backbone = BACKBONES["simgcl"](SIZE, 2, length_power=0.5)
    e0 = wanted(torch.cat([graph.user_ids, graph.item_ids + graph.num_users])) * 0.1
    nodes = node_rows(graph, backbone, e0)
    users, items = (torch.from_numpy(x[::7].astype(np.int64)) for x in spmd.pairs())
    here = (graph.user_rows(users) >= 0) | (graph.item_rows(items) >= 0)
    mine = (users[here], items[here])
    encoder = AroundEncoder(1, seed=5)
    rows, change = around_influence(graph, backbone, nodes, encoder, *mine)
    _, own = influence(graph, nodes, encoder.rows, *mine)
    _, wished = influence(graph, nodes, encoder.readouts, *mine)
    with torch.no_grad():
        layer = graph.without(*(x.numpy() for x in mine)).propagation
        came = backbone(change, layer)[rows]
        by_rows = backbone(torch.zeros_like(change).index_copy_(0, rows, own), layer)[rows]
    touched = torch.zeros(graph.num_rows).index_fill_(0, rows, 1)
    return {
        "ids": torch.cat([graph.user_ids, graph.item_ids + graph.num_users]),
        "change": change,
        "touched": touched[:, None],
    } | {
        "off": float((came - wished).norm()),
        "left": float((by_rows - wished).norm()),
        "moved": float((change[rows] - own).norm()),
    }


def test_one_and_three_partitions_forget_around_alike():
    first, results = around_on(Comm()), run_by_value(3, around_on)
    whole = spmd.whole([first], "change")
    assert (spmd.whole(results, "change") - whole).abs().max() < 1e-4 * whole.abs().max()
    assert whole[spmd.whole([first], "touched")[:, 0] == 0].any()
    assert first["off"] < 0.95 * first["left"] and first["moved"] > 0


# ---- what the encoder of the readouts learns ----------------------------------------------------------------------------


def removals():
    """Counterfactuals that share nodes; the first leaves out all interactions of a user."""
    first = Removal(users=np.array([0]), simulated=(Simulated(9, 0, 0.2),))
    return [first, Removal(simulated=(Simulated(9, 1, 0.3),))]


def readout_targets_on(comm):
    graph = spmd.local_graph(comm)
    backbone = BACKBONES["simgcl"](SIZE, 2, length_power=0.5)
    ids = torch.cat([graph.user_ids, graph.item_ids + graph.num_users])
    nodes = node_rows(graph, backbone, wanted(ids) * 0.1)
    runs = [(removal, wanted(ids + 1000 * (1 + n))) for n, removal in enumerate(removals())]
    return make_examples(graph, backbone, nodes, runs, of_readouts=True), make_examples(graph, backbone, nodes, runs)


def readouts_without(removal, e0):
    """Means of two layers [N, d] on what a removal leaves, computed densely; the touched users, and items, ascending."""
    users, items = (x.astype(np.int64) for x in spmd.pairs())
    gone = removal.pairs(spmd.local_graph(Comm()).shard)
    left = ~np.isin(users * spmd.ITEMS + items, gone[0] * spmd.ITEMS + gone[1])
    adjacency = np.zeros((spmd.USERS + spmd.ITEMS,) * 2)
    adjacency[users[left], items[left] + spmd.USERS] = 1
    adjacency += adjacency.T
    scale = np.diag(1 / np.sqrt(adjacency.sum(1).clip(min=1)))
    layer = scale @ adjacency @ scale
    return (layer + layer @ layer) @ e0.double().numpy() / 2, [np.unique(x) for x in gone]


def test_readouts_are_to_change_as_in_a_retrain_beyond_what_missing_edges_do():
    (of_readouts, of_rows), parts = readout_targets_on(Comm()), run_by_value(3, readout_targets_on)
    everybody = torch.arange(spmd.USERS + spmd.ITEMS)
    expected = ([], [])
    for n, removal in enumerate(removals()):
        (before, touched), (after, _) = (
            readouts_without(removal, e0) for e0 in (wanted(everybody) * 0.1, wanted(everybody + 1000 * (1 + n)))
        )
        for side in (0, 1):
            expected[side].append((after - before)[touched[side] + side * spmd.USERS])
    for side, (found, plain) in enumerate(zip(of_readouts, of_rows, strict=True)):
        dense = np.concatenate(expected[side])
        assert found.needed.shape == dense.shape and np.abs(found.needed.numpy() - dense).max() < 1e-5
        assert len(dense) > 40 and np.abs(dense).max() > 0.1
        # What is seen of an interaction is the same as for rows.
        for name in ("features", "directions", "target", "key"):
            assert torch.equal(getattr(found, name), getattr(plain, name)), name
        assert (found.needed - plain.needed).norm() > 0.1 * plain.needed.norm()
        # A node is one partition's, which has its counterfactuals in their order.
        keys, needed = (torch.cat([getattr(part[0][side], name) for part in parts]) for name in ("key", "needed"))
        order, alone = (torch.argsort(x, stable=True) for x in (keys, found.key))
        assert torch.equal(keys[order], found.key[alone])
        assert (needed[order] - found.needed[alone]).abs().max() < 1e-5


# ---- the commands, with workers ------------------------------------------------------------------------------------------


def test_an_encoder_of_readouts_is_worth_it_if_it_explains_both_sides():
    assert explains_unseen_nodes({"user_r2_held_out": 0.04, "item_r2_held_out": 0.05})
    for bad in (-0.1, 0.0, float("nan")):
        assert not explains_unseen_nodes({"user_r2_held_out": bad, "item_r2_held_out": 0.9})
        assert not explains_unseen_nodes({"user_r2_held_out": 0.9, "item_r2_held_out": bad})


@pytest.fixture
def whatever_it_is_worth(monkeypatch):
    """On data as small as these an encoder of readouts may explain nothing."""
    monkeypatch.setattr(pretraining, "explains_unseen_nodes", lambda fitted: True)


@pytest.mark.slow
def test_a_request_changes_rows_around_its_nodes_in_all_partitions(tmp_path, group, whatever_it_is_worth):
    config, events = trained_output(tmp_path, group, influence={"around": True})
    session = Session(config)
    before = session.version()
    assert before.model.encoder.around
    user = events[0][0]
    answer = pipeline.forget(config, users=str(user), request_id="r", group=group)
    after = session.version()
    assert answer["affected_partitions"] == [0, 1] and answer["status"] == "committed"
    for k in (0, 1):
        old, new = (users_rows(session, version, k) for version in (before, after))
        assert any((old[other] != row).any() for other, row in new.items())  # no other user is an end
    assert all(check["ok"] for check in pipeline.verify(config)["checks"])
    # Cutting only changes the partition that owns both ends.
    owner = [dict(zip(x[0].to_pylist(), x[2].tolist(), strict=True)) for x in id_maps(session, after)]
    pair = next(e for e in events if e[0] != user and owner[0][e[0]] == owner[1][e[1]])
    file = write_pairs(tmp_path, [pair])
    assert pipeline.forget(config, interactions=file, dry_run=True, group=group)["affected_partitions"] == [0, 1]
    cut = pipeline.forget(config, interactions=file, cut_only=True, group=group)
    assert cut["affected_partitions"] == [owner[0][pair[0]]] and cut["touched_nodes"] == 0


@pytest.mark.slow
def test_the_gate_and_the_evidence_of_a_request_that_changes_rows_around(tmp_path, group, whatever_it_is_worth):
    """A request inside one partition, of which the files of both change."""
    sample = make_sample(tmp_path / "data", users=120, items=80, mean_interactions=20)
    config = parse_config(
        {
            "interactions": sample["train"],
            "test_interactions": sample["test"],
            "output": str(tmp_path / "output"),
            "backbone": {"name": "simgcl", "embedding_size": 8, "num_layers": 2},
            "train": {"epochs": 4, "batch_size": 256},
            "pretrain": {"epochs": 3, "counterfactuals": 1},
            "influence": {"around": True},
            "forget": {"gate_fine_tune_steps": 0},
        }
    )
    pipeline.ingest(config)
    pipeline.train(config, group=group)
    pipeline.pretrain(config, group=group)
    session = Session(config)
    before, old = session.version(), rows_by_node(session)
    quality = [pipeline.evaluate(config, group=group)["recall@20"]]
    owner = [dict(zip(x[0].to_pylist(), x[2].tolist(), strict=True)) for x in id_maps(session, before)]
    node = [dict(zip(x[0].to_pylist(), x[1].tolist(), strict=True)) for x in id_maps(session, before)]
    table = pq.read_table(sample["train"], columns=["user_id", "item_id"])
    events = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    pairs = sorted({(u, i) for u, i in events if owner[0][u] == owner[1][i] == 0})[::20][:12]
    file = write_pairs(tmp_path, pairs)
    ends = {(side, node[side][pair[side]]) for pair in pairs for side in (0, 1)}

    answer = pipeline.forget(config, interactions=file, request_id="r", group=group)
    after, new = session.version(), rows_by_node(session)
    quality.append(pipeline.evaluate(config, group=group)["recall@20"])
    assert answer["removed_interactions"] == len(pairs) == 12 and answer["touched_nodes"] == len(ends)
    assert answer["affected_partitions"] == [0, 1] and old.keys() == new.keys()

    # The gate: of the ends how far they went, of all users what they are recommended.
    sizes = {key: np.linalg.norm(new[key] - row) for key, row in old.items()}
    assert all(sizes.values())
    gate, largest = answer["gate"], max(sizes[key] for key in ends)
    seen = before.model.encoder.largest_shift
    assert gate["measures"]["largest_change"]["value"] == pytest.approx(largest / seen, rel=1e-4)
    assert gate["measures"]["recall_loss"]["value"] == pytest.approx(1 - quality[1] / quality[0], abs=1e-6)
    assert gate["measures"]["gap_closed"]["pairs"] == 12 and "given_up" not in gate
    assert gate["missed"] == missed_measures(gate["measures"], gate["bounds"]) and len(gate["bounds"]) == 3
    assert answer["needs_retrain"] == (gate["status"] == "missed") == after.needs_retrain

    # The evidence: both partitions have new files, of which only the first's lost interactions.
    report = json.loads((Path(config.output) / answer["evidence"]).read_text())
    assert report["gate"] == gate and report["needs_retrain"] == answer["needs_retrain"]
    assert report["removed"]["affected_partitions"] == [0, 1]
    lines = report["removed"]["partitions_of_version"]
    assert [line["entries"]["before"] - line["entries"]["after"] for line in lines] == [24, 0]
    assert all(line["embedding_rows"]["before"] == line["embedding_rows"]["after"] for line in lines)
    changed = {(file["version"], file["name"]) for file in report["files"]["changed"]}
    for when, version in (("before", before), ("after", after)):
        assert {(when, name) for name in version.model.embeddings + version.graph.shard_files} <= changed
    checks = {check["name"]: check for check in report["verification"]["checks"]}
    assert checks.pop("rows of others")["ok"] is None  # they change too
    assert all(check["ok"] for check in checks.values()) and checks["removed interactions"]["checked"] == 12
    assert checks["untouched partitions"]["checked"] == 0
    scores = report["verification"]["scores"]
    assert scores["of"] == 12 and [line["n"] for line in scores["groups"]] == [12, 100, 100]
    assert all(check["ok"] for check in pipeline.verify(config)["checks"])


def rows_by_node(session):
    """{(side, dense id): row of E0} of the current version, from its files."""
    version, found = session.version(), {}
    for k, rows in enumerate(rows_by_partition(session, version)):
        shard = load_shard(session.store, version.graph, k)
        keys = [(side, n) for side, ids in enumerate((shard.user_ids, shard.item_ids)) for n in ids.tolist()]
        found |= dict(zip(keys, rows, strict=True))
    return found


def users_rows(session, version, k):
    """The rows of E0 of a partition's users, by node."""
    users = load_shard(session.store, version.graph, k).user_ids.tolist()
    rows = rows_by_partition(session, version)[k]
    return dict(zip(users, rows[: len(users)], strict=True))


def id_maps(session, version):
    return [load_ids(session.store, version.graph, side) for side in ("user", "item")]


def write_pairs(folder, pairs):
    path = folder / "pairs.parquet"
    pq.write_table(pa.table([list(side) for side in zip(*pairs, strict=True)], names=["user_id", "item_id"]), path)
    return str(path)


def asking(folder, around, **sections):
    return parse_config({"interactions": "x", "output": str(folder), "influence": {"around": around}, **sections})


def test_rows_around_change_where_a_readout_does_not_hold_its_own(tmp_path):
    shape = {"embedding_size": 8, "num_layers": 2}
    undecided = asking(tmp_path, None)
    for name in ("lightgcn", "sgl", "ngcf"):
        assert not wants_around(undecided, {"name": name, **shape})
    simgcl = {"name": "simgcl", **shape}
    assert wants_around(undecided, simgcl) and not wants_around(undecided, simgcl | {"ego": True})
    assert not wants_around(asking(tmp_path, False), simgcl) and wants_around(
        asking(tmp_path, True), {"name": "sgl", **shape}
    )
    assert not wants_around(asking(tmp_path, None, pretrain={"objective": "published"}), simgcl)


def test_around_is_refused_where_there_is_none(tmp_path):
    config = asking(tmp_path, True)
    shape = {"embedding_size": 8, "num_layers": 2}
    with pytest.raises(InputError, match=r"needs a backbone without dense weights .*ngcf"):
        wants_around(config, {"name": "ngcf", **shape})
    with pytest.raises(InputError, match="objective=counterfactual"):
        wants_around(asking(tmp_path, True, pretrain={"objective": "published"}), {"name": "simgcl", **shape})
