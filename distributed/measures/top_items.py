"""The k best items of many users, exactly, in little more time than the scores themselves take.

Scores are computed in tiles that stay in the cache, and only the best groups of a user's items leave it. A group is some
neighbouring columns. The k best items of a user lie in the k groups with the largest maxima, so all that a tile gives
beyond its scores are the maxima of its groups, and the scores of the few groups that may still be among these k.

Equal scores are ordered by column. So are groups with equal maxima, which keeps this exact: each of the k groups before a
group with an equal maximum has an item of that score at a lower column.

Shape legend: B = users of a block, C = columns of a tile, I = all columns, D = columns of a readout, k = items wanted,
G = groups of a tile, g = columns of a group, n = groups that may hold one of the best items, m = single columns that may.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

GROUP = 128
"""The number of columns of a group. torch finds the maximum of so many neighbours much faster than that of fewer. They are
fewer where k groups of this size would be much of all columns."""
PART = 32
"""The number of columns of the parts into which the best groups are divided at the end."""
TILE_SCORES = 2**21
"""The number of scores in a tile, for each thread: 8 MiB. Fewer fit into nearer caches, but each tile costs a few calls."""
TILE_SCORES_CUDA = 2**26
BLOCK_USERS = 256
"""The number of users of a block, for each thread. Fewer make the products slower, more make the tiles too narrow."""
_LOW = 0xFFFFFFFF


class TopItems:
    """The items of a ranking, cut into tiles of columns. One object ranks one block of users after the other."""

    def __init__(self, items_ID: Tensor, k: int, batch_users: int) -> None:
        """items_ID: readouts float32 by column. k: from 1 to I. batch_users: the largest number of users of a block."""
        cpu = items_ID.device.type == "cpu"
        threads = torch.get_num_threads() if cpu else 1
        self._k, self._columns = k, len(items_ID)
        self.block_users = min(batch_users, BLOCK_USERS * threads) if cpu else batch_users
        self._group = GROUP
        while self._group > 1 and 4 * k * self._group > self._columns:
            self._group //= 2
        groups = -(-self._columns // self._group)
        scores = TILE_SCORES * threads if cpu else TILE_SCORES_CUDA
        tiles = -(-groups * self._group * self.block_users // scores)
        self._groups = -(-groups // tiles)  # of a tile; all tiles have the same number
        missing = -self._columns % (self._groups * self._group)
        padded_ID = torch.cat([items_ID, items_ID.new_zeros(missing, items_ID.shape[1])])
        self.tiles = padded_ID.split(self._groups * self._group)
        self.scores = items_ID.new_empty(self.block_users * self._groups * self._group)
        self._maxima = items_ID.new_empty(self.block_users * self._groups)
        self._kept = items_ID.new_empty(2 * self.block_users * k, self._group)

    def of(self, users_BD: Tensor, line: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """(columns int64 [B, k], scores [B, k]) of the best items of a block of users, best first, equal scores by
        column. A score of -inf means that no item was left.

        users_BD: readouts of at most `block_users` users. line, seen int64 [s]: column `seen` is left out for the user
        at `line` of the block.
        """
        size, groups, g = len(users_BD), self._groups, self._group
        width = groups * g
        scores = self.scores[: size * width]
        maxima_BG = self._maxima[: size * groups].view(size, groups)
        left_out = self._by_tile(line, seen)
        best = users_BD.new_full((size, self._k), -torch.inf)
        bound_B1 = best[:, -1:]
        places: list[Tensor] = []
        kept = next_bound = 0
        for number, tile_CD in enumerate(self.tiles):
            torch.mm(users_BD, tile_CD.T, out=scores.view(size, width))
            scores.index_fill_(0, left_out[number], -torch.inf)
            if (number + 1) * width > self._columns:
                scores.view(size, width)[:, self._columns - number * width :] = -torch.inf
            torch.amax(scores.view(size, groups, g), 2, out=maxima_BG)
            if number == next_bound:
                # Seldom enough to cost little, and often enough that few groups pass.
                best = torch.cat([best, maxima_BG], dim=1).topk(self._k, dim=1).values
                bound_B1, next_bound = best[:, -1:].contiguous(), 2 * number + 1
                equal = maxima_BG == bound_B1  # the first k of these are enough, and there may be very many
                passed = (maxima_BG > bound_B1) | (equal & (equal.cumsum(1) <= self._k))
            else:  # k groups at lower columns have maxima of at least the bound
                passed = maxima_BG > bound_B1
            found = torch.nonzero(passed.view(-1))[:, 0]
            self._keep(kept, scores.view(-1, g), found)
            kept += len(found)
            places.append(found + number * (size * groups))
        return self._select(size, bound_B1[:, 0], torch.cat(places))

    def _keep(self, kept: int, scores: Tensor, found: Tensor) -> None:
        """Copy rows of `scores` behind those that are kept already."""
        if kept + len(found) > len(self._kept):
            more = self._kept.new_empty(2 * (kept + len(found)), self._group)
            more[:kept] = self._kept[:kept]
            self._kept = more
        torch.index_select(scores, 0, found, out=self._kept[kept : kept + len(found)])

    def _by_tile(self, line: Tensor, seen: Tensor) -> Sequence[Tensor]:
        """For each tile, the places among its scores that are left out."""
        width = self._groups * self._group
        tile = seen // width
        order = torch.argsort(tile, stable=True)
        counts = torch.bincount(tile, minlength=len(self.tiles)).tolist()
        return (line * width + seen - tile * width)[order].split(counts)

    def _select(self, size: int, bound_B: Tensor, places_n: Tensor) -> tuple[Tensor, Tensor]:
        """The k best columns among the kept groups. places_n: (tile, user, group of the tile) of each, as one number."""
        k = self._k
        user_n = places_n // self._groups % size
        maxima_n = self._kept[: len(places_n)].amax(1)
        # First the groups that a later bound excludes: these are most.
        rows = torch.nonzero(maxima_n >= bound_B[user_n])[:, 0]
        # The k-th largest of the maxima bounds the k-th best score.
        bound_B = _padded(user_n[rows], maxima_n[rows], size, k).topk(k, dim=1).values[:, -1]
        rows = rows[maxima_n[rows] >= bound_B[user_n[rows]]]
        place_n = places_n[rows]
        group_n = place_n // (self._groups * size) * self._groups + place_n % self._groups
        user_n, column_n, scores_ng = user_n[rows], group_n * self._group, self._kept.index_select(0, rows)
        for size_of_part in (PART, 1):
            if scores_ng.shape[1] > size_of_part:
                user_n, column_n, scores_ng = _parts(user_n, column_n, scores_ng, bound_B, size_of_part)
        top = _padded(user_n, _keys(scores_ng[:, 0], column_n), size, k).topk(k, dim=1).values
        return _columns(top).clamp_(max=self._columns - 1), _scores(top)


def _parts(
    user_n: Tensor, column_n: Tensor, scores_ng: Tensor, bound_B: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The same (users, first columns, scores) of the parts of these groups, of `size` columns each, that reach the user's
    bound."""
    parts = scores_ng.shape[1] // size
    scores = scores_ng.view(-1, size)
    maxima = scores.amax(1).view(-1, parts) if size > 1 else scores_ng
    left = torch.nonzero((maxima >= bound_B[user_n][:, None]).view(-1))[:, 0]
    row = left // parts
    return user_n[row], column_n[row] + left % parts * size, scores.index_select(0, left)


def best_of_scores(scores_BI: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(columns int64 [B, k], scores [B, k]) of the k best of scores float32 that are there, ordered as by `TopItems.of`."""
    keys = _keys(scores_BI, torch.arange(scores_BI.shape[1], device=scores_BI.device)).topk(k, dim=1).values
    return _columns(keys), _scores(keys)


def _padded(user_n: Tensor, values_n: Tensor, size: int, at_least: int) -> Tensor:
    """The values [size, w] by user, with the least value behind them. w: at least `at_least`."""
    user_n, order = user_n.sort(stable=True)
    counts = torch.bincount(user_n, minlength=size)
    starts = counts.cumsum(0) - counts
    slot = torch.arange(len(user_n), device=user_n.device) - starts[user_n]
    least = -torch.inf if values_n.is_floating_point() else int(_keys(torch.tensor(-torch.inf), torch.tensor(_LOW)))
    padded = values_n.new_full((size, max(at_least, int(counts.max()))), least)
    padded[user_n, slot] = values_n[order]
    return padded


def _keys(scores: Tensor, columns: Tensor) -> Tensor:
    """int64 keys in the order of the scores float32; of equal ones, the lower column (below 2^32) has the larger key."""
    bits = (scores + 0.0).view(torch.int32)  # -0.0 becomes 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(torch.int64) << 32) | (_LOW - columns)


def _columns(keys: Tensor) -> Tensor:
    """The columns of keys."""
    return _LOW - (keys & _LOW)


def _scores(keys: Tensor) -> Tensor:
    """The scores of keys."""
    ordered = (keys >> 32).to(torch.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
