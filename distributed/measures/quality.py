"""Recall, NDCG, reciprocal rank and hits of full rankings against held-out interactions, by user and as means.

Shape legend: n = users with held-out items, B = users of a block, K = number of cut-offs, k = the largest cut-off.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph.local_graph import LocalGraph
from .ranking import OnRanked, Ranked, rank

MEASURES = {"recall": "recall", "ndcg": "ndcg", "mrr": "reciprocal_rank", "hit_rate": "hit"}
"""The measures by name, such as "recall" in "recall@20", each with its field of `UserQuality`."""


@dataclass(frozen=True)
class UserQuality:
    """What was found for the users [n] of this rank that have test items, ascending: Recall, NDCG, the reciprocal of the
    rank of the first hit (0 without one), and whether there is a hit. All float64 [n, K]."""

    users: Tensor
    recall: Tensor
    ndcg: Tensor
    reciprocal_rank: Tensor
    hit: Tensor


OnBlock = Callable[[Ranked, Tensor], None]
"""Called with a block of rankings, and which of the items are hits: bool [B, k]."""


def held_out_codes(graph: LocalGraph, test_users: Tensor, test_items: Tensor) -> Tensor:
    """The codes, user * number of items + item, of the interactions whose user this rank owns: each once, ascending."""
    mine = graph.user_rows(test_users) >= 0
    return torch.unique(test_users[mine] * graph.num_items + test_items[mine])


@torch.no_grad()
def quality_by_user(
    graph: LocalGraph,
    z: Tensor,
    test_users: Tensor,
    test_items: Tensor,
    cutoffs: Sequence[int],
    batch_users: int,
    on_ranked: OnRanked | None = None,
    on_block: OnBlock | None = None,
) -> UserQuality:
    """What is found for each user that has test items. Arguments as of `evaluate`.

    Recall is hits / number of test items. NDCG has binary gains; the ideal DCG is that of min(K, number of test items)
    hits.
    """
    codes = held_out_codes(graph, test_users, test_items)
    users, counts = torch.unique_consecutive(codes // graph.num_items, return_counts=True)
    largest = max(cutoffs)
    ranks = torch.arange(1, largest + 1, dtype=torch.float64, device=z.device)
    discounts = 1.0 / torch.log2(ranks + 1)
    ideal = discounts.cumsum(0)
    recall, ndcg, reciprocal, hit = (
        torch.empty((len(users), len(cutoffs)), dtype=torch.float64, device=z.device) for _ in range(4)
    )
    position = 0
    for ranked in rank(graph, z, users, largest, batch_users, on_ranked):
        here = slice(position, position + len(ranked.users))
        position = here.stop
        found = is_in(ranked.users[:, None] * graph.num_items + ranked.items, codes) & (ranked.scores > -torch.inf)
        if on_block is not None:
            on_block(ranked, found)
        hits = found.to(torch.float64)
        first = (hits / ranks[: hits.shape[1]]).cummax(1).values
        for c, cutoff in enumerate(cutoffs):
            top = hits[:, :cutoff]
            recall[here, c] = top.sum(1) / counts[here]
            ndcg[here, c] = (top * discounts[: top.shape[1]]).sum(1) / ideal[counts[here].clamp(max=cutoff) - 1]
            reciprocal[here, c] = first[:, top.shape[1] - 1]
            hit[here, c] = (first[:, top.shape[1] - 1] > 0).to(torch.float64)
    return UserQuality(users, recall, ndcg, reciprocal, hit)


def is_in(values: Tensor, ascending: Tensor) -> Tensor:
    """Whether each of the values, of any shape, is among the others [n], which are sorted."""
    if not len(ascending):
        return torch.zeros_like(values, dtype=torch.bool)
    places = torch.searchsorted(ascending, values).clamp_(max=len(ascending) - 1)
    return ascending[places] == values


@torch.no_grad()
def evaluate(
    graph: LocalGraph, z: Tensor, test_users: Tensor, test_items: Tensor, cutoffs: Sequence[int], batch_users: int
) -> dict[str, float]:
    """Mean Recall@K and NDCG@K over all users that have test items, and the number of these users. The names are
    "recall@20", "ndcg@20" and "users". All ranks call it and get the same.

    z [N, D]: readouts of the local rows. test_users, test_items int64 [n]: global ids of all held-out interactions, the
    same on every rank; each rank evaluates the users that it owns. Deleted users are left out. batch_users: at most so
    many users are ranked at once.
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
