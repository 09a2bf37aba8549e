"""Full ranking: for each user all items are ranked by score, except those of the user's own interactions.

Each rank ranks its own users, in blocks, against the readouts of all items. Shape legend: B = users of a block,
D = columns of the readout, k = the largest cut-off.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph.local_graph import LocalGraph
from ..graph.lookup import ItemLookup
from .top_items import TopItems

OnRanked = Callable[[int, int], None]
"""Called with (users of this rank that are ranked, users that will be)."""


@dataclass(frozen=True)
class Ranked:
    """The best items of a block of users: users [B], items [B, k] (global ids), scores [B, k], best first. Of equal
    scores, the item with the lower id is first. A score of -inf means that no item was left."""

    users: Tensor
    items: Tensor
    scores: Tensor


@torch.no_grad()
def rank(
    graph: LocalGraph, z: Tensor, users: Tensor, k: int, batch_users: int, on_ranked: OnRanked | None = None
) -> Iterator[Ranked]:
    """The k best items of each of `users` (global ids, owned by this rank), without the items of the user's
    interactions.

    z [N, D]: readouts of the local rows. batch_users: at most so many users are ranked at once. All ranks must call it,
    also with no users, since items are gathered from all.
    """
    item_ids, order = torch.cat(graph.comm.all_gather(graph.item_ids)).sort()
    z_items = torch.cat(graph.comm.all_gather(z[graph.num_local_users :].contiguous()))[order]
    if not len(users) or not len(item_ids):
        return
    column_of_item = torch.full((graph.num_items,), -1, dtype=torch.int64, device=z.device)
    column_of_item[item_ids] = torch.arange(len(item_ids), device=z.device)
    best = TopItems(z_items, min(k, len(item_ids)), batch_users)
    ranked = 0
    for block in users.split(best.block_users):
        rows = graph.user_rows(block)
        line, seen = seen_items(graph, rows)
        columns, scores = best.of(z[rows], line, column_of_item[seen])
        ranked += len(block)
        if on_ranked is not None:
            on_ranked(ranked, len(users))
        yield Ranked(block, item_ids[columns], scores)


def seen_items(graph: LocalGraph, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The interactions of some users: (positions among `rows`, items as global ids), int64 [s], sorted by both.

    rows int64 [B]: local rows of users.
    """
    degrees = graph.degrees[: graph.num_local_users]
    starts, counts = degrees.cumsum(0) - degrees, degrees[rows]
    line = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), counts)
    within = torch.arange(len(line), device=rows.device) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return line, graph.pair_items[torch.repeat_interleave(starts[rows], counts) + within].long()


@torch.no_grad()
def pair_scores(graph: LocalGraph, z: Tensor, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """(positions int64 [m], scores [m]) of those of the pairs users, items [n] whose user this rank owns. All ranks
    call it, with the same pairs.

    z [N, D]: readouts of the local rows. Pairs with a deleted user or item are left out.
    """
    there = torch.zeros(graph.num_items, dtype=torch.int64, device=z.device)
    there[graph.item_ids] = 1
    graph.comm.all_reduce(there)
    mine = torch.nonzero((graph.user_rows(users) >= 0) & (there[items] > 0))[:, 0]
    lookup = ItemLookup(graph, items[mine], mine)
    return mine, (z[graph.user_rows(users[mine])] * lookup.fetch(z)).sum(1)
