"""Encoders that turn rows without making them longer or shorter."""

import spmd
import spmd_forget
import torch

from unlearnrec.distributed.backbones import BACKBONES
from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.encoder.changes import influence
from unlearnrec.distributed.encoder.examples import make_examples
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
