"""Entries taken out of arrays in the memory of a CPU."""

from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ids = npt.NDArray[np.int64]
A = TypeVar("A", bound=np.generic)

MOST_MOVES = 4096
"""With more gaps than this, one copy of the entries that stay is faster than a move for each gap."""


def close_gaps(array: npt.NDArray[A], gone: Ids) -> npt.NDArray[A]:
    """`array` [k, ...] without the entries at the places `gone` (ascending, each once); in the same memory if they are
    few."""
    if not len(gone):
        return array
    if len(gone) > MOST_MOVES:
        keep = np.ones(len(array), dtype=bool)
        keep[gone] = False
        return array[keep]
    # Moves towards the front within one contiguous array of one dimension, which NumPy does without a copy.
    width = array.size // len(array)
    flat, bounds = array.reshape(-1), [*(gone * width).tolist(), array.size]
    for shift, (place, end) in enumerate(pairwise(bounds)):
        flat[place - shift * width : end - (shift + 1) * width] = flat[place + width : end]
    return array[: len(array) - len(gone)]


def close_row_gaps(rows: Tensor, gone: Ids) -> Tensor:
    """As `close_gaps`, for the rows of a tensor [N, D]."""
    if not len(gone):
        return rows
    if rows.device.type != "cpu" or not rows.is_contiguous():
        keep = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        keep[torch.from_numpy(gone).to(rows.device)] = False
        return rows[keep]
    return torch.from_numpy(close_gaps(rows.numpy(), gone))
