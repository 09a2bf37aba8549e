"""An encoder that is carried over to another model: what is made again, and how well it does there."""

from __future__ import annotations

import pytest
import spmd
import spmd_forget
import torch

from unlearnrec.distributed.backbones import BACKBONES
from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.encoder.carry import LEAST_R2, make_statistics_again
from unlearnrec.distributed.encoder.changes import ends_by_side, influence
from unlearnrec.distributed.encoder.gains import explained_shifts
from unlearnrec.distributed.encoder.influence import InfluenceEncoder, features
from unlearnrec.distributed.encoder.second_order import whitening
from unlearnrec.distributed.graph.removal import Removal, Simulated

REQUEST = Simulated(3, 0, share=0.2)
GRAPH = spmd.local_graph(Comm())
NODES = spmd_forget.node_rows(GRAPH, spmd_forget.start(GRAPH), "lightgcn")
BACKBONE = BACKBONES["lightgcn"](spmd_forget.SIZE, 2, seed=3)
USERS, ITEMS = (torch.from_numpy(x) for x in Removal(simulated=(REQUEST,)).pairs(GRAPH.shard))


@pytest.mark.parametrize(("times", "does_well"), [(1.0, True), (1.3, True), (-1.0, False)])
def test_a_retrain_that_does_as_the_encoder_says_is_explained(times: float, does_well: bool) -> None:
    encoder = spmd_forget.encoder_for(NODES)
    rows, change = influence(GRAPH, NODES, encoder, USERS, ITEMS)
    target = NODES.e0.index_add(0, rows, times * change)
    found = explained_shifts(GRAPH, BACKBONE, NODES, encoder, (Removal(simulated=(REQUEST,)), target))
    assert (found > LEAST_R2) == does_well
    assert found == pytest.approx(1.0) if times == 1 else found < 0.99
    # One that changes no row is as good as cutting the edges.
    encoder.gain.zero_()
    assert explained_shifts(GRAPH, BACKBONE, NODES, encoder, (Removal(simulated=(REQUEST,)), target)) == 0


def test_the_statistics_are_those_of_the_new_model_and_the_weights_stay() -> None:
    encoder = InfluenceEncoder(1, hidden=32, seed=5, size=spmd_forget.SIZE)
    before = {name: x.clone() for name, x in encoder.state_dict().items()}
    make_statistics_again(GRAPH, BACKBONE, NODES, encoder, [REQUEST], seed=0)
    for side, view in zip((encoder.users, encoder.items), ends_by_side(GRAPH, NODES, USERS, ITEMS), strict=True):
        values = features(view.own, view.other, view.removed_share)
        torch.testing.assert_close(side.mean, values.mean(0))
        torch.testing.assert_close(side.deviation, values.std(0, unbiased=False))
    changed = {name for name, x in encoder.state_dict().items() if not torch.equal(x, before[name])}
    assert changed == {
        "whitening",
        *(f"{side}.{what}" for side in ("users", "items") for what in ("mean", "deviation")),
    }
    assert encoder.whitening is not None and torch.equal(encoder.whitening, whitening(GRAPH, NODES))
