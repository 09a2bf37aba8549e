"""Changes of readouts through the rows around a node (`influence.around`)."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import spmd
import torch
from safetensors.numpy import load
from trained_output import trained_output

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config import parse_config
from unlearnrec.cluster.pretraining import _check_around
from unlearnrec.cluster.session import Session
from unlearnrec.distributed import spread as spreading
from unlearnrec.distributed.backbones import BACKBONES
from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.forget import around, influence
from unlearnrec.distributed.influence import AroundEncoder
from unlearnrec.distributed.launch import run_processes
from unlearnrec.distributed.partition_state import node_rows
from unlearnrec.distributed.spread import spread
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.ingest import load_ids, load_shard

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
    change = spread(rest, backbone, rows, wanted(nodes[rows]))
    with torch.no_grad():
        brought = backbone(change, rest.propagation.layer)
    return {"ids": nodes, "change": change, "brought": brought, "alone": rest.degrees == 0}


def test_one_and_three_partitions_spread_alike():
    first, results = spread_on(Comm()), run_processes(3, spread_on)
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
    layer = graph.without(users[gone], items[gone]).propagation.layer
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
    change = spread(graph, BACKBONES["simgcl"](SIZE, 2), nobody, torch.empty(0, SIZE))
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
    rows, change = around(graph, backbone, nodes, encoder, *mine)
    _, own = influence(graph, nodes, encoder.rows, *mine)
    _, wished = influence(graph, nodes, encoder.readouts, *mine)
    with torch.no_grad():
        layer = graph.without(*(x.numpy() for x in mine)).propagation.layer
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
    first, results = around_on(Comm()), run_processes(3, around_on)
    whole = spmd.whole([first], "change")
    assert (spmd.whole(results, "change") - whole).abs().max() < 1e-4 * whole.abs().max()
    assert whole[spmd.whole([first], "touched")[:, 0] == 0].any()
    assert first["off"] < 0.95 * first["left"] and first["moved"] > 0


# ---- the commands, with workers ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_request_changes_rows_around_its_nodes_in_all_partitions(tmp_path, group):
    config, events = trained_output(tmp_path, group, influence={"around": True})
    session = Session(config)
    before = session.version()
    assert before["model"]["encoder"]["around"]
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
    file = write_pair(tmp_path, pair)
    assert pipeline.forget(config, interactions=file, dry_run=True, group=group)["affected_partitions"] == [0, 1]
    cut = pipeline.forget(config, interactions=file, cut_only=True, group=group)
    assert cut["affected_partitions"] == [owner[0][pair[0]]] and cut["touched_nodes"] == 0


def users_rows(session, version, k):
    """The rows of E0 of a partition's users, by node."""
    users = load_shard(session.store, version["graph"], k).user_ids.tolist()
    rows = load(session.store.read(version["model"]["embeddings"][k]))["e0"]
    return dict(zip(users, rows[: len(users)], strict=True))


def id_maps(session, version):
    return [load_ids(session.store, version["graph"], side) for side in ("user", "item")]


def write_pair(folder, event):
    path = folder / "pair.parquet"
    pq.write_table(pa.table({"user_id": [event[0]], "item_id": [event[1]]}), path)
    return str(path)


def test_around_is_refused_where_there_is_none(tmp_path):
    config = parse_config({"interactions": "x", "output": str(tmp_path), "influence": {"around": True}})
    dense = {"version": 1, "model": {"backbone": {"name": "ngcf"}, "dense": "versions/000001/dense.safetensors"}}
    with pytest.raises(InputError, match=r"needs a backbone without dense weights .*ngcf"):
        _check_around(config, dense)
    linear = {"version": 1, "model": {"backbone": {"name": "simgcl"}, "dense": None}}
    _check_around(config, linear)
    published = config.model_copy(update={"pretrain": config.pretrain.model_copy(update={"objective": "published"})})
    with pytest.raises(InputError, match="objective=counterfactual"):
        _check_around(published, linear)
