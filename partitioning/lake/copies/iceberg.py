"""Older snapshots of an Iceberg table, and files in its folder that no snapshot names."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...errors import InputError
from ...storage import StorageOptions, filesystem_for, split_uri
from .. import iceberg
from ..data_file import DataFile
from ..files import LakeFile, hive_partition
from ..location import Location, Selection
from ..table import Table
from .history import (
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

AGE, LEAST = "history.expire.max-snapshot-age-ms", "history.expire.min-snapshots-to-keep"
DEFAULTS = {AGE: str(5 * 86400 * 1000), LEAST: "1"}


def iceberg_history(location: Location, table: Table, options: StorageOptions, limits: Limits) -> History:
    """Raises:
    InputError: as `iceberg.open_iceberg`.
    """
    opened = iceberg.load_iceberg(location, options)
    properties = opened.metadata.properties
    settings = DEFAULTS | {name: str(properties[name]) for name in DEFAULTS if name in properties}
    history = History(table, settings=settings)
    current = table.pinned["snapshot"]
    older = [one for one in opened.snapshots() if one.snapshot_id != current]
    older.sort(key=lambda one: one.timestamp_ms, reverse=True)
    if len(older) > limits.states:
        why = f"at most {limits.states} snapshots are opened"
        history.missing_states.append(Missing("older snapshots", len(older) - limits.states, why))
    kept = _kept(opened, current, int(settings[LEAST]))
    age = dt.timedelta(milliseconds=int(settings[AGE]))
    files: dict[str, DataFile] = {}
    for snapshot in older[: limits.states]:
        number = snapshot.snapshot_id
        try:
            there = iceberg.open_iceberg(at(location, Selection(snapshot=number)), options)
        except InputError:  # its message names files
            why = "it cannot be read: files of it are missing, or it has equality deletes or other formats than Parquet"
            history.missing_states.append(Missing(f"snapshot {number}", 1, why))
            continue
        moment = dt.datetime.fromtimestamp(snapshot.timestamp_ms / 1000, dt.UTC)
        history.states[number] = State(f"{location.uri.rstrip('/')}?snapshot={number}", moment)
        until = None if number in kept else moment + age
        for data in there.files:
            files.setdefault(data.file.path, data)
            history.spans.setdefault(data.file.path, []).append(Span((number,), data.deleted, until))
    alive = {data.file.path for data in table.files}
    for path, data in files.items():
        if path not in alive:
            spans = history.spans[path]
            until = latest(span.until for span in spans)
            history.copies.append(Copy(OLDER, replace(data, deleted=None), until, None, spans))
    _others(history, str(opened.metadata.location), options, limits, files, alive)
    return history


def _kept(table: Any, current: int | None, least: int) -> set[int]:
    """Snapshots that no age removes: of branches and tags, and the last `least` of the current one's history."""
    found = {ref.snapshot_id for ref in table.metadata.refs.values() if ref.max_ref_age_ms is None}
    parents: Mapping[int, int | None] = {one.snapshot_id: one.parent_snapshot_id for one in table.snapshots()}
    number = current
    for _ in range(least):
        if number is None:
            break
        found.add(number)
        number = parents.get(number)
    return found


def _others(
    history: History,
    place: str,
    options: StorageOptions,
    limits: Limits,
    files: Mapping[str, DataFile],
    alive: set[str],
) -> None:
    """Files in the table's folder that no snapshot names; `remove_orphan_files` is what removes them."""
    place = place.replace("s3a://", "s3://").replace("s3n://", "s3://")
    if place.startswith("file:/") and "://" not in place:
        place = place.replace("file:", "file://", 1)
    try:
        history.listing = listed(place, options, limits)
        filesystem, root = filesystem_for(place, options)
    except InputError:
        history.missing_files.append(Missing("files in the folder", None, "its kind of store is not listed"))
        return
    history.root, s3 = root, split_uri(place)[0] == "s3"
    there = {one.path for one in history.listing.files}
    if history.listing.whole:
        # Files that were removed although a snapshot names them.
        history.copies = [one for one in history.copies if one.data.file.path in there or not _inside(one, root)]
    base = next((data for data in (*history.table.files, *files.values())), None)
    for one in history.listing.files:
        if one.path not in alive and one.path not in files and holds_rows(one.path, root):
            file = LakeFile(filesystem, one.path, f"s3://{one.path}" if s3 else one.path, {}, one.bytes)
            data = of_same_table(base, file, hive_partition(one.path[len(root) :]), False)
            if data.field_ids is not None and not data.names:  # who wrote it perhaps gave its columns no ids
                data = replace(data, names={name: [name] for name in data.field_ids})
            history.copies.append(Copy(OTHER, data))


def _inside(copy: Copy, root: str) -> bool:
    return copy.data.file.path.startswith(root.rstrip("/") + "/")
