"""What a URI names: a table as a list of data files, whatever its format, and what was pinned when it was opened."""

import contextlib

import pyarrow as pa
import pyarrow.fs as pafs

from ..errors import InputError
from ..storage import StorageOptions, filesystem_for
from .csv import is_csv
from .data_file import CSV, PARQUET, DataFile, Table
from .files import LakeFile, list_files, refuse_table
from .formats import formats_at, table_around
from .location import DELTA, ICEBERG, Location, parse_location

_OTHER_ENDINGS = (
    *(".json", ".jsonl", ".ndjson", ".orc", ".avro", ".lance", ".tsv", ".txt", ".md", ".html", ".xlsx", ".xls", ".xml"),
    *(
        ".sql",
        ".py",
        ".yaml",
        ".yml",
        ".ini",
        ".log",
        ".zip",
        ".tar",
        ".gz",
        ".bz2",
        ".zst",
        ".pdf",
        ".arrow",
        ".feather",
    ),
)


def open_table(uri: str, options: StorageOptions) -> Table:
    """The table that a URI names (`location.parse_location`), in its current state or the one that the URI selects.

    Raises:
        InputError: as `parse_location` and `files.list_files`; a plain table has no versions; the folder holds files of more
            than one format, or of one that is not read; the package for the format is not installed; as `delta.open_delta`
            and `iceberg.open_iceberg`.
    """
    location = _located(uri, options)
    name = location.format
    if name is None:
        # Errors of reaching it are told by `list_files`.
        filesystem, path = filesystem_for(location.place, options)
        try:
            is_folder = filesystem.get_file_info(path).type == pafs.FileType.Directory
            found = formats_at(filesystem, path) if is_folder else []
        except OSError:
            found = []
        if DELTA in found and ICEBERG in found:
            raise InputError(
                f"{uri}: has the marks of a Delta and of an Iceberg table. Say which is meant: delta://{location.place} or "
                f"iceberg://{location.place}"
            )
        if found and not {DELTA, ICEBERG} & set(found):
            raise refuse_table(uri, found)
        name = found[0] if found and found[0] in (DELTA, ICEBERG) else None
    if name == DELTA:
        from .delta import open_delta

        return open_delta(location, options)
    if name == ICEBERG:
        from .iceberg import open_iceberg

        return open_iceberg(location, options)
    if location.selection:
        raise InputError(f"{uri}: is no Delta or Iceberg table, so it has no versions. Leave out what follows the ?")
    return _plain(location, options)


def table_holding(uri: str, options: StorageOptions) -> tuple[str, str] | None:
    """(format, root) of the table of a format that a place is, or lies in; None where there is none, or the place cannot be
    looked at. The place need not be there.

    Raises:
        InputError: as `filesystem_for`.
    """
    filesystem, path = filesystem_for(uri, options)
    with contextlib.suppress(OSError):
        return table_around(filesystem, f"{path.rstrip('/')}/part")
    return None


def list_table(uri: str, options: StorageOptions) -> list[LakeFile]:
    """The files of a plain table, in order of path, whatever their format.

    Raises:
        InputError: as `files.list_files`; it is a Delta or an Iceberg table, whose files are not all alive.
    """
    location = _located(uri, options)
    if location.format or location.selection:
        raise InputError(f"{uri}: plain files are asked for here, not a table of a format")
    return list_files(location.place, options)


def _located(uri: str, options: StorageOptions) -> Location:
    """What the URI names; its ? is a part of the name where there is a file or folder of this name."""
    if "?" in uri and not uri.startswith((f"{DELTA}://", f"{ICEBERG}://")):
        filesystem, path = filesystem_for(uri, options)
        with contextlib.suppress(OSError):  # told by `list_files`
            if filesystem.get_file_info(path).type != pafs.FileType.NotFound:
                return Location(uri, uri)
    return parse_location(uri)


def _plain(location: Location, options: StorageOptions) -> Table:
    files = list_files(location.place, options)
    by_format: dict[str, LakeFile] = {}
    for file in files:
        name = file.path.rpartition("/")[2]
        ending = next((ending for ending in _OTHER_ENDINGS if name.lower().endswith(ending)), None)
        if ending and not is_csv(name):
            raise InputError(
                f"{file.uri}: a table is made of Parquet or of CSV files, and this is neither by its name ({ending}). Take "
                "it out of the folder, or give it a name that begins with _ or . (such files are skipped)"
            )
        by_format.setdefault(CSV if is_csv(name) else PARQUET, file)
    if len(by_format) > 1:
        raise InputError(
            f"{location.uri}: holds Parquet ({by_format[PARQUET].uri}) and CSV ({by_format[CSV].uri}). Put one of them "
            "elsewhere"
        )
    kind = next(iter(by_format))
    data = [
        DataFile(
            file,
            kind,
            {name: pa.scalar(value, pa.string()) for name, value in file.partition.items()},
            untyped=frozenset(file.partition),
        )
        for file in files
    ]
    pinned = {"format": kind.lower(), "files": len(files), "bytes": sum(file.bytes for file in files)}
    return Table(location.uri, data, pinned)
