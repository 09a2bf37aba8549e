"""What a counterfactual run changes at all nodes alike, and not because of interactions that they lose.

A training with less data ends with rows that are shorter along their old directions, also of nodes that have lost
nothing, in proportion to the share of the interactions that is left out. An encoder that learned this from a run
without many interactions would shorten rows for a small request too (docs/encoder.md#what-all-nodes-do). So it is taken
out of what an encoder learns, and added again in proportion to the size of a request.

A backbone with dense weights leaves the space of the rows to drift too: rows of all nodes then move by about one linear map,
which is taken out as a whole, and not added again.

Shape legend: N = local rows, users first, d = embedding size, c = d + 1 columns.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..graph.local_graph import LocalGraph
from ..graph.removal import Removal
from .changes import removed_counts, times_of_side
from .influence import NodeRows

LEAST_NODES = 200
"""The number of nodes of a side without a removed interaction, over all ranks, from which on they say what all nodes do.
With some 50 nodes of 8 columns what was found was noise, and a request did worse by it (docs/log.md)."""

_RIDGE = 0.1
"""Weight of the ridge of `without_linear_change`, relative to the mean diagonal. On MovieLens-1M, with NGCF, it was best of
five for nodes that the map was not fitted to (docs/log.md)."""


def share_of(graph: LocalGraph, users: Tensor) -> float:
    """The part of all interactions that some are, of which each rank has those with an end in its partition: users
    int64 [n], global ids. All ranks call it."""
    mine = (graph.user_rows(users) >= 0).sum()
    sums = graph.comm.all_reduce(torch.stack([mine.double(), graph.degrees[: graph.num_local_users].double().sum()]))
    return float(sums[0] / sums[1].clamp(min=1))


@torch.no_grad()
def without_common_change(
    graph: LocalGraph, nodes: NodeRows, counterfactuals: Sequence[tuple[Removal, Tensor]]
) -> tuple[list[tuple[Removal, Tensor]], Tensor]:
    """(the counterfactuals with rows [N, d] less what each run does to all nodes of a side alike, what that is of users and
    of items as a multiple of their rows and of the share that a run leaves out [2]). All ranks call it.

    nodes: of the original. counterfactuals: (removal, E0 [N, d] of the run without it). What all nodes do is the multiple
    of their own rows that is best, by least squares, for the changes of those that have interactions and lose none. Where
    fewer than LEAST_NODES are such nodes, nothing is known of their side, and its rows stay as they are.
    """
    rows = torch.arange(graph.num_rows, device=nodes.e0.device)
    left, products, squares = [], nodes.e0.new_zeros(2), nodes.e0.new_zeros(2)
    for removal, e0 in counterfactuals:
        users, items = (torch.from_numpy(x).to(e0.device) for x in removal.pairs(graph.shard))
        multiple, known = _multiples(graph, nodes, removed_counts(graph, users, items), e0)
        share = share_of(graph, users)
        products, squares = products + share * multiple, squares + share**2 * known
        left.append((removal, e0 - times_of_side(graph, rows, multiple) * nodes.e0))
    return left, products / squares.clamp(min=1e-30)


def _multiples(graph: LocalGraph, nodes: NodeRows, counts: Tensor, e0: Tensor) -> tuple[Tensor, Tensor]:
    """(the multiples of users' and of items' rows by which those without a removed interaction changed [2], 1 where they are
    known and 0 where not [2]). counts int64 [N]: removed interactions."""
    witness = (counts == 0) & (graph.degrees > 0)
    moved, own = (e0 - nodes.e0).double(), nodes.e0.double()
    columns = torch.stack([(moved * own).sum(1), (own**2).sum(1), torch.ones_like(own[:, 0])], dim=1) * witness[:, None]
    first_item = graph.num_local_users
    sums = graph.comm.all_reduce(torch.stack([columns[:first_item].sum(0), columns[first_item:].sum(0)]))
    known = (sums[:, 2] >= LEAST_NODES) & (sums[:, 1] > 0)
    multiple = torch.where(known, sums[:, 0] / sums[:, 1].clamp(min=1e-30), 0.0)
    return multiple.to(e0.dtype), known.to(e0.dtype)


@torch.no_grad()
def without_linear_change(
    graph: LocalGraph, nodes: NodeRows, counterfactuals: Sequence[tuple[Removal, Tensor]]
) -> list[tuple[Removal, Tensor]]:
    """The counterfactuals with rows [N, d] less what a linear map of the original's rows, and a constant, say of how they
    changed. All ranks call it.

    nodes, counterfactuals: as `without_common_change`. There is one map for each run and side, the solution of least squares
    with a ridge for the nodes that have interactions and lose none. Where there are fewer than LEAST_NODES of these, the
    side's rows stay as they are. The sums over all partitions are of float64, so that another number of partitions only
    rounds them differently.
    """
    columns = torch.cat([nodes.e0.double(), torch.ones(graph.num_rows, 1, dtype=torch.float64).to(nodes.e0.device)], 1)
    left = []
    for removal, e0 in counterfactuals:
        users, items = (torch.from_numpy(x).to(e0.device) for x in removal.pairs(graph.shard))
        witness = (removed_counts(graph, users, items) == 0) & (graph.degrees > 0)
        moved, rest = (e0 - nodes.e0).double(), e0.clone()
        for side in (slice(0, graph.num_local_users), slice(graph.num_local_users, graph.num_rows)):
            known, their = columns[side][witness[side]], moved[side][witness[side]]
            sums = graph.comm.all_reduce(known.T @ torch.cat([known, their], 1)).cpu()
            square, right = sums[:, : columns.shape[1]], sums[:, columns.shape[1] :]
            if square[-1, -1] < LEAST_NODES:  # the product of the ones: how many nodes there are
                continue
            ridge = _RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
            change = columns[side] @ torch.linalg.solve(square + ridge, right).to(e0.device)
            rest[side] -= change.to(e0.dtype)
        left.append((removal, rest))
    return left
