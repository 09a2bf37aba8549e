"""The sparse kernel: unweighted sums over neighbours. Weights live in the two diagonal scalings around it.

Two implementations of the same sums. `torch` (embedding_bag over the CSR arrays) works everywhere and is the faster one
on the machines measured so far (docs/log.md); `dgl` is the check on it. On CPU both add a row's entries in the order in
which they are stored, so their results are bit-equal.
"""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

KERNELS = ("torch", "dgl")


class NeighbourSum:
    """y = A x for a CSR matrix of zeros and ones.

    Shapes: indptr [rows + 1], columns [entries], both int32 or both int64; x [num_columns, D] -> y [rows, D].
    """

    def __init__(self, indptr: Tensor, columns: Tensor, num_columns: int, kernel: str = "torch") -> None:
        if kernel not in KERNELS:
            raise ValueError(f"kernel {kernel!r}: expected one of {', '.join(KERNELS)}")
        self.indptr, self.columns = indptr, columns
        self.num_columns = num_columns
        self.kernel = kernel

    def __call__(self, x: Tensor) -> Tensor:
        if not len(self.columns):
            return x.new_zeros((len(self.indptr) - 1, x.shape[1]))
        if self.kernel == "dgl":
            from dgl import ops

            return ops.copy_u_sum(self._block, x.contiguous())
        return torch.nn.functional.embedding_bag(self.columns, x, self.indptr, mode="sum", include_last_offset=True)

    @cached_property
    def _block(self) -> Any:
        import os

        os.environ.setdefault("DGLBACKEND", "pytorch")
        import dgl

        arrays = ("csc", (self.indptr, self.columns, torch.empty(0, dtype=self.columns.dtype)))
        block = dgl.create_block(arrays, num_src_nodes=self.num_columns, num_dst_nodes=len(self.indptr) - 1)
        return block.to(self.indptr.device)


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
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).int()
    columns = torch.randint(0, 300, (int(indptr[-1]),), generator=generator).int()
    x = torch.randn(300, 16, generator=generator)
    first, second = (NeighbourSum(indptr, columns, 300, kernel)(x) for kernel in KERNELS)
    return bool(torch.equal(first, second)), "the torch and dgl kernels give the same bits on CPU"
