"""What a commit took out of a table: as rows, whatever files they lie in. What it brought into it: `new_rows.py`.

A row that lies in another file afterwards was not deleted, so rows are counted: how often each lies in the files that the
commit took away, less how often in those that it added. A change data feed, where the table has one, gives the same counts
from less reading. Memory is bounded by ROWS_AT_ONCE: of a larger commit the users are dealt to buckets by a hash, and its
rows are read again for each bucket, since a copy of them on disk would itself have to be deleted.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import InputError
from ...storage import AWS
from ..columns import Columns, interactions_of
from ..data_file import Table
from ..ids import INT64, id_kind, may_not_fit, to_ids
from ..read import read_table
from ..survey import find_types
from ..times import TimeFacts, time_type, time_unit, to_times
from .history import Commit, History, MissedChanges, UnreadableFeed, changed_files

ROWS_AT_ONCE = 2_000_000
"""Rows of changed files that are held at a time."""
SPLIT, MOST_BUCKETS = 4, 4**6
"""A bucket that is too large is split into so many; beyond the most, one user has that many rows, and it is taken as is."""
USER, ITEM, TIME, COUNT = "user", "item", "time", "count"

Signed = Iterator[tuple[bool, pa.RecordBatch]]


@dataclass(frozen=True)
class Fate:
    """What is left of rows [n] that a commit removed, in a later state of their table. Each mask is bool [n]."""

    user: npt.NDArray[np.bool_]
    """Whether the user has any row."""
    pair: npt.NDArray[np.bool_]
    """Whether the user and the item are an interaction."""
    event: npt.NDArray[np.bool_]
    """Whether they are, at the same time; where there are no times, as `pair`."""


def removed_rows(history: History, commit: Commit, columns: Columns) -> Iterator[pa.Table]:
    """The interactions that are fewer after the commit than before: user, item, and time where the columns have one; each
    once. One table for each bucket of users, mostly a single one.

    Raises:
        MissedChanges: a file is gone that is needed for it.
        InputError: a file is unreadable, or lacks a column. Raised while iterating.
    """
    if not commit.removes:
        return
    told = False
    if _has_feed(history, commit, columns):
        try:
            for rows in _buckets(lambda: _from_feed(history, commit, columns), columns):
                told = True
                if rows.num_rows:
                    yield rows
            return
        except UnreadableFeed:
            if told:  # every bucket reads all of it, so that this is not the file's fault
                raise
    states = changed_files(history, commit)
    for rows in _buckets(lambda: _from_states(states, columns), columns):
        if rows.num_rows:
            yield rows


def is_missed(history: History, commit: Commit, columns: Columns) -> bool:
    """Whether `removed_rows` would raise MissedChanges, without reading a row."""
    if not commit.removes or _has_feed(history, commit, columns):
        return False
    try:
        changed_files(history, commit)
    except MissedChanges:
        return True
    return False


def fate_of(rows: pa.Table, table: Table, columns: Columns) -> Fate:
    """Look for removed rows in a state of the table: one reading of its ids, times and values.

    Raises:
        InputError: as `read_table`.
    """
    users = pc.unique(rows[USER])
    keys = [name for name in (USER, ITEM, TIME) if name in rows.column_names]
    wanted = rows.select(keys)
    kept: dict[str, pa.Table] = {}

    def keep(name: str, found: pa.Table) -> None:
        # Each at most once for each row that is looked for, so that memory does not grow with the table.
        seen = found.select([key for key in keys if key != TIME] if name == "pair" else keys)
        seen = seen if name not in kept else pa.concat_tables([kept[name], seen])
        kept[name] = seen.group_by(seen.column_names).aggregate([])

    alive = pa.array([], type=users.type)
    for batch in read_table(table, (columns.user, columns.item), AWS, value=columns.value, time=columns.time):
        whole = _named(batch, columns).filter(pc.is_in(_cast(batch.column(0), users.type), value_set=users))
        if not whole.num_rows:
            continue
        mine = pa.table({name: _cast(whole[name], rows.schema.field(name).type) for name in keys})
        alive = pc.unique(pa.concat_arrays([alive, pc.unique(mine[USER].combine_chunks())]))
        if columns.value:
            mine = mine.filter(_is_interaction(whole))
        keep("pair", mine.join(wanted.select(keys[:2]), keys[:2], join_type="left semi"))
        if TIME in keys:
            keep("event", mine.join(wanted, keys, join_type="left semi"))
    user = pc.is_in(rows[USER], value_set=alive).to_numpy(zero_copy_only=False)
    pair = _member(rows, kept.get("pair"), keys[:2])
    return Fate(user, pair, _member(rows, kept.get("event"), keys) if TIME in keys else pair)


# ---- counting rows ---------------------------------------------------------------------------------------------------


def _buckets(read: Any, columns: Columns, buckets: int = 1, bucket: int = 0) -> Iterator[pa.Table]:
    """The removed rows of the users of one bucket, in parts if they are too many."""
    parts: list[pa.Table] = []
    held = 0
    for removed, batch in read():
        rows = _named(batch, columns)
        if columns.value:
            rows = rows.filter(_is_interaction(rows))
            rows = rows.drop_columns(["value"])
        if buckets > 1:
            rows = rows.filter(pa.array(_hash(rows[USER]) % buckets == bucket))
        held += rows.num_rows
        if held > ROWS_AT_ONCE and buckets < MOST_BUCKETS:
            break
        count = np.full(rows.num_rows, 1 if removed else -1, dtype=np.int64)
        parts.append(rows.append_column(COUNT, pa.array(count)))
    else:
        if parts:
            yield _net(parts)
        return
    parts.clear()
    for k in range(SPLIT):
        yield from _buckets(read, columns, buckets * SPLIT, bucket + k * buckets)


def _net(parts: Sequence[pa.Table]) -> pa.Table:
    schema = parts[0].schema
    rows = pa.concat_tables(
        [
            pa.table({name: _cast(part[name], schema.field(name).type) for name in schema.names}, schema=schema)
            for part in parts
        ]
    )
    keys = [name for name in schema.names if name != COUNT]
    counted = rows.group_by(keys).aggregate([(COUNT, "sum")])
    kept = counted.filter(pc.greater(counted[f"{COUNT}_sum"], 0)).select(keys)
    # In an order that does not depend on files and threads, so that the same commit always gives the same requests.
    return kept.sort_by([(name, "ascending") for name in keys]).combine_chunks()


def _hash(users: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """The same for the same user, at every look."""
    encoded = users.combine_chunks().dictionary_encode()
    values = [zlib.crc32(str(value).encode()) for value in encoded.dictionary.to_pylist()]
    hashes: npt.NDArray[np.int64] = np.array(values, dtype=np.int64)[encoded.indices.to_numpy()]
    return hashes


def _named(batch: pa.RecordBatch, columns: Columns) -> pa.Table:
    """Columns as `read_table` gives them (user, item, value, time), by what they are."""
    names = [USER, ITEM, *(["value"] if columns.value else []), *([TIME] if columns.time else [])]
    return pa.table(dict(zip(names, batch.columns, strict=True)))


def _is_interaction(rows: pa.Table) -> pa.ChunkedArray:
    order = pa.table({USER: rows[USER], ITEM: rows[ITEM], "value": rows["value"], "at": np.arange(rows.num_rows)})
    return pc.is_in(order["at"], value_set=interactions_of(order)["at"].combine_chunks())


def _cast(column: Any, target: pa.DataType) -> Any:
    if column.type == target:
        return column
    try:
        return column.cast(target)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"an id or time column changed its type to {column.type}, which {target} does not hold"
        ) from error


def _member(rows: pa.Table, found: pa.Table | None, keys: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which rows have these keys in `found`: bool [n]."""
    if found is None or not found.num_rows:
        return np.zeros(rows.num_rows, dtype=np.bool_)
    numbered = rows.select(list(keys)).append_column("at", pa.array(np.arange(rows.num_rows)))
    there = numbered.join(found.select(list(keys)), list(keys), join_type="left semi")["at"].to_numpy()
    member = np.zeros(rows.num_rows, dtype=np.bool_)
    member[there] = True
    return member


def _from_states(states: tuple[Table, Table], columns: Columns) -> Signed:
    for removed, table in zip((True, False), states, strict=True):
        batches = read_table(table, (columns.user, columns.item), AWS, value=columns.value, time=columns.time)
        yield from ((removed, batch) for batch in batches)


# ---- the feed --------------------------------------------------------------------------------------------------------


def _feed_types(history: History, commit: Commit, columns: Columns) -> list[pa.DataType] | None:
    """Types of user, item and time in the feed; None where only the values of a column tell its type."""
    table = history.at(commit.position)
    schema = table.schema
    names = [columns.user, columns.item, *([columns.time] if columns.time else [])]
    if schema is None or any(schema.names.count(name) != 1 for name in names):
        find_types(table, names[:2], columns.value, columns.time)  # says what is wrong
        return None
    types = []
    for name in names[:2]:
        column_type = schema.field(name).type
        kind = id_kind(column_type, name, table.uri)
        if kind is None or may_not_fit(column_type):
            return None
        types.append(pa.int64() if kind == INT64 else pa.string())
    if columns.time:
        unit = time_unit(schema.field(columns.time).type, columns.time, table.uri)
        types.append(time_type(columns.time, [TimeFacts(table.uri, unit)]))
    return types


def _names(columns: Columns) -> list[str]:
    return [name for name in (columns.user, columns.item, columns.value, columns.time) if name]


def _has_feed(history: History, commit: Commit, columns: Columns) -> bool:
    return history.feed(commit, _names(columns)) is not None and _feed_types(history, commit, columns) is not None


def _from_feed(history: History, commit: Commit, columns: Columns) -> Signed:
    types, feed = _feed_types(history, commit, columns), history.feed(commit, _names(columns))
    assert types is not None and feed is not None
    for removed, batch in feed:
        at = np.arange(batch.num_rows)
        by_name = dict(zip(batch.schema.names, batch.columns, strict=True))
        where = f"{history.uri}, change feed of {history.name(commit.position)}"
        arrays = [
            to_ids(by_name[name], target, name, where, at)
            for name, target in zip((columns.user, columns.item), types, strict=False)
        ]
        if columns.value:
            arrays.append(pc.cast(by_name[columns.value], pa.float64(), safe=False))
        if columns.time:
            arrays.append(to_times(by_name[columns.time], types[2], columns.time, where, at))
        yield removed, pa.RecordBatch.from_arrays(arrays, names=[str(k) for k in range(len(arrays))])
