"""Orders of pairs: those of a stable sort."""

import pytest
import torch

from unlearnrec.distributed.graph.orders import order_by_key, order_by_owner, order_by_row


@pytest.mark.parametrize("count", [0, 1, 7, 5_000])
def test_orders_are_those_of_a_stable_sort(count: int) -> None:
    draw = torch.Generator().manual_seed(count)
    few = torch.randint(0, 40, (count,), generator=draw)
    assert torch.equal(order_by_owner(few), torch.argsort(few, stable=True))
    assert torch.equal(order_by_row(few, 40), torch.argsort(few, stable=True))
    keys = torch.randperm(count, generator=draw) * 10**15
    assert torch.equal(order_by_key(keys), torch.argsort(keys))
    runs = torch.cat([half.sort().values for half in keys.tensor_split(2)])
    assert torch.equal(order_by_key(runs), torch.argsort(runs))
