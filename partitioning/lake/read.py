"""The rows of a table as a stream of record batches with types that do not change, whatever the format of the table."""

from collections.abc import Iterator, Sequence
from contextlib import closing

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InputError
from ..storage import StorageOptions
from .csv import to_numbers
from .data_file import DataFile, Reader, Rows, Table
from .ids import null_error, to_ids
from .survey import Types, find_types, open_reader
from .table import open_table
from .times import parse_texts, to_times


def read_table(
    table: str | Table, ids: Sequence[str], options: StorageOptions, value: str | None = None, time: str | None = None
) -> Iterator[pa.RecordBatch]:
    """Stream a table: one column for each name in `ids`, as int64 or string and free of nulls, then `value` and `time`, if
    named: float64, and a timestamp without a zone that means UTC, or int64 where the table has numbers.

    Only these columns are read, and only rows that are alive. All batches agree in types.

    Args:
        table: its URI, as `open_table` takes it, or what that returned.

    Raises:
        InputError: as `open_table`; a file is unreadable, lacks a column or has it in a wrong type, files disagree in the
            type of an id or time, or one of them is null. The message names the file and the column. Raised while iterating.
    """
    if isinstance(table, str):
        table = open_table(table, options)
    types = find_types(table, ids, value, time)
    wanted = [*ids, *(name for name in (value, time) if name)]
    for data in table.files:
        int96 = "ns" if data.file.path in types.nanoseconds else "us"
        with closing(open_reader(data, int96)) as reader:
            if reader.num_rows == 0:
                continue
            for rows in reader.batches(wanted):
                arrays = [_ids(rows, name, data, types) for name in ids]
                if value:
                    arrays.append(_value(rows, value, data, reader))
                if time:
                    arrays.append(times_of(rows, time, data, reader, types.time))
                yield pa.RecordBatch.from_arrays(arrays, names=wanted)


def read_columns(
    table: str | Table, ids: Sequence[str], others: Sequence[str], options: StorageOptions
) -> Iterator[pa.RecordBatch]:
    """Stream a table in which ids may be missing, such as one of requests: the columns `ids` as int64 or string, then
    `others` as they are stored; a column that the table does not have is null. table: as for `read_table`.

    Raises:
        InputError: as `read_table`, but for nulls and missing columns.
    """
    if isinstance(table, str):
        table = open_table(table, options)
    there = columns_of(table)
    types = find_types(table, [name for name in ids if name in there], None, None)
    for data in table.files:
        with closing(open_reader(data)) as reader:
            for rows in reader.batches([name for name in (*ids, *others) if name in reader.names]):
                arrays = []
                for name in (*ids, *others):
                    column = rows.columns.get(name)
                    if column is None:
                        column = pa.nulls(rows.count)
                    elif name in ids:
                        column = to_ids(column, types.ids[name], name, data.uri, rows.positions, nulls=True)
                    arrays.append(column)
                yield pa.RecordBatch.from_arrays(arrays, names=[*ids, *others])


def columns_of(table: Table) -> list[str]:
    """The names of a table's columns; of a plain table all that any file has.

    Raises:
        InputError: a file is unreadable.
    """
    if table.schema is not None:
        return list(table.schema.names)
    names: dict[str, None] = {}
    for data in table.files:
        with closing(open_reader(data)) as reader:
            names |= dict.fromkeys(reader.names)
    return list(names)


def _ids(rows: Rows, name: str, data: DataFile, types: Types) -> pa.Array:
    return to_ids(rows.columns[name], types.ids[name], name, data.uri, rows.positions)


def _value(rows: Rows, name: str, data: DataFile, reader: Reader) -> pa.Array:
    column = rows.columns[name]
    if reader.is_untyped(name):
        return to_numbers(column, name, data.uri, rows.positions)
    return pc.cast(
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column, pa.float64(), safe=False
    )


def times_of(rows: Rows, name: str, data: DataFile, reader: Reader, target: pa.DataType) -> pa.Array:
    column = rows.columns[name]
    if reader.is_untyped(name):
        if column.null_count:
            raise null_error(column, name, data.uri, rows.positions)
        if target != pa.int64():
            try:
                return parse_texts(column, target.unit)
            except pa.ArrowInvalid as error:
                raise InputError(f"{data.uri}: column '{name}' does not fit {target}: {error}") from error
    return to_times(column, target, name, data.uri, rows.positions)
