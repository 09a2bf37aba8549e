"""How high pairs score among comparable pairs: what a score reveals about whether the model was trained on a pair.

A pair (u, i) is compared with pairs (u, j) of items j that are about as popular as i and with which u has no
interaction. Its percentile is the share of them that score lower. So it depends neither on how high the scores of u
are, nor on what popularity alone adds to the score of i. Pairs that the model was trained on have higher percentiles
than held-out pairs of the same kind. The difference is what the model remembers.

Shape legend: n = pairs whose user this rank owns, R = references (the items j) of each, N = local rows, D = columns of
the readout.
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
"""References are drawn from so many items above and so many below the item in order of popularity. At an end of that
order the window is moved, and has the same size."""


@dataclass(frozen=True)
class Standing:
    """The standing of the pairs whose user one rank owns.

    Shapes: positions [n]: the places of these pairs among those that were asked for; percentiles [n], NaN for a pair
    that has no references, or whose user or item was deleted; degrees [n] of the items; references [n, R] item ids, -1
    for none.
    """

    positions: npt.NDArray[np.int64]
    percentiles: npt.NDArray[np.float32]
    degrees: npt.NDArray[np.int64]
    references: npt.NDArray[np.int64]


def trained_pairs(graph: LocalGraph, users: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """(users, items): one interaction of each of `users` that this rank owns, chosen by a keyed draw. A user that is
    named several times gets as many, which may be equal."""
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
    """The standing of those of the pairs users, items (global ids) whose user this rank owns. All ranks call it.

    z [N, D]: readouts of the local rows. never: the codes, user * number of items + item, of pairs that must not be
    references though they are not in the graph, ascending. references [n, R]: those of an earlier call with the same
    pairs; None draws new ones.
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
    met = graph.has(users[:, None].expand_as(found), found) | _contains(never, codes)
    return torch.where(met | (found == items[:, None]), -1, found)


def _contains(codes: Tensor, wanted: Tensor) -> Tensor:
    """Whether each of `wanted` is one of `codes`, which are ascending."""
    if not len(codes):
        return torch.zeros_like(wanted, dtype=torch.bool)
    return codes[torch.searchsorted(codes, wanted).clamp(max=len(codes) - 1)] == wanted


def _codes(graph: LocalGraph, users: Tensor, items: Tensor) -> Tensor:
    return users * graph.num_items + items
