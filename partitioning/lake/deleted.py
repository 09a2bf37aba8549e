"""Rows of a data file that a table format says are deleted, by position."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64] | npt.NDArray[np.uint32]
"""Of rows in a file, from 0."""


def compact(positions: npt.NDArray[np.int64]) -> Positions:
    """The same in half the memory, where they allow it."""
    return positions.astype(np.uint32) if len(positions) and positions.max() < 2**32 else positions


class DeletedRows:
    """Positions of deleted rows in one data file; 4 bytes each, 8 in a file of more than 2^32 rows."""

    def __init__(self, positions: Sequence[Positions]) -> None:
        """positions: arrays [n] in any order; they may repeat."""
        self.positions = np.unique(np.concatenate(positions)) if positions else np.empty(0, dtype=np.uint32)

    def __len__(self) -> int:
        return len(self.positions)

    def kept(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """Which of the rows [start, start + count) are alive, counted from `start`: int64, ascending."""
        bounds = np.array([start, start + count])
        if bounds[1] <= np.iinfo(self.positions.dtype).max:
            bounds = bounds.astype(self.positions.dtype)  # else all positions would be copied for the search
        first, last = np.searchsorted(self.positions, bounds)
        alive = np.ones(count, dtype=np.bool_)
        alive[self.positions[first:last].astype(np.int64) - start] = False
        return np.flatnonzero(alive)
