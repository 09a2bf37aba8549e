"""An encoder that is carried over to another model: what is made again, and how well it does there."""

from __future__ import annotations

import math

import pytest
import spmd
import spmd_forget
import torch

from unlearnrec.distributed.backbones import BACKBONES
from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.encoder.carry import does_well, make_statistics_again
from unlearnrec.distributed.encoder.changes import ends_by_side, influence
from unlearnrec.distributed.encoder.forks import Fork
from unlearnrec.distributed.encoder.gains import explained_shifts
from unlearnrec.distributed.encoder.influence import InfluenceEncoder, features
from unlearnrec.distributed.encoder.second_order import whitening
from unlearnrec.distributed.graph.removal import Removal, Simulated

REQUEST = Simulated(3, 0, share=0.2)
FORK = Fork(epochs=12, after=10, halfway=11)
GRAPH = spmd.local_graph(Comm())
NODES = spmd_forget.node_rows(GRAPH, spmd_forget.start(GRAPH), "lightgcn")
BACKBONE = BACKBONES["lightgcn"](spmd_forget.SIZE, 2, seed=3)
USERS, ITEMS = (torch.from_numpy(x) for x in Removal(simulated=(REQUEST,)).pairs(GRAPH.shard))


@pytest.mark.parametrize("times", [1.0, 1.3, 0.4, -1.0])
def test_a_retrain_that_does_as_the_encoder_says_is_explained(times: float) -> None:
    encoder = spmd_forget.encoder_for(NODES)
    rows, change = influence(GRAPH, NODES, encoder, USERS, ITEMS)
    target = NODES.e0.index_add(0, rows, times * change)
    r2, factor = explained_shifts(GRAPH, BACKBONE, NODES, encoder, (Removal(simulated=(REQUEST,)), target))
    assert (r2, factor) == (pytest.approx(1.0, abs=0.2), pytest.approx(times, rel=0.4))
    assert does_well(r2, factor, FORK) == (times > 0)
    # One that changes no row explains nothing, by no factor.
    encoder.gain.zero_()
    assert all(
        map(math.isnan, explained_shifts(GRAPH, BACKBONE, NODES, encoder, (Removal(simulated=(REQUEST,)), target)))
    )


def test_an_encoder_that_moves_rows_anyhow_does_badly() -> None:
    encoder = spmd_forget.encoder_for(NODES)
    rows, change = influence(GRAPH, NODES, encoder, USERS, ITEMS)
    noise = torch.randn(change.shape, generator=torch.Generator().manual_seed(0)) * change.norm(dim=1, keepdim=True)
    target = NODES.e0.index_add(0, rows, noise)
    assert not does_well(
        *explained_shifts(GRAPH, BACKBONE, NODES, encoder, (Removal(simulated=(REQUEST,)), target)), FORK
    )


@pytest.mark.parametrize(
    ("r2", "factor", "well"),
    [
        (0.9, 1.0, True),
        (0.9, 0.17, True),
        (0.9, 0.02, False),
        (0.9, 40, False),
        (0.1, 1.0, False),
        (math.nan, math.nan, False),
    ],
)
def test_the_factor_is_one_by_which_a_fork_may_be_stretched(r2: float, factor: float, well: bool) -> None:
    assert does_well(r2, factor, FORK) == well


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
