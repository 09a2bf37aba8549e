"""Counterfactual runs that are forked from the original on its way: how much further whole runs would have gone.

A run that leaves a request out from the first epoch on moves the scores of the request's interactions further than one that
leaves it out for the last epochs only. How much further is estimated from the fork's own growth, and the changes of its rows
are stretched by that (docs/encoder.md).

Shape legend: N = local rows, d = embedding size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backbones import Backbone
from ..graph.local_graph import LocalGraph
from ..graph.removal import Removal
from ..measures.ranking import pair_scores
from .influence import NodeRows

SLOWS_TO = 2 / 3
"""The part of its exponent with which the growth of a fork goes on. Growth slows down with every epoch: in five forks on
MovieLens-1M the exponent went on with .6 to .75 of what it had been (docs/log.md)."""
_LEAST_PART = 0.2
"""The least part of a change of scores that the rows must have, beyond what the missing edges do, for its size to say by how
much they have to be stretched."""


@dataclass(frozen=True)
class Fork:
    """The epochs of forked runs: they began after `after` of `epochs`, and were looked at after `halfway`."""

    epochs: int
    after: int
    halfway: int

    @classmethod
    def of(cls, epochs: int, share: float) -> Fork | None:
        """A fork after this share of the epochs, rounded down. None: runs are whole. So it is if that is no epoch, or leaves
        fewer than two, between which growth can be seen."""
        after = int(epochs * share)
        if not after or epochs - after < 2:
            return None
        return cls(epochs, after, after + (epochs - after) // 2)

    @property
    def times(self) -> float:
        """How many times as many epochs a whole run has."""
        return self.epochs / (self.epochs - self.after)

    def whole(self, grown: float) -> float:
        """How many times as large the change of scores would be in a whole run. grown: the part of the fork's change that
        was there at `halfway`.

        Where it grew with the power p of the epochs, it is taken to grow with the power p * SLOWS_TO from there on. It is
        taken to grow at most in proportion to the epochs.
        """
        length = self.epochs - self.after
        part = (self.halfway - self.after) / length
        power = math.log(min(1.0, max(part, grown))) / math.log(part)
        return self.times ** (SLOWS_TO * power)


@torch.no_grad()
def as_whole(
    graph: LocalGraph,
    backbone: Backbone,
    nodes: NodeRows,
    removal: Removal,
    fork: Fork,
    forked: tuple[Tensor, Tensor],
    halfway: tuple[Backbone, Tensor],
) -> Tensor:
    """The rows [N, d] that the whole run without `removal` is estimated to have. All ranks call it.

    nodes: of the original. forked: (rows [N, d] of the fork at its end, rows at `fork.halfway`). halfway: (backbone with its
    dense weights, rows) of the original at `fork.halfway`.
    """
    pairs = removal.pairs(graph.shard)
    users, items = (torch.from_numpy(x).to(nodes.e0.device) for x in pairs)
    rest = graph.without(*pairs)

    def mean_scores(on: LocalGraph, model: Backbone, e0: Tensor) -> float:
        found = pair_scores(on, model.readout(e0, on.propagation), users, items)[1].double()
        sums = torch.stack([found.sum(), torch.tensor(float(len(found)), dtype=torch.float64, device=found.device)])
        total, count = graph.comm.all_reduce(sums).tolist()
        return total / max(count, 1.0)

    before, end, cut = (
        mean_scores(graph, backbone, nodes.e0),
        mean_scores(rest, backbone, forked[0]),
        mean_scores(rest, backbone, nodes.e0),
    )
    earlier = mean_scores(rest, halfway[0], forked[1]) - mean_scores(graph, *halfway)
    moved, by_edges = end - before, cut - before
    whole = fork.whole(earlier / moved) if moved else 1.0
    # The missing edges change scores by themselves, whatever the rows do: only the rest has to grow.
    by_rows = moved - by_edges
    stretch = (whole * moved - by_edges) / by_rows if abs(by_rows) > _LEAST_PART * abs(moved) else whole
    return nodes.e0 + min(max(stretch, 1.0), fork.times**2) * (forked[0] - nodes.e0)
