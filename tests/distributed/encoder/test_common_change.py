"""What a counterfactual run does to all nodes alike: taken out of what is learned, added by the size of a request."""

import pytest
import spmd
import spmd_forget
import torch

from unlearnrec.distributed.backbones import BACKBONES
from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.encoder import common_change
from unlearnrec.distributed.encoder.changes import influence, removed_counts
from unlearnrec.distributed.encoder.common_change import share_of, without_common_change, without_linear_change
from unlearnrec.distributed.encoder.gains import calibrate, explained_shifts
from unlearnrec.distributed.encoder.influence import InfluenceEncoder
from unlearnrec.distributed.graph.removal import Removal, Simulated
from unlearnrec.distributed.processes import run_processes

REMOVAL = Removal(simulated=(Simulated(9, 0, share=0.05),))
GRAPH = spmd.local_graph(Comm())
NODES = spmd_forget.node_rows(GRAPH, spmd_forget.start(GRAPH), "lightgcn")
BACKBONE = BACKBONES["lightgcn"](spmd_forget.SIZE, 2, seed=3)
REMOVED = [torch.from_numpy(x) for x in REMOVAL.pairs(GRAPH.shard)]
SHARE = len(REMOVED[0]) / len(spmd.pairs()[0])
TOUCHED = removed_counts(GRAPH, *REMOVED) > 0
USERS = torch.arange(GRAPH.num_rows) < GRAPH.num_local_users


@pytest.fixture(autouse=True)
def few_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common_change, "LEAST_NODES", 5)


def run() -> tuple[torch.Tensor, torch.Tensor]:
    """(rows of a run in which users' rows are shorter and items' rows longer, the change of touched rows beyond that)."""
    own = torch.randn(NODES.e0.shape, generator=torch.Generator().manual_seed(1)) * TOUCHED[:, None]
    return NODES.e0 * torch.where(USERS, 0.95, 1.03)[:, None] + own, own


def left_of(removal: Removal, e0: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    [(same, rows)], common = without_common_change(GRAPH, NODES, [(removal, e0)])
    assert same is removal
    return rows, common


def test_what_is_left_is_what_the_request_does() -> None:
    e0, own = run()
    assert 0 < TOUCHED.sum() < len(TOUCHED) and share_of(GRAPH, REMOVED[0]) == pytest.approx(SHARE)
    rows, common = left_of(REMOVAL, e0)
    torch.testing.assert_close(rows, NODES.e0 + own)
    torch.testing.assert_close(common, torch.tensor([-0.05, 0.03]) / SHARE)


def test_changes_of_all_kinds_at_other_nodes_say_nothing() -> None:
    """What other nodes do beside it, at right angles to their rows, changes nothing for the request's nodes."""
    e0, own = run()
    noise = torch.randn(e0.shape, generator=torch.Generator().manual_seed(2)) * ~TOUCHED[:, None]
    noise -= (noise * NODES.e0).sum(1, keepdim=True) / (NODES.e0**2).sum(1, keepdim=True) * NODES.e0
    torch.testing.assert_close(left_of(REMOVAL, e0 + noise)[0], NODES.e0 + own + noise)


def test_where_hardly_a_node_is_left_alone_rows_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    e0, _ = run()
    everything = Removal(simulated=(Simulated(9, 0, share=1.0),))
    assert torch.equal(left_of(everything, e0)[0], e0)
    monkeypatch.setattr(common_change, "LEAST_NODES", len(TOUCHED))
    rows, common = left_of(REMOVAL, e0)
    assert torch.equal(rows, e0) and not common.any()


def test_nodes_and_interactions_are_counted_over_all_partitions() -> None:
    """There are enough users in both partitions together, and not enough items."""
    for found in (spmd_forget.common_multiples(Comm()), *run_processes(2, spmd_forget.common_multiples)):
        torch.testing.assert_close(found, torch.tensor([0.3, 0.0]))


def test_a_request_changes_its_rows_by_its_share() -> None:
    encoder = InfluenceEncoder(1, hidden=8, seed=5, size=spmd_forget.SIZE, common=True)
    assert encoder.common is not None
    encoder.common.copy_(torch.tensor([-1.0, 2.0]))
    rows, change = influence(GRAPH, NODES, encoder, *REMOVED)
    same, more = influence(GRAPH, NODES, encoder, *REMOVED, share=0.1)
    assert torch.equal(rows, same)
    torch.testing.assert_close(more - change, torch.where(USERS[rows], -0.1, 0.2)[:, None] * NODES.e0[rows])


def test_an_encoder_of_format_4_has_no_such_part() -> None:
    encoder = InfluenceEncoder(1, hidden=8, seed=5, size=spmd_forget.SIZE)
    assert "common" not in encoder.state_dict()
    alone, with_share = (influence(GRAPH, NODES, encoder, *REMOVED, share=share)[1] for share in (0.0, 0.1))
    assert torch.equal(alone, with_share)


def test_gains_scale_what_comes_beside_it() -> None:
    """A run that changes rows by what is common and 1.3 times as the encoder says has gains of 1.3."""
    encoder = InfluenceEncoder(1, hidden=8, seed=5, size=spmd_forget.SIZE, common=True)
    assert encoder.common is not None
    encoder.common.copy_(torch.tensor([-1.0, 2.0]))
    rows, change = influence(GRAPH, NODES, encoder, *REMOVED)
    whole = influence(GRAPH, NODES, encoder, *REMOVED, share=SHARE)[1]
    target = NODES.e0.index_add(0, rows, 0.3 * change + whole)
    assert calibrate(GRAPH, BACKBONE, NODES, encoder, [(REMOVAL, target)]) == pytest.approx((1.3, 1.3), rel=1e-2)
    assert explained_shifts(GRAPH, BACKBONE, NODES, encoder, (REMOVAL, target)) == pytest.approx((1.0, 1.0), abs=1e-3)


def test_what_a_linear_map_does_to_all_nodes_is_taken_out_over_all_partitions() -> None:
    for found in ([spmd_forget.left_by_linear_map(Comm())], run_processes(2, spmd_forget.left_by_linear_map)):
        left, own = (torch.cat([part[k] for part in found]) for k in (1, 2))
        assert own.abs().max() > 0.05
        torch.testing.assert_close(left, own, atol=1e-4, rtol=0)


def test_without_enough_nodes_no_linear_map_is_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common_change, "LEAST_NODES", len(TOUCHED))
    e0, _ = run()
    assert torch.equal(without_linear_change(GRAPH, NODES, [(REMOVAL, e0)])[0][1], e0)
