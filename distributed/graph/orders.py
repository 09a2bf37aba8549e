"""Orders of pairs by their owner, row or key. On a CPU what is known of the numbers saves most of a sort: a sort of 500,000
int64 takes 20 ms, these take 3 to 7 (docs/log.md).

Shape legend: n = pairs.
"""

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor


def order_by_owner(owners: Tensor) -> Tensor:
    """The places int64 [n] of pairs in order of their owners int64 [n], which are ranks; within one, as they stand."""
    return torch.argsort(owners.to(torch.int16), stable=True)


def order_by_key(keys: Tensor) -> Tensor:
    """The places int64 [n] of pairs in order of their keys int64 [n], which are unique. It is fast where they come in a few
    runs that are ascending each, as those of several ranks do."""
    if keys.device.type != "cpu":
        return torch.argsort(keys)
    return torch.from_numpy(np.argsort(keys.numpy(), kind="stable"))


def order_by_row(rows: Tensor, num_rows: int) -> Tensor:
    """The places int64 [n] of pairs in order of their rows int64 [n], each below num_rows; within one, as they stand."""
    if rows.device.type != "cpu" or num_rows > 2**31 - 1:
        return torch.argsort(rows, stable=True)
    count = len(rows)
    # The transpose of a matrix with an entry for each pair counts the entries of each column and then puts them there.
    ends = np.arange(count + 1, dtype=np.int32 if count < 2**31 else np.int64)
    columns = rows.numpy().astype(ends.dtype)
    entries = csr_array((np.zeros(count, dtype=np.int8), columns, ends), shape=(count, num_rows))
    return torch.from_numpy(entries.tocsc().indices.astype(np.int64))
