"""The gains of an encoder: how large the changes of a request's rows are, by what else it takes from their nodes."""

import pytest
import spmd
import spmd_forget
import torch

from unlearnrec.distributed.backbones import BACKBONES
from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.encoder.changes import influence, removed_counts
from unlearnrec.distributed.encoder.gains import calibrate, gains_of
from unlearnrec.distributed.encoder.influence import MOST_REMOVED, InfluenceEncoder, removed_share
from unlearnrec.distributed.graph.removal import Removal, Simulated

GRAPH = spmd.local_graph(Comm())
NODES = spmd_forget.node_rows(GRAPH, spmd_forget.start(GRAPH), "lightgcn")
BACKBONE = BACKBONES["lightgcn"](spmd_forget.SIZE, 2, seed=3)
REMOVALS = [
    Removal(simulated=(Simulated(9, 0, share=0.03),)),
    Removal(simulated=(Simulated(9, 1, users=0.2, most_of_users=0.8, items=(1, 2, 3, 4), most_of_items=0.6),)),
]
GAINS = torch.tensor([[1.2, -0.4, 0.3], [0.9, 0.2, -0.3]])


def encoder_with(gains: torch.Tensor) -> InfluenceEncoder:
    """An encoder with these gains [2, 3]: the first, and what the removed shares of the own and of the other end add."""
    encoder = InfluenceEncoder(1, hidden=8, seed=5, size=spmd_forget.SIZE, gain_by_share=1)
    assert encoder.gain_by_share is not None
    encoder.gain.copy_(gains[:, 0])
    encoder.gain_by_share.copy_(gains[:, 1:])
    return encoder


def changed(removal: Removal, encoder: InfluenceEncoder, times: float = 1.0) -> torch.Tensor:
    """The rows of E0 if the interactions of this removal are forgotten."""
    pairs = (torch.from_numpy(x) for x in removal.pairs(GRAPH.shard))
    rows, change = influence(GRAPH, NODES, encoder, *pairs)
    return NODES.e0.index_add(0, rows, times * change)


def test_gains_by_share_are_found_again() -> None:
    """Runs that change rows as an encoder with gains by share has these gains."""
    targets = [(removal, changed(removal, encoder_with(GAINS))) for removal in REMOVALS]
    for order in (targets, targets[::-1]):
        encoder = encoder_with(torch.ones(2, 3))
        assert calibrate(GRAPH, BACKBONE, NODES, encoder, order) == pytest.approx((1.2, 0.9), abs=0.05)
        torch.testing.assert_close(gains_of(encoder), GAINS.double(), atol=0.05, rtol=0)


def test_a_gain_depends_on_what_else_is_removed_of_both_ends() -> None:
    """Of two interactions of a user, one with an item that loses nothing else: the user's change is the sum over both."""
    removal = REMOVALS[1]
    users, items = (torch.from_numpy(x) for x in removal.pairs(GRAPH.shard))
    counts = removed_counts(GRAPH, users, items)
    share = removed_share(counts, NODES.degree) / MOST_REMOVED
    assert share.max() == 1 and (share[counts > 0] < 1).sum() > 0
    own = encoder_with(torch.tensor([[1.0, 0.5, 0.0], [1.0, -0.5, 0.0]]))
    plain, more = (
        changed(removal, encoder) - NODES.e0
        for encoder in (encoder_with(GAINS.new_ones(2, 3) * torch.tensor([1.0, 0, 0])), own)
    )
    by_side = torch.where(torch.arange(GRAPH.num_rows) < GRAPH.num_local_users, 0.5, -0.5)
    torch.testing.assert_close(more, plain * (1 + by_side * share)[:, None])


def test_a_single_interaction_has_the_first_gain() -> None:
    pair = tuple(torch.from_numpy(x[:1]) for x in spmd.pairs())
    alone, without = (
        influence(GRAPH, NODES, encoder_with(g), *pair)[1] for g in (GAINS, GAINS * torch.tensor([1.0, 0, 0]))
    )
    assert alone.any() and torch.equal(alone, without)


@pytest.mark.parametrize("times", [-20.0, 0.0, 20.0])
def test_no_gain_leaves_its_limits_whatever_is_removed(times: float) -> None:
    targets = [(removal, changed(removal, encoder_with(GAINS), times)) for removal in REMOVALS]
    encoder = encoder_with(GAINS)
    calibrate(GRAPH, BACKBONE, NODES, encoder, targets)
    corners = torch.tensor([[1.0, own, other] for own in (0, 1) for other in (0, 1)], dtype=torch.float64)
    found = gains_of(encoder) @ corners.T
    assert found.min() >= 0.25 - 1e-6 and found.max() <= 3 + 1e-6


def test_an_encoder_of_format_5_has_one_gain_a_side() -> None:
    encoder = InfluenceEncoder(1, hidden=8, seed=5, size=spmd_forget.SIZE, common=1)
    assert "gain_by_share" not in encoder.state_dict()
    newer = InfluenceEncoder(1, hidden=8, seed=5, size=spmd_forget.SIZE, common=1, gain_by_share=1)
    newer.load_state_dict({**newer.state_dict(), **encoder.state_dict()})
    assert torch.equal(changed(REMOVALS[0], encoder), changed(REMOVALS[0], newer))
