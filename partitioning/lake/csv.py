"""CSV files with a header: as a stream of batches, every column as text. Only what a value says can tell its type.

UTF-8, with or without a byte order mark, and UTF-16 with one (as Excel writes "Unicode text"); commas; quotes as RFC 4180
has them. Anything else is refused with its name: read as something that it is not, an id would be another one.
"""

import codecs
import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from ..errors import InputError
from .data_file import DataFile, Rows, repeated
from .files import LakeFile

ENDINGS = (".csv", ".csv.gz", ".csv.bz2", ".csv.zst", ".csv.lz4")
BLOCK_BYTES = 1 << 20

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"))
_MARKS_16 = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_NULLS = ["", "null", "NULL", "NA", "N/A", "nan", "NaN", "None"]


def is_csv(name: str) -> bool:
    """Whether a file of this name is taken for CSV."""
    return name.lower().endswith(ENDINGS)


class CsvReader:
    """`data_file.Reader` of a CSV file."""

    def __init__(self, data: DataFile) -> None:
        """
        Raises:
            InputError: it is unreadable, in another encoding, or has another delimiter.
        """
        self.data = data
        self.header = header(data.file)
        self.names: Sequence[str] = list(dict.fromkeys([*self.header, *data.constants]))

    @property
    def num_rows(self) -> None:
        return None

    def type_of(self, name: str) -> pa.DataType:
        if name in self.data.constants:
            return self.data.constants[name].type
        if self.header.count(name) != 1:
            raise InputError(
                f"{self.data.uri}: {'more than one' if name in self.header else 'no'} column '{name}'; it has "
                f"{', '.join(self.names)}. Map your names with columns.user, columns.item, columns.time, columns.value"
            )
        return pa.string()

    def is_untyped(self, name: str) -> bool:
        return name not in self.data.constants or name in self.data.untyped

    def bounds(self, name: str) -> None:
        """None: text has no bounds."""

    def values(self, names: Sequence[str]) -> Iterator[Sequence[pa.Array]]:
        for rows in self.batches(names):
            yield [rows.columns[name] for name in names]

    def batches(self, names: Sequence[str]) -> Iterator[Rows]:
        constants = self.data.constants
        stored = [name for name in dict.fromkeys(names) if name not in constants]
        start = 0
        # Some column, for the rows to be counted.
        for batch in batches(self.data.file, stored or self.header[:1]):
            count = batch.num_rows
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            columns |= {name: repeated(constants[name], count) for name in names if name in constants}
            yield Rows(columns, count, np.arange(start, start + count))
            start += count

    def close(self) -> None:
        """Nothing is open between batches."""


def header(file: LakeFile) -> list[str]:
    """The names of the columns.

    Raises:
        InputError: as `CsvReader`.
    """
    with _errors(file), _opened(file) as (stream, encoding):
        first = codecs.getreader(encoding)(stream).readline()
    if first.startswith("sep=") and len(first.rstrip("\r\n")) <= 5:
        raise InputError(f"{file.uri}: its first line is {first.strip()!r}, not a header. Drop that line")
    with _errors(file), _reader(file, ()) as reader:
        names = list(reader.schema.names)
    if len(names) == 1:
        for mark, what in _OTHER_DELIMITERS.items():
            if mark in names[0]:
                raise InputError(f"{file.uri}: its columns are separated by {what} ({mark!r}). Write it with commas")
    return names


def batches(file: LakeFile, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of the rows, as text; an empty field is null.

    Raises:
        InputError: it is unreadable. The message has the number of the row, and nothing of what it says.
    """
    with _errors(file), _reader(file, names) as reader:
        for batch in reader:
            columns = (pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts) for texts in batch.columns)
            yield pa.RecordBatch.from_arrays(list(columns), names=batch.schema.names)


def read_csv(file: LakeFile, texts: Sequence[str]) -> pa.Table:
    """A CSV file with a header, whole: of the columns `texts` those that are there, as text as it stands, null where the
    field is empty. Other columns, and those that stand twice, are there by name and all null.

    Raises:
        InputError: it is unreadable. The message has the number of the row, and nothing of what it says.
    """
    names = header(file)
    wanted = [name for name in dict.fromkeys(texts) if names.count(name) == 1]
    schema = pa.schema([(name, pa.string()) for name in wanted or names[:1]])
    found = pa.Table.from_batches(list(batches(file, schema.names)), schema)
    columns = [found[name] if name in wanted else pa.nulls(found.num_rows) for name in names]
    return pa.Table.from_arrays(columns, names=names)


def to_numbers(texts: pa.Array, name: str, uri: str, rows: Sequence[int] | npt.NDArray[np.int64]) -> pa.Array:
    """A column of numbers: float64, null where the field is empty or says so.

    Raises:
        InputError: a field is no number.
    """
    trimmed = pc.utf8_trim_whitespace(texts)
    given = pc.if_else(pc.is_in(trimmed, value_set=pa.array(_NULLS)), pa.scalar(None, pa.string()), trimmed)
    try:
        return given.cast(pa.float64())
    except pa.ArrowInvalid:
        at = next(k for k, text in enumerate(given.to_pylist()) if text is not None and not _is_float(text))
        raise InputError(
            f"{uri}: column '{name}' (columns.value) is no number in row {rows[at] + 1}; it must be numeric, with a point. "
            "Mend the row or leave the field empty"
        ) from None


def _is_float(text: str) -> bool:
    try:
        pa.array([text]).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


@contextlib.contextmanager
def _opened(file: LakeFile) -> Iterator[tuple[Any, str]]:
    """(the bytes as a stream, uncompressed, from the beginning; the encoding)."""
    with file.filesystem.open_input_stream(file.path) as stream:
        head = stream.read(1024)
    encoding = next((name for mark, name in (*_MARKS, *_MARKS_16) if head.startswith(mark)), "utf-8")
    if encoding == "UTF-32" or (encoding == "utf-8" and b"\0" in head):
        what = encoding if encoding == "UTF-32" else "UTF-16 or UTF-32 without a byte order mark"
        raise InputError(
            f"{file.uri}: looks like {what}; a CSV file is read in UTF-8, or UTF-16 with its mark. Save it as UTF-8"
        )
    with file.filesystem.open_input_stream(file.path) as stream:
        yield stream, "utf-8-sig" if encoding == "utf-8" else encoding


@contextlib.contextmanager
def _reader(file: LakeFile, names: Sequence[str]) -> Iterator[pyarrow.csv.CSVStreamingReader]:
    with _opened(file) as (stream, encoding):
        # With threads, errors do not say in which row.
        read = pyarrow.csv.ReadOptions(
            use_threads=False, block_size=BLOCK_BYTES, encoding="utf8" if encoding == "utf-8-sig" else encoding
        )
        parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
        convert = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), include_columns=names)
        with pyarrow.csv.open_csv(stream, read, parse, convert) as reader:
            yield reader


@contextlib.contextmanager
def _errors(file: LakeFile) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise _not_utf8(file) from error
    except (OSError, pa.ArrowException) as error:
        if "invalid UTF8" in str(error):
            raise _not_utf8(file) from None
        why = re.sub(r"(, got \d+): .*", r"\1", str(error), count=1, flags=re.DOTALL)
        raise InputError(f"{file.uri} is not a readable CSV file: {why}. Its first line must be a header") from None


def _not_utf8(file: LakeFile) -> InputError:
    return InputError(
        f"{file.uri}: is not in UTF-8, perhaps in Latin-1 or Windows-1252; no id of it was read. Save it as UTF-8 (Excel: "
        '"CSV UTF-8")'
    )
