"""Batches: each interaction of an epoch is in one of them, and how many are dealt at a time changes nothing."""

import pytest
import spmd
import torch

from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.training import batch


@pytest.mark.parametrize("window", [1, 50, 120])
def test_windows_change_no_batch(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = spmd.local_graph(Comm())
    whole = list(batch.batches(graph, 1, 0, 7))
    monkeypatch.setattr(batch, "WINDOW", window)
    dealt = list(batch.batches(graph, 1, 0, 7))
    assert len(dealt) == len(whole) == 7
    for one, other in zip(dealt, whole, strict=True):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("users", "items", "negatives"))
        key = one.users * spmd.ITEMS + one.items
        assert bool((key.diff() > 0).all())
    users, items = spmd.pairs()
    found = torch.cat([one.users * spmd.ITEMS + one.items for one in dealt]).sort().values
    assert found.tolist() == (users.astype(int) * spmd.ITEMS + items).tolist()
