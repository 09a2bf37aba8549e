"""The k best items of blocks of users against a stable sort, with ties, left-out items and tiles of every kind."""

import pytest
import torch

from unlearnrec.distributed.measures import top_items
from unlearnrec.distributed.measures.top_items import TopItems


def expected(users: torch.Tensor, items: torch.Tensor, line: torch.Tensor, seen: torch.Tensor, k: int):
    scores = users @ items.T
    scores[line, seen] = -torch.inf
    columns = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    return columns, scores.gather(1, columns)


@pytest.mark.parametrize("tile", [60, 2**21])
@pytest.mark.parametrize("k, items", [(1, 1), (20, 3000), (20, 333), (5, 64), (64, 64), (7, 129)])
@pytest.mark.parametrize("values", [2, 1000])
def test_best_items_are_those_of_a_stable_sort(monkeypatch, tile, k, items, values):
    monkeypatch.setattr(top_items, "TILE_SCORES", tile)
    draw = torch.Generator().manual_seed(0)
    # Small integers: the products are exact, and with few values most scores are equal, also at the k-th place.
    users = torch.randint(values, (23, 3), generator=draw).float() - values // 2
    table = torch.randint(values, (items, 3), generator=draw).float() - values // 2
    users[0] = 0  # all of its scores are equal
    pairs = torch.randperm(23 * items, generator=draw)[: 23 * items // 3].sort().values
    line, seen = pairs // items, pairs % items
    line, seen = (torch.cat([x, more]) for x, more in ((line, torch.full((items,), 1)), (seen, torch.arange(items))))
    best = TopItems(table, k, batch_users=10)
    assert best.block_users == 10
    for first in range(0, 23, 10):
        block = users[first : first + 10]
        here = (line >= first) & (line < first + 10)
        columns, scores = best.of(block, line[here] - first, seen[here])
        known, right = expected(block, table, line[here] - first, seen[here], k)
        assert torch.equal(scores, right)
        there = right > -torch.inf
        assert torch.equal(columns[there], known[there])
        assert columns.min() >= 0 and columns.max() < items
    assert not (expected(users[:2], table, line[line == 1], seen[line == 1], k)[1][1] > -torch.inf).any()


def test_a_user_whose_scores_are_all_equal_costs_no_more_than_its_tiles():
    """Its groups would all pass a bound that lets equal maxima pass."""
    best = TopItems(torch.zeros(100_000, 4), 20, 8)
    columns, _ = best.of(torch.ones(8, 4), torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    assert torch.equal(columns, torch.arange(20).expand(8, 20))
    assert len(best._kept) < 8 * 100_000 / best._group
