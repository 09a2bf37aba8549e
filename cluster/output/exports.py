"""What `export` leaves: embeddings and recommendations as Parquet. Files appear only when they are complete."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ...partitioning.errors import InputError
from ...partitioning.storage import StorageOptions, Store, filesystem_for, split_uri
from .session import Session

FILES = ("users.parquet", "items.parquet", "recommendations.parquet")
UNFINISHED = re.compile(r"(?:.*/)?(?:users|items|recommendations)\.parquet\.[0-9a-f]{8}\.tmp")
"""What a local export that died leaves."""
_MADE_AT = b"unlearnrec.made_at"


def made_at(session: Session) -> str:
    """What the files of an export say of when it was begun: the output, by a hash of its key, and the head of its log."""
    return f"{_output(session.request_key())} {session.log.head()}"


def log_head_of(session: Session, name: str) -> int | None:
    """The head of the log when this file under the output, of an export of this output, was begun; None if it is none.

    Raises:
        OSError: it cannot be read.
        InputError: as `filesystem_for`.
    """
    filesystem, path = filesystem_for(f"{session.store.root_uri}/{name}", session.options)
    try:
        metadata = pq.read_schema(path, filesystem=filesystem).metadata or {}
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    output, _, head = metadata.get(_MADE_AT, b"").decode().partition(" ")
    # Without a key nobody has marked an export of this output, and the one that is drawn instead matches none.
    return int(head) if output == _output(session.request_key(create=False)) else None


def _output(key: bytes) -> str:
    return hashlib.sha256(b"export" + key).hexdigest()[:16]


class ExportWriter:
    """Writes the three files of an export to a folder, local or s3://; leaving the `with` block by an error drops them.

    made: `made_at`, from before the version was read; it is in the files' metadata.

    Raises:
        InputError: the folder cannot be made or written.
    """

    def __init__(
        self, uri: str, options: StorageOptions, user_type: pa.DataType, item_type: pa.DataType, made: str
    ) -> None:
        self._uri = uri
        self._remote = Store(uri, options) if split_uri(uri)[0] == "s3" else None
        if self._remote:
            self._try_out(self._remote)
        self._folder = Path(split_uri(uri)[1])
        self._suffix = f".{uuid.uuid4().hex[:8]}.tmp"
        self._counts = {"user": 0, "item": 0}
        vector = pa.list_(pa.float32())
        schemas = {
            "users.parquet": pa.schema([("user_id", user_type), ("embedding", vector)]),
            "items.parquet": pa.schema([("item_id", item_type), ("embedding", vector)]),
            "recommendations.parquet": pa.schema(
                [("user_id", user_type), ("item_id", item_type), ("score", pa.float32()), ("rank", pa.int32())]
            ),
        }
        try:
            if self._remote:
                # Files without names: nothing of them is left when the process dies.
                self._sinks: dict[str, Any] = {name: tempfile.TemporaryFile() for name in schemas}  # noqa: SIM115
            else:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._sinks = {name: self._folder / (name + self._suffix) for name in schemas}
            self._writers: dict[str, Any] = {
                name: pq.ParquetWriter(self._sinks[name], schema.with_metadata({_MADE_AT: made}))
                for name, schema in schemas.items()
            }
        except OSError as error:
            raise self._unwritable(error) from error

    def __enter__(self) -> ExportWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for name, writer in self._writers.items():
            writer.close()
            if self._remote:
                self._sinks[name].close()
            else:
                self._sinks[name].unlink(missing_ok=True)

    def embeddings(self, side: str, ids: pa.Array, rows: npt.NDArray[np.float32]) -> None:
        """Add nodes of a side ("user" or "item"): ids [n], rows [n, d]."""
        offsets = pa.array(np.arange(len(ids) + 1, dtype=np.int32) * rows.shape[1])
        vectors = pa.ListArray.from_arrays(offsets, pa.array(rows.reshape(-1), pa.float32()))
        self._write(f"{side}s.parquet", [ids, vectors])
        self._counts[side] += len(ids)

    def recommendations(self, users: pa.Array, items: pa.Array, scores: npt.NDArray[np.float32], k: int) -> None:
        """Add k lines for each user, best first: users, items, scores [n k]. A score of -inf is no recommendation."""
        there = pa.array(scores > -np.inf)
        ranks = np.tile(np.arange(1, k + 1, dtype=np.int32), len(scores) // k if k else 0)
        columns = [users, items, pa.array(scores), pa.array(ranks)]
        self._write("recommendations.parquet", [column.filter(there) for column in columns])

    def close(self) -> dict[str, int]:
        """Make the files appear; returns the numbers of users and items."""
        for name, writer in self._writers.items():
            writer.close()
            if self._remote:
                self._sinks[name].seek(0)
                self._remote.write(name, self._sinks[name].read())
            else:
                os.replace(self._sinks[name], self._folder / name)
        return {"users": self._counts["user"], "items": self._counts["item"]}

    def _try_out(self, remote: Store) -> None:
        """Write and remove a file, so that a wrong target is told before the work and not after it."""
        name = f".tmp-{uuid.uuid4().hex}"
        try:
            remote.write(name, b"")
            remote.remove(name)
        except Exception as error:  # missing credentials are no OSError
            raise self._unwritable(error) from error

    def _unwritable(self, error: Exception) -> InputError:
        return InputError(f"--to {self._uri}: cannot be written ({error}). Name a folder that you may write to")

    def _write(self, name: str, columns: list[Any]) -> None:
        writer = self._writers[name]
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=writer.schema))
