"""Rows that ranks write into each other's memory, against the same rows sent through gloo."""

import os
import unittest.mock
from typing import Any

import psutil
import pytest
import spmd
import torch
from spawned import run_by_value

from unlearnrec.distributed import shared_rows
from unlearnrec.distributed.comm import CollectiveError, Comm
from unlearnrec.distributed.shared_rows import share


def means(comm: Comm, halo: str, last: int, columns: int = 10) -> dict[str, Any]:
    """Means of layers and their gradients, over and over in the same buffers, with what left this rank."""
    comm.rows_sent.clear()
    comm.bytes_sent.clear()
    graph = spmd.local_graph(comm, halo)
    layer = graph.propagation.keeping_buffers(results=True)
    found = []
    for step in range(4):
        generator = torch.Generator().manual_seed(100 * comm.rank + step)
        x, gradient = (torch.randn(graph.num_rows, columns, generator=generator) for _ in range(2))
        x.requires_grad_()
        y = layer.mean(x, step % 2, last)
        found += [y.detach().clone(), torch.autograd.grad(y, x, gradient)[0].clone()]
    writers = {k for x in layer._shared.values() if x is not None for k in x.writers}
    return {"found": found, "writers": writers, "sent": (comm.rows_sent["halo"], comm.bytes_sent["halo"])}


def sent_and_written(comm: Comm) -> list[list[dict[str, Any]]]:
    """For each case: the rows sent, the rows written, and those of three ranks of which the second is on another machine."""
    cases = []
    machine = shared_rows._machine
    for halo, dtype, last in (
        ("pull", "float32", 3),
        ("cover", "float32", 2),
        ("pull", "bfloat16", 2),
        ("cover", "bfloat16", 1),
    ):
        comm.row_dtype = getattr(torch, dtype)
        case = []
        for shares, others in ((False, 0), (True, 0), (True, comm.rank % 2)):
            comm.shares_memory = shares
            shared_rows._machine = lambda others=others: machine() - others
            case.append(means(comm, halo, last))
        cases.append(case)
    return cases


@pytest.mark.parametrize("size", [2, 3])
def test_written_rows_are_those_that_are_sent(size):
    for rank, cases in enumerate(run_by_value(size, sent_and_written)):
        every = set(range(size)) - {rank}
        for sent, *written in cases:
            assert sent["sent"][0] > 0
            assert [x["writers"] for x in written] == [every, {k for k in every if k % 2 == rank % 2}]
            for other in written:
                assert sent["sent"] == other["sent"]
                assert all(map(torch.equal, sent["found"], other["found"]))


def without_the_system(comm: Comm) -> list[Any]:
    """What is shared where rank 1 cannot make, place or open shared memory, and what is shared after that."""

    def refuse(*_: Any) -> Any:
        raise OSError("not allowed")

    found = []
    for missing in ("_create", "_buffer", "_map", None):
        with unittest.mock.patch.object(
            shared_rows,
            missing or "_name",
            refuse if missing and comm.rank else getattr(shared_rows, missing or "_name"),
        ):
            shared = share(comm, 3, [2] * comm.size, 4, torch.float32)
        found.append(shared and (sorted(shared.places), sorted(shared.writers), shared.all_write))
    return found


def test_a_rank_that_cannot_share_sends():
    first, second = run_by_value(2, without_the_system)
    assert first == [([], [1], False), ([], [1], False), ([1], [], False), ([1], [1], True)]
    assert second == [([0], [], False), ([0], [], False), ([], [0], False), ([0], [0], True)]


def left_behind(comm: Comm) -> tuple[int, int]:
    """(files that stay open, bytes of memory that stay mapped) after buffers have come and gone."""

    def once() -> None:
        shared = share(comm, 1000, [1000] * comm.size, 64, torch.float32)
        assert shared is not None
        shared.buffer.fill_(1)
        for place in shared.places.values():
            place.fill_(2)
        comm.meet()

    once()
    mapped = psutil.Process().memory_info().vms
    files = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        once()
    return len(os.listdir("/proc/self/fd")) - files, psutil.Process().memory_info().vms - mapped


def test_nothing_stays_open_or_mapped():
    for files, size in run_by_value(2, left_behind):
        assert files == 0 and size < 2**22


def test_another_file_is_not_taken():
    file = os.memfd_create(shared_rows._name(1))
    os.ftruncate(file, 4096)
    rows = shared_rows._map(os.getpid(), file, 1, 4096, torch.float32)
    assert len(rows) == 1024
    with pytest.raises(ValueError, match="another file"):
        shared_rows._map(os.getpid(), file, 2, 4096, torch.float32)
    os.close(file)
    with pytest.raises(OSError):
        shared_rows._map(os.getpid(), file, 1, 4096, torch.float32)


def leaves(comm: Comm) -> str:
    """Rank 1 goes away when all share memory."""
    graph = spmd.local_graph(comm)
    layer = graph.propagation.keeping_buffers(results=True)
    x = torch.ones(graph.num_rows, 4)
    layer.mean(x, 0, 2)
    if comm.rank == 1:
        comm.close()
        return "gone"
    try:
        layer.mean(x, 0, 2)
    except CollectiveError as error:
        return f"missing {error.missing}"
    return "nothing happened"


def test_a_rank_that_goes_away_is_named():
    assert run_by_value(3, leaves) == ["missing [1]", "gone", "missing [1]"]
