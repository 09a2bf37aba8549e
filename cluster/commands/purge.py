"""`purge`: remove what still holds deleted data under the output (docs/commit.md).

The present version, the graph to train on next and their files stay; so do the log and the copies of manifests, which
name nobody. `leftovers` finds, `purge` removes, and before that writes the evidence that is missing: later there is less to
look at.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ...partitioning.errors import InputError
from ...partitioning.ingest import MANIFEST
from ...partitioning.storage import Details, is_temporary
from ..config.schema import Config
from ..evidence.report import add_evidence
from ..layout import (
    CALLBACKS,
    CHECKPOINTS,
    FOLDERS,
    GRAPH,
    LOG,
    OUTCOMES,
    PRETRAIN,
    REQUEST_KEY,
    REQUESTS,
    SEARCHED,
    VERSIONS,
    callbacks_name,
    checkpoint_number,
    content_name,
    graph_of_folder,
    request_of_outcome,
    segment_id,
)
from ..log.cuts import announce_cut
from ..log.journal import JournalConflict
from ..log.records import ACCEPTED, COMMITTED, PURGED, PURGING, Record
from ..output.exports import FILES, UNFINISHED, log_head_of
from ..output.leases import covered, leases
from ..output.ledger import Ledger, State, Ticket
from ..output.session import Session, graph_key, missing_text, silent
from ..reporting.progress import Progress
from ..requests.request import TOMBSTONE

OLDER, SUPERSEDED, CHECKPOINT = "older version", "superseded graph", "checkpoint"
REQUEST, UNNAMED, LOG_FILE, NOTE = "request content", "unnamed file", "file of the log", "note about a request"
EXPORT = "export"
ROLLBACKS = (OLDER, SUPERSEDED, CHECKPOINT)
"""Kinds of files that are of use again after a rollback; the name of another file that is removed is not used again."""


UNDER_WAY_SECONDS = 3600.0
"""A file that no record names may belong to a command that runs, which may not have looked at one of the log either: it
stays this long after it was written."""


@dataclass(frozen=True)
class Leftover:
    """A file that holds deleted data, or may: `place` is its path under the output, `modified` seconds since the epoch."""

    place: str
    kind: str
    detail: str
    bytes: int
    modified: float


def purge(
    config: Config, *, now: bool = False, truncate_log: bool = False, progress: Progress | None = None
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
    progress = progress or silent()
    session = Session(config)
    if truncate_log:
        session.checkpoint()
    reported: dict[str, bool] = {}
    while True:
        ledger = session.ledger()
        head = ledger.seen
        found = leftovers(session)
        found += _log_files(session) if truncate_log else []
        there, held = ([], set()) if now else _held(session, found, progress)  # after the log was read, see `leased`
        due = [x for x in found if now or (x.place not in held and _due(x, config.forget.retention_hours, time.time()))]
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
            void = _keeps({x.place for x in due})
            began = session.journal.append(PURGING, {"unnamed": unnamed, "held": there}, after=head, void=void)
            break
        except JournalConflict:
            continue
    if segments := [segment for x in due if (segment := segment_id(x.place)) is not None]:
        announce_cut(session.store, max(segments))
    with progress.task("purge", len(due)) as task:
        for item in due:
            if item.kind == REQUEST:
                session.store.write(item.place, json.dumps(TOMBSTONE).encode())
            elif item.kind != EXPORT or _is_old(session, ledger, item.place):  # another may be in its place by now
                with contextlib.suppress(FileNotFoundError):
                    session.store.remove(item.place)
            task.advance()
    answer = _answer(due, len(found) - len(due), ledger, sum(reported.values()))
    session.journal.append(PURGED, answer | {"ends": [*over, began.number]})
    session.checkpoint_if_due()
    return answer


def _held(session: Session, found: Sequence[Leftover], progress: Progress) -> tuple[list[str], set[str]]:
    """(the leases of readers and retrains, the files among `found` that these hold, or may); leases that have ended are
    removed."""
    clock, there, held = time.time(), list[str](), set[str]()
    for name, (until, files) in leases(session).items():
        if until > clock:
            there.append(name)
            if files is None:
                held |= {x.place for x in found if x.kind in (OLDER, SUPERSEDED)}
            else:
                held |= covered((x.place for x in found), files)
            which = "files" if files is not None else "nobody knows which files, as this cannot be read,"
            progress.note(f"{name}: a command holds {which} for {until - clock:.0f} more seconds, or while it runs")
        else:
            with contextlib.suppress(FileNotFoundError):
                session.store.remove(name)
    return there, held


def _keeps(due: Set[str]) -> Callable[[Record], bool]:
    """Which records make a purge of these files void that was decided without them."""

    def keeps(record: Record) -> bool:
        if record.kind == ACCEPTED:
            content = record.body.get("content") or content_name(record.body["request_id"])
            return not due.isdisjoint({content, callbacks_name(content)})
        if record.kind == COMMITTED:
            manifest = record.body["manifest"]
            names = {*manifest["files"], *manifest["graph"]["files"], *manifest["lake_graph"]["files"]}
            return manifest["reason"] != "forget" or not due.isdisjoint(names)
        return record.kind in (PURGING, PURGED)

    return keeps


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
    checkpoint = Session(session.config, store).journal.checkpoint()  # as the next reader finds it
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


def leftovers(session: Session) -> list[Leftover]:
    """All that a purge would remove if no file were too young, in the order in which it does; not the log's own files.

    The output is listed once, and no file is asked for by itself, except exports: there may be many requests.

    Raises:
        InputError: another version of unlearnrec wrote the graph.
    """
    ledger, files = session.ledger(), session.store.details()
    found = [Leftover(place, kind, why, *files[place]) for place, kind, why in _places(session, ledger, files)]
    # What makes other files count goes first.
    return sorted(found, key=lambda x: (not x.place.endswith(("/manifest.json", "/done.json")), x.place))


def final_contents(ledger: Ledger) -> dict[str, Ticket]:
    """The files with the contents of requests that have their answer or were cancelled, and which these are."""
    return {ledger.content_name(request_id): ticket for request_id, ticket in ledger.tickets.items() if ticket.final}


def _places(session: Session, ledger: Ledger, files: Mapping[str, Details]) -> Iterator[tuple[str, str, str]]:
    """(place, kind, detail) of each leftover among these files."""
    current = ledger.current
    ingested = session.ingested() if session.store.exists(MANIFEST) else None
    # A counterfactual stands on one graph, and what is trained next on another.
    graphs = [current["graph"], current["lake_graph"]] if current else []
    new = ingested is not None and (current is None or current["lake_graph"]["ingest"] != ingested["ingest"])
    if ingested and new and ledger.carried_out_at <= ingested["log_head"]:  # else `train` refuses it
        graphs.append(ingested)
    keep = {MANIFEST}.union(current["files"] if current else (), *(graph["files"] for graph in graphs))
    maker = {name: f"of version {version}" for name, version in ledger.makers.items()}
    maker |= dict.fromkeys(ingested["files"] if ingested else (), "of the last ingest")

    for folder, kind in ((VERSIONS, OLDER), (GRAPH, SUPERSEDED)):
        for name in _in(folder, files):
            if name not in keep and posixpath.basename(name) != "manifest.json":
                yield name, kind if name in maker else UNNAMED, maker.get(name, "no record names it")
    keys = {graph_key(graph) for graph in graphs}
    for folder in (CHECKPOINTS, PRETRAIN):
        for name in _in(folder, files):
            if graph_of_folder(name) not in keys:
                yield name, CHECKPOINT, "of a run on a graph that is no longer current"
    yield from _requests(session, ledger, files)
    for name in filter(is_temporary, files):
        if name.split("/")[0] in SEARCHED:
            yield name, UNNAMED, "a write that did not end"
    yield from _exports(session, ledger, files)


def _in(folder: str, files: Iterable[str]) -> Iterator[str]:
    return (name for name in files if name.startswith(f"{folder}/") and not is_temporary(name))


def _exports(session: Session, ledger: Ledger, files: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Those that somebody put under the output, from before the last request that was carried out."""
    for name in files:
        if name.split("/")[0] in FOLDERS:
            continue
        if UNFINISHED.fullmatch(name):
            yield name, UNNAMED, "of an export that did not end"
        elif posixpath.basename(name) in FILES and _is_old(session, ledger, name):
            yield name, EXPORT, "from before a request was carried out"


def _is_old(session: Session, ledger: Ledger, name: str) -> bool:
    head = log_head_of(session, name)
    return head is not None and head < ledger.carried_out_at


def _requests(session: Session, ledger: Ledger, files: Mapping[str, Details]) -> Iterator[tuple[str, str, str]]:
    logged = set(map(ledger.content_name, ledger.tickets))
    told, final = set(map(callbacks_name, logged)), final_contents(ledger)
    # Where there are callbacks, the service tells them and removes them.
    untold = set() if session.config.serve.callback_hosts else set(map(callbacks_name, final))
    for name in _in(CALLBACKS, files):
        if name not in told:
            yield name, UNNAMED, "callbacks of a request that was not accepted"
        elif name in untold:
            yield name, NOTE, "callbacks of a request that has its answer, and serve.callback_hosts is empty"
    tombstone = len(json.dumps(TOMBSTONE))  # bytes; a content, which has a salt, is longer
    for name in _in(REQUESTS, files):
        if name in final:
            done = "cancelled" if final[name].state is State.CANCELLED else "carried out"
            if files[name].bytes != tombstone:
                yield name, REQUEST, f"of a request that was {done}"
        elif name not in logged and name != REQUEST_KEY:
            yield name, UNNAMED, "of a request that was not accepted"
    for name in _in(OUTCOMES, files):
        if ledger.content_name(request_of_outcome(name)) in final:
            yield name, NOTE, "of a request that was carried out"


def _due(item: Leftover, retention_hours: float, clock: float) -> bool:
    limit = max(retention_hours * 3600, UNDER_WAY_SECONDS if item.kind in (UNNAMED, LOG_FILE) else 0.0)
    return not limit or clock - item.modified >= limit


def _answer(removed: Sequence[Leftover], kept: int, ledger: Ledger, reported: int) -> dict[str, Any]:
    return {
        "removed_files": sum(x.kind != REQUEST for x in removed),
        "removed_bytes": sum(x.bytes for x in removed),
        "purged_requests": sum(x.kind == REQUEST for x in removed),
        "kept_files": kept,
        "reports_written": reported,
        "version": ledger.current["version"] if ledger.current else None,
    }
