"""`purge`: remove the files under the output that still hold deleted data (docs/commit.md).

The files of the current version and of the graph to train on next stay. So do the log and the copies of manifests, which
name no user and no item. `leftovers` finds what to remove. Before `purge` removes it, it writes the evidence that is
missing, because the evidence needs some of these files.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any

from ...partitioning.errors import InputError
from ..config.schema import Config
from ..evidence.named import all_forgotten
from ..evidence.report import add_evidence
from ..layout import LOG, TABLES, checkpoint_number, segment_id
from ..lifecycle.suppression import open_list
from ..log.cuts import announce_cut
from ..log.log import LogConflict
from ..log.records import PURGED, PURGING
from ..output.compaction import compact
from ..output.conflicts import voids_purge
from ..output.handed import remove_rows
from ..output.leases import covered_places, read_leases
from ..output.ledger import Ledger
from ..output.leftovers import (
    CHECKPOINT,
    EXPORT,
    LOG_FILE,
    OLDER,
    REQUEST,
    SUPERSEDED,
    UNNAMED,
    Leftover,
    carried_out_contents,
    is_old,
    leftovers,
)
from ..output.session import Session, missing_text
from ..reporting.progress import SILENT, Progress
from ..requests.request import is_purged, tombstone
from ..requests.row_filter import RowFilter

ROLLBACKS = (OLDER, SUPERSEDED, CHECKPOINT)
"""The kinds of files that a rollback could need again."""


UNDER_WAY_SECONDS = 3600.0
"""The age in seconds that a file must have before it is removed if no record names it, or if it belongs to the log. A
younger file may belong to a command that is under way, or a process may not have read it yet."""


def purge(
    config: Config, *, now: bool = False, truncate_log: bool = False, progress: Progress = SILENT
) -> dict[str, Any]:
    """Remove the files under `output` that still hold deleted data, if they are older than `forget.retention_hours`, and the
    rows of tables that Python handed over which name something that was forgotten.

    Files on which a command has a lease (`leases`) stay for the next purge. A purge that was interrupted is finished by the
    next one. The lake, and exports and copies elsewhere, are not touched. Evidence that cannot be written does not stop the
    purge: it is written later, without what has been removed (docs/evidence.md).

    Args:
        now: ignore the retention and the leases. A command under way whose files are removed fails and has to be run again.
        truncate_log: also remove, under the same retention, the files of the log that its last checkpoint replaces. Files
            that evidence still has to name stay, and so do files younger than an hour, which a reader of the log may not
            have seen yet.

    Raises:
        InputError: the log is damaged, a file of the current version is missing, or the output was made by another
            version of unlearnrec. Nothing has been removed then.
    """
    session = Session(config)
    if truncate_log:
        # The checkpoint (C1, C2) comes first: only files of the log that it replaces may be removed.
        session.checkpoint()
    reported: dict[str, bool] = {}
    cleaned = _Cleaned(session)
    while True:
        # What to remove is decided on this state of the log, and decided again if a later record contradicts it.
        ledger = session.ledger()
        if ledger.current is not None and ledger.current.has_deltas:
            # Files of the current version hold what deltas take away (Wk). A version in new files comes first, and the old
            # ones are then those of an older version, which nobody needs.
            _check_whole(session, ledger)
            compact(session)
            ledger = session.ledger()
        head = ledger.seen
        found = leftovers(session)
        found += _log_files(session) if truncate_log else []
        # The leases are read after the log. A reader writes its lease, then looks whether its version is still current. So
        # this purge sees every lease on a version that was replaced before this state of the log.
        there, held = ([], set()) if now else _leased_files(session, found, progress)
        due = [
            x for x in found if now or (x.place not in held and _is_due(x, config.forget.retention_hours, time.time()))
        ]
        # Tables that were handed over lose their rows before the contents are emptied, because the contents name these rows.
        cleaned.of({x.place for x in due if x.kind == REQUEST})
        # Earlier purges that did not end forbid rollbacks. If this purge leaves no file that a rollback could need, they can
        # take nothing from one any more, and this purge ends them.
        left = {x.place for x in found if x.kind in ROLLBACKS}.difference(x.place for x in due)
        over = [] if left else list(ledger.purging)
        if not due and not over:
            return _answer(due, len(found), ledger, sum(reported.values()), cleaned.rows)
        _check_whole(session, ledger)
        if due:
            # The evidence (W8 to W10) is read from files that may be removed below, so it is written first.
            reported |= _report(session, progress, reported)
        # The record `purging` (P1) comes before every removal (P2). A commit that was decided before it, and needs one of
        # these files, finds the record after its head and is given up. So no version names a removed file.
        unnamed = [x.place for x in due if x.kind == UNNAMED]
        try:
            void = voids_purge({x.place for x in due})
            began = session.log.append(PURGING, {"unnamed": unnamed, "held": there}, after=head, void=void)
            break
        except LogConflict:  # another purge, a version, or a request was faster, and may need one of these files
            continue
    if segments := [segment for x in due if (segment := segment_id(x.place)) is not None]:
        # Readers of the log must know of the cut before a file is gone. Otherwise they would take it for damage.
        announce_cut(session.store, max(segments))
    with progress.task("purge", len(due)) as task:
        for item in due:
            if item.kind == REQUEST:
                # A content is replaced, not removed. Its name stays taken, so that the id keeps its meaning.
                _empty(session, item.place)
            elif item.kind != EXPORT or is_old(session, ledger, item.place):  # a newer export may have the name by now
                with contextlib.suppress(FileNotFoundError):
                    session.store.remove(item.place)
            task.advance()
    # The record `purged` (P3) comes after all removals. If the purge dies before it, the next purge finds what is left.
    answer = _answer(due, len(found) - len(due), ledger, sum(reported.values()), cleaned.rows)
    session.log.append(PURGED, answer | {"ends": [*over, began.number]})
    session.checkpoint_if_due()
    return answer


def _empty(session: Session, place: str) -> None:
    """Replace the content of a request by a keyed digest, which only tells it from other contents."""
    try:
        content = json.loads(session.store.read(place))
        if is_purged(content):  # another purge has done it
            return
        left = tombstone(content["body"].encode(), session.request_key())
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        left = {"purged": True}  # the content is damaged, so no digest of it can be made
    session.store.write(place, json.dumps(left).encode())


def _leased_files(session: Session, found: Sequence[Leftover], progress: Progress) -> tuple[list[str], set[str]]:
    """(the names of the leases, the places among `found` that they hold). Leases that have ended are removed.

    A lease that cannot be read holds all files of older versions and superseded graphs.
    """
    clock, there, held = time.time(), list[str](), set[str]()
    for name, (until, files) in read_leases(session).items():
        if until > clock:
            there.append(name)
            if files is None:
                held |= {x.place for x in found if x.kind in (OLDER, SUPERSEDED)}
            else:
                held |= covered_places((x.place for x in found), files)
            which = "files" if files is not None else "nobody knows which files, as this cannot be read,"
            progress.note(f"{name}: a command holds {which} for {until - clock:.0f} more seconds, or while it runs")
        else:
            with contextlib.suppress(FileNotFoundError):
                session.store.remove(name)
    return there, held


def _report(session: Session, progress: Progress, tried: Collection[str]) -> dict[str, bool]:
    """Write the missing evidence without workers, except of the requests in `tried`; returns whether each request now has
    it."""
    ledger = session.ledger()
    missing = [request_id for request_id in ledger.unreported if request_id not in tried]
    add_evidence(session, [ledger.tickets[request_id].describe() for request_id in missing], progress=progress)
    left = session.ledger().unreported.keys()
    return {request_id: request_id not in left for request_id in missing}


def _check_whole(session: Session, ledger: Ledger) -> None:
    """Raise InputError if a file of the current version is missing. The output is then damaged, and older files may be
    needed to repair it."""
    version = ledger.current
    if version is None or (missing := session.missing_file(version)) is None:
        return
    # If another version is current by now, another purge may have removed the file rightly.
    if session.ledger().current is version:
        raise InputError(missing_text(session.store, missing, version))


def _log_files(session: Session) -> list[Leftover]:
    """The files of the log that its checkpoint replaces and that no evidence has to name any more, oldest first."""
    store = session.store
    checkpoint = Session(session.config, store).log.checkpoint()  # a new session finds it as the next reader will
    if checkpoint is None:
        return []
    names = store.details(LOG)
    first = min(checkpoint.number + 1, session.ledger().needed_from())
    segments = sorted((segment, name) for name in names if (segment := segment_id(name)) is not None)
    old = [name for (_, name), ((after, _), _) in pairwise(segments) if after <= first]
    old += [name for name in names if (number := checkpoint_number(name)) is not None and number < checkpoint.number]
    found, detail, newest = list[Leftover](), f"of what {checkpoint.name} stands for", 0.0
    for name in old:
        size, modified = names[name]
        if segment_id(name) is not None:
            # No segment counts as older than a segment before it. So the log is cut at one place and gets no holes.
            newest = modified = max(newest, modified)
        found.append(Leftover(name, LOG_FILE, detail, size, modified))
    return found


def _is_due(item: Leftover, retention_hours: float, clock: float) -> bool:
    """Whether a file is old enough to be removed. clock: the time now, in seconds since the epoch."""
    limit = max(retention_hours * 3600, UNDER_WAY_SECONDS if item.kind in (UNNAMED, LOG_FILE) else 0.0)
    return not limit or clock - item.modified >= limit


class _Cleaned:
    """Takes what was forgotten out of the tables that Python handed over, and counts the rows."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._seen: set[str] | None = None
        self.rows = 0

    def of(self, contents: set[str]) -> None:
        """Remove the rows that these contents of requests name, and those that the suppression list names.

        Nothing is done a second time for the same contents. A purge that dies behind this leaves the contents, so the next
        one does it again.

        Raises:
            InputError: a table cannot be read, or its times not compared with a range that was forgotten; or the suppression
                list was made with another key. No content was emptied.
        """
        if (self._seen is not None and contents <= self._seen) or not self._session.store.list(TABLES):
            return
        self._seen = contents | (self._seen or set())
        tickets = carried_out_contents(self._session.ledger())
        named = {place: tickets[place] for place in contents if place in tickets}
        key, digests = all_forgotten(self._session, open_list(self._session.store), named)
        if any(digests.values()):
            self.rows += remove_rows(self._session, RowFilter(key, digests, self._session.columns.time_unit))


def _answer(removed: Sequence[Leftover], kept: int, ledger: Ledger, reported: int, removed_rows: int) -> dict[str, Any]:
    """What the command returns. kept: how many leftovers stay. reported: how many reports were written. removed_rows: of
    tables that were handed over."""
    return {
        "removed_files": sum(x.kind != REQUEST for x in removed),
        "removed_bytes": sum(x.bytes for x in removed),
        "removed_rows": removed_rows,
        "purged_requests": sum(x.kind == REQUEST for x in removed),
        "kept_files": kept,
        "reports_written": reported,
        "version": ledger.current.version if ledger.current else None,
    }
