"""How far forked counterfactual runs are stretched."""

from __future__ import annotations

import pytest
import spmd
import torch

from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.encoder.forks import Fork, as_whole
from unlearnrec.distributed.encoder.influence import NodeRows
from unlearnrec.distributed.graph.removal import Removal
from unlearnrec.distributed.measures.ranking import pair_scores
from unlearnrec.distributed.training.trainer import Trainer

FORK = Fork(epochs=12, after=6, halfway=9)
USERS, ITEMS = (x[::9] for x in spmd.pairs())
WITHOUT = Removal(pair_users=USERS, pair_items=ITEMS)


def test_a_fork_leaves_two_epochs_between_which_growth_is_seen() -> None:
    assert Fork.of(12, 0.5) == FORK
    assert Fork.of(10, 0.5) == Fork(10, 5, 7) and Fork.of(3, 0.5) == Fork(3, 1, 2)
    assert Fork.of(12, 0.0) is Fork.of(1, 0.5) is Fork.of(2, 0.5) is Fork.of(4, 0.9) is None


# What was there half way of a fork on MovieLens-1M, and how many times as far the whole run moved (docs/log.md).
@pytest.mark.parametrize(
    ("fork", "grown", "whole"),
    [
        (FORK, 0.753, 1.235),  # 1% at random
        (FORK, 0.844, 1.111),  # the tilted request
        (Fork(6, 3, 4), 0.511, 1.310),  # 5% at random
        (Fork(6, 3, 4), 0.536, 1.302),  # 1% at random
        (Fork(6, 3, 4), 0.661, 1.144),  # the tilted request
    ],
)
def test_growth_tells_how_far_a_whole_run_goes(fork: Fork, grown: float, whole: float) -> None:
    assert fork.whole(grown) == pytest.approx(whole, rel=0.045)


def test_growth_beyond_belief_is_bounded() -> None:
    assert FORK.whole(1.0) == FORK.whole(1.3) == 1.0  # all was there half way
    most = 2 ** (2 / 3)
    assert FORK.whole(0.5) == FORK.whole(0.1) == FORK.whole(-2.0) == pytest.approx(most)


def test_rows_are_stretched_until_scores_go_as_far_as_a_whole_run() -> None:
    graph, comm = spmd.local_graph(Comm()), Comm()
    trainer = spmd.make_trainer(comm, "lightgcn", "pull", "torch", {}, None)
    for _ in range(8):
        trainer.run_epoch()
    backbone, e0 = trainer.backbone, trainer.table.rows.clone()
    z = trainer.readouts()
    nodes = NodeRows(e0, z, graph.neighbour_means(z), graph.degrees)
    # A fork whose rows shrink: half way two thirds of it were there.
    end, earlier = 0.8 * e0, 0.866 * e0
    stretched = as_whole(graph, backbone, nodes, WITHOUT, FORK, (end, earlier), (backbone, e0))
    users, items = torch.from_numpy(USERS), torch.from_numpy(ITEMS)
    rest = graph.without(USERS, ITEMS)

    def shift(rows: torch.Tensor) -> float:
        after = pair_scores(rest, backbone.readout(rows, rest.propagation), users, items)[1]
        return float((after - pair_scores(graph, z, users, items)[1]).mean())

    wanted = FORK.whole(shift(earlier) / shift(end)) * shift(end)
    assert shift(stretched) == pytest.approx(wanted, rel=0.1)
    assert abs(shift(stretched)) > 1.1 * abs(shift(end))
    # One number for all rows, along the fork's own change.
    factor = ((stretched - e0) / (end - e0)).flatten()
    assert torch.allclose(factor, factor[0].expand(len(factor)), rtol=1e-3)


def test_a_fork_that_changed_nothing_is_left_as_it_is() -> None:
    graph = spmd.local_graph(Comm())
    trainer: Trainer = spmd.make_trainer(Comm(), "lightgcn", "pull", "torch", {}, None)
    e0, z = trainer.table.rows.clone(), trainer.readouts()
    nodes = NodeRows(e0, z, graph.neighbour_means(z), graph.degrees)
    rows = as_whole(graph, trainer.backbone, nodes, Removal(), FORK, (e0, e0), (trainer.backbone, e0))
    assert torch.equal(rows, e0)
