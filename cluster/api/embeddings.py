"""The readouts of a version, by the ids of the table: as NumPy arrays, tables of Arrow or frames of pandas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...distributed.partition.partition import Partition
from ...partitioning.ingest import load_ids
from ...workers import WorkerGroup, calling
from ..output.manifest import Manifest
from ..output.session import Session as OpenOutput

if TYPE_CHECKING:
    import pandas as pd

Side = Literal["user", "item"]


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The readouts of all users and items that a version has. The score of a pair is the dot product of its two rows."""

    version: int
    user_ids: npt.NDArray[Any]
    """[U], int64 or texts, as in the table."""
    users: npt.NDArray[np.float32]
    """[U, D]."""
    item_ids: npt.NDArray[Any]
    """[I]."""
    items: npt.NDArray[np.float32]
    """[I, D]."""

    def arrow(self, side: Side) -> pa.Table:
        """`user_id` (or `item_id`) and `embedding` list<float32>: the table that `export` writes."""
        ids, rows = self._of(side)
        offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
        lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows.reshape(-1)))
        return pa.table({f"{side}_id": pa.array(ids), "embedding": lists})

    def pandas(self, side: Side) -> pd.DataFrame:
        """A row for each id, which is the index; a column for each dimension, 0 to D - 1.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        import pandas as pd

        ids, rows = self._of(side)
        return pd.DataFrame(rows, index=pd.Index(ids, name=f"{side}_id"))

    def _of(self, side: Side) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
        return (self.user_ids, self.users) if side == "user" else (self.item_ids, self.items)


def read_embeddings(output: OpenOutput, group: WorkerGroup, version: Manifest) -> Embeddings:
    """Those of a version, from workers that load it."""
    found = output.call(group, version, calling(Partition.readouts))
    sides = {}
    for place, side in ((0, "user"), (2, "item")):
        ids, node, _ = load_ids(output.store, version.graph, side)
        nodes: npt.NDArray[np.int64] = np.concatenate([part[place] for part in found])
        rows: npt.NDArray[np.float32] = np.concatenate([part[place + 1] for part in found])
        sides[side] = _named(ids, node, nodes), rows
    return Embeddings(version.version, *sides["user"], *sides["item"])


def _named(ids: pa.Array, node: npt.NDArray[np.int64], nodes: Sequence[int] | npt.NDArray[np.int64]) -> Any:
    """The external ids of dense ids. ids, node: an id map."""
    order = np.argsort(node)
    places = order[np.searchsorted(node, nodes, sorter=order)]
    return ids.take(pa.array(places)).to_numpy(zero_copy_only=False)
