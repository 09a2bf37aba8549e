"""The pairs (user, item) that a step scores, as a weighted graph over all partitions: the scores, and the gradient of a
loss on them.

If w is the derivative of the loss by the score s = z_user . z_item, the gradient with respect to z_user is the sum of w
z_item over the pairs of the user, and that with respect to z_item the sum of w z_user over the pairs of the item: two
weighted sums over neighbours, without a gradient row for each pair.

Shape legend: C = pairs on this rank, N = local rows, D = columns.
"""

import torch
from torch import Tensor

from .local_graph import LocalGraph
from .neighbour_sum import TILE_ROWS, sum_rows
from .orders import order_by_key, order_by_owner, order_by_row


class ScoredPairs:
    """Pairs of users of this rank with any items. All ranks make and use theirs together.

    A row travels once between two ranks: that of an item to a rank that has pairs with it, and back that of a user for
    all these pairs, with their weights. The terms of an item's gradient are added at its owner in order of their keys.
    So the sums have the same bits for any number of partitions.
    """

    def __init__(self, graph: LocalGraph, z: Tensor, users: Tensor, items: Tensor, keys: Tensor) -> None:
        """z [N, D]: the readouts. users int64 [C]: local rows, ascending. items int64 [C]: global ids. keys int64 [C]:
        unique over all ranks, ascending."""
        self._comm = comm = graph.comm
        ones = [1] * comm.size
        self._users, self._user, counts = torch.unique_consecutive(users, return_inverse=True, return_counts=True)
        self._user_indptr = _indptr(counts)

        # Which rows of items this rank needs, in order of their owners, and which the others need of it.
        needed = torch.zeros(graph.num_items, dtype=torch.bool, device=items.device)
        needed[items] = True
        ids = torch.nonzero(needed)[:, 0]
        ids = ids.index_select(0, order_by_owner(graph.owner_of_item.index_select(0, ids)))
        place = torch.empty(graph.num_items, dtype=torch.int64, device=items.device)
        place[ids] = torch.arange(len(ids), device=ids.device)
        self._item = place.index_select(0, items)
        needs = torch.bincount(graph.owner_of_item[ids], minlength=comm.size)
        gives = comm.all_to_all(needs, ones, ones, "lookup").tolist()
        given = graph.item_rows(comm.all_to_all(ids, needs.tolist(), gives, "lookup"))
        self._item_rows = comm.exchange_rows(z.index_select(0, given), gives, needs.tolist(), "lookup")

        # For the way back: the pairs by item, then by key, at the owners of the items.
        self._user_rows = z.index_select(0, self._users)
        self.rows, column, by_key = self._told(graph, items, keys)
        """The local rows [R] of the items of the pairs that any rank has with items of this one."""
        by_row = order_by_row(self.rows.index_select(0, by_key), graph.num_rows)
        self._order = by_key.index_select(0, by_row)
        self._column = column.index_select(0, self._order)
        self._items, counts = torch.unique_consecutive(self.rows.index_select(0, self._order), return_counts=True)
        self._item_indptr = _indptr(counts)

    def _told(self, graph: LocalGraph, items: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tell the owners of the items about the pairs, and hear of those with items of this rank. Returns of these R
        pairs (the local rows of the items; the place of the user's row among those that `gradient` will receive; the
        order of the keys)."""
        if self._comm.size == 1:
            return graph.item_rows(items), self._user, torch.arange(len(items), device=items.device)
        comm, ones = self._comm, [1] * self._comm.size
        owners = graph.owner_of_item.index_select(0, items)
        self._by_owner = order_by_owner(owners)
        owners, senders = (x.index_select(0, self._by_owner) for x in (owners, self._user))
        first = torch.ones_like(owners, dtype=torch.bool)  # of the pairs of a user with an owner
        first[1:] = (owners[1:] != owners[:-1]) | (senders[1:] != senders[:-1])
        self._sent_users = senders[first]
        sent = torch.bincount(owners[first], minlength=comm.size)
        number = first.cumsum(0) - 1 - (sent.cumsum(0) - sent)[owners]  # of the user's row in the message to the owner
        pairs = torch.bincount(owners, minlength=comm.size)
        both = comm.all_to_all(torch.stack([sent, pairs], dim=1), ones, ones, "lookup")
        self._sent_rows, self._sent_pairs = sent.tolist(), pairs.tolist()
        self._received_rows, self._received_pairs = both[:, 0].tolist(), both[:, 1].tolist()
        message = torch.stack([*(x.index_select(0, self._by_owner) for x in (items, keys)), number], dim=1)
        message = comm.all_to_all(message, self._sent_pairs, self._received_pairs, "lookup")
        starts = both[:, 0].cumsum(0) - both[:, 0]
        column = message[:, 2] + torch.repeat_interleave(starts, both[:, 1])
        return graph.item_rows(message[:, 0].contiguous()), column, order_by_key(message[:, 1].contiguous())

    def scores(self) -> Tensor:
        """The score [C] of each pair."""
        users, items = self._user_rows, self._item_rows
        scores = users.new_empty(len(self._user))
        for start in range(0, len(scores), TILE_ROWS):
            chunk = slice(start, start + TILE_ROWS)
            rows = users.index_select(0, self._user[chunk])
            torch.sum(rows.mul_(items.index_select(0, self._item[chunk])), 1, out=scores[chunk])
        return scores

    def gradient(self, weights: Tensor, into: Tensor) -> None:
        """Write the gradients with respect to z to the rows of `into` [N, D] that have pairs.

        weights [C]: the derivative of the loss by each score.
        """
        into[self._users] = sum_rows(self._item_rows, self._user_indptr, self._item, weights)
        users = self._user_rows
        if self._comm.size > 1:
            users = users.index_select(0, self._sent_users)
            users = self._comm.exchange_rows(users, self._sent_rows, self._received_rows, "lookup")
            weights = weights.index_select(0, self._by_owner)
            weights = self._comm.all_to_all(weights, self._sent_pairs, self._received_pairs, "lookup")
        into[self._items] = sum_rows(users, self._item_indptr, self._column, weights.index_select(0, self._order))


def _indptr(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
