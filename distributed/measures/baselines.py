"""Rankings without a model, so that a Recall means something: by popularity, and by neighbours of items.

Shape legend: B = users of a block, k = length of a list, E = interactions of all ranks, I = items.
"""

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ..graph.local_graph import LocalGraph
from .ranking import OnRanked, Ranked, seen_items
from .top_items import best_of_scores

NEIGHBOURS = 100
"""How many neighbours of each item count in item-kNN."""
LARGEST_WORK = 1_000_000_000
"""The most multiplications that the similarities of items may take: a minute or so."""
LARGEST_INTERACTIONS = 50_000_000
"""The most interactions for item-kNN, for which every rank holds all of them: 16 bytes each."""
BLOCK = 256
"""The number of users, or of items, that are worked on at once."""


def popularity_ranking(
    graph: LocalGraph, degrees: Tensor, users: Tensor, k: int, on_ranked: OnRanked
) -> Iterator[Ranked]:
    """The items with the most interactions, without the user's own, for each of `users`, which this rank owns.

    degrees int64 [I]: the interactions of all items, 0 for deleted ones.
    """
    order = torch.sort(degrees, descending=True, stable=True).indices[: int((degrees > 0).sum())]
    place = torch.full((graph.num_items,), len(order), device=degrees.device)
    place[order] = torch.arange(len(order), device=degrees.device)
    done = 0
    for block in users.split(BLOCK) if len(users) else ():
        line, seen = seen_items(graph, graph.user_rows(block))
        most = int(torch.bincount(line, minlength=1).max())
        width = min(len(order), k + most)  # nobody needs more of the most popular items
        scores = degrees[order[:width]].to(torch.float32).expand(len(block), width).clone()
        here = place[seen] < width
        scores[line[here], place[seen[here]]] = -torch.inf
        columns, best = best_of_scores(scores, min(k, width))
        done += len(block)
        on_ranked(done, len(users))
        yield Ranked(block, order[columns], best)


def item_neighbours(graph: LocalGraph, degrees: Tensor) -> sp.csr_matrix | str:
    """The cosines of the items' columns of interactions, [I, I], for each item those of its NEIGHBOURS most similar items
    (Deshpande & Karypis, TOIS 2004). Where that is too much work: why, in words. All ranks call it, and get the same."""
    own = graph.degrees[: graph.num_local_users].double()
    work, total = graph.comm.all_reduce(torch.stack([own.square().sum(), own.sum()])).tolist()
    if work > LARGEST_WORK or total > LARGEST_INTERACTIONS:
        return (
            f"{total:,.0f} interactions with {work:,.0f} pairs of items of one user; the limits are "
            f"{LARGEST_INTERACTIONS:,} and {LARGEST_WORK:,}"
        )
    users, items = (torch.cat(graph.comm.all_gather(x)).cpu().numpy() for x in (graph.pair_users, graph.pair_items))
    values = (1.0 / np.sqrt(degrees.cpu().numpy()[items])).astype(np.float32)
    by_user = sp.csr_matrix((values, (users, items)), shape=(graph.num_users, graph.num_items))
    by_item = by_user.T.tocsr()
    parts = [_nearest(by_item[first : first + BLOCK] @ by_user, first) for first in range(0, graph.num_items, BLOCK)]
    return sp.vstack(parts, format="csr")


def _nearest(similar: sp.csr_matrix, first: int) -> sp.csr_matrix:
    """Of each row only the NEIGHBOURS largest, without the item itself. first: the item of the first row."""
    rows = np.repeat(np.arange(similar.shape[0]), np.diff(similar.indptr))
    other = similar.indices != rows + first
    rows, columns, values = rows[other], similar.indices[other], similar.data[other]
    order = np.lexsort((columns, -values, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    counts = np.bincount(rows, minlength=similar.shape[0])
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    near = within < NEIGHBOURS
    return sp.csr_matrix((values[near], (rows[near], columns[near])), shape=similar.shape)


def neighbour_ranking(
    graph: LocalGraph, neighbours: sp.csr_matrix, users: Tensor, k: int, on_ranked: OnRanked
) -> Iterator[Ranked]:
    """The items that are most similar to the user's own, by the sum of the similarities, for each of `users`."""
    done = 0
    for block in users.split(BLOCK) if len(users) else ():
        line, seen = seen_items(graph, graph.user_rows(block))
        lines, columns = line.cpu().numpy(), seen.cpu().numpy()
        own = sp.csr_matrix((np.ones(len(lines), np.float32), (lines, columns)), shape=(len(block), graph.num_items))
        scores = torch.from_numpy((own @ neighbours).toarray()).to(users.device)
        scores[line, seen] = -torch.inf
        items, best = best_of_scores(scores, min(k, graph.num_items))
        done += len(block)
        on_ranked(done, len(users))
        yield Ranked(block, items, best)
