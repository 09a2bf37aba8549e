"""Reads the file of `forget --requests`: it has one row for each thing to be forgotten. Says which rows mean nothing."""

from __future__ import annotations

import json
import math
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from difflib import get_close_matches
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from ...partitioning.errors import InputError
from ...partitioning.lake import ID_COLUMNS, LakeFile, Table, columns_of, list_table, open_table, read_columns, read_csv
from ...partitioning.storage import StorageOptions, filesystem_for
from .times import NANOSECONDS, Bound, Moment, is_empty_range, parse_bound

USERS, ITEMS, INTERACTIONS, RANGES = KINDS = ("users", "items", "interactions", "ranges")
RANGE = ("since", "until")
COLUMNS = (*ID_COLUMNS, *RANGE)

LARGEST = 2.0**53
"""From this number on a float does not tell neighbouring integers apart."""

Row = tuple[str, Any] | str
"""What a row means: (kind, what it names), with external ids as text. That is one id for users and items, (user, item) for
interactions, and (user, item or None, since, until) for ranges. A row that means nothing is a text that says why, without
ids."""


def read_rows(path: str, options: StorageOptions, other_columns: bool = False) -> list[Row]:
    """The rows of a file of requests, in order.

    A row with one id means the whole user or the whole item. A row with both ids means this interaction. With `since` or
    `until` it means only the user's events in [since, until), with this item where there is one. Null, NaN and a text of
    spaces alone count as "not given". Ids are not trimmed: " a" and "a" are two ids.

    Folders called `COLUMN=VALUE` below `path` are columns. Folders with other names are ignored, unless the name looks like
    a misspelt column.

    Args:
        path: .json (a list of objects, or one object), .jsonl, .csv (with a header), or Parquet; a file or a folder. Or a
            Delta or Iceberg table, as `partitioning.lake.open_table` takes it.
        options: how to reach S3.
        other_columns: whether columns with other names are ignored. If not, they are an error, because a row with a misspelt
            `until` would mean more than was meant.

    Raises:
        InputError: the file is not readable as a whole, has neither column of ids, or another column; or `path` itself is,
            or lies in, a folder that is one of these columns.
    """
    read = _reader(path)
    table = open_table(path, options) if read is _parquet else None
    if table is not None and table.schema is not None:
        return _lake_table(table, path, options, other_columns)
    files = list_table(path, options)
    is_file = files[0].path == filesystem_for(path, options)[1]
    folders = path.split("/")[: -1 if is_file else None]
    above = [folder for folder in folders if folder.partition("=")[1] and folder.partition("=")[0] in COLUMNS]
    if above:
        raise InputError(f"{path}: {above[0]} is a column of this table. Give the folder above it, or a file elsewhere")
    rows: list[Row] = []
    for file in files:
        names, columns, count = read(file)
        if names or count:  # JSON without rows has no columns
            _check_columns([*names, *filter(_like_a_column, file.partition)], file.uri, other_columns)
        values = {**columns, **{name: [value] * count for name, value in file.partition.items()}}
        rows += _parse_rows(values, count)
    return rows


def read_upload(name: str, data: bytes) -> list[Row]:
    """As `read_rows`, for the content of one file that somebody sends.

    name: the file's name, whose ending says the format. No message repeats a word of the content: the first line of a file
    without a header holds ids.

    Raises:
        InputError: as `read_rows`.
    """
    read = _reader(name)
    if read is _parquet and not name.lower().endswith((".parquet", ".pq")):
        raise InputError("the file's name says no format: it has to end with .csv, .json, .jsonl or .parquet")
    names, columns, count = read(LakeFile(_InMemory(data), "", "the file", {}, len(data)))
    known = [one for one in names if one in COLUMNS]
    if len(known) > len(set(known)):
        raise InputError("the file has a column twice. Drop or rename all but one")
    if (names or count) and not set(known) & set(ID_COLUMNS):
        raise InputError(
            "the file has no column user_id or item_id. Its first line, or the keys of its objects, name them"
        )
    if len(known) < len(names):
        raise InputError(f"the file has a column that is not known here. A file of requests has {', '.join(COLUMNS)}")
    return _parse_rows(columns, count)


class _InMemory:
    """As much of a `pyarrow.fs.FileSystem` as the readers below use, for one file in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def open_input_file(self, path: str) -> pa.BufferReader:
        return pa.BufferReader(self._data)

    open_input_stream = open_input_file


def _parse_rows(values: Mapping[str, Sequence[Any]], count: int) -> list[Row]:
    return list(map(parse_row, *(values.get(name, [None] * count) for name in COLUMNS)))


def _reader(path: str) -> Callable[[LakeFile], _Table]:
    """The reader of the format that the ending of a file's name says; without a known one, that of Parquet."""
    read = {".json": _json, ".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv}
    return next((read[ending] for ending in read if path.lower().endswith(ending)), _parquet)


def _lake_table(table: Table, uri: str, options: StorageOptions, other_columns: bool) -> list[Row]:
    """The rows of a Delta or Iceberg table."""
    _check_columns(columns_of(table), uri, other_columns)
    rows: list[Row] = []
    for batch in read_columns(table, ID_COLUMNS, RANGE, options):
        users, items = (batch.column(name).to_pylist() for name in ID_COLUMNS)
        bounds = (_moments(pa.chunked_array([batch.column(name)])) for name in RANGE)
        rows += map(parse_row, users, items, *bounds)
    return rows


def parse_row(user: Any, item: Any, since: Any, until: Any) -> Row:
    """What a row with these four values means; a text where it means nothing."""
    if isinstance(user, Invalid):
        return str(user)
    try:
        user, item = _id(user, "user_id"), _id(item, "item_id")
        low, high = (_bound(value, name) for value, name in zip((since, until), RANGE, strict=True))
    except ValueError as error:
        return str(error)
    if user is None and item is None:
        return "it has neither user_id nor item_id"
    if low is None and high is None:
        if user is not None and item is not None:
            return INTERACTIONS, (user, item)
        return (USERS, user) if item is None else (ITEMS, item)
    if user is None:
        return "a time range needs a user_id"
    if is_empty_range(low, high):
        return "since is not before until"
    return RANGES, (user, item, low, high)


class Invalid(str):
    """Stands in the place of the user of a row that is no JSON object; its text is the reason."""


class DuplicateKey(ValueError):
    """An object has two values for one key."""


def reject_duplicate_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its keys and values, as the `object_pairs_hook` of a JSON reader; refuse keys that stand twice.

    The reader itself would keep the last value of such a key and lose the others.

    Raises:
        DuplicateKey: a key stands twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        raise DuplicateKey("a key stands twice in one object")
    return found


def _id(value: Any, name: str) -> str | None:
    """The id that a value of the column `name` means, as text; None where none is given.

    Raises:
        ValueError: it is no id. The message does not hold the value.
    """
    if (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))
    ):
        return None
    if isinstance(value, float) and value.is_integer():  # a column of integers with nulls, as pandas writes it
        if abs(value) >= LARGEST:
            raise ValueError(f"{name} is a float too large to be exact: write it as an integer or as text")
        value = int(value)
    if isinstance(value, bytes) and len(value) == 16:
        value = UUID(bytes=value)
    if isinstance(value, UUID):
        value = str(value)
    if isinstance(value, Decimal) and value == value.to_integral_value():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{name} is neither a whole number nor text")
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} has half of a character (a lone surrogate)") from None
    return text


def _bound(value: Any, name: str) -> Bound | None:
    """As `parse_bound`; the error names the column `name`."""
    try:
        return parse_bound(value)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


# ---- formats ---------------------------------------------------------------------------------------------------------

_Table = tuple[Sequence[str], Mapping[str, Sequence[Any]], int]
"""What each reader of a format returns: (names of all columns, the values of the known columns, number of rows)."""


def _json(file: LakeFile) -> _Table:
    content = _parsed(_text(file), file, "JSON")
    return _objects(content if isinstance(content, list) else [content])


def _jsonl(file: LakeFile) -> _Table:
    lines = [(n, line) for n, line in enumerate(_text(file).split("\n"), start=1) if line.strip()]
    return _objects([_parsed(line, file, f"JSON in line {n}") for n, line in lines])


def _objects(rows: Sequence[Any]) -> _Table:
    names = dict.fromkeys(name for row in rows if isinstance(row, dict) for name in row)
    columns = {name: [row.get(name) if isinstance(row, dict) else None for row in rows] for name in COLUMNS}
    wrong = Invalid("it is no object with user_id, item_id, since, until")
    columns["user_id"] = [
        value if isinstance(row, dict) else wrong for row, value in zip(rows, columns["user_id"], strict=True)
    ]
    return list(names), columns, len(rows)


def _csv(file: LakeFile) -> _Table:
    table = read_csv(file, COLUMNS)
    columns = {name: table[name].to_pylist() for name in _known(table.column_names)}
    for name in set(RANGE).intersection(columns):  # a space around a time means nothing; one of an id belongs to it
        columns[name] = [text and text.strip() for text in columns[name]]
    return table.column_names, columns, table.num_rows


def _parquet(file: LakeFile) -> _Table:
    try:
        with file.filesystem.open_input_file(file.path) as source:
            table = pq.ParquetFile(source).read()
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{file.uri} is not a readable Parquet file: {error}. Files of other formats end with .json, .jsonl or .csv"
        ) from error
    names = table.column_names
    for field in table.schema:
        if field.name in ID_COLUMNS and (pa.types.is_float32(field.type) or pa.types.is_float16(field.type)):
            raise InputError(
                f"{file.uri}: column '{field.name}' is {field.type}, which rounds ids. Write integers or text"
            )
    columns = {name: _moments(table[name]) if name in RANGE else table[name].to_pylist() for name in _known(names)}
    return names, columns, table.num_rows


def _moments(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column of times. Timestamps become whole nanoseconds (`Moment`), because datetime holds none."""
    if not pa.types.is_timestamp(column.type):
        values: list[Any] = column.to_pylist()
        return values
    factor = NANOSECONDS[column.type.unit]
    return [None if number is None else Moment(number * factor) for number in column.cast(pa.int64()).to_pylist()]


def _known(names: Sequence[str]) -> list[str]:
    """The columns of a file of requests that stand in `names` exactly once."""
    return [name for name in COLUMNS if names.count(name) == 1]


def _text(file: LakeFile) -> str:
    try:
        with file.filesystem.open_input_stream(file.path) as stream:
            data: bytes = stream.read()
        # Excel and PowerShell write UTF-16, and begin with its mark.
        return data.decode("utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file.uri} is not readable as text in UTF-8 or UTF-16: {error}. Save it as UTF-8") from error


def _parsed(text: str, file: LakeFile, what: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=reject_duplicate_keys)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file.uri} is not readable as {what}: {error}") from error


def _like_a_column(folder: str) -> bool:
    """Whether the name of a folder is that of a column, or looks like a misspelt one."""
    return bool(get_close_matches(folder.lower(), COLUMNS))


def _check_columns(names: Sequence[str], uri: str, other_columns: bool) -> None:
    """Raise InputError unless a file of requests may have these columns."""
    twice = [name for name in COLUMNS if names.count(name) > 1]
    if twice:
        raise InputError(f"{uri}: more than one column '{twice[0]}'. Drop or rename all but one")
    if not set(names) & set(ID_COLUMNS):
        raise InputError(f"{uri}: no column 'user_id' or 'item_id'; it has {', '.join(names) or 'none'}")
    unknown = [name for name in names if name not in COLUMNS]
    if unknown and not other_columns:
        raise InputError(f"{uri}: column '{unknown[0]}' is not known here. A file of requests has {', '.join(COLUMNS)}")
