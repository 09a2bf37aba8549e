"""Where ranks listen, and what becomes of a group that does not form."""

from typing import Any

import psutil
import pytest
import spmd
import torch
from spawned import run_by_value
from torch import Tensor

from unlearnrec.distributed.comm import CollectiveError, Comm, check_exchange, open_store, reach_store
from unlearnrec.distributed.graph import local_graph


def listening_after_move(comm: Comm) -> set[str]:
    """The addresses at which this process listens once it has moved to 127.0.0.(2 + rank), with the store at 127.0.0.2."""
    store = open_store("127.0.0.2", comm.size, 20.0) if comm.rank == 0 else None
    port = int(comm.all_reduce(torch.tensor([store.port if store else 0])))
    size, rank = comm.size, comm.rank
    comm.close()
    store = store or reach_store("127.0.0.2", port, size, 20.0)
    moved = Comm(rank, size, store, 20.0, address=f"127.0.0.{2 + rank}")
    check_exchange(moved)
    sockets = psutil.Process().net_connections("tcp")
    found = {s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN} - {"127.0.0.1"}
    moved.all_reduce(torch.zeros(1))
    moved.close()
    return found


def test_a_rank_listens_at_its_own_address_only():
    """Wherever the host name leads: on Debian to a loopback address, which other machines take for their own."""
    assert run_by_value(2, listening_after_move) == [{"127.0.0.2"}, {"127.0.0.3"}]


def test_a_group_that_does_not_form_is_a_failed_collective():
    store = open_store("127.0.0.1", 2, 1.0)
    with pytest.raises(CollectiveError, match="forming the process group failed on rank 0; not heard from: rank 1"):
        Comm(0, 2, store, 1.0)


def exchanged_both_ways(comm: Comm) -> list[tuple[Tensor, Tensor]]:
    """Rows as they arrive with one connection and with one for each way: some to each rank, none to some, none at all."""
    results = []
    for counts in (lambda a, b: 3 + a + 2 * b, lambda a, b: 2 * (a < b), lambda a, b: 0):
        sent = [counts(comm.rank, k) for k in range(comm.size)]
        received = [counts(k, comm.rank) for k in range(comm.size)]
        rows = torch.arange(sum(sent) * 4, dtype=torch.float32).view(-1, 4) + 1000 * comm.rank
        results.append(tuple(comm.all_to_all(rows, sent, received, "test", both_ways=way) for way in (False, True)))
    return results


@pytest.mark.parametrize("size", [1, 2, 3])
def test_rows_that_travel_both_ways_arrive_as_they_do_on_one_connection(size):
    for found in run_by_value(size, exchanged_both_ways):
        for once, both in found:
            assert torch.equal(once, both)


def layers_by_connections(comm: Comm) -> list[Any]:
    """M x of a graph whose partitions exchange few rows, and of one where they count as many."""
    found = []
    for least in (local_graph.BOTH_WAYS_ROWS, 1):
        local_graph.BOTH_WAYS_ROWS = least
        graph = spmd.local_graph(comm)
        x = torch.arange(graph.num_rows, dtype=torch.float32)[:, None] + comm.rank
        found.append((graph.propagation.both_ways, graph.propagation(x)))
    return found


def test_a_graph_takes_a_connection_for_each_way_where_many_rows_are_exchanged():
    for (few, once), (many, both) in run_by_value(2, layers_by_connections):
        assert (few, many) == (False, True)
        assert torch.equal(once, both)
