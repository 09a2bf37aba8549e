"""The whole evaluation of a version: means with their standard errors, coverage, and Recall by the activity of users and the
popularity of items.

Shape legend: n = users of this rank that are evaluated, K = number of cut-offs, k = the largest, I = items.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..graph.keyed import SAMPLE_USER, keyed
from ..graph.local_graph import LocalGraph
from .baselines import NEIGHBOURS, item_neighbours, neighbour_ranking, popularity_ranking
from .quality import MEASURES, HeldOut, quality_of
from .ranking import Ranked, rank

GROUPS = 4
"""The number of groups of users by activity, and of items by popularity."""

OnEvaluated = Callable[[str, int, int], None]
"""Called with (what is ranked, such as "model"; users of this rank that are ranked; users that will be)."""


@dataclass(frozen=True)
class Evaluation:
    """How a version is evaluated. It is the same on all ranks, and pickles."""

    cutoffs: Sequence[int]
    batch_users: int
    """At most so many users are ranked at once."""
    users: float | None = None
    """Below 1: the share of the users with test items that is evaluated; from 1: their number; None: all."""
    seed: int = 0
    """Keys the choice of users."""
    baselines: bool = False
    """Whether popularity and item-kNN are evaluated too."""


@dataclass
class _Lists:
    """What the lists of all users together show. Shapes: `listed` bool [K, I]: the items in at least one list; `found` int64
    [K, I]: how often each was a hit."""

    cutoffs: Sequence[int]
    num_items: int
    device: torch.device
    listed: Tensor = field(init=False)
    found: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.listed, self.found = (
            torch.zeros((len(self.cutoffs), self.num_items), dtype=torch.int64, device=self.device) for _ in range(2)
        )

    def add(self, ranked: Ranked, hits: Tensor) -> None:
        """Count a block of rankings, with its hits [B, k]."""
        for c, cutoff in enumerate(self.cutoffs):
            items = ranked.items[:, :cutoff]
            self.listed[c, items[ranked.scores[:, :cutoff] > -torch.inf]] = 1
            self.found[c] += torch.bincount(items[hits[:, :cutoff]], minlength=self.num_items)


@torch.no_grad()
def evaluate_in_detail(
    graph: LocalGraph,
    z: Tensor,
    test_users: Tensor,
    test_items: Tensor,
    evaluation: Evaluation,
    on_evaluated: OnEvaluated = lambda *_: None,
) -> dict[str, Any]:
    """Everything that `evaluate` says of a version. All ranks call it and get the same.

    z [N, D]: readouts of the local rows. test_users, test_items int64: global ids of all held-out interactions, the same on
    every rank. Deleted users are left out.

    Returns:
        By name: "users" (evaluated), "users_with_test_items"; for each cut-off the mean over the users of each of
        `MEASURES`, and "coverage@K", the share of the items that are in at least one list; "standard_errors" of the means
        if the users are a sample; "by_user_activity" and "by_item_popularity"; "baselines" if they are asked for.
    """
    there = _alive(graph, test_users)
    sample = _sample(torch.unique(test_users[there]), evaluation)
    there &= _marks(sample.chosen, graph.num_users)[test_users]
    held_out = HeldOut.of(graph, test_users[there], test_items[there])
    cutoffs, comm = evaluation.cutoffs, graph.comm
    lists = _Lists(cutoffs, graph.num_items, z.device)

    def said(what: str) -> Callable[[int, int], None]:
        return lambda done, total: on_evaluated(what, done, total)

    rankings = rank(graph, z, held_out.users, max(cutoffs), evaluation.batch_users, said("model"))
    quality = quality_of(rankings, graph.num_items, held_out, cutoffs, lists.add)
    means, errors = _means(graph, quality.values, sample)
    for counts in (lists.listed, lists.found):
        comm.all_reduce(counts)
    alive_items = _of_items(graph, torch.ones_like(graph.item_ids))
    covered = (lists.listed > 0).sum(1).double() / alive_items.sum().clamp(min=1)
    answer: dict[str, Any] = {"users": len(sample.chosen), "users_with_test_items": sample.total}
    for c, cutoff in enumerate(cutoffs):
        answer |= {f"{name}@{cutoff}": float(means[m, c]) for m, name in enumerate(MEASURES)}
        answer[f"coverage@{cutoff}"] = float(covered[c])
    if len(sample.chosen) < sample.total:
        answer["standard_errors"] = {
            f"{name}@{cutoff}": float(errors[m, c])
            for c, cutoff in enumerate(cutoffs)
            for m, name in enumerate(MEASURES)
        }
    answer["by_user_activity"] = _by_activity(graph, quality.users, quality.recall, cutoffs)
    answer["by_item_popularity"] = _by_popularity(graph, held_out, lists.found, cutoffs)
    if evaluation.baselines:
        answer["baselines"] = _baselines(graph, held_out, evaluation, sample, said)
    return answer


@dataclass(frozen=True)
class _Sample:
    """chosen int64, ascending: the users that are evaluated; total: how many there are to choose from."""

    chosen: Tensor
    total: int


def _sample(users: Tensor, evaluation: Evaluation) -> _Sample:
    """A keyed sample: those of the users with the smallest hashes. A larger sample under the same seed contains it."""
    wanted = evaluation.users
    if wanted is None or not len(users):
        return _Sample(users, len(users))
    count = max(1, round(wanted * len(users))) if wanted < 1 else min(len(users), round(wanted))
    smallest = torch.argsort(keyed(evaluation.seed, SAMPLE_USER, users), stable=True)[:count]
    return _Sample(users[smallest].sort().values, len(users))


def _alive(graph: LocalGraph, users: Tensor) -> Tensor:
    """Whether each of these users is there on some rank."""
    owned = (graph.user_rows(users) >= 0).to(torch.int64)
    return graph.comm.all_reduce(owned) > 0


def _marks(ids: Tensor, total: int) -> Tensor:
    marks = torch.zeros(total, dtype=torch.bool, device=ids.device)
    marks[ids] = True
    return marks


def _of_items(graph: LocalGraph, values: Tensor) -> Tensor:
    """Values [i] of this rank's items as those of all items [I], 0 for deleted ones."""
    table = torch.zeros(graph.num_items, dtype=torch.int64, device=values.device)
    table[graph.item_ids] = values
    return graph.comm.all_reduce(table)


def _means(graph: LocalGraph, values: Tensor, sample: _Sample) -> tuple[Tensor, Tensor]:
    """(means [4, K] of values [n, 4, K] over the users of all ranks, their standard errors).

    The errors are those of a sample without replacement: they are zero where all users are evaluated.
    """
    count = max(1, len(sample.chosen))
    sums = graph.comm.all_reduce(values.sum(0))
    means = sums / count
    squares = graph.comm.all_reduce((values - means).square().sum(0))
    left = 1 - count / max(count, sample.total)
    return means, (squares / max(1, count - 1) / count * left).sqrt()


def _groups(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(distinct values ascending, the group 0 to GROUPS - 1 of each), such that the groups have about the same weight."""
    distinct, inverse = values.unique(return_inverse=True)
    weight = torch.zeros(len(distinct), dtype=torch.float64, device=values.device)
    weight.index_add_(0, inverse, weights.double())
    before = weight.cumsum(0) - weight
    return distinct, (before * GROUPS / weight.sum().clamp(min=1)).long().clamp(max=GROUPS - 1)


def _by_activity(graph: LocalGraph, users: Tensor, recall: Tensor, cutoffs: Sequence[int]) -> list[dict[str, Any]]:
    """Recall by the number of the users' interactions in training, in groups of about the same number of users."""
    degrees = graph.degrees[graph.user_rows(users)]
    everyone = torch.cat(graph.comm.all_gather(degrees))
    if not len(everyone):
        return []
    distinct, group = _groups(everyone, torch.ones_like(everyone))
    mine = group[torch.searchsorted(distinct, degrees)]
    sums = recall.new_zeros((GROUPS, recall.shape[1] + 1))
    sums.index_add_(0, mine, torch.cat([recall, torch.ones_like(recall[:, :1])], dim=1))
    graph.comm.all_reduce(sums)
    return [
        {"interactions": [int(x) for x in distinct[group == g].aminmax()], "users": int(sums[g, -1])}
        | {f"recall@{cutoff}": float(sums[g, c] / sums[g, -1]) for c, cutoff in enumerate(cutoffs)}
        for g in range(GROUPS)
        if (group == g).any()
    ]


def _by_popularity(graph: LocalGraph, held_out: HeldOut, found: Tensor, cutoffs: Sequence[int]) -> list[dict[str, Any]]:
    """Recall by the number of the items' interactions in training, in groups with about the same number of these.

    It is the share of the group's held-out interactions, of all users together, that are in the lists."""
    degrees = _of_items(graph, graph.degrees[graph.num_local_users :])
    wanted = torch.bincount(held_out.codes % graph.num_items, minlength=graph.num_items)
    graph.comm.all_reduce(wanted)
    there = torch.nonzero(degrees > 0)[:, 0]
    if not len(there):
        return []
    distinct, group = _groups(degrees[there], degrees[there])
    of_item = group[torch.searchsorted(distinct, degrees[there])]
    rows = []
    for g in range(GROUPS):
        items = there[of_item == g]
        if len(items):
            tested = int(wanted[items].sum())
            row = {"interactions": [int(x) for x in degrees[items].aminmax()], "items": len(items)}
            row |= {"test_interactions": tested}
            rows.append(
                row | {f"recall@{k}": float(found[c, items].sum()) / max(1, tested) for c, k in enumerate(cutoffs)}
            )
    return rows


def _baselines(
    graph: LocalGraph,
    held_out: HeldOut,
    evaluation: Evaluation,
    sample: _Sample,
    said: Callable[[str], Callable[[int, int], None]],
) -> dict[str, Any]:
    """The means of the same measures for popularity and item-kNN, on the same users."""
    cutoffs, largest = evaluation.cutoffs, max(evaluation.cutoffs)
    degrees = _of_items(graph, graph.degrees[graph.num_local_users :])
    named = {"popularity": popularity_ranking(graph, degrees, held_out.users, largest, said("popularity"))}
    answer: dict[str, Any] = {}
    neighbours = item_neighbours(graph, degrees)
    if isinstance(neighbours, str):
        answer["item_knn"] = {"skipped": neighbours}
    else:
        named["item_knn"] = neighbour_ranking(graph, neighbours, held_out.users, largest, said("item-kNN"))
        answer["item_knn"] = {"neighbours": NEIGHBOURS}
    for name, rankings in named.items():
        means, _ = _means(graph, quality_of(rankings, graph.num_items, held_out, cutoffs).values, sample)
        answer[name] = answer.get(name, {}) | {
            f"{measure}@{cutoff}": float(means[m, c])
            for c, cutoff in enumerate(cutoffs)
            for m, measure in enumerate(MEASURES)
        }
    return answer
