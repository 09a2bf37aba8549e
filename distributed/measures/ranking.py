"""Full-ranking evaluation: for each user all items are ranked by score, except those of the user's own interactions.

Each rank ranks its own users, in blocks, against the readouts of all items. Shape legend: B = users of a block,
I = items there are, D = columns of the readout, k = the largest cut-off.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph.local_graph import LocalGraph
from ..graph.lookup import ItemLookup


@dataclass(frozen=True)
class Ranked:
    """The best items of a block of users: users [B], items [B, k] (global ids), scores [B, k]. A score of -inf means
    that no item was left."""

    users: Tensor
    items: Tensor
    scores: Tensor


@torch.no_grad()
def rank(graph: LocalGraph, z: Tensor, users: Tensor, k: int, batch_users: int) -> Iterator[Ranked]:
    """The k best items of each of `users` (global ids, owned by this rank), without the items of the user's
    interactions.

    z [N, D]: readouts of the local rows. All ranks must call it, also with no users, since items are gathered from all.
    """
    item_ids = torch.cat(graph.comm.all_gather(graph.item_ids))
    z_items = torch.cat(graph.comm.all_gather(z[graph.num_local_users :].contiguous()))
    column_of_item = torch.full((graph.num_items,), -1, dtype=torch.int64, device=z.device)
    column_of_item[item_ids] = torch.arange(len(item_ids), device=z.device)
    degrees = graph.degrees[: graph.num_local_users]
    starts = torch.cat([degrees.new_zeros(1), degrees.cumsum(0)])
    k = min(k, len(item_ids))
    for block in users.split(batch_users):
        rows = graph.user_rows(block)
        scores = z[rows] @ z_items.T
        counts = degrees[rows]
        line = torch.repeat_interleave(torch.arange(len(block), device=z.device), counts)
        within = torch.arange(len(line), device=z.device) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        seen = graph.pair_items[torch.repeat_interleave(starts[rows], counts) + within]
        scores[line, column_of_item[seen]] = -torch.inf
        best = scores.topk(k, dim=1)
        yield Ranked(block, item_ids[best.indices], best.values)


@dataclass(frozen=True)
class UserQuality:
    """Recall and NDCG, float64 [n, number of cut-offs], of the users [n] of this rank that have test items,
    ascending."""

    users: Tensor
    recall: Tensor
    ndcg: Tensor


@torch.no_grad()
def quality_by_user(
    graph: LocalGraph, z: Tensor, test_users: Tensor, test_items: Tensor, cutoffs: Sequence[int], batch_users: int
) -> UserQuality:
    """Recall@K and NDCG@K (with binary gains) of each user that has test items. Arguments as of `evaluate`.

    Recall is hits / number of test items. The ideal DCG is that of min(K, number of test items) hits.
    """
    mine = graph.user_rows(test_users) >= 0
    code = torch.unique(test_users[mine] * graph.num_items + test_items[mine])
    users, counts = torch.unique_consecutive(code // graph.num_items, return_counts=True)
    largest = max(cutoffs)
    discounts = 1.0 / torch.log2(torch.arange(2, largest + 2, dtype=torch.float64, device=z.device))
    ideal = discounts.cumsum(0)
    recall, ndcg = (torch.empty((len(users), len(cutoffs)), dtype=torch.float64, device=z.device) for _ in range(2))
    position = 0
    for ranked in rank(graph, z, users, largest, batch_users):
        here = slice(position, position + len(ranked.users))
        position = here.stop
        found = torch.isin(ranked.users[:, None] * graph.num_items + ranked.items, code)
        found &= ranked.scores > -torch.inf
        hits = found.to(torch.float64)
        for c, cutoff in enumerate(cutoffs):
            top = hits[:, :cutoff]
            recall[here, c] = top.sum(1) / counts[here]
            ndcg[here, c] = (top * discounts[: top.shape[1]]).sum(1) / ideal[counts[here].clamp(max=cutoff) - 1]
    return UserQuality(users, recall, ndcg)


@torch.no_grad()
def evaluate(
    graph: LocalGraph, z: Tensor, test_users: Tensor, test_items: Tensor, cutoffs: Sequence[int], batch_users: int
) -> dict[str, float]:
    """Mean Recall@K and NDCG@K over all users that have test items, and the number of these users. The names are
    "recall@20", "ndcg@20" and "users". All ranks call it and get the same.

    z [N, D]: readouts of the local rows. test_users, test_items int64 [n]: global ids of all held-out interactions, the
    same on every rank; each rank evaluates the users that it owns. Deleted users are left out.
    """
    mine = quality_by_user(graph, z, test_users, test_items, cutoffs, batch_users)
    total = torch.tensor([len(mine.users)], dtype=torch.float64, device=z.device)
    sums = torch.cat([mine.recall.sum(0), mine.ndcg.sum(0), total])
    graph.comm.all_reduce(sums)
    recall, ndcg = (sums[:-1] / sums[-1].clamp(min=1)).view(2, -1).tolist()
    metrics = {"users": float(sums[-1])}
    for c, cutoff in enumerate(cutoffs):
        metrics |= {f"recall@{cutoff}": recall[c], f"ndcg@{cutoff}": ndcg[c]}
    return metrics


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
