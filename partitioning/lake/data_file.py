"""One file of a table, opened: which columns it has by the names the table gives them, and its live rows in batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .deleted import DeletedRows
from .files import LakeFile

PARQUET, CSV = "Parquet", "CSV"


@dataclass(frozen=True)
class DataFile:
    """A file, and what its table says about it."""

    file: LakeFile
    format: str = PARQUET
    constants: Mapping[str, pa.Scalar] = field(default_factory=dict)
    """Columns that have one value in the whole file, whatever it stores: partition columns."""
    untyped: frozenset[str] = frozenset()
    """Those of them that are text only because a folder's name is."""
    defaults: Mapping[str, pa.Scalar] = field(default_factory=dict)
    """Values of columns that the file may lack."""
    names: Mapping[str, Sequence[str]] | None = None
    """What the table's columns may be called in the file; None: the same."""
    field_ids: Mapping[str, int] | None = None
    """Ids by which the table's columns are found in the file; where the file has none, `names` is used."""
    deleted: DeletedRows | None = None
    plain: bool = True
    """Whether it is a file of no table format: one that says otherwise of itself is refused."""

    @property
    def uri(self) -> str:
        """For messages."""
        return self.file.uri


@dataclass(frozen=True)
class Rows:
    """Some live rows of a file."""

    columns: dict[str, pa.Array]
    count: int
    positions: npt.NDArray[np.int64]
    """[count] where each lies in the file, from 0."""


class Reader(Protocol):
    """An open file. Columns go by the names that the table gives them; constants and defaults are columns too."""

    names: Sequence[str]

    @property
    def num_rows(self) -> int | None:
        """Rows stored, deleted ones included; None where only reading would tell."""

    def type_of(self, name: str) -> pa.DataType:
        """The type of a column as it is stored.

        Raises:
            InputError: there is none, or more than one, of this name.
        """

    def is_untyped(self, name: str) -> bool:
        """Whether the column is text only because the format has no types: its values say what they are."""

    def bounds(self, name: str) -> tuple[Any, Any] | None:
        """(least, largest) value that is stored, of integers, decimals, and timestamps as integers; of deleted rows too.
        None where no value is."""

    def values(self, names: Sequence[str]) -> Iterator[Sequence[pa.Array]]:
        """Columns as they are stored, of deleted rows too, batch by batch."""

    def batches(self, names: Sequence[str]) -> Iterator[Rows]:
        """The live rows, only these columns read."""

    def close(self) -> None: ...


def repeated(value: pa.Scalar, count: int) -> pa.Array:
    """A column that has one value."""
    return pa.nulls(count, value.type) if not value.is_valid else pa.repeat(value, count)


@dataclass(frozen=True)
class Table:
    """One state of a table."""

    uri: str
    files: Sequence[DataFile]
    pinned: Mapping[str, Any]
    """What says which state this is, as JSON: `format`; of Delta and Iceberg the version or snapshot, its timestamp and the
    schema; files, bytes and rows (None where only reading would tell)."""
    schema: pa.Schema | None = None
    """Of a format that has one for all files."""
