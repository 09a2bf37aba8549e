"""What a commit brought into a table, as rows of any columns: for a table of requests."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa

from ..data_file import Table
from ..ids import to_ids
from ..read import columns_of
from ..survey import find_types, open_reader
from .history import Commit, History, changed_files


def new_rows(history: History, commit: Commit, ids: Sequence[str], others: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The rows that are more after the commit than before, in order of file and row: `ids` as int or text, then `others` as
    they are stored; a column that the table does not have is None. Timestamps are (nanoseconds since 1970,).

    Rows that the commit only wrote again are held in memory, to be told from new ones.

    Raises:
        MissedChanges: as `history.changed_files`.
        InputError: a file is unreadable. Raised while iterating.
    """
    if not commit.adds:
        return
    before, after = changed_files(history, commit)
    known = Counter(_rows_of(before, ids, others))
    for row in _rows_of(after, ids, others):
        if known[row] > 0:
            known[row] -= 1
        else:
            yield row


def _rows_of(table: Table, ids: Sequence[str], others: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    if not table.files:
        return
    there = columns_of(table)
    types = find_types(table, [name for name in ids if name in there], None, None)
    for data in table.files:
        with closing(open_reader(data)) as reader:
            names = [name for name in (*ids, *others) if name in there and name in reader.names]
            for rows in reader.batches(names):
                values: list[list[Any]] = []
                for name in (*ids, *others):
                    column = rows.columns.get(name)
                    if column is None:
                        values.append([None] * rows.count)
                    elif name in ids:
                        exact = to_ids(column, types.ids[name], name, data.uri, rows.positions, nulls=True)
                        values.append(exact.to_pylist())
                    else:
                        values.append(_plain_values(column))
                yield from zip(*values, strict=True)


def _plain_values(column: pa.Array) -> list[Any]:
    """Of timestamps (nanoseconds,), which datetime does not have."""
    if not pa.types.is_timestamp(column.type):
        found: list[Any] = column.to_pylist()
        return found
    factor = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[column.type.unit]
    return [None if number is None else (number * factor,) for number in column.cast(pa.int64()).to_pylist()]
