"""The training data of an Influence Encoder: nodes of counterfactual runs, with what is known of their removed interactions
and the change that each node needs.

Directions take m times five and two more rows for each interaction, about 1.8 kB. So on a large graph only a sample of
the nodes are examples. Shape legend: g = targets of this rank, one for each chosen node of each counterfactual, n =
removed interactions of these nodes, F = features, k = directions, N = local rows, d = embedding size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..backbones import Backbone
from ..graph.keyed import EXAMPLE, keyed, keyed_uniform
from ..graph.local_graph import LocalGraph
from ..graph.removal import Removal
from .changes import ends_by_side, removed_counts
from .influence import NodeRows, across, directions, features

EXAMPLES = 131_072
"""The number of removed interactions, for each side and over all counterfactuals and ranks, above which only a sample of
the nodes is used. MovieLens-1M and Gowalla stay below it."""


@dataclass(frozen=True)
class Examples:
    """The training data of one side on this rank.

    Shapes: features [n, F] and directions [n, k, d] of the interactions; target int64 [n], ascending: the index
    of each interaction's target; needed [g, d]: the change that each target needs; key int64 [g]: a hash of its node.
    """

    features: Tensor
    directions: Tensor
    target: Tensor
    needed: Tensor
    key: Tensor


def make_examples(
    graph: LocalGraph,
    backbone: Backbone,
    nodes: NodeRows,
    counterfactuals: list[tuple[Removal, Tensor]],
    of_readouts: bool = False,
    seed: int = 0,
    most: int = EXAMPLES,
    hub_degree: int | None = None,
    whitening: Tensor | None = None,
    turning: bool = False,
) -> tuple[Examples, Examples]:
    """(examples of users, examples of items) from counterfactuals: (removal, E0 [N, d] of the run without it). All
    ranks call it.

    The needed change is that of the node's row of E0. With `of_readouts` it is that of its readout before its length is
    scaled, beyond what the missing edges alone change.

    most: about how many interactions a side may have, over all ranks. If there are more, nodes are drawn, each with all
    its interactions; the draw is keyed by seed, counterfactual and node, so it is the same for any number of
    partitions. hub_degree: that of the encoder. whitening: its matrices (`second_order.whitening`), None where it has
    none. turning: whether directions and needed changes are taken `across` the nodes' rows, as the encoder's changes are.
    """
    parts: tuple[list[Examples], list[Examples]] = ([], [])
    ids = torch.cat([graph.user_ids, graph.item_ids])
    removed = [tuple(torch.from_numpy(x).to(nodes.e0.device) for x in r.pairs(graph.shard)) for r, _ in counterfactuals]
    # Each interaction is counted by the owner of its user, and has one end on either side.
    mine = sum(int((graph.user_rows(users) >= 0).sum()) for users, _ in removed)
    total = int(graph.comm.all_reduce(torch.tensor([mine], device=graph.comm.device)))
    share = min(1.0, most / max(total, 1))
    for number, ((removal, e0), (users, items)) in enumerate(zip(counterfactuals, removed, strict=True)):
        moved = e0 - nodes.e0
        if of_readouts:
            with torch.no_grad():
                moved = backbone(moved, graph.without(*removal.pairs(graph.shard)).propagation)
        counts = removed_counts(graph, users, items)
        if share < 1:
            # Both owners of an interaction find whether it is needed, whichever end the chosen node is.
            ends = (keyed_uniform(seed, EXAMPLE, number, side, x) < share for side, x in enumerate((users, items)))
            wanted = torch.stack(list(ends)).any(0)
            users, items = users[wanted], items[wanted]
        for side, view in enumerate(ends_by_side(graph, nodes, users, items, counts)):
            if share < 1:
                view = view.select(keyed_uniform(seed, EXAMPLE, number, side, ids[view.rows]) < share)
            rows, target = torch.unique_consecutive(view.rows, return_inverse=True)
            needed = moved[rows]
            key = keyed(side, ids[rows]) if len(rows) else rows
            matrices = None if whitening is None else whitening[side]
            inputs = features(view.own, view.other, view.removed_share)
            ways = directions(view.own, view.other, hub_degree, matrices)
            if turning:
                ways, needed = across(view.own.e0, ways), across(nodes.e0[rows], needed)
            parts[side].append(Examples(inputs, ways, target, needed, key))
    joined = []
    for side_parts in parts:
        offsets = torch.tensor([len(p.needed) for p in side_parts]).cumsum(0).tolist()
        target = torch.cat([p.target + o for p, o in zip(side_parts, [0, *offsets[:-1]], strict=True)])
        columns = [
            torch.cat([getattr(p, name) for p in side_parts]) for name in ("features", "directions", "needed", "key")
        ]
        joined.append(Examples(columns[0], columns[1], target, columns[2], columns[3]))
    return joined[0], joined[1]
