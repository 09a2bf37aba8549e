"""`purge`: remove what still holds deleted data under the output (docs/commit.md).

The present version, the graph to train on next and their files stay; so do the log and the copies of manifests, which
name nobody. `leftovers` finds, `purge` removes, and before that writes the evidence that is missing: later there is less to
look at.
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
from ..evidence.report import add_evidence
from ..layout import LOG, checkpoint_number, segment_id
from ..log.cuts import announce_cut
from ..log.log import LogConflict
from ..log.records import PURGED, PURGING
from ..output.conflicts import voids_purge
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
    _is_old,
    leftovers,
)
from ..output.session import Session, missing_text
from ..reporting.progress import SILENT, Progress
from ..requests.request import is_purged, tombstone

ROLLBACKS = (OLDER, SUPERSEDED, CHECKPOINT)
"""Kinds of files that are of use again after a rollback; the name of another file that is removed is not used again."""


UNDER_WAY_SECONDS = 3600.0
"""A file that no record names may belong to a command that runs, which may not have looked at one of the log either: it
stays this long after it was written."""


def purge(
    config: Config, *, now: bool = False, truncate_log: bool = False, progress: Progress = SILENT
) -> dict[str, Any]:
    """Remove what still holds deleted data under `output`, as `forget.retention_hours` allows.

    Files that a command holds under a lease stay as well (`leases`), for the next purge. `now` ignores both, and takes
    files that a command under way may need: that one then fails and has to be run again.
    `truncate_log` removes, under the same retention, the files of the log that its last checkpoint stands for, except
    those that evidence still has to name, and younger ones than an hour: who follows the log may not have seen them.
    A purge that was interrupted is finished by the next. The lake, exports and copies elsewhere are not touched.
    Evidence that cannot be written holds nothing up: it is written later, without what has gone (docs/evidence.md).

    Raises:
        InputError: the log is damaged, a file of the current version is missing, or the output was made by another
            version of unlearnrec. Nothing has been removed then.
    """
    session = Session(config)
    if truncate_log:
        session.checkpoint()
    reported: dict[str, bool] = {}
    while True:
        ledger = session.ledger()
        head = ledger.seen
        found = leftovers(session)
        found += _log_files(session) if truncate_log else []
        there, held = (
            ([], set()) if now else _leased_files(session, found, progress)
        )  # after the log was read, see `leased`
        due = [
            x for x in found if now or (x.place not in held and _is_due(x, config.forget.retention_hours, time.time()))
        ]
        # Purges that began before and did not end: where nothing is left that they could take from a rollback, they may
        # stand still for ever, or go on.
        left = {x.place for x in found if x.kind in ROLLBACKS}.difference(x.place for x in due)
        over = [] if left else list(ledger.purging)
        if not due and not over:
            return _answer(due, len(found), ledger, sum(reported.values()))
        _check_whole(session, ledger)
        if due:
            reported |= _report(session, progress, reported)
        # Before anything is removed: a commit that comes after this record, decided before it, sees what it loses.
        unnamed = [x.place for x in due if x.kind == UNNAMED]
        try:
            void = voids_purge({x.place for x in due})
            began = session.log.append(PURGING, {"unnamed": unnamed, "held": there}, after=head, void=void)
            break
        except LogConflict:
            continue
    if segments := [segment for x in due if (segment := segment_id(x.place)) is not None]:
        announce_cut(session.store, max(segments))
    with progress.task("purge", len(due)) as task:
        for item in due:
            if item.kind == REQUEST:
                _empty(session, item.place)
            elif item.kind != EXPORT or _is_old(session, ledger, item.place):  # another may be in its place by now
                with contextlib.suppress(FileNotFoundError):
                    session.store.remove(item.place)
            task.advance()
    answer = _answer(due, len(found) - len(due), ledger, sum(reported.values()))
    session.log.append(PURGED, answer | {"ends": [*over, began.number]})
    session.checkpoint_if_due()
    return answer


def _empty(session: Session, place: str) -> None:
    """Replace the content of a request by what tells it from another one, and no more."""
    try:
        content = json.loads(session.store.read(place))
        if is_purged(content):  # another purge was here
            return
        left = tombstone(content["body"].encode(), session.request_key())
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        left = {"purged": True}  # it was damaged: nothing can be told any more
    session.store.write(place, json.dumps(left).encode())


def _leased_files(session: Session, found: Sequence[Leftover], progress: Progress) -> tuple[list[str], set[str]]:
    """(the leases of readers and retrains, the files among `found` that these hold, or may); leases that have ended are
    removed."""
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
    """Write the evidence that is missing, without workers, except what was `tried`; whether each request now has it."""
    ledger = session.ledger()
    missing = [request_id for request_id in ledger.unreported if request_id not in tried]
    add_evidence(session, [ledger.tickets[request_id].describe() for request_id in missing], progress=progress)
    left = session.ledger().unreported.keys()
    return {request_id: request_id not in left for request_id in missing}


def _check_whole(session: Session, ledger: Ledger) -> None:
    """Raise InputError where older files may be all that is left of a damaged version."""
    version = ledger.current
    if version is None or (missing := session.missing_file(version)) is None:
        return
    if session.ledger().current is version:  # else another purge took it, after another commit
        raise InputError(missing_text(session.store, missing, version))


def _log_files(session: Session) -> list[Leftover]:
    """The files of the log that its checkpoint stands for and nobody looks up any more, oldest first."""
    store = session.store
    checkpoint = Session(session.config, store).log.checkpoint()  # as the next reader finds it
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
        if segment_id(name) is not None:  # none counts as older than one before it: the log gets no holes
            newest = modified = max(newest, modified)
        found.append(Leftover(name, LOG_FILE, detail, size, modified))
    return found


def _is_due(item: Leftover, retention_hours: float, clock: float) -> bool:
    limit = max(retention_hours * 3600, UNDER_WAY_SECONDS if item.kind in (UNNAMED, LOG_FILE) else 0.0)
    return not limit or clock - item.modified >= limit


def _answer(removed: Sequence[Leftover], kept: int, ledger: Ledger, reported: int) -> dict[str, Any]:
    return {
        "removed_files": sum(x.kind != REQUEST for x in removed),
        "removed_bytes": sum(x.bytes for x in removed),
        "purged_requests": sum(x.kind == REQUEST for x in removed),
        "kept_files": kept,
        "reports_written": reported,
        "version": ledger.current.version if ledger.current else None,
    }
