"""Which rows stored in a file are asked for, deleted ones included; files whose statistics say no are not read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .. import read
from ..data_file import CSV, DataFile, Rows
from ..deleted import DeletedRows
from ..ids import to_ids
from ..parquet import ParquetReader, unreadable
from ..survey import find_types, open_reader
from ..table import Table

Matches = Callable[[pa.Array, pa.Array, pa.Array | None], npt.NDArray[np.bool_]]
"""bool [n] for the columns users [n], items [n] and times [n] (None where they are not asked for)."""

Positions = npt.NDArray[np.int64]

_DELETES = {"file_path", "pos"}


def matching_rows(
    data: DataFile,
    ids: tuple[str, str],
    time: str | None,
    matches: Matches,
    wanted: Mapping[str, Sequence[str]] | None,
) -> Positions | None:
    """Positions [k] in the file of the rows that match, ascending; None where it is no file of rows (position deletes).

    Only the columns `ids` (user, item) and `time` are read. wanted: as `may_hold`; None where that is not known.

    Raises:
        InputError: as `read_table`: the file is gone or unreadable, or lacks a column.
    """
    if data.format != CSV:
        if not data.plain and _is_deletes(data):
            return None
        with closing(ParquetReader(data)) as reader:
            if wanted is not None and not may_hold(reader, wanted):
                return np.empty(0, dtype=np.int64)
    found = [np.empty(0, dtype=np.int64)]
    # By itself: the types of one file are enough, since ids are compared as text.
    types = find_types(Table(data.uri, [data], {}), ids, None, time)
    with closing(open_reader(data, "ns" if types.nanoseconds else "us")) as reader:
        for rows in reader.batches([*ids, *([time] if time else [])]) if reader.num_rows != 0 else ():
            rows = _without_nulls(rows, ids)
            users, items = (to_ids(rows.columns[name], types.ids[name], name, data.uri, rows.positions) for name in ids)
            times = read.times_of(rows, time, data, reader, types.time) if time else None
            found.append(rows.positions[matches(users, items, times)])
    return np.concatenate(found)


def _is_deletes(data: DataFile) -> bool:
    """Whether it is a file of Iceberg that only has paths and positions of deleted rows."""
    if not data.file.path.endswith(".parquet") or data.field_ids is None:
        return False
    try:
        with data.file.filesystem.open_input_file(data.file.path) as source:
            return set(pq.read_schema(source).names) >= _DELETES
    except (OSError, pa.ArrowException) as error:
        raise unreadable(data, error) from error


def _without_nulls(rows: Rows, ids: Sequence[str]) -> Rows:
    """Rows without an id name nobody; a deleted one may be the reason why the table is read at all."""
    null = np.zeros(rows.count, dtype=np.bool_)
    for name in ids:
        null |= np.asarray(pc.is_null(rows.columns[name]).to_numpy(zero_copy_only=False))
    if not null.any():
        return rows
    kept = np.flatnonzero(~null)
    columns = {name: column.take(pa.array(kept)) for name, column in rows.columns.items()}
    return Rows(columns, len(kept), rows.positions[kept])


def may_hold(reader: ParquetReader, wanted: Mapping[str, Sequence[str]]) -> bool:
    """Whether the file may have a row with one of these ids, by its partition values and the statistics of its footer.

    wanted: by column, ids as text; a row is wanted for any of them.
    """
    return any(_column_may(reader, name, texts) for name, texts in wanted.items() if texts)


def alive(positions: Positions, deleted: DeletedRows | None) -> int:
    """How many of the rows are not deleted."""
    if deleted is None or not len(deleted):
        return len(positions)
    return int(len(positions) - np.isin(positions, deleted.positions).sum())


def _column_may(reader: ParquetReader, name: str, texts: Sequence[str]) -> bool:
    constants = reader.data.constants
    if name in constants:
        return str(constants[name].as_py()) in texts
    bounds = list(_bounds(reader.file.metadata, _index(reader, name)))
    return any(_between(texts, least, largest) for least, largest in bounds)


def _index(reader: ParquetReader, name: str) -> int | None:
    places = reader.stored.get(name, [])
    if len(places) != 1:
        return None
    schema: pq.ParquetSchema = reader.file.schema
    paths = [schema.column(k).path for k in range(len(schema))]
    stored = reader.schema.names[places[0]]
    return paths.index(stored) if stored in paths else None


def _bounds(metadata: pq.FileMetaData, index: int | None) -> Iterator[tuple[Any, Any]]:
    """(least, largest) of each group of rows; (None, None) where the file does not say."""
    if index is None:
        yield None, None
        return
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(index).statistics
        yield (statistics.min, statistics.max) if statistics and statistics.has_min_max else (None, None)


def _between(texts: Sequence[str], least: Any, largest: Any) -> bool:
    if isinstance(least, int) and not isinstance(least, bool):
        return any(least <= number <= largest for number in _integers(texts))
    # Parquet compares text by its bytes in UTF-8, which is the order of code points.
    return any(least <= text <= largest for text in texts) if isinstance(least, str) else True


def _integers(texts: Sequence[str]) -> Iterator[int]:
    for text in texts:
        try:
            yield int(text)
        except ValueError:
            continue
