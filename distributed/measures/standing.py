"""How pairs stand among comparable pairs: what a score tells of a pair's membership in the training data.

A pair (u, i) is set against (u, j) for items j that are about as popular as i and that u never met. The share of them that
score lower is its percentile: it depends neither on how high u's scores are nor on what popularity alone gives i. Pairs
that the model was trained on stand higher than held-out ones of the same kind; the difference is what the model remembers.

Shape legend: n = pairs whose user lies here, R = references of each, N = local rows, D = columns of the readout.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..graph.keyed import MEMBERSHIP, keyed, keyed_below
from ..graph.local_graph import LocalGraph
from ..graph.lookup import ItemLookup

REFERENCES = 16
WINDOW = 50
"""References come from so many places above and below the item in the order of popularity; at its ends from as many."""


@dataclass(frozen=True)
class Standing:
    """positions [n]: of the pairs in what was asked; percentiles [n], NaN for a pair without references or without an end;
    degrees [n]: of the items; references [n, R] items, -1 for none."""

    positions: npt.NDArray[np.int64]
    percentiles: npt.NDArray[np.float32]
    degrees: npt.NDArray[np.int64]
    references: npt.NDArray[np.int64]


def trained_pairs(graph: LocalGraph, users: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """(users, items): for each of `users` that lies here, as often as it is named, one of its interactions (keyed)."""
    rows = graph.user_rows(users)
    place = torch.nonzero(rows >= 0)[:, 0]
    place = place[graph.degrees[rows[place]] > 0]
    rows = rows[place]
    degrees = graph.degrees[: graph.num_local_users]
    first = degrees.cumsum(0) - degrees
    chosen = first[rows] + keyed(seed, MEMBERSHIP, place) % degrees[rows]
    return graph.pair_users[chosen], graph.pair_items[chosen]


@torch.no_grad()
def standing(
    graph: LocalGraph,
    z: Tensor,
    users: Tensor,
    items: Tensor,
    never: Tensor,
    seed: int,
    references: Tensor | None = None,
) -> Standing:
    """Of those of the pairs (global ids) whose user lies here. All ranks call it.

    z [N, D]: readouts. never: codes, user * items + item, of pairs that are no reference though they are not in the graph,
    ascending. references [n, R]: from an earlier call with the same pairs; None draws them.
    """
    degrees = torch.zeros(graph.num_items, dtype=torch.int64, device=z.device)
    degrees[graph.item_ids] = graph.degrees[graph.num_local_users :]
    graph.comm.all_reduce(degrees)
    mine = torch.nonzero(graph.user_rows(users) >= 0)[:, 0]
    users, items = users[mine], items[mine]
    if references is None:
        references = _references(graph, degrees, users, items, never, seed)
    wanted = torch.cat([items[:, None], references], dim=1)
    there = (wanted >= 0) & (degrees[wanted.clamp(min=0)] > 0)
    line = torch.nonzero(there)[:, 0]
    asked = wanted[there]
    rows = ItemLookup(graph, asked, torch.arange(len(asked), device=z.device)).fetch(z)
    scores = torch.full(wanted.shape, torch.nan, device=z.device)
    scores[there] = (z[graph.user_rows(users[line])] * rows).sum(1)
    own, others = scores[:, :1], scores[:, 1:]
    # A comparison with NaN is false.
    below = (others < own).sum(1) + (others == own).sum(1) / 2
    percentiles = below / (~others.isnan()).sum(1)
    percentiles[own[:, 0].isnan()] = torch.nan
    found = (mine, percentiles, degrees[items], references)
    return Standing(*(x.cpu().numpy() for x in found))


def _references(graph: LocalGraph, degrees: Tensor, users: Tensor, items: Tensor, never: Tensor, seed: int) -> Tensor:
    by_popularity = torch.argsort(degrees, stable=True)
    by_popularity = by_popularity[degrees[by_popularity] > 0]
    # The middle of the items that are exactly as popular.
    ends = [torch.searchsorted(degrees[by_popularity], degrees[items], right=right) for right in (False, True)]
    width = min(2 * WINDOW + 1, len(by_popularity))
    first = ((ends[0] + ends[1]) // 2 - width // 2).clamp(0, len(by_popularity) - width)
    slot = torch.arange(REFERENCES, device=items.device)
    found = by_popularity[
        first[:, None] + keyed_below(width, seed, MEMBERSHIP, _codes(graph, users, items)[:, None], slot)
    ]
    codes = _codes(graph, users[:, None], found)
    met = _contains(_codes(graph, graph.pair_users, graph.pair_items), codes) | _contains(never, codes)
    return torch.where(met | (found == items[:, None]), -1, found)


def _contains(codes: Tensor, wanted: Tensor) -> Tensor:
    """Which of `wanted` are in `codes`, ascending."""
    if not len(codes):
        return torch.zeros_like(wanted, dtype=torch.bool)
    return codes[torch.searchsorted(codes, wanted).clamp(max=len(codes) - 1)] == wanted


def _codes(graph: LocalGraph, users: Tensor, items: Tensor) -> Tensor:
    return users * graph.num_items + items
