"""Where ranks listen, and what becomes of a group that does not form."""

import psutil
import pytest
import torch
from spawned import run_by_value

from unlearnrec.distributed.comm import CollectiveError, Comm, check_exchange, open_store, reach_store


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
