"""What `export` leaves: embeddings and recommendations, as Parquet files or as tables of the lake (docs/exports.md).

Here: what an export says of itself, and the writer, which spools the three parts and hands them to a target when they are
complete. Targets: export_folder.py, export_tables.py.
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
"""What a local export that died leaves."""
_MADE_AT = b"unlearnrec.made_at"


@dataclass(frozen=True)
class About:
    """What an export says of itself, in each of its files and commits."""

    output: str
    """The output that it is of, by a hash of its key."""
    log_head: int
    """The head of the log when it was begun: requests after this record are not in it, or may not be."""
    version: int
    source: Mapping[str, Any]
    """The table that was ingested, and which state of it."""
    unique: str = field(default_factory=lambda: uuid.uuid4().hex)

    def properties(self) -> dict[str, str]:
        """As metadata of a commit or of a file."""
        return {
            "unlearnrec.version": str(self.version),
            "unlearnrec.log_head": str(self.log_head),
            "unlearnrec.source": json.dumps(self.source, sort_keys=True),
            "unlearnrec.export": self.unique,
        }

    def footer(self) -> dict[bytes, bytes]:
        """As metadata of a Parquet file; `log_head_of` reads it."""
        texts = {name.encode(): text.encode() for name, text in self.properties().items()}
        return {_MADE_AT: f"{self.output} {self.log_head}".encode()} | texts


def about(session: Session, log_head: int, version: int, graph: Graph) -> About:
    """What an export of this version says. log_head: from before the version was read."""
    state = {name: value for name, value in (graph.table or {}).items() if name != "schema"}
    return About(_output(session.request_key()), log_head, version, {"uri": graph.source, **state})


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


class Target(Protocol):
    """Where an export goes. Its methods are called in this order; `discard` at the end of all, also after errors."""

    def open(self) -> dict[str, Any]:
        """By part, a path or a binary file to spool its Parquet to.

        Raises:
            InputError: nothing can be written there.
        """

    def publish(self, about: About) -> dict[str, Any]:
        """Make the spooled parts appear, for readers of all three at once; returns what to say of it."""

    def discard(self) -> None:
        """Drop what was spooled."""


class ExportWriter:
    """Writes an export to a target; leaving the `with` block by an error drops it.

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
        """Add nodes of a side ("user" or "item"): ids [n], rows [n, d]."""
        offsets = pa.array(np.arange(len(ids) + 1, dtype=np.int32) * rows.shape[1])
        vectors = pa.ListArray.from_arrays(offsets, pa.array(rows.reshape(-1), pa.float32()))
        self._write(f"{side}s", [ids, vectors])
        self._counts[side] += len(ids)

    def recommendations(self, users: pa.Array, items: pa.Array, scores: npt.NDArray[np.float32], k: int) -> None:
        """Add k lines for each user, best first: users, items, scores [n k]. A score of -inf is no recommendation."""
        there = pa.array(scores > -np.inf)
        ranks = np.tile(np.arange(1, k + 1, dtype=np.int32), len(scores) // k if k else 0)
        columns = [users, items, pa.array(scores), pa.array(ranks)]
        self._write("recommendations", [column.filter(there) for column in columns])

    def close(self) -> dict[str, Any]:
        """Make it appear; returns the numbers of users and items, and what the target says."""
        for writer in self._writers.values():
            writer.close()
        return {"users": self._counts["user"], "items": self._counts["item"], **self._target.publish(self._about)}

    def _write(self, part: str, columns: list[Any]) -> None:
        writer = self._writers[part]
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=writer.schema))
