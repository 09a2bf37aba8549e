"""One partition's graph as tensors: local rows, degrees, owners of nodes, and the layer over the halo exchange.

The local rows are those of the owned users in order of id, then those of the owned items. Shape legend: N = local rows
(u users + i items), E = interactions of owned users, U, I = users and items of the whole graph, D = columns.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...partitioning.assignment import Assignment
from ...partitioning.halo import HaloPlan, plan
from ...partitioning.shard import GraphShard
from ..comm import Comm
from .neighbour_sum import NeighbourSum
from .propagation import Propagation

Ids = npt.NDArray[np.int64]

BOTH_WAYS_ROWS = 4096
"""Rows that a rank sends in a layer, on average, from which on the two ways have connections of their own."""


class LocalGraph:
    """The graph that models are computed on: one shard, and its place among the others.

    Shapes: user_ids int64 [u], item_ids int64 [i], degrees int64 [N], pair_users, pair_items int32 [E] (global ids of
    the interactions of owned users, sorted by user, then item), owner_of_user int64 [U], owner_of_item int64 [I].
    """

    def __init__(
        self, shard: GraphShard, assignment: Assignment, comm: Comm, halo: str = "pull", kernel: str = "torch"
    ) -> None:
        self.shard, self.assignment, self.comm, self.kernel = shard, assignment, comm, kernel
        device = comm.device
        self.halo: HaloPlan = plan(shard, assignment, halo)
        self.num_users, self.num_items = shard.num_users, shard.num_items
        users, items, _ = shard.interactions()
        self.pair_users = torch.from_numpy(users).to(device)
        self.pair_items = torch.from_numpy(items if items.flags.writeable else items.copy()).to(device)
        self.owner_of_user = torch.from_numpy(assignment.owner_of_user.astype(np.int64)).to(device)
        self.owner_of_item = torch.from_numpy(assignment.owner_of_item.astype(np.int64)).to(device)
        self.uses: Ids | None = None
        """How often each row of the buffer is summed; None until it is first needed (`shrinking`)."""
        self.refresh()

    def refresh(self, items: NeighbourSum | None = None) -> None:
        """Make anew what follows from the shard and the plan, after they were set. All ranks call it.

        items: as for `Propagation`.

        Raises:
            RuntimeError: as the constructor.
        """
        shard, device = self.shard, self.comm.device
        self.user_ids = torch.from_numpy(shard.user_ids).to(device)
        self.item_ids = torch.from_numpy(shard.item_ids).to(device)
        self.degrees = torch.from_numpy(shard.degrees()).to(device)
        self._row_of_user = _rows(self.user_ids, shard.num_users, 0)
        self._row_of_item = _rows(self.item_ids, shard.num_items, len(self.user_ids))
        self.propagation = Propagation(self.halo, self.degrees, self.comm, self.kernel, items=items)
        self._check_cuts()

    def without(self, users: Ids, items: Ids) -> "LocalGraph":
        """The graph without the interactions users, items [n] (global ids). It keeps all rows. All ranks call it."""
        shard = self.shard.without(users, items)
        return LocalGraph(shard, self.assignment, self.comm, self.halo.halo, self.kernel)

    def _check_cuts(self) -> None:
        """Check that two partitions hold the same edges between them, that is, shards of the same version.

        Raises:
            RuntimeError: they do not. The message says which partitions disagree.
        """
        size = self.comm.size
        own = torch.tensor([int(x[:15] or "0", 16) for x in self.halo.cut_digests], device=self.degrees.device)
        sent = torch.full_like(own, int(self.halo.send_counts.sum()))
        both = self.comm.all_to_all(torch.stack([own, sent], dim=1), [1] * size, [1] * size, "check")
        theirs = both[:, 0].clone()
        own[self.comm.rank] = theirs[self.comm.rank]
        self.propagation.both_ways = int(both[:, 1].sum()) >= size * BOTH_WAYS_ROWS
        if wrong := torch.nonzero(own != theirs)[:, 0].tolist():
            raise RuntimeError(
                f"partitions {self.comm.rank} and {wrong} hold different edges between them: one has the graph shard "
                "of another version"
            )

    @property
    def num_rows(self) -> int:
        """N, the number of local rows."""
        return len(self.degrees)

    @property
    def num_local_users(self) -> int:
        """u, the number of owned users. The first u local rows are theirs."""
        return len(self.user_ids)

    def user_rows(self, ids: Tensor) -> Tensor:
        """Local rows int64 [n] of global user ids [n], -1 where another partition owns them."""
        return self._row_of_user[ids]

    def item_rows(self, ids: Tensor) -> Tensor:
        """Local rows int64 [n] of global item ids [n], -1 where another partition owns them."""
        return self._row_of_item[ids]

    def pairs_at(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """(users, items), int64 [n] global ids: the interactions at these places of `pair_users` and `pair_items`."""
        return self.pair_users[places].long(), self.pair_items[places].long()

    def has(self, users: Tensor, items: Tensor) -> Tensor:
        """Whether the pairs users, items (global ids, any shape) are interactions of owned users: bool, the same shape.

        A binary search in the row of each user, so that the time depends on the number of pairs."""
        row = self.user_rows(users)
        degrees = self.degrees[: self.num_local_users]
        ends = degrees.cumsum(0)
        high = torch.where(row >= 0, ends[row.clamp(min=0)], 0) if len(ends) else torch.zeros_like(row)
        low = high - torch.where(row >= 0, degrees[row.clamp(min=0)], 0) if len(ends) else torch.zeros_like(row)
        end = high
        while bool((open_ := low < high).any()):
            middle = (low + high) // 2
            right = open_ & (self.pair_items[middle.clamp(max=len(self.pair_items) - 1)] < items)
            low = torch.where(right, middle + 1, low)
            high = torch.where(open_ & ~right, middle, high)
        there = low < end
        found = torch.zeros_like(there)
        found[there] = self.pair_items[low[there]] == items[there]
        return found

    def neighbour_means(self, x: Tensor) -> Tensor:
        """The mean [N, D] of x [N, D] over each node's neighbours; zero for a node without any."""
        return self.propagation.neighbour_sum(x) / self.degrees.clamp(min=1)[:, None]

    def neighbour_means_of(self, x: Tensor, rows: Tensor) -> Tensor:
        """As `neighbour_means`, of these rows int64 [n], ascending: [n, D], with the same bits. All ranks call it."""
        return self.propagation.neighbour_sum_of(x, rows) / self.degrees[rows].clamp(min=1)[:, None]


def _rows(ids: Tensor, total: int, first: int) -> Tensor:
    rows = torch.full((total,), -1, dtype=torch.int64, device=ids.device)
    rows[ids] = torch.arange(first, first + len(ids), device=ids.device)
    return rows
