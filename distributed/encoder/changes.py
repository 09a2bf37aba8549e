"""What a deletion request changes on one partition: rows of E0, and the shard. Only ranks that own an end of a
forgotten interaction take part, unless rows of nodes around them change too (`around_influence`).

Shape legend: n = interactions with an end here, t = touched local rows, d = embedding size.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...partitioning.shard import GraphShard
from ..backbones import Backbone
from ..graph.local_graph import LocalGraph
from ..graph.lookup import add_by_row
from ..graph.removal import Ids, empty_nodes
from .around import solve_for_readouts
from .influence import AroundEncoder, InfluenceEncoder, NodeRows, removed_share


@dataclass(frozen=True)
class Ends:
    """Interactions seen from their ends on one side, users or items, that this partition owns.

    `rows` int64 [n]: the local rows of these ends, ascending. `own`, `other`: what is known about the ends and about
    the opposite ends. `removed_share` [n, 2]: `influence.removed_share` of both.
    """

    rows: Tensor
    own: NodeRows
    other: NodeRows
    removed_share: Tensor

    def select(self, chosen: Tensor) -> "Ends":
        """Those of the ends at these places."""
        own, other = self.own.select(chosen), self.other.select(chosen)
        return Ends(self.rows[chosen], own, other, self.removed_share[chosen])


def removed_counts(graph: LocalGraph, users: Tensor, items: Tensor) -> Tensor:
    """How many of the interactions users, items [n] (global ids) each local node has, int64 [N]."""
    rows = torch.cat([graph.user_rows(users), graph.item_rows(items)])
    return torch.bincount(rows[rows >= 0], minlength=graph.num_rows)


def ends_by_side(
    graph: LocalGraph, nodes: NodeRows, users: Tensor, items: Tensor, counts: Tensor | None = None
) -> tuple[Ends, Ends]:
    """(users' ends, items' ends) of the interactions users, items [n], global ids sorted by (user, item), each of which
    has an end in this partition.

    counts: the `removed_counts` of the whole request, if these interactions are only a part of it.

    Two ranks that own the two ends of an interaction send each other what they know about their ends. Both find the
    same interactions in the same order, so no other rank takes part.
    """
    owners = (graph.owner_of_user[users], graph.owner_of_item[items])
    rows = (graph.user_rows(users), graph.item_rows(items))
    me = graph.comm.rank
    peer = torch.where(owners[0] == me, owners[1], owners[0])
    size = nodes.e0.shape[1]
    # Whoever owns a node has all its interactions of the request.
    if counts is None:
        counts = removed_counts(graph, users, items)
    share = removed_share(counts, nodes.degree).to(nodes.e0.dtype)
    outgoing, incoming, places = {}, {}, {}
    for k in torch.unique(peer[peer != me]).tolist():
        places[k] = torch.nonzero(peer == k)[:, 0]
        here = torch.where(owners[0] == me, rows[0], rows[1])[places[k]]
        outgoing[k] = torch.cat([nodes.select(here).packed(), share[here, None]], dim=1)
        incoming[k] = torch.empty_like(outgoing[k])
    graph.comm.exchange(outgoing, incoming)
    views = []
    for side in (0, 1):
        far = nodes.e0.new_zeros((len(users), nodes.e0.shape[1] + nodes.readout.shape[1] + 2))
        local = torch.nonzero(peer == me)[:, 0]
        there = rows[1 - side][local]
        far[local] = torch.cat([nodes.select(there).packed(), share[there, None]], dim=1)
        for k, place in places.items():
            far[place] = incoming[k]
        mine = torch.nonzero(owners[side] == me)[:, 0]
        mine = mine[torch.argsort(rows[side][mine], stable=True)]
        own = rows[side][mine]
        both = torch.stack([share[own], far[mine, -1]], dim=1)
        views.append(Ends(own, nodes.select(own), NodeRows.unpacked(far[mine, :-1], size), both))
    return views[0], views[1]


@torch.no_grad()
def influence(
    graph: LocalGraph,
    nodes: NodeRows,
    encoder: InfluenceEncoder,
    users: Tensor,
    items: Tensor,
    counts: Tensor | None = None,
    share: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """(touched local rows int64 [t] ascending, their changes of E0 [t, d]) if the interactions users, items [n] are
    forgotten, each of which has an end in this partition.

    nodes: all local nodes in the current version, with the degrees from BEFORE the deletion. counts: as `ends_by_side`.
    share: the part of all interactions, over all partitions, that the whole request is. With it rows change too by what it
    does to all rows alike (`InfluenceEncoder.common`).
    """
    views = ends_by_side(graph, nodes, users, items, counts)
    touched = torch.unique(torch.cat([view.rows for view in views]))
    change = nodes.e0.new_zeros((len(touched), nodes.e0.shape[1]))
    for side, view in enumerate(views):
        if len(view.rows):
            terms = encoder.change(side, view.own, view.other, view.removed_share)
            add_by_row(torch.searchsorted(touched, view.rows), terms, change)
    if encoder.common is not None and share:
        change += share * times_of_side(graph, touched, encoder.common) * nodes.e0[touched]
    return touched, change


def times_of_side(graph: LocalGraph, rows: Tensor, values: Tensor) -> Tensor:
    """For local rows [t], the one of two values [2] that is for their side, users or items, as a column [t, 1]."""
    return values[(rows >= graph.num_local_users).long()][:, None]


@torch.no_grad()
def around_influence(
    graph: LocalGraph, backbone: Backbone, nodes: NodeRows, encoder: AroundEncoder, users: Tensor, items: Tensor
) -> tuple[Tensor, Tensor]:
    """(touched local rows int64 [t] ascending, change of E0 [N, d]): as `influence`, but rows of nodes around the
    touched ones change too. All ranks call it, also without an end of an interaction."""
    rows, change = influence(graph, nodes, encoder.rows, users, items)
    _, wanted = influence(graph, nodes, encoder.readouts, users, items)
    rest = graph.without(users.cpu().numpy(), items.cpu().numpy())
    whole = torch.zeros_like(nodes.e0).index_copy_(0, rows, change)
    left = wanted - backbone(whole, rest.propagation)[rows]
    return rows, whole + solve_for_readouts(rest, backbone, rows, left)


def shrink(shard: GraphShard, e0: Tensor, users: Ids, items: Ids) -> tuple[GraphShard, Tensor]:
    """(shard, rows of E0) without the interactions users, items int64 [n] and without the nodes that lose their last
    one.

    e0 [N, d]: the rows of the shard's nodes, users first."""
    smaller = shard.without(users, items)
    gone_users, gone_items = empty_nodes(smaller)
    gone = [np.isin(smaller.user_ids, gone_users), np.isin(smaller.item_ids, gone_items)]
    keep = torch.from_numpy(np.flatnonzero(~np.concatenate(gone)))
    return smaller.drop_nodes(gone_users, gone_items), e0[keep.to(e0.device)]
