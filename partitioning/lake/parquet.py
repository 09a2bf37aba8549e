"""A Parquet file as a stream of batches: memory is bounded by a batch and a buffer for each column, not by the file."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import InputError
from .data_file import DataFile, Rows, repeated

# pyarrow.dataset's scanner would not do: ahead of a slow reader it decodes the whole file, whatever its read-ahead is.
BATCH_ROWS = 1 << 17
BUFFER_BYTES = 4 << 20

MARKS = {b"iceberg.schema": "an Iceberg", b"org.apache.hudi.bloomfilter": "a Hudi", b"hoodie_min_record_key": "a Hudi"}
"""Keys in the footer of files that other writers do not use."""


class ParquetReader:
    """`data_file.Reader` of a Parquet file."""

    def __init__(self, data: DataFile, int96: str = "us") -> None:
        """int96: the unit that INT96 times are read in. In "ns" those outside 1677..2262 wrap round.

        Raises:
            InputError: it is no readable Parquet file, or one of a table format where a plain one is expected.
        """
        self.data = data
        try:
            source = data.file.filesystem.open_input_file(data.file.path)
            self.file = pq.ParquetFile(
                source, pre_buffer=False, buffer_size=BUFFER_BYTES, coerce_int96_timestamp_unit=int96
            )
        except (OSError, pa.ArrowException) as error:
            raise unreadable(data, error) from error
        written_by = MARKS.keys() & (self.file.metadata.metadata or {}).keys()
        if data.plain and written_by:
            raise InputError(
                f"{data.uri}: was written as a data file of {MARKS[written_by.pop()]} table, and may hold rows that were "
                "deleted there or never committed. Name the table itself; if it is a copy of live rows, write it again as "
                "plain Parquet"
            )
        self.schema: pa.Schema = self.file.schema_arrow
        self.stored = self._stored()
        self.names: Sequence[str] = list(dict.fromkeys([*self.stored, *data.defaults, *data.constants]))

    def _stored(self) -> dict[str, list[int]]:
        """{name in the table: positions of its columns in the file}."""
        data = self.data
        positions: dict[str, list[int]] = {}
        if data.names is None and data.field_ids is None:
            for k, name in enumerate(self.schema.names):
                positions.setdefault(name, []).append(k)
            return positions
        ids = {_field_id(field): k for k, field in enumerate(self.schema) if _field_id(field) is not None}
        if ids and data.field_ids is not None:
            return {name: [ids[number]] for name, number in data.field_ids.items() if number in ids}
        places = {name: k for k, name in enumerate(self.schema.names)}
        found = {
            name: [places[there] for there in called if there in places][:1]
            for name, called in (data.names or {}).items()
        }
        if data.field_ids is not None and not any(found.values()) and places:
            raise InputError(
                f"{data.uri}: its columns have no ids, and the table does not say what they are called "
                "(schema.name-mapping.default). Mend the table"
            )
        return {name: positions for name, positions in found.items() if positions}

    @property
    def num_rows(self) -> int:
        return int(self.file.metadata.num_rows)

    def type_of(self, name: str) -> pa.DataType:
        if name in self.data.constants:
            return self.data.constants[name].type
        found = self.stored.get(name, ())
        if not found and name in self.data.defaults:
            return self.data.defaults[name].type
        if len(found) != 1:
            raise InputError(
                f"{self.data.uri}: {'more than one column' if found else 'no column'} '{name}'; it has "
                f"{', '.join(self.names)}. Map your names with columns.user, columns.item, columns.time, columns.value"
            )
        return self.schema.field(found[0]).type

    def is_int96(self, name: str) -> bool:
        """Whether the column is stored as INT96, Spark's and Impala's old timestamps."""
        if name in self.data.constants or len(self.stored.get(name, ())) != 1:
            return False
        return bool(self._column(name).physical_type == "INT96")

    def is_untyped(self, name: str) -> bool:
        return name in self.data.untyped

    def bounds(self, name: str) -> tuple[Any, Any] | None:
        if name in self.data.constants or name not in self.stored:
            value = self.data.constants.get(name, self.data.defaults.get(name))
            number = None if value is None or not value.is_valid else _as_integers(repeated(value, 1))[0].as_py()
            return None if number is None else (number, number)
        found: list[Any] = []
        for group in range(self.file.metadata.num_row_groups):
            statistics = self.file.metadata.row_group(group).column(self._column_index(name)).statistics
            # Statistics of times come as datetime, which has no nanoseconds.
            if statistics is None or not statistics.has_min_max or pa.types.is_temporal(self.type_of(name)):
                found = []
                for batch in self._batches([name]):
                    least_and_largest = pc.min_max(_as_integers(batch.column(0)))
                    found += [least_and_largest["min"].as_py(), least_and_largest["max"].as_py()]
                break
            found += [statistics.min, statistics.max]
        found = [value for value in found if value is not None]
        return (min(found), max(found)) if found else None

    def values(self, names: Sequence[str]) -> Iterator[Sequence[pa.Array]]:
        if all(name in self.data.constants for name in names):
            yield [repeated(self.data.constants[name], 1) for name in names]
            return
        for batch in self._batches([name for name in names if name not in self.data.constants]):
            columns = iter(batch.columns)
            yield [
                repeated(self.data.constants[name], 1) if name in self.data.constants else next(columns)
                for name in names
            ]

    def batches(self, names: Sequence[str]) -> Iterator[Rows]:
        data = self.data
        stored = [name for name in dict.fromkeys(names) if name not in data.constants and name in self.stored]
        start = 0
        for batch in self._batches(stored):
            count = batch.num_rows
            positions = np.arange(start, start + count, dtype=np.int64)
            if data.deleted is not None and len(data.deleted):
                alive = data.deleted.kept(start, count)
                if len(alive) < count:
                    positions = positions[alive]
                    if stored:  # a batch without columns only says how many rows there are
                        batch = batch.take(pa.array(alive))
            start += count
            if len(positions):
                columns = dict(zip(stored, batch.columns, strict=True))
                fixed = {**data.defaults, **data.constants}
                columns |= {
                    name: repeated(fixed[name], len(positions))
                    for name in names
                    if name not in columns and name in fixed
                }
                yield Rows(columns, len(positions), positions)

    def close(self) -> None:
        self.file.close(force=True)

    def _batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        places = [self.stored[name][0] for name in names]
        order = sorted(dict.fromkeys(places))
        try:
            for batch in self.file.iter_batches(BATCH_ROWS, columns=[self.schema.names[k] for k in order]):
                columns = [batch.column(order.index(k)) for k in places]
                yield pa.RecordBatch.from_arrays(columns, names=list(names)) if names else batch
        except (OSError, pa.ArrowException) as error:
            raise unreadable(self.data, error) from error

    def _column_index(self, name: str) -> int:
        """Of a column without parts, among the leaves of the file's schema."""
        path = self.schema.names[self.stored[name][0]]
        paths = [self.file.schema.column(k).path for k in range(len(self.file.schema))]
        return paths.index(path) if path in paths else -1

    def _column(self, name: str) -> Any:
        index = self._column_index(name)
        return self.file.schema.column(index) if index >= 0 else _NoColumn


class _NoColumn:
    physical_type = ""


def unreadable(data: DataFile, error: Exception) -> InputError:
    """That the file is not a Parquet file, or damaged."""
    advice = "Write it again, or mend the table"
    if data.plain:
        advice = "Write it again, or take it out of the folder (files whose names start with _ or . are skipped)"
        if _is_text(data):
            advice = (
                "It is a text. A CSV file needs a name that ends with .csv; take away what is not part of the table"
            )
        elif not data.file.path.lower().endswith((".parquet", ".parq", ".pq")):
            advice = (
                "If it is a CSV file, give it a name that ends with .csv; if it is not part of the table, take it away"
            )
    return InputError(f"{data.uri} is not a readable Parquet file: {str(error).rstrip('. ')}. {advice}")


def _is_text(data: DataFile) -> bool:
    """Whether the file begins as a text does, as a CSV file under another name."""
    try:
        with data.file.filesystem.open_input_stream(data.file.path) as stream:
            start = stream.read(512)
    except OSError:
        return False
    # The last bytes may be the beginning of a character.
    return b"\n" in start and start[:-4].decode("utf-8", errors="replace").replace("\n", "").isprintable()


def _field_id(field: pa.Field) -> int | None:
    text = (field.metadata or {}).get(b"PARQUET:field_id")
    return None if text is None else int(text)


def _as_integers(column: pa.Array) -> pa.Array:
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    if pa.types.is_date32(plain.type):
        return plain.cast(pa.int32()).cast(pa.int64())
    return plain.cast(pa.int64()) if pa.types.is_temporal(plain.type) else plain
