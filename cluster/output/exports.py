"""Exports: embeddings and recommendations, as Parquet files or as tables of the lake (docs/exports.md).

This module has what an export says of itself, and the writer. The writer spools the three parts of an export, and gives them
to a target when they are complete. The targets are in export_folder.py and export_tables.py.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ...partitioning.manifest import Graph
from ...partitioning.storage import filesystem_for
from .session import Session

PARTS = ("users", "items", "recommendations")
FILES = tuple(f"{part}.parquet" for part in PARTS)
UNFINISHED = re.compile(r"(?:.*/)?(?:users|items|recommendations)\.parquet\.[0-9a-f]{8}\.tmp")
"""The names of the files that a local export leaves when it dies."""
_MADE_AT = b"unlearnrec.made_at"


@dataclass(frozen=True)
class About:
    """What an export says of itself, in each of its files and commits."""

    output: str
    """A hash of the key of the output that it comes from. It identifies the output."""
    log_head: int
    """The head of the log when the export began. Requests that were carried out after this record may not be in it."""
    version: int
    source: Mapping[str, Any]
    """The table that was ingested, and which state of the table."""
    unique: str = field(default_factory=lambda: uuid.uuid4().hex)

    def properties(self) -> dict[str, str]:
        """The metadata of a commit or of a file, as texts."""
        return {
            "unlearnrec.version": str(self.version),
            "unlearnrec.log_head": str(self.log_head),
            "unlearnrec.source": json.dumps(self.source, sort_keys=True),
            "unlearnrec.export": self.unique,
        }

    def footer(self) -> dict[bytes, bytes]:
        """The metadata of a Parquet file, as bytes. `log_head_of` reads them."""
        texts = {name.encode(): text.encode() for name, text in self.properties().items()}
        return {_MADE_AT: f"{self.output} {self.log_head}".encode()} | texts


def about(session: Session, log_head: int, version: int, graph: Graph) -> About:
    """What an export of a version says of itself.

    log_head: the head of the log, read before the version was: the export may then be newer than it says, never older.
    """
    state = {name: value for name, value in (graph.table or {}).items() if name != "schema"}
    return About(_output(session.request_key()), log_head, version, {"uri": graph.source, **state})


def log_head_of(session: Session, name: str) -> int | None:
    """The head of the log when the export began that wrote this file; None if the file is of no export of this output.

    name: the path of the file under the output.

    Raises:
        OSError: the file cannot be read.
        InputError: as `filesystem_for`.
    """
    filesystem, path = filesystem_for(f"{session.store.root_uri}/{name}", session.options)
    try:
        metadata = pq.read_schema(path, filesystem=filesystem).metadata or {}
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    output, _, head = metadata.get(_MADE_AT, b"").decode().partition(" ")
    # Where the output has no key, there is no export of it: the random key that stands in for it matches none.
    return int(head) if output == _output(session.request_key(create=False)) else None


def _output(key: bytes) -> str:
    """The text that identifies the output with this key (`Session.request_key`)."""
    return hashlib.sha256(b"export" + key).hexdigest()[:16]


class Target(Protocol):
    """The place that an export goes to. Its methods are called in this order; `discard` is called after errors too."""

    def open(self) -> dict[str, Any]:
        """For each part, a path or a binary file that the Parquet of the part is spooled to.

        Raises:
            InputError: nothing can be written to this place.
        """

    def publish(self, about: About) -> dict[str, Any]:
        """Publish the spooled parts, all three at once for readers that look for that; returns what the command answers."""

    def discard(self) -> None:
        """Remove what was spooled and not published."""


class ExportWriter:
    """Writes an export to a target. `close` publishes it; leaving the `with` block before `close` drops it.

    Raises:
        InputError: as `Target.open`.
    """

    def __init__(self, target: Target, user_type: pa.DataType, item_type: pa.DataType, about: About) -> None:
        self._target, self._about = target, about
        self._counts = {"user": 0, "item": 0}
        vector = pa.list_(pa.float32())
        schemas = {
            "users": pa.schema([("user_id", user_type), ("embedding", vector)]),
            "items": pa.schema([("item_id", item_type), ("embedding", vector)]),
            "recommendations": pa.schema(
                [("user_id", user_type), ("item_id", item_type), ("score", pa.float32()), ("rank", pa.int32())]
            ),
        }
        sinks = target.open()
        self._writers: dict[str, Any] = {
            part: pq.ParquetWriter(sinks[part], schema.with_metadata(about.footer()))
            for part, schema in schemas.items()
        }

    def __enter__(self) -> ExportWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.close()
        self._target.discard()

    def embeddings(self, side: str, ids: pa.Array, rows: npt.NDArray[np.float32]) -> None:
        """Add nodes of a side ("user" or "item"): their external ids [n] and rows [n, d]."""
        offsets = pa.array(np.arange(len(ids) + 1, dtype=np.int32) * rows.shape[1])
        vectors = pa.ListArray.from_arrays(offsets, pa.array(rows.reshape(-1), pa.float32()))
        self._write(f"{side}s", [ids, vectors])
        self._counts[side] += len(ids)

    def recommendations(self, users: pa.Array, items: pa.Array, scores: npt.NDArray[np.float32], k: int) -> None:
        """Add k recommendations for each of n users, best first: users, items and scores, each [n k]. Lines with a score of
        -inf are left out."""
        there = pa.array(scores > -np.inf)
        ranks = np.tile(np.arange(1, k + 1, dtype=np.int32), len(scores) // k if k else 0)
        columns = [users, items, pa.array(scores), pa.array(ranks)]
        self._write("recommendations", [column.filter(there) for column in columns])

    def close(self) -> dict[str, Any]:
        """Publish the export; returns the numbers of users and items, and what the target returns."""
        # First the footers of the Parquet files: without them the target could not read what was spooled.
        for writer in self._writers.values():
            writer.close()
        return {"users": self._counts["user"], "items": self._counts["item"], **self._target.publish(self._about)}

    def _write(self, part: str, columns: list[Any]) -> None:
        writer = self._writers[part]
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=writer.schema))
