"""The gains of an Influence Encoder: how much the changes of users' and of items' rows are scaled (docs/encoder.md).

In a retrain the rows of a node's neighbours change as well. A request changes only the rows of its own nodes, which
therefore have to change a little more.

Shape legend: n = forgotten interactions, N = local rows, d = embedding size.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...partitioning.errors import InputError
from ..backbones import Backbone
from ..graph.keyed import EXAMPLE_CHUNK, keyed_below
from ..graph.local_graph import LocalGraph
from ..graph.removal import Pairs, Removal
from ..measures.ranking import pair_scores
from ..training.finite import are_finite
from .changes import influence, removed_counts, times_of_side
from .common_change import share_of
from .influence import InfluenceEncoder, NodeRows

_GAIN_ROUNDS, _GAIN_STEP = 3, 0.05
_GAINS = (0.25, 3.0)
"""Lower and upper limit of the gains. On tiny graphs calibration is unreliable; the lower limit ensures that the rows
of neither side stay as they are."""
CHUNK_INTERACTIONS = 65_536
"""The number of interactions whose directions are in memory at once (about 5 kB each while they are added up)."""


@torch.no_grad()
def calibrate(
    graph: LocalGraph,
    backbone: Backbone,
    nodes: NodeRows,
    encoder: InfluenceEncoder,
    counterfactuals: list[tuple[Removal, Tensor]],
) -> tuple[float, float]:
    """Set the encoder's gains for users and items, and return them.

    Gauss-Newton steps minimise, over the counterfactuals, the squared error of the changes of the forgotten pairs'
    scores, and that of the mean of these changes, each relative to what is needed. The attack depends on the mean.
    Least squares alone would deliver too little of it: the noisier the targets are, the less. All ranks call it, with
    the counterfactuals of the fit: (removal, E0 [N, d] of the run without it).

    An encoder that turns rows (`InfluenceEncoder.across`) gets the same gain for both sides: where two trainings drift apart
    as much as there, two gains fit their noise (docs/log.md).

    Raises:
        InputError: scores are too large for gains that are numbers.
    """
    encoder.gain.fill_(1.0)
    probes = [_Probe.of(graph, backbone, nodes, encoder, *counterfactual) for counterfactual in counterfactuals]
    gains = torch.ones(2, dtype=torch.float64, device=nodes.e0.device)
    for _ in range(_GAIN_ROUNDS):
        normal, right = gains.new_zeros(2, 2), gains.new_zeros(2)
        for probe in probes:
            rest = probe.rest()
            error = probe.needed - probe.delivered(rest, gains)
            moved = torch.stack(
                [probe.delivered(rest, gains + step) for step in _GAIN_STEP * torch.eye(2, device=gains.device)]
            )
            del rest  # before the next one is made
            slope = (moved - (probe.needed - error)) / _GAIN_STEP
            # Every rank sees the same sums, and so takes the same steps.
            parts = [slope @ slope.T, slope @ error, slope.sum(1), error.sum(), (probe.needed**2).sum()]
            parts += [probe.needed.sum(), torch.tensor(len(error), device=error.device)]
            sums = graph.comm.all_reduce(torch.cat([part.reshape(-1).double() for part in parts]))
            squares, mean = sums[9].clamp(min=1e-30), sums[10] ** 2
            # Where the pairs' mean hardly needs to move, its relative error says nothing.
            mean = torch.maximum(mean, 0.01 * sums[11].clamp(min=1) * squares)
            normal += sums[:4].view(2, 2) / squares + sums[6:8].outer(sums[6:8]) / mean
            right += sums[4:6] / squares + sums[6:8] * sums[8] / mean
        ridge = 1e-6 * normal.trace().clamp(min=1e-30) * torch.eye(2, dtype=torch.float64, device=gains.device)
        if encoder.across:
            step = (right.sum() / (normal + ridge).sum()).expand(2)
        else:
            step = torch.linalg.solve(normal + ridge, right)
        gains = (gains + step).clamp(*_GAINS)
    if not are_finite([gains]):
        raise InputError(
            "the pre-training diverged: with the encoder's answers, scores of forgotten pairs are infinite or NaN. Lower "
            "pretrain.learning_rate, or train again with a lower train.learning_rate"
        )
    encoder.gain.copy_(gains)
    return float(gains[0]), float(gains[1])


@torch.no_grad()
def explained_shifts(
    graph: LocalGraph,
    backbone: Backbone,
    nodes: NodeRows,
    encoder: InfluenceEncoder,
    counterfactual: tuple[Removal, Tensor],
) -> tuple[float, float]:
    """How well the encoder as it is, gains included, tells the changes of the forgotten pairs' scores that a counterfactual
    needs beyond what the missing edges change by themselves. All ranks call it.

    counterfactual: (removal, E0 [N, d] of the run without it).

    Returns:
        (R2 of these changes where the encoder's may all be scaled by one factor: 1 is all of them, 0 as good as cutting the
        edges; that factor, which is negative where the encoder's point the other way). Both are NaN if no score has to
        change, or the encoder changes none.
    """
    probe = _Probe.of(graph, backbone, nodes, encoder, *counterfactual)
    rest, whole = probe.rest(), torch.ones(2, dtype=torch.float64, device=nodes.e0.device)
    by_edges = probe.delivered(rest, torch.zeros_like(whole))
    needed, delivered = probe.needed - by_edges, probe.delivered(rest, whole) - by_edges
    sums = torch.stack([(needed * delivered).sum(), (delivered**2).sum(), (needed**2).sum()])
    product, of_delivered, of_needed = graph.comm.all_reduce(sums).tolist()
    if not (of_needed and of_delivered):
        return math.nan, math.nan
    factor = product / of_delivered
    return factor * product / of_needed, factor


@dataclass(frozen=True)
class _Probe:
    """The removed interactions of a counterfactual whose user this rank owns. `before` [n]: their scores in the model;
    `needed` [n]: how much they change in the run without them.

    The graph without them is made when it is used: those of all counterfactuals at once may not fit in memory."""

    graph: LocalGraph
    removed: Pairs
    backbone: Backbone
    e0: Tensor
    """The rows [N, d] with what the encoder changes without a gain (`InfluenceEncoder.common`)."""
    change: Tensor
    """The other change of the rows [N, d], users first, without the gain."""
    pairs: tuple[Tensor, Tensor]
    before: Tensor
    needed: Tensor

    @classmethod
    def of(
        cls,
        graph: LocalGraph,
        backbone: Backbone,
        nodes: NodeRows,
        encoder: InfluenceEncoder,
        removal: Removal,
        target: Tensor,
    ) -> "_Probe":
        removed = removal.pairs(graph.shard)
        users, items = (torch.from_numpy(x).to(graph.comm.device) for x in removed)
        change = _whole_change(graph, nodes, encoder, users, items)
        here = graph.user_rows(users) >= 0
        own = (users[here], items[here])
        before = pair_scores(graph, nodes.readout, *own)[1].double()
        start = nodes.e0
        if encoder.common is not None:
            rows = torch.nonzero(removed_counts(graph, users, items))[:, 0]
            part = share_of(graph, users) * times_of_side(graph, rows, encoder.common) * nodes.e0[rows]
            start = nodes.e0.index_add(0, rows, part)
        probe = cls(graph, removed, backbone, start, change, own, before, before)
        return replace(probe, needed=probe._scores(probe.rest(), target) - before)

    def rest(self) -> LocalGraph:
        """The graph without the removed interactions. All ranks call it."""
        return self.graph.without(*self.removed)

    def delivered(self, rest: LocalGraph, gains: Tensor) -> Tensor:
        """The change of the scores [n] with these gains [2]. rest: as `rest` makes it."""
        first_item, (user, item) = self.graph.num_local_users, gains.to(self.e0.dtype)
        e0 = torch.cat([user * self.change[:first_item], item * self.change[first_item:]]).add_(self.e0)
        return self._scores(rest, e0) - self.before

    def _scores(self, rest: LocalGraph, e0: Tensor) -> Tensor:
        readout = self.backbone.readout(e0, rest.propagation)
        return pair_scores(rest, readout, *self.pairs)[1].double()


def _whole_change(
    graph: LocalGraph, nodes: NodeRows, encoder: InfluenceEncoder, users: Tensor, items: Tensor
) -> Tensor:
    """The change of E0 [N, d] if the interactions users, items [n] are forgotten, each of which has an end in this
    partition. It is computed in chunks, since a simulated request of a large graph has millions of interactions. All ranks
    call it."""
    counts = removed_counts(graph, users, items)
    largest = torch.tensor([len(users)], device=graph.comm.device)
    number = max(1, -(-int(graph.comm.all_reduce(largest)) // (graph.comm.size * CHUNK_INTERACTIONS)))
    # Both ranks that own an end of an interaction take it in the same chunk, because the draw is keyed.
    chunk = keyed_below(number, EXAMPLE_CHUNK, users, items)
    whole = torch.zeros_like(nodes.e0)
    for k in range(number):
        mine = chunk == k
        rows, change = influence(graph, nodes, encoder, users[mine], items[mine], counts)
        whole[rows] += change
    return whole
