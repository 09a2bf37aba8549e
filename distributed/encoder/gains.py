"""The gains of an Influence Encoder: how much the changes of users' and of items' rows are scaled (docs/encoder.md).

In a retrain the rows of a node's neighbours change as well. A request changes only the rows of its own nodes, which
therefore have to change a little more: less so where it also changes the nodes around, because it takes a larger share of
a node's interactions.

Shape legend: n = forgotten interactions, N = local rows, t = touched local rows, d = embedding size, c = numbers of a
side's gain: one, or with `gain_by_share` three (where no share is removed, and what a removed share of the own end and of
the other end adds).
"""

import copy
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
from .influence import MOST_REMOVED, InfluenceEncoder, NodeRows, removed_share

_GAIN_ROUNDS, _GAIN_STEP = 3, 0.05
_GAINS = (0.25, 3.0)
"""Lower and upper limit of the gains. On tiny graphs calibration is unreliable; the lower limit ensures that the rows
of neither side stay as they are."""
_STRATA = 32
"""Users whose degrees have the same integer part of their binary logarithm are a stratum. None has 2 ** 32 interactions."""
_OF_MEANS = 2.0
"""The weight of the means beside the squared errors."""
_HELD = 0.01
"""The weight, of squared relative errors, at which gains are held to be the same for all removed shares where the runs do
not tell."""
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
    """Set the encoder's gains for users and items, and return those where a request takes nothing else from a node.

    Gauss-Newton steps minimise, over the counterfactuals, the squared error of the changes of the forgotten pairs'
    scores, and that of the means of these changes over users of about the same degree, each relative to what is needed.
    The attack depends on the means. Least squares alone would deliver too little of them: the noisier the targets are,
    the less. All ranks call it, with the counterfactuals of the fit: (removal, E0 [N, d] of the run without it).

    An encoder that turns rows (`InfluenceEncoder.across`) gets the same gain for both sides: where two trainings drift apart
    as much as there, two gains fit their noise (docs/log.md).

    Raises:
        InputError: scores are too large for gains that are numbers.
    """
    probes = [_Probe.of(graph, backbone, nodes, encoder, *counterfactual) for counterfactual in counterfactuals]
    gains = torch.zeros_like(gains_of(encoder))
    gains[:, 0] = 1
    held = torch.zeros_like(gains)
    held[:, 1:] = _HELD
    for _ in range(_GAIN_ROUNDS):
        normal, right = torch.diag(held.flatten()), -(held * gains).flatten()
        for probe in probes:
            # Every rank sees the same sums, and so takes the same steps.
            products, strata = (graph.comm.all_reduce(sums) for sums in probe.sums(gains))
            if encoder.across:  # the mean over all users: those of few are noise where trainings drift apart
                strata = strata.sum(0, keepdim=True)
            size = gains.numel()
            squares = products[size, size].clamp(min=1e-30)
            normal += products[:-2, :-2] / squares
            right += products[:-2, -2] / squares
            # Where the mean of a stratum hardly needs to move, its relative error says nothing.
            number, of_needed, needed = strata[:, -1], strata[:, -2], strata[:, -3]
            mean = torch.maximum(needed**2, 0.01 * number * of_needed).clamp(min=1e-30)
            weight = (1.0 if encoder.across else _OF_MEANS) * number / number.sum().clamp(min=1) / mean
            slope, error = strata[:, :-4], strata[:, -4]
            normal += (slope * weight[:, None]).T @ slope
            right += slope.T @ (weight * error)
        unit = torch.eye(len(normal), dtype=normal.dtype, device=normal.device)
        normal += 1e-6 * normal.trace().clamp(min=1e-30) * unit
        if encoder.across:
            step = (right.sum() / normal.sum()).expand_as(right)
        else:
            step = torch.linalg.solve(normal, right)
        gains = _bounded(gains + step.view_as(gains))
    if not are_finite([gains]):
        raise InputError(
            "the pre-training diverged: with the encoder's answers, scores of forgotten pairs are infinite or NaN. Lower "
            "pretrain.learning_rate, or train again with a lower train.learning_rate"
        )
    encoder.gain.copy_(gains[:, 0])
    if encoder.gain_by_share is not None:
        encoder.gain_by_share.copy_(gains[:, 1:])
    return float(gains[0, 0]), float(gains[1, 0])


def gains_of(encoder: InfluenceEncoder) -> Tensor:
    """The gains of an encoder as one matrix, float64 [2, c]."""
    columns = [encoder.gain[:, None]] + ([] if encoder.gain_by_share is None else [encoder.gain_by_share])
    return torch.cat(columns, dim=1).double()


def _bounded(gains: Tensor) -> Tensor:
    """The gains [2, c] within their limits, whatever shares a request removes."""
    first = gains[:, :1].clamp(*_GAINS)
    low, high = ((limit - first) / 2 for limit in _GAINS)  # two shares may be removed at once
    return torch.cat([first, gains[:, 1:].clamp(low, high)], dim=1)


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
    rest, gains = probe.rest(), gains_of(encoder)
    by_edges = probe.delivered(rest, torch.zeros_like(gains))
    needed, delivered = probe.needed - by_edges, probe.delivered(rest, gains) - by_edges
    sums = torch.stack([(needed * delivered).sum(), (delivered**2).sum(), (needed**2).sum()])
    product, of_delivered, of_needed = graph.comm.all_reduce(sums).tolist()
    if not (of_needed and of_delivered):
        return math.nan, math.nan
    factor = product / of_delivered
    return factor * product / of_needed, factor


@dataclass(frozen=True)
class _Probe:
    """The removed interactions of a counterfactual whose user this rank owns, and what the encoder does about all that have
    an end here. `before` [n]: their scores in the model; `needed` [n]: how much they change in the run without them.

    The graph without them is made when it is used: those of all counterfactuals at once may not fit in memory."""

    graph: LocalGraph
    removed: Pairs
    backbone: Backbone
    e0: Tensor
    """The rows [N, d] of the model."""
    rows: Tensor
    """The touched local rows, int64 [t], ascending."""
    changes: list[Tensor]
    """What the encoder changes with a gain of 1 [t, d]; and with `gain_by_share` the same where each interaction counts by
    the removed share of its other end."""
    share: Tensor
    """The removed shares of the touched nodes, as multiples of MOST_REMOVED [t, 1]."""
    common: Tensor
    """The multiples of their own rows by which they change without a gain (`InfluenceEncoder.common`) [t, 1]."""
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
        counts = removed_counts(graph, users, items)
        rows = torch.nonzero(counts)[:, 0]
        # The gain is linear in the shares, and the own share is the same for all interactions of a node.
        parts = [(1.0, 0.0)] if encoder.gain_by_share is None else [(1.0, 0.0), (0.0, 1.0)]
        changes = [
            _whole_change(graph, nodes, _with_gains(encoder, *part), users, items, counts)[rows] for part in parts
        ]
        share = removed_share(counts[rows], nodes.degree[rows]).to(nodes.e0.dtype)[:, None] / MOST_REMOVED
        common = torch.zeros_like(share)
        if encoder.common is not None:
            common = share_of(graph, users) * times_of_side(graph, rows, encoder.common)
        here = graph.user_rows(users) >= 0
        own = (users[here], items[here])
        before = pair_scores(graph, nodes.readout, *own)[1].double()
        probe = cls(graph, removed, backbone, nodes.e0, rows, changes, share, common, own, before, before)
        return replace(probe, needed=probe._scores(probe.rest(), target) - before)

    def rest(self) -> LocalGraph:
        """The graph without the removed interactions. All ranks call it."""
        return self.graph.without(*self.removed)

    def delivered(self, rest: LocalGraph, gains: Tensor) -> Tensor:
        """The change of the scores [n] with these gains [2, c]. rest: as `rest` makes it. All ranks call it."""
        gain = gains.to(self.e0.dtype)[(self.rows >= self.graph.num_local_users).long()]
        change = self.common * self.e0[self.rows] + gain[:, :1] * self.changes[0]
        if len(self.changes) > 1:
            change += gain[:, 1:2] * self.share * self.changes[0] + gain[:, 2:] * self.changes[1]
        return self._scores(rest, self.e0.index_add(0, self.rows, change)) - self.before

    def sums(self, gains: Tensor) -> tuple[Tensor, Tensor]:
        """What this rank adds to a step from these gains [2, c], float64. All ranks call it.

        Returns:
            (the products of the columns with one another [2 c + 2, 2 c + 2]: of the changes with each of the gains, of what
            they leave over, and of what is needed; for each stratum of users, the sums of the columns, of the squares of
            what is needed, and the number of pairs [_STRATA, 2 c + 4]).
        """
        rest = self.rest()
        now = self.delivered(rest, gains)
        steps = _GAIN_STEP * torch.eye(gains.numel(), dtype=gains.dtype, device=gains.device).view(-1, *gains.shape)
        slopes = [(self.delivered(rest, gains + step) - now) / _GAIN_STEP for step in steps]
        columns = torch.stack([*slopes, self.needed - now, self.needed], dim=1)
        degree = self.graph.degrees[self.graph.user_rows(self.pairs[0])]
        summed = torch.cat([columns, self.needed[:, None] ** 2, torch.ones_like(columns[:, :1])], dim=1)
        strata = columns.new_zeros(_STRATA, summed.shape[1])
        return columns.T @ columns, strata.index_add_(0, degree.double().log2().long(), summed)

    def _scores(self, rest: LocalGraph, e0: Tensor) -> Tensor:
        readout = self.backbone.readout(e0, rest.propagation)
        return pair_scores(rest, readout, *self.pairs)[1].double()


def _with_gains(encoder: InfluenceEncoder, gain: float, by_other: float) -> InfluenceEncoder:
    """A copy of the encoder with this gain on both sides, and this part of it by the removed share of the other end."""
    result = copy.deepcopy(encoder)
    result.gain.fill_(gain)
    if result.gain_by_share is not None:
        result.gain_by_share.copy_(torch.tensor([0.0, by_other]))
    return result


def _whole_change(
    graph: LocalGraph, nodes: NodeRows, encoder: InfluenceEncoder, users: Tensor, items: Tensor, counts: Tensor
) -> Tensor:
    """The change of E0 [N, d] if the interactions users, items [n] are forgotten, each of which has an end in this
    partition. counts: their `removed_counts`. It is computed in chunks, since a simulated request of a large graph has
    millions of interactions. All ranks call it."""
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
