"""The lake's part of a receipt: the current state of each table, its older states, and the files that hold rows.

The lake is only read. The answer says what was not looked at, and why. It names no user and no item; places are shown
without ids (`shown.py`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ...partitioning.errors import InputError
from ...partitioning.lake.copies.history import CURRENT, Copy, History, Limits, current_uri, latest
from ...partitioning.lake.copies.look_back import look_back
from ...partitioning.lake.copies.objects import Missing, Stored
from ...partitioning.lake.copies.search import Positions, alive, matching_rows
from ...partitioning.lake.copies.shown import shown_place
from ..log.records import iso
from ..output.session import Session
from ..reporting.progress import SILENT, Progress, Task
from ..requests.row_filter import RowFilter
from .named import Named

PLACES = 100
"""The largest number of places that a part names."""
UPLOAD = "unfinished upload"
UNREADABLE = "cannot be read as a table of interactions, or its times not compared with ranges that were forgotten"
LIVE = "live rows of the current state of each table, counted in its data files"
STATES = (
    "rows that older versions or snapshots still have, as their own logs or metadata say which files and rows these are"
)
STORED = (
    "rows stored in data files, alive or not, in files of the change feed, and in noncurrent versions on S3. Logs, "
    "manifests and statistics, which hold least and largest values of files and conditions of statements, are not searched"
)
LAKE_PARTS = ("current", "older", "files")


@dataclass
class _Part:
    """What was found for one part of a receipt."""

    how: str
    """What was searched, as a phrase."""
    found: Counter[str] = field(default_factory=Counter)
    """Counts by name."""
    places: list[dict[str, Any]] = field(default_factory=list)
    ends: list[datetime | None] = field(default_factory=list)
    """For each place, when the table's settings remove it; None: never."""
    missing: list[Missing] = field(default_factory=list)

    def add(self, place: str, rows: int | None, until: datetime | None, **more: Any) -> None:
        """Add a place that holds rows. rows: their number, None if unknown. until: as in `ends`. more: for the document."""
        self.ends.append(until)
        self.places.append({"place": place, "rows": rows, "until": _iso(until), **more})

    def document(self, seen_at: str) -> dict[str, Any]:
        """The part as the receipt has it (`look_at_lake`)."""
        missing = _together(self.missing)
        there = any(place["rows"] for place in self.places)
        unseen = any(one.rows for one in self.missing)
        return {
            "gone": False if there else (None if unseen else True),
            "seen_at": seen_at,
            "how": self.how,
            "found": dict(sorted(self.found.items())),
            "places": self.places[:PLACES],
            "places_left_out": max(0, len(self.places) - PLACES),
            "until": _iso(latest(self.ends)),
            "not_looked_at": missing,
        }


def unseen(why: str) -> dict[str, Any]:
    """The document of a part of the lake that was not looked at. why: the reason."""
    missing = [{"what": "the lake", "count": None, "why": why}]
    nothing: dict[str, Any] = {
        "gone": None,
        "seen_at": None,
        "how": None,
        "found": {},
        "places": [],
        "places_left_out": 0,
        "until": None,
    }
    return {**nothing, "not_looked_at": missing}


def look_at_lake(
    session: Session, named: Named, *, stored_only: bool = False, progress: Progress = SILENT
) -> dict[str, dict[str, Any]]:
    """Search the tables of the lake for rows that are named.

    stored_only: leave out files of the current state that have no deleted rows. All their rows are live, and `residue`
    counts those by itself.

    Returns:
        The parts `current`, `older` and `files` of a receipt. Each has `gone` (True, False, or None if that is not known),
        `seen_at`, `how`, `found` (counts), `places`, `places_left_out` (how many more there are), `until` (None if nothing
        was found, or if no setting of the table ever removes it) and `not_looked_at`.
    """
    parts = {name: _Part(how) for name, how in zip(LAKE_PARTS, (LIVE, STATES, STORED), strict=True)}
    if named.unknown is not None:
        for part in parts.values():
            part.missing.append(Missing("tables of the lake", None, named.unknown))
        return {name: part.document(iso(time.time())) for name, part in parts.items()}
    config = session.config
    limits = Limits(config.evidence.max_files, config.evidence.max_states)
    uris = dict.fromkeys(x for x in (config.interactions, config.test_interactions) if x)
    done: set[str] = set()
    with progress.task("files looked at") as task:
        for uri in uris:
            try:
                place = current_uri(uri, session.options)
                if place in done:  # both settings name a state of the same table
                    continue
                done.add(place)
                history = look_back(uri, session.options, limits)
            except (InputError, OSError):  # the message is not shown: a file in it may have an id in its name
                for part in parts.values():
                    part.missing.append(Missing(uri, None, UNREADABLE))
                continue
            _table(session, named, history, limits, parts, stored_only, task)
    seen_at = iso(time.time())
    for part in parts.values():
        part.how += f". Rows are those named by {named.known_by}"
    return {name: part.document(seen_at) for name, part in parts.items()}


def _table(
    session: Session,
    named: Named,
    history: History,
    limits: Limits,
    parts: Mapping[str, _Part],
    stored_only: bool,
    task: Task,
) -> None:
    """Search one table, and add what is found to the parts."""
    uri, copies = history.table.uri, history.copies
    if stored_only:
        copies = [one for one in copies if one.kind != CURRENT or (one.live is not None and len(one.live))]
    current, older, files = (parts[name] for name in LAKE_PARTS)
    for part in parts.values():
        part.found["tables"] += 1
    current.found["rows"] += 0
    older.missing += history.missing_states
    files.missing += history.missing_files
    files.found["delete_markers"] += history.listing.delete_markers
    # For each older state, the number of its named rows, and when the settings remove the files that hold them.
    live, states = 0, dict[int, tuple[int, list[datetime | None]]]()
    searched = _search(session, named, copies[: limits.files], parts, task)
    for copy, positions in searched:
        if copy.kind == CURRENT:
            live += alive(positions, copy.live)
        for span in copy.spans:
            if rows := alive(positions, span.deleted):
                for number in span.states:
                    count, ends = states.setdefault(number, (0, []))
                    states[number] = count + rows, [*ends, span.until] if span.until not in ends else ends
        files.found["files"] += 1
        files.found["rows"] += len(positions)
        files.found[copy.kind] += 1
        shown = shown_place(uri, history.root, copy.data.file.path.partition("?versionId=")[0])
        version = copy.data.file.path.partition("?versionId=")[2]
        more = {"version_id": version} if version else {}
        files.add(shown, len(positions), copy.until, kind=copy.kind, bytes=copy.data.file.bytes, **more)
    if live:
        current.found["rows"] += live
        current.add(uri, live, None, state=_state(history.table.pinned))
    for number in sorted(states, reverse=True):
        rows, ends = states[number]
        state = history.states[number]
        older.found["states"] += 1
        older.add(state.uri, rows, latest(ends), committed=_iso(state.time))
    _left_out(copies[limits.files :], f"evidence.max_files is {limits.files}", parts)
    _uploads(history, uri, files)


def _search(
    session: Session, named: Named, copies: Sequence[Copy], parts: Mapping[str, _Part], task: Task
) -> Iterator[tuple[Copy, Positions]]:
    """Search the files; yields (file, positions of its named rows) of each file that has such rows."""
    columns, times = session.columns, RowFilter(named.key, named.digests).needs_times
    ids, time_column = (columns.user, columns.item), columns.time if times else None
    wanted = None
    if named.wanted is not None:
        wanted = {columns.user: named.wanted["user"], columns.item: named.wanted["item"]}
    if not any(named.digests.values()):
        return
    for copy in copies:
        # A filter remembers all ids that it has met, so each file gets a new one, and memory does not grow.
        rows = RowFilter(named.key, named.digests, columns.time_unit)
        task.advance(1)
        try:
            positions = matching_rows(copy.data, ids, time_column, rows, wanted)
        except (InputError, OSError) as error:
            if copy.kind != CURRENT and _absent(error):
                continue
            _left_out([copy], UNREADABLE.replace("table", "file"), parts)
            continue
        if positions is not None and len(positions):
            yield copy, positions


def _absent(error: BaseException | None) -> bool:
    """Whether an error means that the file is not there. That is no failure: a removed file holds no rows."""
    while error is not None:
        if isinstance(error, FileNotFoundError):
            return True
        error = error.__cause__
    return False


def _left_out(copies: Sequence[Copy], why: str, parts: Mapping[str, _Part]) -> None:
    """Note in each part how many of these files it should have looked at."""

    def say(part: str, which: Iterable[Copy]) -> None:
        if count := len(list(which)):
            parts[part].missing.append(Missing("data files", count, why))

    say("current", (one for one in copies if one.kind == CURRENT))
    say("older", (one for one in copies if one.spans))
    say("files", copies)


def _uploads(history: History, uri: str, files: _Part) -> None:
    """Add the unfinished uploads on S3 to the part of files. Their content cannot be read before they are finished."""
    uploads: Sequence[Stored] = history.listing.uploads
    for one in uploads:
        files.found["unfinished_uploads"] += 1
        place = shown_place(uri, history.root, one.path)
        files.add(place, None, one.until, kind=UPLOAD, bytes=None, begun=_iso(one.modified), version_id=one.version)
    if uploads:
        why = "what was uploaded of them cannot be read: it may hold rows"
        files.missing.append(Missing("unfinished uploads", len(uploads), why))


def _state(pinned: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies the state that was current: version, snapshot or time, as the format of the table has them."""
    return {
        name: pinned[name] for name in ("format", "version", "snapshot", "timestamp") if pinned.get(name) is not None
    }


def _together(missing: Iterable[Missing]) -> list[dict[str, Any]]:
    """What was not looked at, with one entry for each kind and reason. Its count is None if one of the counts is unknown."""
    counts: dict[tuple[str, str], int | None] = {}
    for one in missing:
        known = counts.get((one.what, one.why), 0)
        counts[one.what, one.why] = None if known is None or one.count is None else known + one.count
    return [{"what": what, "count": count, "why": why} for (what, why), count in counts.items()]


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else iso(moment.timestamp())
