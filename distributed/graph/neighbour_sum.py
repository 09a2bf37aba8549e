"""The sparse kernel: unweighted sums over neighbours. Weights live in the two diagonal scalings around it.

Two implementations of the same sums. `torch` (embedding_bag over the CSR arrays) works everywhere and is the faster one
on the machines measured so far (docs/log.md); `dgl` is the check on it. On CPU both add a row's entries in the order in
which they are stored, so their results are bit-equal.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .gaps import close_gaps

KERNELS = ("torch", "dgl")
TILE_ROWS = 2**15
"""Rows that a CPU sums at a time. They are still in its cache when the caller goes on with them, and their memory is
used again for the next ones."""


class NeighbourSum:
    """y = A x for a CSR matrix of zeros and ones.

    Shapes: indptr [rows + 1], columns [entries], both int32 or both int64; x [num_columns, D] -> y [rows, D].
    """

    def __init__(
        self,
        indptr: Tensor,
        columns: Tensor,
        num_columns: int,
        kernel: str = "torch",
        blocks: Tensor | None = None,
    ) -> None:
        """blocks int [num_columns]: the block of each column, ascending along each row. A row is then the sum of its
        sums over the blocks. Block after block is worked on for all rows, so that a block of x stays in the cache."""
        if kernel not in KERNELS:
            raise ValueError(f"kernel {kernel!r}: expected one of {', '.join(KERNELS)}")
        self._rows = rows = len(indptr) - 1
        self._kernel = kernel
        parts, self._blocks = ([(indptr, columns)], [0]) if blocks is None else _split(indptr, columns, blocks)
        self._tiles: list[tuple[slice, list[_Part]]]
        if len(parts) == 1:
            step = TILE_ROWS if columns.device.type == "cpu" else max(1, rows)
            bounds = [(start, min(start + step, rows)) for start in range(0, rows, step)]
            ends = indptr[torch.tensor([0, *(stop for _, stop in bounds)], device=indptr.device)].tolist()
            self._tiles = [
                (
                    slice(start, stop),
                    [_Part(indptr[start : stop + 1] - first, columns[first:last], num_columns, kernel)],
                )
                for (start, stop), first, last in zip(bounds, ends, ends[1:], strict=False)
            ]
        else:
            self._tiles = [(slice(0, rows), [_Part(*part, num_columns, kernel) for part in parts])]

    def __call__(self, x: Tensor) -> Tensor:
        """A x."""
        y = x.new_empty((self._rows, x.shape[1]))
        for rows, sums in self.tiles(x):
            y[rows] = sums
        return y

    def of_rows(self, x: Tensor, rows: Tensor) -> Tensor:
        """Some rows of A x, [n, D], with the same bits: `rows` int64 [n], ascending. It costs the entries of these rows."""
        y = x.new_empty((len(rows), x.shape[1]))
        for tile, parts in self._tiles:
            first, last = torch.searchsorted(rows, torch.tensor([tile.start, tile.stop], device=rows.device)).tolist()
            if first < last:
                own = rows[first:last] - tile.start
                sums = parts[0].of_rows(x, own)
                for part in parts[1:]:
                    sums += part.of_rows(x, own)
                y[first:last] = sums
        return y

    def shrunk(self, indptr: Tensor, columns: Tensor, num_columns: int, lost: "Lost") -> "NeighbourSum":
        """The sums of the same matrix without some entries, rows and columns, in the same memory. This one is of no use
        then.

        indptr, columns, num_columns: of the smaller matrix.
        """
        if len(self._blocks) == 1:
            return NeighbourSum(indptr, columns, num_columns, self._kernel)
        ((_, old),) = self._tiles
        parts = []
        # In a row the entries of a block stand together, behind those of the blocks before it.
        before = torch.zeros_like(lost.places)
        for block, part in zip(self._blocks, old, strict=True):
            starts, counts = part.indptr[lost.rows], part.indptr[lost.rows + 1] - part.indptr[lost.rows]
            gone = (starts + lost.places - before)[lost.blocks == block].sort().values
            before += counts
            left = part.indptr - torch.searchsorted(gone, part.indptr.long()).to(part.indptr.dtype)
            kept = torch.from_numpy(close_gaps(part.columns.numpy(), gone.numpy()))
            if lost.place is not None:
                kept = lost.place.index_select(0, kept)
            parts.append(_Part(torch.cat([left[:1], left[1:][lost.kept_rows]]), kept, num_columns, self._kernel))
        other = copy.copy(self)
        other._rows = len(indptr) - 1
        other._tiles = [(slice(0, other._rows), parts)]
        return other

    def tiles(self, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """A x in pieces: ranges of rows in ascending order, each with its sums [n, D], which the caller may change."""
        for rows, parts in self._tiles:
            sums = parts[0].sum(x)
            for part in parts[1:]:
                sums += part.sum(x)
            yield rows, sums


@dataclass(frozen=True, eq=False)
class _Part:
    """The entries of some rows in one block of columns, as CSR arrays."""

    indptr: Tensor
    columns: Tensor
    num_columns: int
    kernel: str

    def sum(self, x: Tensor) -> Tensor:
        if self.kernel == "dgl" and len(self.columns):
            from dgl import ops

            return ops.copy_u_sum(self._graph, x.contiguous())
        return sum_rows(x, self.indptr, self.columns)

    def of_rows(self, x: Tensor, rows: Tensor) -> Tensor:
        starts = self.indptr[rows].long()
        counts = self.indptr[rows + 1].long() - starts
        ends = counts.cumsum(0)
        places = (starts - (ends - counts)).repeat_interleave(counts)
        places += torch.arange(len(places), device=places.device)
        return sum_rows(x, _indptr(counts).to(self.indptr.dtype), self.columns[places])

    @cached_property
    def _graph(self) -> Any:
        import os

        os.environ.setdefault("DGLBACKEND", "pytorch")
        import dgl

        arrays = ("csc", (self.indptr, self.columns, torch.empty(0, dtype=self.columns.dtype)))
        block = dgl.create_block(arrays, num_src_nodes=self.num_columns, num_dst_nodes=len(self.indptr) - 1)
        return block.to(self.indptr.device)


def sum_rows(x: Tensor, indptr: Tensor, columns: Tensor, weights: Tensor | None = None) -> Tensor:
    """y [rows, D]: y[r] is the sum of weights[e] * x[columns[e]] over the entries e from indptr[r] to indptr[r + 1], in
    this order. Without weights [entries] they are 1."""
    if not len(columns):
        return x.new_zeros((len(indptr) - 1, x.shape[1]))
    return torch.nn.functional.embedding_bag(
        columns, x, indptr, mode="sum", include_last_offset=True, per_sample_weights=weights
    )


@dataclass(frozen=True, eq=False)
class Lost:
    """What a matrix loses, as `NeighbourSum.shrunk` takes it.

    Shapes: rows, places, blocks int64 [n]: of each entry that goes, its row, its place in this row, and the block of its
    column. kept_rows bool [rows]. place [columns before]: where each column that is left stands now; None where all stay.
    """

    rows: Tensor
    places: Tensor
    blocks: Tensor
    kept_rows: Tensor
    place: Tensor | None


def _split(indptr: Tensor, columns: Tensor, blocks: Tensor) -> tuple[list[tuple[Tensor, Tensor]], list[int]]:
    """The CSR arrays of each block that has entries, at least one, and the numbers of these blocks."""
    rows = len(indptr) - 1
    block = blocks.to(torch.int16).index_select(0, columns)
    last = int(block.max()) if len(block) else 0
    if not last:
        return [(indptr, columns)], [0]
    row = torch.repeat_interleave(torch.arange(rows, device=columns.device, dtype=torch.int32), indptr.diff())
    parts, numbers = [], []
    for number in range(last + 1):
        entries = torch.nonzero(block == number)[:, 0]  # a pass for each block holds less than to sort all entries
        if len(entries):
            counts = torch.bincount(row[entries], minlength=rows)
            parts.append((_indptr(counts).to(indptr.dtype), columns[entries]))
            numbers.append(number)
    return parts, numbers


def _indptr(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def has_dgl() -> bool:
    """Whether dgl is installed and can be imported."""
    try:
        import os

        os.environ.setdefault("DGLBACKEND", "pytorch")
        import dgl  # noqa: F401
    except Exception:  # a broken dgl raises whatever its native parts raise
        return False
    return True


def kernels_agree() -> tuple[bool, str]:
    """(whether the two kernels give the same bits on a small graph, a sentence that says so). Without dgl there is only
    one kernel, and the answer is true."""
    if not has_dgl():
        return True, "torch kernel; dgl is not installed"
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 9, (200,), generator=generator)
    indptr = _indptr(counts).int()
    columns = torch.randint(0, 300, (int(indptr[-1]),), generator=generator).int()
    x = torch.randn(300, 16, generator=generator)
    first, second = (NeighbourSum(indptr, columns, 300, kernel)(x) for kernel in KERNELS)
    return bool(torch.equal(first, second)), "the torch and dgl kernels give the same bits on CPU"
