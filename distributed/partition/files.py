"""Files of a version, as a worker reads and writes them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ...partitioning.delta import RowsDelta, with_rows
from ...partitioning.storage import Store
from ..training.checkpoint import from_bytes
from .results import Written
from .version import Version


def write_file(store: Store, name: str, data: bytes) -> Written:
    """Write a file. It counts only after a version names it."""
    store.write(name, data)
    return {"name": name, "sha256": store.sha256(data), "bytes": len(data)}


def read_file(store: Store, version: Version, name: str) -> bytes:
    """The content of a file of a version.

    Raises:
        OSError: it is missing, or damaged.
    """
    data = store.read(name)
    if store.sha256(data) != version.files[name].sha256:
        raise OSError(
            f"{store.root_uri}/{name} is damaged: its SHA-256 is not the one that version {version.version} names"
        )
    return data


def read_rows(store: Store, version: Version, k: int) -> npt.NDArray[np.float32]:
    """The rows of E0 of partition k [N, d], from the files of a version.

    Raises:
        OSError: a file is missing or damaged.
    """
    base, *deltas = version.model.embedding_chain(k)
    rows: npt.NDArray[np.float32] = from_bytes(read_file(store, version, base))["e0"].numpy()
    return with_rows(rows, read_row_deltas(store, version, deltas))


def read_row_deltas(store: Store, version: Version, names: Sequence[str]) -> list[RowsDelta]:
    """Deltas of rows, by the names of their files.

    Raises:
        OSError: a file is missing or damaged.
    """
    return [RowsDelta.from_bytes(read_file(store, version, name)) for name in names]
