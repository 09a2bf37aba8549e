"""Tables of ids, as commands take them: users, items, or pairs of both."""

from collections.abc import Sequence
from contextlib import closing

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InputError
from ..storage import StorageOptions
from .columns import ID_COLUMNS
from .csv import header, read_csv
from .data_file import CSV, Table
from .read import columns_of, read_table
from .survey import open_reader
from .table import open_table


def read_ids(path: str, column: str | Sequence[str] | None, options: StorageOptions) -> pa.Table:
    """A table of ids, whole: Parquet or CSV with a header (file or folder), Delta or Iceberg.

    `column`: the column or columns that must be there, all that the result has; None takes `user_id` and `item_id`,
    whichever are there, at least one. Ids of a CSV are strings as they stand (0017 stays 0017, spaces stay):
    `graph.dense_ids` understands them for integer ids too. A table without rows gives one without rows.

    Raises:
        InputError: the table is absent or unreadable, lacks a column, has it in a wrong type, or an id is missing.
    """
    required = (column,) if isinstance(column, str) else column
    table = open_table(path, options)
    if table.files and table.files[0].format == CSV:
        return _read_csv(table, required)
    names = _chosen(_names(table), required, table.uri)
    batches = list(read_table(table, names, options))
    schema = batches[0].schema if batches else pa.schema([(name, pa.string()) for name in names])
    return pa.Table.from_batches(batches, schema=schema)


def _read_csv(table: Table, required: Sequence[str] | None) -> pa.Table:
    parts = []
    for data in table.files:
        names = _chosen([*header(data.file), *data.constants], required, data.uri)
        content = read_csv(data.file, names)
        arrays = {}
        for name in names:
            if name in data.constants:
                arrays[name] = pa.chunked_array([pa.repeat(data.constants[name], content.num_rows)])
                continue
            arrays[name] = content[name]
            missing = pc.index(pc.is_null(arrays[name]), True).as_py()
            if missing >= 0:
                raise InputError(
                    f"{data.uri}: column '{name}' is empty in row {missing + 1}. Drop the row or fill it in"
                )
        parts.append(pa.table(arrays))
    return pa.concat_tables(parts)


def _names(table: Table) -> list[str]:
    """With those that stand twice, for the message."""
    if table.schema is not None or not table.files:
        return columns_of(table)
    with closing(open_reader(table.files[0])) as reader:
        return list(reader.names)


def _chosen(there: Sequence[str], required: Sequence[str] | None, uri: str) -> list[str]:
    names = [name for name in ID_COLUMNS if name in there] if required is None else list(required)
    missing = [name for name in names if name not in there]
    if missing or not names:
        wanted = " and ".join(f"'{name}'" for name in missing) or "'user_id' and 'item_id'"
        raise InputError(f"{uri}: no column {wanted}; it has {', '.join(there)}. Rename the column of ids")
    twice = [name for name in names if there.count(name) > 1]
    if twice:
        raise InputError(f"{uri}: more than one column '{twice[0]}'. Drop or rename all but one")
    return names
