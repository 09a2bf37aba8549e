"""Small tables for the tests of the lake, and what a reading of them gives."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from unlearnrec.partitioning.graph import read_interactions
from unlearnrec.partitioning.lake import Columns, read_table
from unlearnrec.partitioning.storage import AWS, StorageOptions


def write(path: Path, columns: Mapping[str, Any] | pa.Table, **options: Any) -> str:
    """A Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return str(path)


def text(path: Path, content: str | bytes) -> str:
    """A file of text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def rows(*users: Any) -> dict[str, list[Any]]:
    """Two interactions for each user."""
    return {"user_id": [user for user in users for _ in range(2)], "item_id": [k for _ in users for k in range(2)]}


def read(uri: str, options: StorageOptions = AWS, **columns: str) -> list[tuple[Any, ...]]:
    """All rows of a table, sorted: user, item, then value and time."""
    batches = read_table(uri, ("user_id", "item_id"), options, **columns)
    return sorted(tuple(row.values()) for batch in batches for row in batch.to_pylist())


def users(uri: str, options: StorageOptions = AWS) -> dict[Any, int]:
    """Events of each user."""
    graph = read_interactions(uri, Columns(), options)
    counts = [0] * len(graph.user_ids)
    for user, count in zip(graph.users.tolist(), graph.counts.tolist(), strict=True):
        counts[user] += count
    return dict(zip(graph.user_ids.to_pylist(), counts, strict=True))
