"""All communication between ranks. This is the only module that imports torch.distributed.

There are process groups of the same ranks for rows of tables (halo exchange, lookups) and for the gradients of DDP. So a
collective of one cannot be matched with a collective of the other. A world of one rank needs no group and sends nothing.

On CPUs, many rows to higher ranks and many rows to lower ranks have a group each, and so a connection each between two
ranks. On one connection gloo sends them one after the other where a rank is late: the note that it is ready to receive is
sent behind all that it sends itself. A network that carries both ways at once would be half used.

After a failed collective the groups are not used again. A wait in gloo cannot be interrupted, and lasts until its
time-out if a peer hangs. Therefore a rank waits in short slices. After each it looks for an `abort`, and for failures
that other ranks have reported to the store. `CollectiveError` names the ranks that were not heard from. Only `exchange`
does not wait in slices: it ends when the peer closes its connection, or at the time-out.

Shape legend: S = rows sent, R = rows received, K = ranks, D = columns.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

_SLICE = timedelta(seconds=0.25)
"""Between two looks for an abort. A collective that completes ends the wait at once."""
_BOUND_GLOO = "gloo_at_address"
_ROLL_CALL_SECONDS = 1.0
"""How long a rank waits for the others to report a failed collective before it calls them missing."""

Store = dist.TCPStore


class CollectiveError(RuntimeError):
    """A collective failed. `missing` are the ranks that reported nothing: they are dead, frozen, or cut off."""

    def __init__(self, text: str, missing: list[int]) -> None:
        super().__init__(text, missing)
        self.text = text
        self.missing = missing

    def __str__(self) -> str:
        return self.text


def open_store(host: str, size: int, timeout_seconds: float, port: int = 0) -> Store:
    """Open the store at which the ranks meet, on rank 0. It is bound to a port, `.port`, when this returns: a free one, or
    the one that is given.

    host: an address of this machine. The store listens there and nowhere else."""
    listener = socket.create_server(
        (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=size + 16
    )
    return dist.TCPStore(
        host,
        listener.getsockname()[1],
        size,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout_seconds),
        master_listen_fd=listener.detach(),  # the store closes it
    )


def reach_store(host: str, port: int, size: int, timeout_seconds: float) -> Store:
    """Connect to the store that rank 0 opened, on the other ranks."""
    return dist.TCPStore(
        host, port, size, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=timeout_seconds)
    )


def try_name_servers(address: str) -> None:
    """Let Torch look up the name of an address of this machine, as its first store does for its log.

    Torch gives up names for good once a look-up has failed. Where no name server answers, that takes 10 s or more, once in a
    process, and counts as time in which the ranks were to meet unless it is done before."""
    open_store(address, 1, 60.0)


def _register_bound_gloo() -> None:
    """Make gloo known under a name of its own, with the address at which it listens as its options.

    Under its usual name it listens where this machine's host name leads, which is a loopback address on Debian, and
    Torch has no setting for an address, only GLOO_SOCKET_IFNAME for an interface."""
    if not hasattr(dist.Backend, _BOUND_GLOO.upper()):
        dist.Backend.register_backend(_BOUND_GLOO, _bound_gloo, extended_api=True, devices=["cpu"])


def _bound_gloo(group: Any, address: str) -> Any:
    """The gloo group that listens at this address of this machine. group: Torch's description of it."""
    gloo: Any = dist.ProcessGroupGloo
    options = gloo._Options()
    options._devices, options._timeout = [gloo.create_device(hostname=address)], group.timeout
    return gloo(group.store, group.group_rank, group.group_size, options)


class Comm:
    """The ranks of one generation, and the collectives on them.

    All ranks must call a collective, in the same order; only `exchange` and `sparse_all_to_all` are called by some.
    Each raises CollectiveError if other ranks do not take part.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        store: Store | None = None,
        timeout_seconds: float = 60.0,
        device: torch.device | str = "cpu",
        address: str = "127.0.0.1",
        row_dtype: torch.dtype = torch.float32,
    ) -> None:
        """store: from `open_store` or `reach_store`; not needed for a world of one. address: the one of this machine at
        which the other ranks find this one. row_dtype: how `exchange_rows` sends.

        Raises:
            CollectiveError: not all ranks came within the time-out.
        """
        self.rank, self.size = rank, size
        self.device = torch.device(device)
        self.row_dtype = row_dtype
        self.rows_sent: dict[str, int] = {}
        """Rows that left this rank in `all_to_all`, by purpose."""
        self.bytes_sent: dict[str, int] = {}
        """Their bytes."""
        self._store: Any = store
        self._timeout = timeout_seconds
        self._ended = threading.Event()
        self._closed = False
        self._rows: Any = None
        self._down: Any = None
        self._dense: Any = None
        if size > 1:
            assert store is not None
            settings: dict[str, Any] = {"timeout": timedelta(seconds=timeout_seconds)}
            if self.device.type != "cuda":
                settings |= {"backend": _BOUND_GLOO, "pg_options": address}
                _register_bound_gloo()
            with self._watched("forming the process group"):
                dist.init_process_group(**{"backend": "nccl"} | settings, store=store, rank=rank, world_size=size)
                self._rows = dist.new_group(list(range(size)), **settings)
                if self.device.type != "cuda":
                    self._down = dist.new_group(list(range(size)), **settings)
                self._dense = dist.new_group(list(range(size)), **settings)

    def all_to_all(
        self,
        rows: Tensor,
        send_counts: Sequence[int],
        recv_counts: Sequence[int],
        purpose: str,
        into: Tensor | None = None,
        both_ways: bool = False,
    ) -> Tensor:
        """Exchange rows: of rows [S, ...], grouped by destination, send_counts [K] go to each rank. Returns [R, ...],
        which is `into` if it is given.

        recv_counts [K] must be what the others send; both sides derive them from the same plan. both_ways, the same on all
        ranks: take the connections for each way; it pays from about a megabyte on, and costs a millisecond.
        """
        self._count(rows, sum(send_counts) - send_counts[self.rank], purpose)
        if self.size == 1:
            return rows if into is None else into.copy_(rows)
        received = rows.new_empty((sum(recv_counts), *rows.shape[1:])) if into is None else into
        with self._watched(f"all-to-all ({purpose})"):
            if both_ways and self._down is not None:
                self._both_ways(received, rows, recv_counts, send_counts)
            else:
                self._wait(self._all_to_all(received, rows, recv_counts, send_counts, self._rows))
        return received

    def _both_ways(
        self, received: Tensor, rows: Tensor, recv_counts: Sequence[int], send_counts: Sequence[int]
    ) -> None:
        """An all-to-all with a group for rows to higher ranks, and one for rows to lower ranks."""
        k, none = self.rank, [0] * self.size
        below, own, above = rows.split([sum(send_counts[:k]), send_counts[k], sum(send_counts[k + 1 :])])
        from_below, mine, from_above = received.split([sum(recv_counts[:k]), recv_counts[k], sum(recv_counts[k + 1 :])])
        up = self._all_to_all(
            from_below, above, [*recv_counts[:k], *none[k:]], [*none[: k + 1], *send_counts[k + 1 :]], self._rows
        )
        down = self._all_to_all(
            from_above, below, [*none[: k + 1], *recv_counts[k + 1 :]], [*send_counts[:k], *none[k:]], self._down
        )
        mine.copy_(own)
        self._wait(up)
        self._wait(down)

    @staticmethod
    def _all_to_all(
        received: Tensor, rows: Tensor, recv_counts: Sequence[int], send_counts: Sequence[int], group: Any
    ) -> dist.Work | None:
        return dist.all_to_all_single(
            received, rows.contiguous(), list(recv_counts), list(send_counts), group=group, async_op=True
        )

    def exchange_rows(
        self,
        rows: Tensor,
        send_counts: Sequence[int],
        recv_counts: Sequence[int],
        purpose: str,
        into: Tensor | None = None,
        both_ways: bool = False,
    ) -> Tensor:
        """As `all_to_all`, for rows float32 [S, D] of embeddings or gradients, which travel as `row_dtype`."""
        if self.size == 1 or rows.dtype != torch.float32 or self.row_dtype == torch.float32:
            return self.all_to_all(rows, send_counts, recv_counts, purpose, into, both_ways)
        small = rows.to(self.row_dtype).view(torch.uint8)  # which all backends know
        received = self.all_to_all(small, send_counts, recv_counts, purpose, None, both_ways).view(self.row_dtype)
        return received.to(rows.dtype) if into is None else into.copy_(received)

    def _count(self, rows: Tensor, leaving: int, purpose: str) -> None:
        self.rows_sent[purpose] = self.rows_sent.get(purpose, 0) + leaving
        size = leaving * rows[0].numel() * rows.element_size() if leaving else 0
        self.bytes_sent[purpose] = self.bytes_sent.get(purpose, 0) + size

    def all_reduce(self, x: Tensor) -> Tensor:
        """Replace x by its sum over the ranks, in place, and return it."""
        if self.size > 1:
            with self._watched("all-reduce"):
                self._wait(dist.all_reduce(x, group=self._rows, async_op=True))
        return x

    def all_gather(self, x: Tensor) -> list[Tensor]:
        """Return x of every rank, in order of rank. The first dimension may differ between ranks."""
        if self.size == 1:
            return [x]
        with self._watched("all-gather"):
            sizes = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(self.size)]
            mine = torch.tensor([len(x)], device=x.device)
            self._wait(dist.all_gather(sizes, mine, group=self._rows, async_op=True))
            counts = [int(n) for n in sizes]
            # Equal shapes only, for every backend: pad to the longest.
            padded = x.new_zeros((max(counts), *x.shape[1:]))
            padded[: len(x)] = x
            parts = [torch.empty_like(padded) for _ in range(self.size)]
            self._wait(dist.all_gather(parts, padded, group=self._rows, async_op=True))
        return [part[:n] for part, n in zip(parts, counts, strict=True)]

    def exchange(self, outgoing: Mapping[int, Tensor], incoming: Mapping[int, Tensor]) -> None:
        """Send outgoing[k] to rank k and fill incoming[k] with what rank k sends. Only these ranks take part."""
        # Receives first: gloo tells the others that they may send, and then does not have to say so behind its own rows.
        operations = [dist.P2POp(dist.irecv, x, k, self._rows) for k, x in sorted(incoming.items())]
        operations += [dist.P2POp(dist.isend, x.contiguous(), k, self._rows) for k, x in sorted(outgoing.items())]
        if operations:
            with self._watched("exchange between affected ranks"):
                for work in dist.batch_isend_irecv(operations):
                    work.wait()

    def sparse_all_to_all(
        self,
        rows: Tensor,
        send_counts: Sequence[int],
        recv_counts: Sequence[int],
        purpose: str,
        into: Tensor | None = None,
    ) -> Tensor:
        """As `all_to_all`, but only the ranks that have rows to send or to receive take part. One connection carries both
        ways, since receives come first (`exchange`)."""
        self._count(rows, sum(send_counts) - send_counts[self.rank], purpose)
        every = rows.new_empty((sum(recv_counts), *rows.shape[1:])) if into is None else into
        received = every.split(list(recv_counts))
        received[self.rank].copy_(rows.split(list(send_counts))[self.rank])
        outgoing = {k: x for k, x in enumerate(rows.split(list(send_counts))) if len(x) and k != self.rank}
        self.exchange(outgoing, {k: x for k, x in enumerate(received) if len(x) and k != self.rank})
        return every

    def replicate(self, module: nn.Module) -> nn.Module:
        """Wrap a module in DDP: all ranks have the same weights, and gradients are AVERAGED over the ranks, not
        summed."""
        if self.size == 1:
            return module
        with self._watched("DDP set-up"):
            return DistributedDataParallel(module, process_group=self._dense)

    @contextlib.contextmanager
    def dense_step(self) -> Iterator[None]:
        """A context for the backward pass through a module of `replicate`. A failed collective of DDP in it raises
        CollectiveError, as ours do."""
        with self._watched("all-reduce of dense gradients"):
            yield

    @property
    def ended(self) -> bool:
        """Whether the groups have ended: by a failure, `abort` or `close`."""
        return self._ended.is_set()

    def abort(self) -> None:
        """End the groups. May be called from any thread. A collective that waits in this process fails within 0.25
        s."""
        self._ended.set()

    def close(self) -> None:
        """Leave the groups. Must run on the thread that runs the collectives."""
        if self.size > 1 and not self._closed:
            self._ended.set()
            self._closed = True
            groups = [self._rows, self._down, self._dense, dist.group.WORLD]
            self._rows = self._down = self._dense = None
            if dist.is_initialized():  # else forming it failed
                dist.destroy_process_group()
            # Destruction waits for operations that are still under way, and closes the connections: peers that wait for
            # this rank hear of it then. A frozen peer would make it wait for the time-out, so not on this thread.
            threading.Thread(target=groups.clear).start()

    def _wait(self, work: dist.Work | None) -> None:
        assert work is not None
        if self.device.type == "cuda":
            work.wait()
            return
        started = time.monotonic()
        while True:
            try:
                work.wait(_SLICE)
                return
            except RuntimeError:
                if time.monotonic() - started > self._timeout and not work.is_completed():
                    raise
            if work.is_completed():
                # It failed, or was done just after that wait had ended.
                work.wait()
                return
            if self._ended.is_set():
                raise RuntimeError("told to stop")
            if failed := [k for k in range(self.size) if k != self.rank and self._store.check([f"failed/{k}"])]:
                raise RuntimeError(f"rank {failed[0]} reported a failure")

    @contextlib.contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        if self._ended.is_set():
            raise CollectiveError(f"{what} on rank {self.rank}: the group is over", [])
        try:
            yield
        except CollectiveError:
            raise
        except RuntimeError as error:
            missing = self._roll_call()
            self.close()
            who = f"; not heard from: rank {', '.join(map(str, missing))}" if missing else ""
            reason = str(error).strip().splitlines()[0][:200]
            raise CollectiveError(f"{what} failed on rank {self.rank}{who} ({reason})", missing) from error

    def _roll_call(self) -> list[int]:
        """Report the failure of this rank to the store. Returns the ranks that have not reported theirs within a
        second."""
        others = [k for k in range(self.size) if k != self.rank]
        deadline = time.monotonic() + _ROLL_CALL_SECONDS
        with contextlib.suppress(Exception):
            self._store.set(f"failed/{self.rank}", "1")
            while others and time.monotonic() < deadline:
                others = [k for k in others if not self._store.check([f"failed/{k}"])]
                time.sleep(0.02)
        return others


def check_exchange(comm: Comm) -> None:
    """Check that an all-to-all delivers the right rows. The command `doctor` runs this on two processes.

    Raises:
        RuntimeError: they do not.
    """
    rows = torch.full((comm.size, 4), float(comm.rank), device=comm.device)
    got = comm.all_to_all(rows, [1] * comm.size, [1] * comm.size, "doctor")
    expected = torch.arange(comm.size, dtype=torch.float32, device=comm.device)[:, None].expand(-1, 4)
    if not torch.equal(got, expected):
        raise RuntimeError(f"rank {comm.rank} received {got.tolist()}")
