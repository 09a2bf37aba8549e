"""Older versions of a Delta table, files that left it and still lie in its folder, and files of its change data feed.

The entries of the log say from which version to which a file was alive, so that few versions have to be opened: those
that between them have every file that was ever removed.
"""

import datetime as dt
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow.fs as pafs

from ...errors import InputError
from ...storage import StorageOptions, filesystem_for, split_uri
from .. import delta
from ..data_file import DataFile
from ..files import LakeFile, hive_partition
from ..location import Location, Selection
from ..table import Table
from .history import (
    FEED,
    OLDER,
    OTHER,
    Copy,
    History,
    Limits,
    Span,
    State,
    at,
    holds_rows,
    latest,
    listed,
    of_same_table,
)
from .objects import Missing

ENTRIES = 1000
"""Entries of the log that are read, the newest ones."""
RETENTION, LOG_RETENTION = "delta.deletedFileRetentionDuration", "delta.logRetentionDuration"
DEFAULTS = {RETENTION: "interval 7 days", LOG_RETENTION: "interval 30 days"}
_UNITS = {
    "week": 604800,
    "day": 86400,
    "hour": 3600,
    "minute": 60,
    "second": 1,
    "millisecond": 0.001,
    "microsecond": 1e-6,
}
_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\..+")


@dataclass
class _Removed:
    """A file of versions [first, end)."""

    path: str
    vector: str
    first: int
    end: int
    at: dt.datetime | None
    constants: Mapping[str, str | None]


@dataclass
class _Log:
    entries: list[int] = field(default_factory=list)
    first: int = 0
    """The oldest version that can still be opened."""
    times: dict[int, dt.datetime] = field(default_factory=dict)
    current: int = 0
    alive: dict[tuple[str, str], int] = field(default_factory=dict)
    """(path, deletion vector) of each file of the current version that an entry names, and the version that added it."""
    removed: list[_Removed] = field(default_factory=list)
    feed: dict[str, tuple[dt.datetime | None, Mapping[str, str | None]]] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)


def delta_history(location: Location, table: Table, options: StorageOptions, limits: Limits) -> History:
    """Raises:
    InputError: the log cannot be read.
    """
    filesystem, root = filesystem_for(location.place, options)
    s3 = split_uri(location.place)[0] == "s3"
    settings = _settings(location, root, s3, options)
    kept = duration(settings[RETENTION])
    log = _read(filesystem, root, s3, location.uri, int(table.pinned["version"]))
    listing = listed(location.place, options, limits)
    history = History(table, settings=settings, listing=listing, root=root)
    history.missing_states += log.missing
    there = {one.path: one for one in history.listing.files}
    whole = history.listing.whole
    lost = [one for one in log.removed if whole and one.path not in there and _inside(one.path, root)]
    removed = [one for one in log.removed if one not in lost]
    opened = _open(location, removed, log, options, limits, history)
    current = {data.file.path: data for data in table.files}
    base = next(iter(table.files), None) or next((data for files in opened.values() for data in files.values()), None)

    by_path: dict[str, list[_Removed]] = {}
    for one in removed:
        by_path.setdefault(one.path, []).append(one)
    history.states = {
        number: State(f"{location.uri.rstrip('/')}?version={number}", log.times.get(number))
        for number in range(log.first, log.current)
    }
    added = {path: first for (path, _), first in log.alive.items()}
    for path, present in current.items():
        # One that no entry adds was there before the oldest of them.
        first = max(added.get(path, log.first), log.first)
        if first < log.current:
            history.spans[path] = [Span(range(first, log.current), present.deleted, None)]
    for path, parts in by_path.items():
        data: DataFile | None = None
        for one in parts:
            version = next((v for v in opened if one.first <= v < one.end and path in opened[v]), None)
            if version is not None:
                data = opened[version][path]
                span = Span(range(one.first, one.end), data.deleted, _later(one.at, kept))
                history.spans.setdefault(path, []).append(span)
        if path in current:
            continue
        if data is None:
            size = there[path].bytes if path in there else 0
            file = LakeFile(filesystem, path, f"s3://{path}" if s3 else path, {}, size)
            data = of_same_table(base, file, _logical(base, parts[0].constants), False)
        until = latest(_later(one.at, kept) for one in parts)
        spans = history.spans.get(path, ())
        history.copies.append(Copy(OLDER, replace(data, deleted=None), until, None, spans))
    _others(history, log, filesystem, root, s3, base, by_path.keys() | current.keys() | {x.path for x in lost}, kept)
    return history


def duration(text: str) -> dt.timedelta:
    """Of a setting such as `interval 1 week` or `interval 7 days 12 hours`."""
    parts = re.findall(r"(\d+)\s*([a-z]+?)s?\b", text.lower())
    return dt.timedelta(seconds=sum(int(number) * _UNITS.get(unit, 0) for number, unit in parts))


def _settings(location: Location, root: str, s3: bool, options: StorageOptions) -> dict[str, str]:
    import deltalake
    from deltalake.exceptions import DeltaError

    place, storage = (f"s3://{root}", delta.storage_options(options)) if s3 else (root, None)
    try:
        configuration = deltalake.DeltaTable(place, storage_options=storage).metadata().configuration
    except (DeltaError, OSError, ValueError) as error:
        raise InputError(f"{location.uri}: cannot be read as a Delta table: {error}") from error
    return DEFAULTS | {name: value for name, value in configuration.items() if name in DEFAULTS}


def _read(filesystem: pafs.FileSystem, root: str, s3: bool, uri: str, current: int) -> _Log:
    """What the entries up to the current version say, the newest `ENTRIES` of them."""
    log = _Log(current=current)
    folder = f"{root.rstrip('/')}/_delta_log"
    names = {info.base_name: info for info in filesystem.get_file_info(pafs.FileSelector(folder, allow_not_found=True))}
    numbers = {int(found[1]) for name in names if (found := _ENTRY.fullmatch(name))}
    checkpoints = {int(found[1]) for name in names if (found := _CHECKPOINT.fullmatch(name))}
    begin = current
    while begin - 1 in numbers:
        begin -= 1
    log.entries = [number for number in range(begin, current + 1) if number in numbers]
    # A version is read from a checkpoint before it, or from the entry 0, and all entries between.
    starts = [n for n in checkpoints if n >= begin - 1 and n <= current] + ([0] if begin == 0 else [])
    log.first = min(starts, default=current)
    if len(log.entries) > ENTRIES:
        left_out = len(log.entries) - ENTRIES
        why = f"only the newest {ENTRIES} entries of the log are read"
        log.missing.append(Missing("older versions", left_out, why))
        log.entries = log.entries[-ENTRIES:]
        log.first = max(log.first, log.entries[0])
    for number in log.entries:
        path = f"{folder}/{number:020}.json"
        added, gone, moment = [], [], names[f"{number:020}.json"].mtime
        for action in _actions(filesystem, path, uri):
            if "remove" in action:
                gone.append(action["remove"])
            elif "add" in action:
                added.append(action["add"])
            elif "cdc" in action:
                cdc = action["cdc"]
                log.feed[delta.file_path(root, cdc["path"], s3, uri)] = moment, cdc.get("partitionValues") or {}
            elif "commitInfo" in action:
                moment = _moment(action["commitInfo"].get("inCommitTimestamp")) or moment
        log.times[number] = moment
        for entry in gone:
            key = delta.file_path(root, entry["path"], s3, uri), _vector(entry)
            when = _moment(entry.get("deletionTimestamp")) or moment
            first = log.alive.pop(key, 0)
            log.removed.append(_Removed(*key, first, number, when, entry.get("partitionValues") or {}))
        for entry in added:
            log.alive[(delta.file_path(root, entry["path"], s3, uri), _vector(entry))] = number
    for one in log.removed:
        one.first = max(one.first, log.first)
    return log


def _actions(filesystem: pafs.FileSystem, path: str, uri: str) -> Iterator[Mapping[str, Any]]:
    try:
        with filesystem.open_input_stream(path) as stream:
            for line in stream.read().splitlines():
                if line.strip():
                    yield json.loads(line)
    except (OSError, ValueError) as error:
        raise InputError(f"{uri}: an entry of its log cannot be read ({type(error).__name__}): {path}") from error


def _open(
    location: Location,
    removed: Sequence[_Removed],
    log: _Log,
    options: StorageOptions,
    limits: Limits,
    history: History,
) -> dict[int, dict[str, DataFile]]:
    """By version, the files of versions which between them have every removed file, as few as can be."""
    opened: dict[int, dict[str, DataFile]] = {}
    waiting = sorted((one for one in removed if one.first < one.end), key=lambda one: one.end)
    points: list[int] = []
    for one in waiting:
        if not points or points[-1] < one.first:
            points.append(one.end - 1)
    left_out, why = 0, f"at most {limits.states} versions are opened"
    # The newest first: they are the last to expire.
    for place, version in enumerate(reversed(points)):
        if place == limits.states:
            left_out = len(points) - place
            break
        try:
            table = delta.open_delta(at(location, Selection(version=version)), options)
        except InputError:
            history.missing_states.append(Missing(f"version {version}", 1, "it cannot be opened any more"))
            continue
        opened[version] = {data.file.path: data for data in table.files}
    if left_out:
        history.missing_states.append(Missing("older versions", left_out, why))
    return opened


def _others(
    history: History,
    log: _Log,
    filesystem: pafs.FileSystem,
    root: str,
    s3: bool,
    base: DataFile | None,
    known: set[str],
    kept: dt.timedelta,
) -> None:
    """Files of the change feed, and files that nothing in the log names."""
    for one in history.listing.files:
        if one.path in known or not holds_rows(one.path, root):
            continue
        below = one.path[len(root) :].strip("/")
        feed = below.startswith("_change_data/")
        committed, constants = log.feed.get(one.path, (None, hive_partition(below)))
        file = LakeFile(filesystem, one.path, f"s3://{one.path}" if s3 else one.path, {}, one.bytes)
        data = of_same_table(base, file, _logical(base, constants), False)
        history.copies.append(Copy(FEED if feed else OTHER, data, _later(committed or one.modified, kept)))


def _logical(base: DataFile | None, constants: Mapping[str, str | None]) -> dict[str, str | None]:
    """Partition values by the names of the table's columns: with column mapping the log has those of the files."""
    names = {there: name for name, called in ((base.names if base else None) or {}).items() for there in called}
    return {names.get(name, name): value for name, value in constants.items()}


def _vector(action: Mapping[str, Any]) -> str:
    found = action.get("deletionVector") or {}
    return f"{found.get('storageType')}{found.get('pathOrInlineDv')}@{found.get('offset')}" if found else ""


def _moment(milliseconds: int | None) -> dt.datetime | None:
    return None if not milliseconds else dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)


def _later(moment: dt.datetime | None, kept: dt.timedelta) -> dt.datetime | None:
    return None if moment is None else moment + kept


def _inside(path: str, root: str) -> bool:
    return path.startswith(root.rstrip("/") + "/")
