"""Recall, NDCG, reciprocal rank and hits of rankings against held-out interactions, by user and as means.

Shape legend: n = users with held-out items, B = users of a block, K = number of cut-offs, k = the largest cut-off.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph.local_graph import LocalGraph
from .ranking import OnRanked, Ranked, rank

MEASURES = ("recall", "ndcg", "mrr", "hit_rate")
"""The measures of a user, in the order of `UserQuality.values`."""


@dataclass(frozen=True)
class HeldOut:
    """The held-out interactions of the users that this rank owns: codes, user * number of items + item, each once and
    ascending; the users [n], ascending; how many interactions each has [n]."""

    codes: Tensor
    users: Tensor
    counts: Tensor

    @classmethod
    def of(cls, graph: LocalGraph, test_users: Tensor, test_items: Tensor) -> "HeldOut":
        """test_users, test_items int64: global ids of the held-out interactions of all ranks."""
        mine = graph.user_rows(test_users) >= 0
        codes = torch.unique(test_users[mine] * graph.num_items + test_items[mine])
        users, counts = torch.unique_consecutive(codes // graph.num_items, return_counts=True)
        return cls(codes, users, counts)

    def contains(self, codes: Tensor) -> Tensor:
        """Whether each of these codes, of any shape, is held out."""
        if not len(self.codes):
            return torch.zeros_like(codes, dtype=torch.bool)
        places = torch.searchsorted(self.codes, codes).clamp_(max=len(self.codes) - 1)
        return self.codes[places] == codes


@dataclass(frozen=True)
class UserQuality:
    """What was found for the users [n] of this rank that have test items, ascending: values float64 [n, 4, K], in the
    order of `MEASURES`."""

    users: Tensor
    values: Tensor

    @property
    def recall(self) -> Tensor:
        """Recall [n, K]: hits / number of test items."""
        return self.values[:, 0]

    @property
    def ndcg(self) -> Tensor:
        """NDCG [n, K] with binary gains. The ideal DCG is that of min(K, number of test items) hits."""
        return self.values[:, 1]


OnHits = Callable[[Ranked, Tensor], None]
"""Called with a block of rankings, and which of the items are hits: bool [B, k]."""


@torch.no_grad()
def quality_of(
    rankings: Iterable[Ranked], num_items: int, held_out: HeldOut, cutoffs: Sequence[int], on_hits: OnHits | None = None
) -> UserQuality:
    """How good the rankings of `held_out.users` are, which come block by block in this order.

    The reciprocal rank (mrr) is that of the first hit, and 0 without one. The hit rate is 1 if there is a hit.
    """
    device, counts = held_out.users.device, held_out.counts
    ranks = torch.arange(1, max(cutoffs) + 1, dtype=torch.float64, device=device)
    discounts = 1.0 / torch.log2(ranks + 1)
    ideal = discounts.cumsum(0)
    values = torch.zeros((len(held_out.users), len(MEASURES), len(cutoffs)), dtype=torch.float64, device=device)
    position = 0
    for ranked in rankings:
        here = slice(position, position + len(ranked.users))
        position = here.stop
        found = held_out.contains(ranked.users[:, None] * num_items + ranked.items) & (ranked.scores > -torch.inf)
        if on_hits is not None:
            on_hits(ranked, found)
        hits = found.to(torch.float64)
        for c, cutoff in enumerate(cutoffs):
            top = hits[:, :cutoff]
            width = top.shape[1]
            first = (top / ranks[:width]).amax(1)
            dcg = (top * discounts[:width]).sum(1) / ideal[counts[here].clamp(max=cutoff) - 1]
            values[here, :, c] = torch.stack([top.sum(1) / counts[here], dcg, first, (first > 0).double()], dim=1)
    return UserQuality(held_out.users, values)


def quality_by_user(
    graph: LocalGraph,
    z: Tensor,
    test_users: Tensor,
    test_items: Tensor,
    cutoffs: Sequence[int],
    batch_users: int,
    on_ranked: OnRanked | None = None,
) -> UserQuality:
    """What is found for each user that has test items. Arguments as of `evaluate`."""
    held_out = HeldOut.of(graph, test_users, test_items)
    rankings = rank(graph, z, held_out.users, max(cutoffs), batch_users, on_ranked)
    return quality_of(rankings, graph.num_items, held_out, cutoffs)


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
