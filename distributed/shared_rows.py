"""Rows of a table that other ranks of the same machine write where they are read, instead of sending them through gloo.

A rank's buffer has its own rows in memory of its own, and behind them, at the next addresses, received rows in a file in
memory (memfd) that the other ranks map too. Such a file has no name in any folder and no limit of its own, and ends with the
last process that has it: a killed rank leaves nothing behind. A rank that cannot map the memory of another, since it is on
another machine, in another container, or not allowed to, sends its rows as before.

Nothing here waits. The caller sees to it that all ranks meet after they have written and before they read, and again before
anything is written over rows that may still be read.

Shape legend: N = own rows, R = received rows, K = ranks, D = columns.
"""

import contextlib
import ctypes
import hashlib
import mmap
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .comm import Comm

_MAP_FIXED = 0x10
_MAP_FAILED = ctypes.c_void_p(-1).value
_HUGE_PAGE = 2**21


@dataclass(frozen=True, eq=False)
class SharedRows:
    """A buffer of this rank, and the places in the buffers of others where this rank writes.

    Shapes: buffer [N + R, D]; places: by rank, [rows that it receives from this one, D].
    """

    buffer: Tensor
    places: dict[int, Tensor]
    writers: set[int]
    """The ranks that write into this buffer. All others send."""
    all_write: bool
    """Whether no rank sends to any other."""


def share(comm: Comm, own: int, recv_counts: Sequence[int], columns: int, dtype: torch.dtype) -> SharedRows | None:
    """A buffer of N = own rows with the rows received from each rank, recv_counts [K], behind them. All ranks call it.

    Returns None, on all ranks, where no rank can write into the memory of another.
    """
    if comm.size == 1 or comm.device.type != "cpu" or not comm.shares_memory:
        return None
    row = columns * dtype.itemsize
    file, token = -1, secrets.randbits(62)
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: not on this system
        file = _create(token, sum(recv_counts) * row)
    try:
        # What each rank has: its machine, process and file, and how many rows it receives from each.
        mine = torch.tensor([[_machine(), os.getpid(), file, token, *recv_counts]])
        told = [x[0].tolist() for x in comm.all_gather(mine)]
        buffer = None
        if file >= 0:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                buffer = _buffer(file, own, sum(recv_counts), columns, dtype)
        places = {}
        for k, (machine, process, number, its_token, *counts) in enumerate(told):
            if k != comm.rank and number >= 0 and machine == _machine():
                with contextlib.suppress(OSError, ValueError):
                    rows = _map(process, number, its_token, sum(counts) * row, dtype).view(-1, columns)
                    first = sum(counts[: comm.rank])
                    places[k] = rows[first : first + counts[comm.rank]]
        ready = torch.tensor([[int(buffer is not None), *(int(k in places) for k in range(comm.size))]])
        can = [x[0].tolist() for x in comm.all_gather(ready)]
    finally:
        if file >= 0:
            os.close(file)  # it lives on in the memory that maps it
    # A rank writes to another if it has the other's memory, and the other has it behind its own rows.
    writes = [[can[j][1 + k] and can[k][0] for k in range(comm.size)] for j in range(comm.size)]
    if not any(map(any, writes)):
        return None
    if buffer is None:  # others may still have theirs
        buffer = torch.empty((own + sum(recv_counts), columns), dtype=dtype)
    return SharedRows(
        buffer,
        {k: place for k, place in places.items() if writes[comm.rank][k]},
        {j for j in range(comm.size) if writes[j][comm.rank]},
        all(writes[j][k] for j in range(comm.size) for k in range(comm.size) if j != k),
    )


def _create(token: int, size: int) -> int:
    """A file in memory of at least so many bytes. Its pages are had when they are first written."""
    file = os.memfd_create(_name(token))
    try:
        os.ftruncate(file, _pages(size))
    except OSError:
        os.close(file)
        raise
    return file


def _buffer(file: int, own: int, received: int, columns: int, dtype: torch.dtype) -> Tensor:
    """A tensor [own + received, columns] whose received rows are those of the file. The others are private memory, in huge
    pages where the kernel has them: it rarely gives these to files."""
    row = columns * dtype.itemsize
    size = _pages(received * row)
    memory = mmap.mmap(-1, own * row + size + 2 * _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    # The file begins with a huge page, so the tensor begins anywhere.
    place = -(-(start + own * row) // _HUGE_PAGE) * _HUGE_PAGE - start
    system = ctypes.CDLL(None, use_errno=True)
    system.mmap.restype = ctypes.c_void_p
    system.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    access, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_FIXED
    if system.mmap(start + place, size, access, flags, file, 0) == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), "mmap")
    _ask_huge_pages(memory)
    flat = torch.frombuffer(memory, dtype=dtype, offset=place - own * row)
    return flat[: (own + received) * columns].view(own + received, columns)


def _map(process: int, number: int, token: int, size: int, dtype: torch.dtype) -> Tensor:
    """The file that a process of this machine has open under a number, as a tensor of `size` bytes.

    Raises:
        OSError, ValueError: it is not to be had, or it is another file.
    """
    path = f"/proc/{process}/fd/{number}"
    if os.readlink(path) != f"/memfd:{_name(token)} (deleted)":
        raise ValueError("another file")
    file = os.open(path, os.O_RDWR)
    try:
        memory = mmap.mmap(file, _pages(size))
    finally:
        os.close(file)
    _ask_huge_pages(memory)
    return torch.frombuffer(memory, dtype=dtype)[: size // dtype.itemsize]


def _ask_huge_pages(memory: mmap.mmap) -> None:
    with contextlib.suppress(OSError, AttributeError):
        memory.madvise(mmap.MADV_HUGEPAGE)


def _machine() -> int:
    """A number of this machine and its space of process ids, 62 bits. -1: the system has no such thing."""
    try:
        machine = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return -1
    return int.from_bytes(hashlib.sha256(machine.encode()).digest()[:8], "big") >> 2


def _name(token: int) -> str:
    return f"unlearnrec-{token:x}"


def _pages(size: int) -> int:
    """The bytes of as many pages as hold `size`, at least one."""
    return max(1, -(-size // mmap.PAGESIZE)) * mmap.PAGESIZE
