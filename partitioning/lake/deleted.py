"""Rows of a data file that a table format says are deleted, by position."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


class DeletedRows:
    """Positions of deleted rows in one data file; 4 bytes each, 8 in a file of more than 2^32 rows."""

    def __init__(self, positions: Iterable[npt.NDArray[np.int64]]) -> None:
        """positions: int64 arrays [n], from 0, in any order; they may repeat."""
        every = np.unique(np.concatenate([*positions, np.empty(0, dtype=np.int64)]))
        self.positions = every.astype(np.uint32) if len(every) and every[-1] < 2**32 else every

    def __len__(self) -> int:
        return len(self.positions)

    def kept(self, start: int, count: int) -> npt.NDArray[np.int64]:
        """Which of the rows [start, start + count) are alive, counted from `start`: int64, ascending."""
        first, last = np.searchsorted(self.positions, [start, start + count])
        alive = np.ones(count, dtype=np.bool_)
        alive[self.positions[first:last].astype(np.int64) - start] = False
        return np.flatnonzero(alive)
