"""How far a run moves what it kept, against what it left out."""

import math

import pytest
import spmd
import spmd_forget
import torch

from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.encoder import chaos
from unlearnrec.distributed.encoder.chaos import moves_of_kept
from unlearnrec.distributed.encoder.influence import NodeRows
from unlearnrec.distributed.graph.removal import Removal, Simulated
from unlearnrec.distributed.processes import run_processes


def test_kept_pairs_are_set_against_removed_ones_over_all_partitions() -> None:
    graph = spmd.local_graph(Comm())
    e0 = spmd_forget.start(graph)
    removed = Removal(simulated=(Simulated(9, 0, share=0.05),)).pairs(graph.shard)
    rest = graph.without(*removed)
    gone = [torch.from_numpy(x) for x in removed]

    def square(users: torch.Tensor, items: torch.Tensor) -> float:
        factor = torch.where(torch.isin(users, gone[0]), 0.3, 0.1)
        scores = (e0[graph.user_rows(users)] * e0[graph.item_rows(items)]).sum(1)
        return float(((factor * scores) ** 2).mean())

    expected = square(rest.pair_users.long(), rest.pair_items.long()) / square(*gone)
    assert 0.2 < expected < 2
    for found in (spmd_forget.kept_against_removed(Comm()), *run_processes(2, spmd_forget.kept_against_removed)):
        assert found == pytest.approx(expected, rel=1e-5)


def test_where_hardly_anything_is_left_out_or_kept_there_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = spmd.local_graph(Comm())
    e0 = spmd_forget.start(graph)
    nodes, backbone = NodeRows(e0, e0, e0, graph.degrees), spmd_forget.OwnRows(spmd_forget.SIZE, 1)
    for share in (0.0, 1.0):
        removal = Removal(simulated=(Simulated(9, 0, share=share),))
        assert math.isnan(moves_of_kept(graph, backbone, nodes, (removal, 2 * e0)))
    some = Removal(simulated=(Simulated(9, 0, share=0.05),))
    assert math.isnan(moves_of_kept(graph, backbone, nodes, (some, 2 * e0)))
    monkeypatch.setattr(chaos, "LEAST", 10)
    assert moves_of_kept(graph, backbone, nodes, (some, 2 * e0)) > 0
    assert math.isnan(moves_of_kept(graph, backbone, nodes, (some, e0)))
