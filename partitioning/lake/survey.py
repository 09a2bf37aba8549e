"""The types of the columns that are asked for, found before the first row is read: one for all files of a table."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from ..errors import InputError
from .csv import CsvReader
from .data_file import CSV, DataFile, Reader, Table
from .ids import INT64, STRING, IdFacts, are_integers, fits_int64, id_kind, id_type, may_not_fit
from .parquet import ParquetReader
from .times import NUMBER, UNITS, Gathered, TimeFacts, as_int64, is_number, parse_texts, text_unit, time_type, time_unit

_THREADS = 8


@dataclass(frozen=True)
class Types:
    """What the columns are read as."""

    ids: dict[str, pa.DataType]
    time: pa.DataType = field(default_factory=pa.int64)
    nanoseconds: frozenset[str] = frozenset()
    """Files whose INT96 times are read in nanoseconds, by path; those of all others in microseconds."""


@dataclass
class _Facts:
    rows: int | None
    ids: dict[str, IdFacts] = field(default_factory=dict)
    time: TimeFacts | None = None
    int96: str = "us"


def open_reader(data: DataFile, int96: str = "us") -> Reader:
    """
    Raises:
        InputError: as the reader of its format.
    """
    return CsvReader(data) if data.format == CSV else ParquetReader(data, int96)


def find_types(table: Table, ids: Sequence[str], value: str | None, time: str | None) -> Types:
    """One type for each column of ids and of times over all files. Of most files only the footer is read; all of a column
    only where nothing less can tell: text without a type (CSV), INT96, and times whose files differ in unit.

    Files without rows are not looked at, since writers without a row to go by guess types.

    Raises:
        InputError: a file is unreadable, lacks a column or has it in a wrong type, or files disagree.
    """
    said = None if table.schema is None else _from_schema(table, ids, value, time)
    facts = [said] if said is not None else list(_looks(table.files, ids, value, time))
    known = [fact for fact in facts if fact.rows != 0]
    if not known:
        for data in table.files:
            with closing(open_reader(data)) as reader:
                for name in (*ids, *filter(None, (value, time))):
                    reader.type_of(name)
    types = {name: id_type(name, [fact.ids[name] for fact in known if name in fact.ids]) for name in ids}
    if time is None:
        return Types(types)
    times = [fact.time for fact in known if fact.time is not None]
    if len({fact.unit for fact in times} - {None, NUMBER}) > 1:
        times = list(_in_full(table.files, times, time))
    nanoseconds = frozenset(
        data.file.path for data, fact in zip(table.files, facts, strict=False) if fact.int96 == "ns"
    )
    return Types(types, time_type(time, times), nanoseconds)


def _from_schema(table: Table, ids: Sequence[str], value: str | None, time: str | None) -> _Facts | None:
    """What the table's schema says; None if the values have to be looked at."""
    facts, schema = _Facts(None), table.schema
    assert schema is not None
    for name in (*ids, *filter(None, (value, time))):
        if schema.names.count(name) != 1:
            raise InputError(
                f"{table.uri}: no column '{name}'; it has {', '.join(schema.names)}. Map your names with columns.user, "
                "columns.item, columns.time, columns.value"
            )
        column_type = schema.field(name).type
        if name in ids:
            kind = id_kind(column_type, name, table.uri)
            if may_not_fit(column_type):
                return None
            facts.ids[name] = IdFacts(table.uri, kind)
        if name == time:
            facts.time = TimeFacts(table.uri, time_unit(column_type, name, table.uri))
        if name == value:
            _check_value(column_type, name, table.uri, False)
    return facts


def _looks(files: Sequence[DataFile], ids: Sequence[str], value: str | None, time: str | None) -> Iterator[_Facts]:
    if len(files) == 1:
        yield _look(files[0], ids, value, time)
        return
    # Several at once: of a file on S3 a footer is a matter of waiting.
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(lambda data: _look(data, ids, value, time), files)


def _look(data: DataFile, ids: Sequence[str], value: str | None, time: str | None) -> _Facts:
    with closing(open_reader(data)) as reader:
        facts = _Facts(reader.num_rows)
        if reader.num_rows == 0:
            return facts
        untyped: list[str] = []
        for name in (*ids, *filter(None, (value, time))):
            column_type = reader.type_of(name)
            if name == value and name != time and name not in ids:
                _check_value(column_type, name, data.uri, reader.is_untyped(name))
                continue
            if reader.is_untyped(name):
                untyped.append(name)
            elif name in ids:
                kind = id_kind(column_type, name, data.uri)
                fits = not may_not_fit(column_type) or fits_int64(reader.bounds(name))
                facts.ids[name] = IdFacts(data.uri, kind, fits)
            elif isinstance(reader, ParquetReader) and reader.is_int96(name):
                facts.time = _int96(data, reader, name)
                facts.int96 = "ns" if facts.time.unit == "ns" else "us"
            else:
                facts.time = TimeFacts(data.uri, time_unit(column_type, name, data.uri))
        if untyped:
            _look_at_text(data, reader, untyped, facts, ids, time)
        return facts


def _look_at_text(
    data: DataFile, reader: Reader, names: Sequence[str], facts: _Facts, ids: Sequence[str], time: str | None
) -> None:
    integers = dict.fromkeys(names, True)
    units: set[str | None] = set()
    rows = 0
    for columns in reader.values(names):
        rows += len(columns[0])
        for name, texts in zip(names, columns, strict=True):
            if name == time:
                if texts.null_count < len(texts):
                    units.add(NUMBER if are_integers(texts) else text_unit(texts))
            else:
                integers[name] = integers[name] and are_integers(texts)
        if time not in names and not any(integers.values()):
            break  # no value that follows could change that they are text
    if not rows:
        facts.rows = 0
        return
    facts.ids |= {
        name: IdFacts(data.uri, INT64 if integers[name] else STRING, untyped=True) for name in names if name in ids
    }
    if time in names:
        if None in units or (NUMBER in units and len(units) > 1):
            raise InputError(
                f"{data.uri}: column '{time}' (columns.time) has a value that is no time: write 2024-01-31, "
                "2024-01-31T23:59:59Z, or whole numbers in all rows"
            )
        unit = max(filter(None, units), key=(NUMBER, *UNITS).index, default=None)
        facts.time = TimeFacts(data.uri, unit)


def _int96(data: DataFile, reader: ParquetReader, name: str) -> TimeFacts:
    """INT96 holds nanoseconds of any year, int64 does not: microseconds if they are exact, else nanoseconds if they fit."""
    in_us, in_ns = Gathered(data.uri, "us"), Gathered(data.uri, "ns")
    exact = fits = True
    with closing(ParquetReader(data, "ns")) as other:
        for (micros,), (nanos,) in zip(reader.values([name]), other.values([name]), strict=True):
            us, ns = as_int64(micros), as_int64(nanos)
            in_us.add(us)
            in_ns.add(ns)
            us, ns = us.drop_null().to_numpy(), ns.drop_null().to_numpy()
            # Nanoseconds wrap round outside 1677..2262, and so does the product: their difference is right all the same.
            with np.errstate(over="ignore"):
                rest = ns - us * np.int64(1000)
            if ((rest < 0) | (rest > 999)).any():
                raise InputError(
                    f"{data.uri}: column '{name}' has INT96 times that this pyarrow ({pa.__version__}) does not convert "
                    "exactly. Write the column as TIMESTAMP_MICROS, or take a newer pyarrow"
                )
            exact = exact and not rest.any()
            fits = fits and bool((ns // 1000 == us).all())
    if exact or fits:
        return (in_us if exact else in_ns).facts
    raise InputError(
        f"{data.uri}: column '{name}' has INT96 times outside 1677..2262 and others with nanoseconds, and no unit of 64 "
        "bits holds both. Write the column as TIMESTAMP_MICROS"
    )


def _in_full(files: Sequence[DataFile], facts: Sequence[TimeFacts], name: str) -> Iterator[TimeFacts]:
    """The same facts with least, largest and coarsest, for units to be compared."""
    by_uri = {data.uri: data for data in files}
    for fact in facts:
        if fact.coarsest or fact.unit is None:
            yield fact
            continue
        with closing(open_reader(by_uri[fact.uri])) as reader:
            unit = fact.unit
            columns = (columns[0] for columns in reader.values([name]))
            if reader.is_untyped(name):
                columns = (parse_texts(texts, unit) for texts in columns)
            gathered = Gathered(fact.uri, unit)
            for column in columns:
                gathered.add(as_int64(column))
            yield gathered.facts


def _check_value(column_type: pa.DataType, name: str, uri: str, untyped: bool) -> None:
    if not (untyped or is_number(column_type) or pa.types.is_null(column_type)):
        raise InputError(
            f"{uri}: column '{name}' (columns.value) is {column_type}; it must be numeric. Cast the column"
        )
