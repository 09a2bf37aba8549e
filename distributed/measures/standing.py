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
from ..graph.neighbour_sum import sum_rows

REFERENCES, STAND_IN_REFERENCES, SAMPLE_REFERENCES = 16, 64, 8
"""References of a pair; of a forgotten pair with a stand-in, whose percentile changes by less, there are more. Of a pair of
the large samples of trained and held-out pairs with stand-ins there are fewer: their noise goes into a mean over thousands
of pairs, whose error more pairs lower at the same price (docs/log.md, "The gate for whole users")."""
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
    return graph.pairs_at(chosen)


def items_of(graph: LocalGraph, users: Tensor) -> tuple[Tensor, Tensor]:
    """(users, items), sorted by user, then item: all interactions of those of `users` [n] that this rank owns."""
    rows = graph.user_rows(users)
    rows = torch.unique(rows[rows >= 0])
    degrees = graph.degrees[: graph.num_local_users]
    first = degrees.cumsum(0) - degrees
    counts = degrees[rows]
    starts = (first[rows] - (counts.cumsum(0) - counts)).repeat_interleave(counts)
    places = starts + torch.arange(len(starts), device=starts.device)
    return graph.pairs_at(places)


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
    degrees = _item_degrees(graph)
    mine = torch.nonzero(graph.user_rows(users) >= 0)[:, 0]
    users, items = users[mine], items[mine]
    if references is None:
        references = _references(graph, degrees, users, items, None, never, seed, REFERENCES)
    wanted = torch.cat([items[:, None], references], dim=1)
    there = _still_there(degrees, wanted)
    line = torch.nonzero(there)[:, 0]
    rows = fetched(graph, z, wanted[there])
    scores = torch.full(wanted.shape, torch.nan, device=z.device)
    scores[there] = (z[graph.user_rows(users[line])] * rows).sum(1)
    found = (mine, _percentiles(scores), degrees[items], references)
    return Standing(*(x.cpu().numpy() for x in found))


@torch.no_grad()
def standing_with_stand_in(
    graph: LocalGraph,
    z: Tensor,
    lists: tuple[Tensor, Tensor],
    pairs: tuple[Tensor, Tensor],
    left_out: Tensor,
    never: Tensor,
    seed: int,
    references: Tensor | None = None,
    count: int = STAND_IN_REFERENCES,
) -> Standing:
    """The standing of pairs whose user has no row (any more), with a stand-in for that row. All ranks call it, each with
    pairs of its own; `positions` are places in these.

    The stand-in of user u for a pair (u, i) is the sum of z_j / sqrt(degree of j) over the items j that u had, but for one
    of them, `left_out`. Up to its length, this is the readout that one propagation layer of LightGCN would give to a new
    user with these items. Items that were trained with a common user are close to each other. So with `left_out` = i, the
    percentile of a pair of u is higher if the model was trained on u than if it was not, although u's row is gone.

    Shapes: lists (users [m], items [m]), sorted by user, then item: the items that each user had. pairs (users [n], items
    [n]); left_out [n]: an item of the same user's list. A user with one item only has no percentile. z, never, references:
    as for `standing`. count: R, the number of references where they are drawn.
    """
    degrees = _item_degrees(graph)
    (list_users, list_items), (users, items) = lists, pairs
    if references is None:
        met = _codes(graph, *lists)
        references = _references(graph, degrees, users, items, met, never, seed, count)
    wanted = torch.cat([items[:, None], references], dim=1)
    there, listed = _still_there(degrees, wanted), _still_there(degrees, list_items)
    # Popular items stand in thousands of lists: the row of each is fetched once, and summed where it lies.
    place, rows = _table(graph, z, torch.cat([list_items[listed], wanted[there]]))
    parts = rows / degrees[place.items, None].sqrt()
    named, of_user, lengths = torch.unique_consecutive(list_users, return_inverse=True, return_counts=True)
    ends = torch.bincount(of_user[listed], minlength=len(named)).cumsum(0)
    sums = sum_rows(parts, torch.cat([ends.new_zeros(1), ends]), place.of(list_items[listed]))
    user = torch.searchsorted(named, users)
    stand_in, counts = sums[user], _still_there(degrees, left_out)
    stand_in[counts] -= parts[place.of(left_out[counts])]
    scores = torch.full(wanted.shape, torch.nan, device=z.device)
    scores[there] = _products(stand_in, torch.nonzero(there)[:, 0], rows, place.of(wanted[there]))
    scores[lengths[user] < 2] = torch.nan
    found = (torch.arange(len(users)), _percentiles(scores), degrees[items], references)
    return Standing(*(x.cpu().numpy() for x in found))


BLOCK = 2**14
"""The products that are made at a time: their rows stay in the cache."""


@dataclass(frozen=True)
class _Places:
    """Where the rows of some items stand in a table."""

    items: Tensor
    """The items [k] of the table, ascending."""
    place: Tensor
    """The place of each item of the graph, int64 [I]; of any value where the table does not have it."""

    def of(self, items: Tensor) -> Tensor:
        """The places of these items, all of which the table has; the same shape."""
        return self.place[items]


def _table(graph: LocalGraph, z: Tensor, items: Tensor) -> tuple[_Places, Tensor]:
    """(places, rows [k, D]) of the items that are named, each once. All ranks call it."""
    named = torch.zeros(graph.num_items, dtype=torch.bool, device=z.device)
    named[items] = True
    each = torch.nonzero(named)[:, 0]
    return _Places(each, named.cumsum(0) - 1), fetched(graph, z, each)


def _products(left: Tensor, at_left: Tensor, right: Tensor, at_right: Tensor) -> Tensor:
    """The scalar products [n] of rows at_left [n] of `left` with rows at_right [n] of `right`."""
    found = left.new_empty(len(at_left))
    for start in range(0, len(found), BLOCK):
        part = slice(start, start + BLOCK)
        found[part] = (left[at_left[part]] * right[at_right[part]]).sum(1)
    return found


def fetched(graph: LocalGraph, z: Tensor, items: Tensor) -> Tensor:
    """The rows [n, D] of items [n] from their owners. All ranks call it."""
    return ItemLookup(graph, items, torch.arange(len(items), device=z.device)).fetch(z)


def _item_degrees(graph: LocalGraph) -> Tensor:
    """The degrees int64 [I] of all items. All ranks call it."""
    degrees = torch.zeros(graph.num_items, dtype=torch.int64, device=graph.degrees.device)
    degrees[graph.item_ids] = graph.degrees[graph.num_local_users :]
    graph.comm.all_reduce(degrees)
    return degrees


def _still_there(degrees: Tensor, items: Tensor) -> Tensor:
    """Which of the item ids, -1 for none, have an interaction."""
    return (items >= 0) & (degrees[items.clamp(min=0)] > 0)


def _percentiles(scores: Tensor) -> Tensor:
    """The percentile [n] of the first column of scores [n, 1 + R] among the others; NaN where there is none."""
    own, others = scores[:, :1], scores[:, 1:]
    # A comparison with NaN is false.
    below = (others < own).sum(1) + (others == own).sum(1) / 2
    percentiles = below / (~others.isnan()).sum(1)
    percentiles[own[:, 0].isnan()] = torch.nan
    return percentiles


def _references(
    graph: LocalGraph,
    degrees: Tensor,
    users: Tensor,
    items: Tensor,
    met: Tensor | None,
    never: Tensor,
    seed: int,
    count: int,
) -> Tensor:
    """References [n, count] of pairs. met, never: codes of pairs that are none, ascending; without `met` the
    interactions of the graph."""
    by_popularity = torch.argsort(degrees, stable=True)
    by_popularity = by_popularity[degrees[by_popularity] > 0]
    # The middle of the items that are exactly as popular.
    ends = [torch.searchsorted(degrees[by_popularity], degrees[items], right=right) for right in (False, True)]
    width = min(2 * WINDOW + 1, len(by_popularity))
    first = ((ends[0] + ends[1]) // 2 - width // 2).clamp(0, len(by_popularity) - width)
    slot = torch.arange(count, device=items.device)
    found = by_popularity[
        first[:, None] + keyed_below(width, seed, MEMBERSHIP, _codes(graph, users, items)[:, None], slot)
    ]
    codes = _codes(graph, users[:, None], found)
    known = graph.has(users[:, None].expand_as(found), found) if met is None else _contains(met, codes)
    excluded = known | _contains(never, codes)
    return torch.where(excluded | (found == items[:, None]), -1, found)


def _contains(codes: Tensor, wanted: Tensor) -> Tensor:
    """Whether each of `wanted` is one of `codes`, which are ascending."""
    if not len(codes):
        return torch.zeros_like(wanted, dtype=torch.bool)
    return codes[torch.searchsorted(codes, wanted).clamp(max=len(codes) - 1)] == wanted


def _codes(graph: LocalGraph, users: Tensor, items: Tensor) -> Tensor:
    return users * graph.num_items + items
