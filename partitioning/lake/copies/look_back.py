"""What there is of a table besides its live rows, whatever its format. Nothing is searched here (`search.py` does)."""

from dataclasses import replace

from ...storage import StorageOptions, filesystem_for, split_uri
from ..data_file import CSV
from ..files import LakeFile, hive_partition
from ..location import DELTA, ICEBERG, parse_location
from ..table import open_table
from .delta import delta_history
from .history import CURRENT, NONCURRENT, Copy, History, Limits, current_uri, holds_rows, listed, of_same_table
from .iceberg import iceberg_history
from .objects import Listing, Stored, versions_filesystem


def look_back(uri: str, options: StorageOptions, limits: Limits) -> History:
    """What there is to search of the table that a URI names, whatever state of it the URI selects.

    Raises:
        InputError: as `open_table`: its current state cannot be read.
    """
    uri = current_uri(uri, options)
    table = open_table(uri, options)
    location = parse_location(uri)
    if table.pinned["format"] == DELTA:
        history = delta_history(location, table, options, limits)
    elif table.pinned["format"] == ICEBERG:
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
        data = (
            replace(known, file=file, deleted=None) if known else of_same_table(base, file, hive_partition(name), plain)
        )
        if plain and known is None:
            data = replace(data, format=CSV if history.table.pinned["format"] == "csv" else data.format)
        copies.append(Copy(NONCURRENT, data, one.until))
    return copies


def _versioned(one: Stored) -> str:
    return f"{one.path}?versionId={one.version}"
