"""Tables of the lake as streams of record batches (a Parquet file, a folder, a hive data set), and files of ids.

Every file is checked against its own schema before a row of it is read, so that an error names the file.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ..errors import InputError
from ..storage import StorageOptions, filesystem_for, split_uri

ID_COLUMNS = ("user_id", "item_id")

# Memory is bounded by a batch and a buffer for each column, not by the table. pyarrow.dataset's scanner would not do:
# ahead of a slow reader it decodes the whole file, whatever its read-ahead is set to.
_BATCH_ROWS = 1 << 17
_BUFFER_BYTES = 4 << 20
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Columns:
    """Which column of the table is what."""

    user: str = "user_id"
    item: str = "item_id"
    time: str | None = None
    """When the event was: timestamps, dates, or integers. Kept with the graph, 8 bytes an event."""
    time_unit: str | None = None
    """Of a time column of numbers, since the epoch: "s", "ms", "us" or "ns"; None: not known, only compared."""
    value: str | None = None
    """Numeric strength, for instance a rating. Rows whose value is null, NaN or <= 0 are not interactions."""


@dataclass(frozen=True)
class LakeFile:
    """One Parquet file of a table, with the values that its hive folders give to partition columns."""

    filesystem: pafs.FileSystem
    path: str
    uri: str
    partition: dict[str, str | None]


def list_table(uri: str, options: StorageOptions) -> list[LakeFile]:
    """The Parquet files of a table, in order of path. Names that start with _ or . are skipped, as everywhere in lakes.

    Raises:
        InputError: nothing is there, it cannot be reached, or the folder holds no file.
    """
    filesystem, path = filesystem_for(uri, options)
    scheme = "s3://" if split_uri(uri)[0] == "s3" else ""
    try:
        info = filesystem.get_file_info(path)
        if info.type == pafs.FileType.File:
            return [LakeFile(filesystem, path, scheme + path, {})]
        if info.type == pafs.FileType.NotFound:
            raise InputError(f"{uri}: no such file or folder. Check `interactions`, or the path you gave")
        found = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
    except OSError as error:
        raise InputError(
            f"{uri} cannot be reached: {error}. Check the path, the permissions or credentials, storage.endpoint_url "
            "and storage.region"
        ) from error
    files = []
    for entry in sorted(found, key=lambda entry: str(entry.path)):
        *folders, name = entry.path[len(path) :].strip("/").split("/")
        if entry.type != pafs.FileType.File or any(part.startswith(("_", ".")) for part in [*folders, name]):
            continue
        partition: dict[str, str | None] = {}
        for key, equals, value in (folder.partition("=") for folder in folders):
            if equals:
                partition[unquote(key)] = None if value == _NULL_PARTITION else unquote(value)
        files.append(LakeFile(filesystem, entry.path, scheme + entry.path, partition))
    if not files:
        raise InputError(f"{uri}: the folder holds no Parquet file")
    return files


def read_table(
    uri: str, ids: Sequence[str], options: StorageOptions, value: str | None = None, time: str | None = None
) -> Iterator[pa.RecordBatch]:
    """Stream a table: one column for each name in `ids`, as int64 or string and free of nulls, then `value` and `time`, if
    named: float64, and a timestamp without a zone that means UTC, or int64 where the table has numbers.

    Only these columns are read. All batches agree in types.

    Raises:
        InputError: a file is unreadable, lacks a column or has it in a wrong type, files disagree in the type of an id or
            time, or one of them is null. The message names the file and the column. Raised while iterating.
    """
    files = list_table(uri, options)
    partition_types = _partition_types(files)
    types: dict[str, tuple[pa.DataType, str]] = {}
    for file in files:
        with _open(file) as parquet:
            schema = parquet.schema_arrow
            wanted = [*ids, *(name for name in (value, time) if name)]
            for name in wanted:
                column_type = partition_types[name] if name in file.partition else _field_type(schema, name, file)
                if name in ids or name == time:
                    target = _id_type(column_type, name, file) if name in ids else _time_type(column_type, name, file)
                    first, first_file = types.setdefault(name, (target, file.uri))
                    if target != first:
                        raise InputError(
                            f"{file.uri}: column '{name}' holds {target}, but {first_file} holds {first}. Write the "
                            "column with one type in all files"
                        )
                elif name == value and not _is_number(column_type):
                    raise InputError(
                        f"{file.uri}: column '{name}' (columns.value) is {column_type}; it must be numeric. Cast the "
                        "column"
                    )
            stored = [name for name in dict.fromkeys(wanted) if name not in file.partition]
            row = 0
            try:
                for batch in parquet.iter_batches(_BATCH_ROWS, columns=stored):
                    arrays = [
                        _cast(_column(batch, name, file), types[name][0], name, file, row)
                        if name in types
                        else pc.cast(_column(batch, name, file), pa.float64())
                        for name in wanted
                    ]
                    row += batch.num_rows
                    yield pa.RecordBatch.from_arrays(arrays, names=wanted)
            except (OSError, pa.ArrowException) as error:
                raise _unreadable(file, error) from error


def has_column(uri: str, name: str, options: StorageOptions) -> bool:
    """Whether a file of the table has the column.

    Raises:
        InputError: as `list_table`; a file is unreadable.
    """
    for file in list_table(uri, options):
        with _open(file) as parquet:
            if name in file.partition or name in parquet.schema_arrow.names:
                return True
    return False


def interactions_of(rows: pa.RecordBatch | pa.Table) -> pa.RecordBatch | pa.Table:
    """Those of some rows, columns (user, item, value, ...), that are interactions by their value: not null, not NaN, > 0."""
    return rows.filter(pc.fill_null(pc.greater(rows.column(2), 0.0), False))


def read_ids(path: str, column: str | Sequence[str] | None, options: StorageOptions) -> pa.Table:
    """A file of ids: Parquet (file or folder), or CSV with a header when the name ends with .csv.

    `column`: the column or columns that must be there, all that the result has; None takes `user_id` and `item_id`,
    whichever are there, at least one. Ids of a CSV are strings (0017 stays 0017): `graph.dense_ids` understands them
    for integer ids too. A file without rows gives a table without rows.

    Raises:
        InputError: the file is absent or unreadable, lacks a column, has it in a wrong type, or an id is missing.
    """
    required = (column,) if isinstance(column, str) else column
    if path.lower().endswith(".csv"):
        return _read_csv(path, required, options)
    file = list_table(path, options)[0]
    with _open(file) as parquet:
        names = _chosen([*parquet.schema_arrow.names, *file.partition], required, file.uri)
    batches = list(read_table(path, names, options))
    schema = batches[0].schema if batches else pa.schema([(name, pa.string()) for name in names])
    return pa.Table.from_batches(batches, schema=schema)


def read_csv(file: LakeFile, texts: Sequence[str]) -> pa.Table:
    """A CSV file with a header; the columns `texts` are read as strings.

    Raises:
        InputError: it is unreadable. The message has the number of the row, and nothing of what it says.
    """
    convert = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(texts, pa.string()))
    try:
        with file.filesystem.open_input_stream(file.path) as stream:
            # With threads, errors do not say in which row.
            return pyarrow.csv.read_csv(stream, pyarrow.csv.ReadOptions(use_threads=False), convert_options=convert)
    except (OSError, pa.ArrowException) as error:
        why = re.sub(r"(, got \d+): .*", r"\1", str(error), count=1, flags=re.DOTALL)
        raise InputError(f"{file.uri} is not a readable CSV file: {why}. Its first line must be a header") from None


def _read_csv(path: str, required: Sequence[str] | None, options: StorageOptions) -> pa.Table:
    file = list_table(path, options)[0]
    table = read_csv(file, required or ID_COLUMNS)
    names = _chosen(table.column_names, required, file.uri)
    arrays = {}
    for name in names:
        arrays[name] = pc.utf8_trim_whitespace(table[name])
        missing = pc.index(pc.fill_null(pc.equal(arrays[name], ""), True), True).as_py()
        if missing >= 0:
            raise InputError(f"{file.uri}: column '{name}' is empty in row {missing + 1}. Drop the row or fill it in")
    return pa.table(arrays)


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


def _open(file: LakeFile) -> pq.ParquetFile:
    try:
        source = file.filesystem.open_input_file(file.path)
        return pq.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER_BYTES)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: LakeFile, error: Exception) -> InputError:
    return InputError(
        f"{file.uri} is not a readable Parquet file: {error}. Write it again, or take it out of the folder (files "
        "whose names start with _ or . are skipped)"
    )


def _field_type(schema: pa.Schema, name: str, file: LakeFile) -> pa.DataType:
    if schema.names.count(name) != 1:
        raise InputError(
            f"{file.uri}: {'no column' if name not in schema.names else 'more than one column'} '{name}'; it has "
            f"{', '.join(schema.names)}. Map your names with columns.user, columns.item, columns.time, columns.value"
        )
    return schema.field(name).type


def _partition_types(files: Sequence[LakeFile]) -> dict[str, pa.DataType]:
    """int64 for a hive column all of whose values are integers as we would write them, else string (0017 is text)."""
    values: dict[str, set[str]] = {}
    for file in files:
        for name, text in file.partition.items():
            values.setdefault(name, set()).update(() if text is None else (text,))
    return {name: pa.int64() if all(map(_is_int64, texts)) else pa.string() for name, texts in values.items()}


def _is_int64(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and str(int(text)) == text and -(2**63) <= int(text) < 2**63


def _is_number(column_type: pa.DataType) -> bool:
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(kind(column_type) for kind in kinds)


def _id_type(column_type: pa.DataType, name: str, file: LakeFile) -> pa.DataType:
    plain = column_type.value_type if pa.types.is_dictionary(column_type) else column_type
    if pa.types.is_integer(plain):
        return pa.int64()
    if pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain):
        return pa.string()
    raise InputError(f"{file.uri}: column '{name}' is {column_type}; ids must be integers or strings. Cast the column")


def _time_type(column_type: pa.DataType, name: str, file: LakeFile) -> pa.DataType:
    if pa.types.is_timestamp(column_type):
        return pa.timestamp(column_type.unit)
    if pa.types.is_date(column_type):
        return pa.timestamp("s")
    if _is_number(column_type):
        return pa.int64()
    raise InputError(
        f"{file.uri}: column '{name}' (columns.time) is {column_type}; it must be a time: a "
        "timestamp, a date or a number. Cast the column"
    )


def _column(batch: pa.RecordBatch, name: str, file: LakeFile) -> pa.Array:
    if name not in file.partition:
        return batch.column(name)
    return pa.repeat(pa.scalar(file.partition[name], pa.string()), batch.num_rows)


def _cast(array: pa.Array, target: pa.DataType, name: str, file: LakeFile, row: int) -> pa.Array:
    """A column of ids or times in its type; `row` is the batch's first row in the file, for the message."""
    try:
        # Through the dictionary's own type: there is no cast from a dictionary of large strings to strings. A zone goes
        # through integers, which are in UTC.
        plain = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
        cast = plain.cast(pa.int64()).cast(target) if pa.types.is_timestamp(plain.type) else plain.cast(target)
    except pa.ArrowInvalid as error:
        remedy = "Use string ids, and timestamps or whole numbers for times"
        raise InputError(f"{file.uri}: column '{name}' does not fit {target}: {error}. {remedy}") from error
    if cast.null_count:
        first = row + pc.index(pc.is_null(cast), True).as_py() + 1
        raise InputError(
            f"{file.uri}: column '{name}' is null in row {first}. Every row needs a value there: drop the row or fill "
            "it in"
        )
    return cast
