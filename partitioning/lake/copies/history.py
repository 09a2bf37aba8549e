"""Where rows of a table may still lie besides its live rows: older states, and files that nothing live reads any more.

What `look_back.py` answers with: what there is to search (`search.py` does), and until when its settings keep it. The
number of calls is bounded (`Limits`), and what was left out is said.
"""

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.fs as pafs

from ...errors import InputError
from ...storage import StorageOptions, filesystem_for
from ..data_file import DataFile
from ..deleted import DeletedRows
from ..files import LakeFile, hidden
from ..location import Location, Selection, parse_location
from ..table import Table
from .objects import Listing, Missing, list_objects

CURRENT, OLDER, FEED, OTHER, NONCURRENT = (
    "file of the current state",
    "file of older states",
    "file of the change feed",
    "file that no state names",
    "noncurrent S3 version",
)


@dataclass(frozen=True)
class Limits:
    """How much is looked at."""

    files: int = 10_000
    """Data files of a table that are opened, all kinds together."""
    states: int = 100
    """Older states of a table that are opened."""

    @property
    def listed(self) -> int:
        """Entries of a folder that are listed."""
        return 10 * self.files


@dataclass(frozen=True)
class State:
    """An older state of a table."""

    uri: str
    """That reads it."""
    time: dt.datetime | None
    """When it was committed, where that is known."""


@dataclass(frozen=True)
class Span:
    """Older states that have a file."""

    states: Collection[int]
    """Versions of a Delta table, ids of Iceberg snapshots: keys of `History.states`."""
    deleted: DeletedRows | None
    """Rows of the file that are deleted in all of them."""
    until: dt.datetime | None
    """From when on the table's settings let the file be removed, or the states; None: they never do."""


@dataclass(frozen=True)
class Copy:
    """A file that may hold rows, whether alive or not."""

    kind: str
    data: DataFile
    """With no row deleted: `spans` and `live` say which are, and where."""
    until: dt.datetime | None = None
    """From when on the table's settings let it be removed; None: they never do."""
    live: DeletedRows | None = None
    """Of a file of the current state: its rows that are deleted there."""
    spans: Sequence[Span] = ()


@dataclass
class History:
    """What there is of one table."""

    table: Table
    """Its current state."""
    states: dict[int, State] = field(default_factory=dict)
    spans: dict[str, list[Span]] = field(default_factory=dict)
    """By path, of files of the current state too."""
    copies: list[Copy] = field(default_factory=list)
    listing: Listing = field(default_factory=Listing)
    missing_states: list[Missing] = field(default_factory=list)
    missing_files: list[Missing] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    """Settings of the table from which times come."""
    root: str = ""
    """The table's folder, or its file, as its file system takes it."""


def current_uri(uri: str, options: StorageOptions) -> str:
    """The URI without what selects a state."""
    location = parse_location(uri)
    if not location.selection:
        return uri
    if location.format is None:
        # A file may be called `a?version=1`.
        filesystem, path = filesystem_for(uri, options)
        if filesystem.get_file_info(path).type != pafs.FileType.NotFound:
            return uri
    return uri.rpartition("?")[0]


def at(location: Location, selection: Selection) -> Location:
    """Another state of a table."""
    return replace(location, selection=selection)


def listed(place: str, options: StorageOptions, limits: Limits) -> Listing:
    """`list_objects`, and what cannot be listed as something that was not looked at."""
    try:
        return list_objects(place, options, limits.listed)
    except InputError as error:  # s3fs is not installed; the table itself is read without it
        why = str(error)
    except OSError as error:
        why = f"the folder cannot be listed ({type(error).__name__})"
    return Listing(whole=False, missing=[Missing("the table's folder", None, why)])


def latest(moments: Iterable[dt.datetime | None]) -> dt.datetime | None:
    """The last of them; None where one is None, which means never, or there is none."""
    every = list(moments)
    known = [moment for moment in every if moment is not None]
    return max(known) if known and len(known) == len(every) else None


def holds_rows(path: str, root: str, csv: bool = False) -> bool:
    """Whether a file in a table's folder may be one of its data files, by its name."""
    parts = path[len(root) :].strip("/").split("/")
    if parts[0] in ("_delta_log", "metadata"):
        return False
    names = parts[1:] if parts[0] == "_change_data" else parts
    return not any(map(hidden, names)) and (csv or parts[-1].lower().endswith((".parquet", ".parq")))


def of_same_table(data: DataFile | None, file: LakeFile, constants: Mapping[str, str | None], plain: bool) -> DataFile:
    """A file that is read as another one of its table; constants: of its partition columns, as text."""
    fixed = {name: pa.scalar(value, pa.string()) for name, value in constants.items()}
    if data is None:
        return DataFile(file, constants=fixed, untyped=frozenset(fixed), plain=plain)
    # Its defaults may be values of its own partition; a file without a column that is asked for cannot be searched.
    return replace(data, file=file, constants=fixed, untyped=frozenset(fixed), defaults={}, deleted=None)
