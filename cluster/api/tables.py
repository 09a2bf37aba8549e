"""Tables in memory as input: pandas, Arrow, Ray datasets, and all that speaks Arrow's C stream (Polars, DuckDB).

A table is written once, as Parquet, into the output, and read from there like any other (`output/handed.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...partitioning.errors import InputError
from ..config.data_sections import Columns
from ..config.schema import Config
from ..reporting.progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa


def check_table(key: str, table: Any, columns: Columns) -> None:
    """Raise InputError unless `table` is of a kind that can be read, and has the columns that `columns` names. Nothing is
    read; the columns of a Ray dataset are looked at when it is written."""
    if _is_ray_dataset(table):
        return
    if _is_pandas(table):
        names = [str(name) for name in table.columns]
    elif hasattr(table, "column_names"):
        names = list(table.column_names)
    elif hasattr(table, "schema") and hasattr(table.schema, "names"):  # a record batch, or a reader of them
        names = list(table.schema.names)
    elif hasattr(table, "__arrow_c_stream__"):
        names = list(table.columns)  # as Polars and DuckDB call them
    else:
        raise InputError(
            f"{key}: got {type(table).__name__}, expected a path, or a table: pandas.DataFrame, pyarrow.Table, a Ray "
            "dataset, or another one that Arrow can read (__arrow_c_stream__)"
        )
    _check_columns(key, names, columns)


def write_tables(config: Config, tables: Mapping[str, Any], progress: Progress) -> Config:
    """Write the tables into the output, unless they are there already; returns the configuration that names them.

    Raises:
        InputError: a table lacks a column or holds what is no id or no time, or `output` is in a store in which no tables
            can be read. Nothing was written of it then.
    """
    arrow: dict[str, pa.Table] = {}
    for key, table in tables.items():  # all are checked before one is written
        if _is_ray_dataset(table):
            _check_columns(key, list(table.schema().names), config.columns)
        else:
            arrow[key] = to_arrow(key, table, named(config.columns))
            check_values(key, arrow[key], config.columns)
    from ..output.handed import write_once, write_stream
    from ..output.session import Session as OpenOutput

    output, places = OpenOutput(config), {}
    for key, table in tables.items():
        with progress.task(f"rows of {key} written") as task:
            if key in arrow:
                place = write_once(output, key, arrow[key], task.advance)
            else:
                place = write_stream(output, key, _ray_batches(key, table, config.columns), task.advance)
        places[key] = place
    return config.model_copy(update=places)


def to_arrow(key: str, table: Any, columns: Sequence[str] | None = None) -> pa.Table:
    """The table as one of Arrow, with these columns only; None: all.

    Raises:
        InputError: it is no table that Arrow can read, or holds values that Arrow cannot.
    """
    import pyarrow as pa

    try:
        if _is_pandas(table):
            chosen = table if columns is None else table[list(columns)]
            return pa.Table.from_pandas(chosen, preserve_index=False).replace_schema_metadata(None)
        if isinstance(table, pa.RecordBatch):
            table = pa.Table.from_batches([table])
        elif isinstance(table, pa.RecordBatchReader):
            table = table.read_all()
        elif not isinstance(table, pa.Table):
            if not hasattr(table, "__arrow_c_stream__"):
                raise InputError(f"{key}: got {type(table).__name__}, expected a table of pandas or Arrow")
            table = pa.table(table)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"{key}: Arrow cannot read it: {error}. Give each column one type") from error
    return table if columns is None else table.select(list(columns))


def check_values(key: str, table: pa.Table, columns: Columns) -> None:
    """Raise InputError for a table that `ingest` would refuse: before it is copied, and by the name that the user knows.

    table: as of `to_arrow`, with the columns of `named`.
    """
    import pyarrow as pa

    from ...partitioning.lake.ids import id_kind, null_error
    from ...partitioning.lake.times import time_unit

    if not table.num_rows and key == "interactions":
        raise InputError(f"{key}: the table has no rows. Give one with at least one interaction")
    for name in (columns.user, columns.item):
        column = table[name]
        if pa.types.is_floating(column.type):
            raise InputError(
                f"{key}: column '{name}' is {column.type}; ids must be integers or strings. Pandas makes floats of integers "
                f"where some are missing: frame.dropna(subset=['{name}']).astype({{'{name}': 'int64'}})"
            )
        id_kind(column.type, name, key)
        # With `columns.value`, rows that are no interactions are left out first, whatever their ids are.
        if column.null_count and columns.value is None:
            raise null_error(column, name, key, range(len(column)))
    if columns.time is not None:
        time_unit(table[columns.time].type, columns.time, key)


def named(columns: Columns) -> list[str]:
    """The columns that are read. Others are not copied: the output holds no more of anybody than it needs."""
    return [name for name in (columns.user, columns.item, columns.time, columns.value) if name is not None]


def _check_columns(key: str, names: Sequence[str], columns: Columns) -> None:
    for name in named(columns):
        if names.count(name) != 1:
            what = "more than one column" if name in names else "no column"
            raise InputError(
                f"{key}: {what} '{name}'; it has {', '.join(names) or 'none'}. Map your names with columns.user, "
                "columns.item, columns.time, columns.value; what pandas has as an index becomes a column with reset_index()"
            )


def _ray_batches(key: str, dataset: Any, columns: Columns) -> Iterator[pa.Table]:
    from ..output.handed import PART_ROWS

    chosen = dataset.select_columns(named(columns))
    for batch in chosen.iter_batches(batch_size=PART_ROWS, batch_format="pyarrow"):
        check_values(key, batch, columns)
        yield batch


def _is_pandas(table: Any) -> bool:
    return type(table).__module__.partition(".")[0] == "pandas" and hasattr(table, "columns")


def _is_ray_dataset(table: Any) -> bool:
    return type(table).__module__.startswith("ray.data") and hasattr(table, "iter_batches")
