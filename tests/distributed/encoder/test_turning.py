"""Encoders that turn rows without making them longer or shorter."""

import pytest
import spmd
import spmd_forget
import torch

from unlearnrec.distributed.backbones import BACKBONES
from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.encoder.changes import influence
from unlearnrec.distributed.encoder.examples import make_examples
from unlearnrec.distributed.encoder.gains import calibrate
from unlearnrec.distributed.encoder.influence import InfluenceEncoder
from unlearnrec.distributed.encoder.second_order import whitening
from unlearnrec.distributed.graph.removal import Removal, Simulated

REMOVAL = Removal(simulated=(Simulated(9, 0, share=0.05),))
GRAPH = spmd.local_graph(Comm())
NODES = spmd_forget.node_rows(GRAPH, spmd_forget.start(GRAPH), "ngcf")
REMOVED = [torch.from_numpy(x) for x in REMOVAL.pairs(GRAPH.shard)]


def along(rows: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """The cosines of changes [n, d] and rows [n, d]."""
    return torch.cosine_similarity(rows, change, dim=-1).abs()


def changed(across: int) -> torch.Tensor:
    encoder = InfluenceEncoder(3, hidden=8, seed=5, size=spmd_forget.SIZE, across=across)
    rows, change = influence(GRAPH, NODES, encoder, *REMOVED)
    assert (change.norm(dim=1) > 0).all()
    return along(NODES.e0[rows], change)


def test_changes_are_across_the_rows() -> None:
    assert changed(0).mean() > 0.1
    assert changed(1).max() < 1e-5


def test_what_is_learned_is_what_the_encoder_can_do() -> None:
    """Directions and needed changes lie across the rows too, so that the fit spends nothing on what is taken away."""
    e0 = NODES.e0 + torch.randn(NODES.e0.shape, generator=torch.Generator().manual_seed(1))
    backbone = BACKBONES["ngcf"](spmd_forget.SIZE, 2, seed=3)
    matrices = whitening(GRAPH, NODES)

    def examples(turning: bool):
        return make_examples(GRAPH, backbone, NODES, [(REMOVAL, e0)], whitening=matrices, turning=turning)

    encoder = InfluenceEncoder(3, hidden=8, seed=5, size=spmd_forget.SIZE, across=1)
    encoder.use(matrices)
    rows, change = influence(GRAPH, NODES, encoder, *REMOVED)
    sides = rows < GRAPH.num_local_users, rows >= GRAPH.num_local_users
    modules = encoder.users, encoder.items
    for free, x, module, side in zip(examples(False), examples(True), modules, sides, strict=True):
        own = NODES.e0[rows[side]]
        assert along(own, x.needed).max() < 1e-4 < along(own, free.needed).mean()
        whole = (own * own).sum(1, keepdim=True)
        torch.testing.assert_close(x.needed, free.needed - (free.needed * own).sum(1, keepdim=True) / whole * own)
        terms = (module(x.features)[:, :, None] * x.directions).sum(1)
        found = torch.zeros_like(x.needed).index_add(0, x.target, terms)
        torch.testing.assert_close(found, change[side], atol=1e-5, rtol=1e-4)


def test_both_sides_have_one_gain() -> None:
    """A run that turns users' rows 1.6 times as far as the encoder says, and items' .8 times, has one gain in between."""
    backbone = BACKBONES["lightgcn"](spmd_forget.SIZE, 2, seed=3)
    nodes = spmd_forget.node_rows(GRAPH, spmd_forget.start(GRAPH), "lightgcn")
    encoder = InfluenceEncoder(1, hidden=8, seed=5, size=spmd_forget.SIZE, across=1)
    rows, change = influence(GRAPH, nodes, encoder, *REMOVED)
    times = torch.where(rows < GRAPH.num_local_users, 1.6, 0.8)[:, None]
    user, item = calibrate(GRAPH, backbone, nodes, encoder, [(REMOVAL, nodes.e0.index_add(0, rows, times * change))])
    assert user == item and 0.8 < user < 1.6
    same = nodes.e0.index_add(0, rows, 1.3 * change)
    assert calibrate(GRAPH, backbone, nodes, encoder, [(REMOVAL, same)])[0] == pytest.approx(1.3, rel=1e-2)
