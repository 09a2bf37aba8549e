"""Tables that Python handed over, as Parquet under the output: written once, read like any table of the lake, and cleaned of
deleted rows by `purge` (docs/python.md).

tables/KEY-NAME/part-00000.parquet, ...   the rows, only the columns that are read
tables/KEY-NAME/_SUCCESS                  written last: the table is whole

KEY is "interactions" or "test_interactions". NAME is a keyed digest of the content, so that the same table is not written a
second time, also not after `purge` took rows out of it; of a stream, whose content is known only at its end, it is random.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import json
import secrets
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from ...partitioning.errors import InputError
from ...partitioning.lake import read_table
from ...partitioning.storage import canonical_uri
from ..config.schema import parse_config
from ..config.yaml import parse_yaml
from ..layout import CONFIG, TABLES
from ..requests.row_filter import RowFilter
from .session import Session

PART_ROWS = 1 << 22
"""Rows of a part. Of a table of two integers it takes 64 MiB in memory."""
DONE = "_SUCCESS"
COLUMNS = b"unlearnrec.columns"
"""The key in a part's metadata of which column is what, so that a purge does not depend on the configuration it is given."""


def write_once(session: Session, key: str, table: pa.Table, advance: Callable[[int], None]) -> str:
    """Write a table, unless the same is there; returns its place, as a configuration names it. advance: called with numbers
    of rows.

    Raises:
        InputError: tables cannot be read where `output` is.
    """
    _check_readable(session)
    table = table.combine_chunks()
    digest = hmac.new(session.request_key(), digestmod=hashlib.sha256)
    # Encoded twice rather than held: a table may be larger than the memory that is left.
    for part in _parts(table):
        digest.update(hashlib.sha256(_encoded(session, part)).digest())
    folder = f"{TABLES}/{key}-{digest.hexdigest()[:16]}"
    if not session.store.exists(f"{folder}/{DONE}"):
        _write(session, folder, _parts(table), advance)
    return f"{session.config.output.rstrip('/')}/{folder}"


def write_stream(session: Session, key: str, batches: Iterable[pa.Table], advance: Callable[[int], None]) -> str:
    """Write the tables of a stream, each of at most PART_ROWS rows, as one; returns its place. advance: as for
    `write_once`."""
    _check_readable(session)
    folder = f"{TABLES}/{key}-{secrets.token_hex(8)}"
    _write(session, folder, batches, advance)
    return f"{session.config.output.rstrip('/')}/{folder}"


def kept_tables(session: Session) -> set[str] | None:
    """The names of the tables that are in use: those of this configuration and of the one of the last `ingest`. None: the
    latter cannot be read, and all are kept."""
    configs = [session.config]
    try:
        with contextlib.suppress(FileNotFoundError):
            configs.append(parse_config(parse_yaml(session.store.read(CONFIG).decode(), CONFIG)))
    except (InputError, UnicodeDecodeError):
        return None
    places = [place for config in configs for place in (config.interactions, config.test_interactions) if place]
    return {parts[-1] for place in places if (parts := place.rstrip("/").split("/"))[-2:-1] == [TABLES]}


def is_handed(session: Session, place: str) -> bool:
    """Whether a table of the configuration is one that was handed over to this output."""
    folder = f"{canonical_uri(session.config.output).rstrip('/')}/{TABLES}/"
    try:
        return canonical_uri(place).startswith(folder)
    except InputError:  # of a place that cannot be read either, as those say who try
        return False


def table_of(name: str) -> str:
    """The name of the table that a file of the folder TABLES belongs to."""
    return name.split("/")[1]


def rows_named(session: Session, names: RowFilter) -> dict[str, int]:
    """Part -> the number of its rows that name something, of all tables here; parts without one are left out."""
    found = {}
    for name in _part_names(session):
        rows = sum(int(mask.sum()) for mask in _masks(session, name, names))
        if rows:
            found[name] = rows
    return found


def remove_rows(session: Session, names: RowFilter) -> int:
    """Write each part that has rows which name something again without them; returns the number of these rows."""
    removed = 0
    for name in rows_named(session, names):
        keep = pa.chunked_array([pa.array(~mask) for mask in _masks(session, name, names)])
        table = pq.read_table(io.BytesIO(session.store.read(name)))
        left = table.filter(keep)
        session.store.write(name, _parquet(left))
        removed += table.num_rows - left.num_rows
    return removed


def _part_names(session: Session) -> list[str]:
    return [name for name in session.store.list(TABLES) if name.endswith(".parquet")]


def _masks(session: Session, name: str, names: RowFilter) -> Iterator[pa.Array]:
    """Of each batch of a part, which rows name something, as arrays of bool."""
    place = f"{session.store.root_uri}/{name}"
    with io.BytesIO(session.store.read(name)) as data:
        said = (pq.read_schema(data).metadata or {}).get(COLUMNS)
    if said is None:
        raise InputError(f"{place}: was not written by unlearnrec, and may hold deleted data. Move it out of `output`")
    user, item, time = json.loads(said)
    times = time if names.needs_times else None
    for batch in read_table(place, (user, item), session.options, time=times):
        yield names(*batch.columns)


def _write(session: Session, folder: str, parts: Iterable[pa.Table], advance: Callable[[int], None]) -> None:
    rows = 0
    for number, part in enumerate(parts):
        session.store.write(f"{folder}/part-{number:05d}.parquet", _encoded(session, part))
        rows += part.num_rows
        advance(part.num_rows)
    # Last: a table without it is written again, and purge takes what an attempt that died has left.
    session.store.write(f"{folder}/{DONE}", f"{rows} rows\n".encode())


def _parts(table: pa.Table) -> Iterator[pa.Table]:
    """The table in parts of PART_ROWS rows; a table without rows is one part."""
    for start in range(0, max(1, table.num_rows), PART_ROWS):
        yield table.slice(start, PART_ROWS)


def _encoded(session: Session, part: pa.Table) -> bytes:
    """A part as a Parquet file that says which column is what."""
    columns = session.columns
    said = json.dumps([columns.user, columns.item, columns.time]).encode()
    return _parquet(part.replace_schema_metadata({COLUMNS: said}))


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _check_readable(session: Session) -> None:
    endpoint = session.config.storage.endpoint_url
    if endpoint is not None and urlsplit(endpoint).path.strip("/"):
        raise InputError(
            f"storage.endpoint_url {endpoint}: has a path, and a table cannot be read there, so none is written into "
            "`output`. Write the table to another store and give its path"
        )
