"""Where rows of a table may still lie besides its live rows: older states, and files that nothing live reads any more.

Nothing is searched here (`search.py` does): this says what there is to search, and until when the table's own settings keep
it. The number of calls is bounded (`Limits`), and what was left out is said.
"""

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow.fs as pafs

from ..storage import StorageOptions, filesystem_for, split_uri
from .data_file import CSV, DataFile
from .deleted import DeletedRows
from .files import LakeFile, hidden
from .location import DELTA, ICEBERG, Location, Selection, parse_location
from .objects import Listing, Missing, Stored, list_objects, versions_filesystem
from .table import Table, open_table

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


def look_back(uri: str, options: StorageOptions, limits: Limits) -> History:
    """What there is to search of the table that a URI names, whatever state of it the URI selects.

    Raises:
        InputError: as `open_table`: its current state cannot be read.
    """
    uri = current_uri(uri, options)
    table = open_table(uri, options)
    location = parse_location(uri)
    if table.pinned["format"] == DELTA:
        from .delta_history import delta_history

        history = delta_history(location, table, options, limits)
    elif table.pinned["format"] == ICEBERG:
        from .iceberg_history import iceberg_history

        history = iceberg_history(location, table, options, limits)
    else:
        history = History(table, root=filesystem_for(uri, options)[1])
        history.listing = listed(uri, options, limits) if split_uri(uri)[0] == "s3" else Listing()
    spans = history.spans
    live = [
        Copy(CURRENT, replace(data, deleted=None), None, data.deleted, spans.get(data.file.path, ()))
        for data in table.files
    ]
    history.copies = [*live, *history.copies, *_noncurrent(history, options)]
    history.missing_files += history.listing.missing
    return history


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
    except OSError as error:
        why = f"the folder cannot be listed ({type(error).__name__})"
        return Listing(whole=False, missing=[Missing("files in the folder", None, why)])


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
    import pyarrow as pa

    fixed = {name: pa.scalar(value, pa.string()) for name, value in constants.items()}
    if data is None:
        return DataFile(file, constants=fixed, untyped=frozenset(fixed), plain=plain)
    # Partition columns of the other file would give this one its values.
    known = {name: value for name, value in data.defaults.items() if name not in data.constants}
    return replace(data, file=file, constants=fixed, untyped=frozenset(fixed), defaults=known, deleted=None)


def _noncurrent(history: History, options: StorageOptions) -> list[Copy]:
    """Older versions of objects of the table, as files to read."""
    if not history.listing.noncurrent:
        return []
    filesystem = versions_filesystem(options)
    base = history.table.files[0] if history.table.files else None
    plain = base is None or base.plain
    by_path = {copy.data.file.path: copy.data for copy in history.copies}
    by_path |= {data.file.path: data for data in history.table.files}
    copies = []
    for one in history.listing.noncurrent:
        name = one.path.partition("/")[2]
        if not holds_rows(f"/{name}", "/", csv=plain) and "_change_data/" not in name:
            continue
        if any(part in ("_delta_log", "metadata") for part in name.split("/")[:-1]):
            continue
        file = LakeFile(filesystem, _versioned(one), f"s3://{one.path}", {}, one.bytes)
        known = by_path.get(one.path)
        data = replace(known, file=file, deleted=None) if known else of_same_table(base, file, hive(name), plain)
        if plain and known is None:
            data = replace(data, format=CSV if history.table.pinned["format"] == "csv" else data.format)
        copies.append(Copy(NONCURRENT, data, one.until))
    return copies


def _versioned(one: Stored) -> str:
    return f"{one.path}?versionId={one.version}"


def hive(path: str) -> dict[str, str | None]:
    """Values of partition columns that folders of a path give."""
    from .files import _partition

    return dict(_partition(path))
