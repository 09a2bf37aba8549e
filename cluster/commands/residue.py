"""`residue`: say where deleted data still lies, under the output and in the lake's tables. Nothing is removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...partitioning.errors import InputError
from ...partitioning.lake import read_table
from ...partitioning.lake.copies.history import current_uri
from ..config.schema import Config
from ..evidence.lake import look_at_lake
from ..evidence.named import Named, all_forgotten, named_by
from ..evidence.receipt import bring_up_to_date
from ..evidence.signing import signing_key
from ..layout import REQUESTS, SUPPRESSION, TABLES
from ..lifecycle.refusals import unknown_request
from ..lifecycle.suppression import ENVIRONMENT, open_list
from ..output.compaction import covered_files
from ..output.handed import is_handed, rows_named
from ..output.leftovers import carried_out_contents, leftovers
from ..output.session import Session
from ..output.tickets import State
from ..reporting.progress import SILENT, Progress
from ..requests.row_filter import RowFilter

COVERED = "file under deltas"
COVERED_DETAIL = (
    "of the current version; it holds what deltas take away, or is such a delta. A purge writes it anew first"
)
LAKE, STATE, STORED = "lake rows", "older state of a table", "stored in the lake"
HANDED = "rows of a handed table"


def residue(config: Config, request_id: str | None = None, *, progress: Progress = SILENT) -> dict[str, Any]:
    """List what `purge --now` would remove, and count the rows of the lake's tables that name something forgotten.

    Three kinds of rows are counted: live rows, rows of older states, and rows that are only stored in files. What was
    forgotten is known from the contents of requests that are not purged yet and, if its key is set, from the suppression
    list. The answer contains no ids except those of requests.

    With a request's id, only the lake is searched, for what this request names. Then the request's receipt is brought up to
    date, which is the only thing that this command writes.

    Returns:
        `residues`, a list of {"place", "kind", "detail", "bytes" or "rows"}, and `not_read`, what could not be looked at
        and why. With a request's id: what `evidence.receipt.bring_up_to_date` returns, and `residues`.

    Raises:
        InputError: the log is damaged, or the suppression list was made with another key; there is no such request, or it
            has not been carried out; the signing key cannot be used.
    """
    session = Session(config)
    if request_id is not None:
        return _receipt(session, request_id, progress)
    found: list[dict[str, Any]] = []
    not_read: list[dict[str, str]] = []
    left = leftovers(session)
    found += [{"place": item.place, "kind": item.kind, "detail": item.detail, "bytes": item.bytes} for item in left]
    if (current := session.ledger().current) is not None:
        known = current.files | current.lake_graph.files
        found += [
            {"place": name, "kind": COVERED, "detail": COVERED_DETAIL, "bytes": known[name].bytes}
            for name in covered_files(current)
        ]
    carried_out = carried_out_contents(session.ledger())
    contents = {item.place: carried_out[item.place] for item in left if item.place in carried_out}
    suppression = open_list(session.store)
    if suppression is None and session.store.list(SUPPRESSION):
        not_read.append({"place": SUPPRESSION, "why": f"{ENVIRONMENT} is not set"})
    if suppression is None and (purged := len(carried_out) - len(contents)):
        why = f"{purged} purged: what they named is known to no one, and its rows in the lake are not counted"
        not_read.append({"place": REQUESTS, "why": why})
    key, named = all_forgotten(session, suppression, contents)
    if any(named.values()):
        try:
            for part, rows in rows_named(session, RowFilter(key, named, session.columns.time_unit)).items():
                detail = "name something that was forgotten, in the copy of a table that Python handed over"
                found.append({"place": part, "kind": HANDED, "detail": detail, "rows": rows})
        except InputError:
            why = "cannot be read, or its times not compared with ranges that were forgotten"
            not_read.append({"place": TABLES, "why": why})
        tables = (x for x in (config.interactions, config.test_interactions) if x and not is_handed(session, x))
        for table in dict.fromkeys(tables):
            try:
                table = current_uri(table, session.options)
                rows = _count_rows(session, table, RowFilter(key, named, session.columns.time_unit), progress)
            except (InputError, OSError):  # the message is not shown: a file in it may have an id in its name
                why = "cannot be read as a table of interactions, or its times not compared with ranges that were forgotten"
                not_read.append({"place": table, "why": why})
                continue
            if rows:
                detail = "name a user, an item or an interaction that was forgotten"
                found.append({"place": table, "kind": LAKE, "detail": detail, "rows": rows})
        known_by = "requests and the suppression list"
        parts = look_at_lake(session, Named(key, named, None, known_by), stored_only=True, progress=progress)
        found += _residues(parts)
        unread_tables = {one["place"] for one in not_read}
        missing = [one for name in ("older", "files") for one in parts[name]["not_looked_at"]]
        unread = [{"place": one["what"], "why": _counted(one)} for one in missing if one["what"] not in unread_tables]
        not_read += [one for n, one in enumerate(unread) if one not in unread[:n]]
    return {"residues": found, "not_read": not_read}


def _residues(parts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entries of `residues` for older states and for files that hold rows."""
    found = []
    for kind, part in ((STATE, parts["older"]), (STORED, parts["files"])):
        for place in part["places"]:
            if place["rows"] is not None:
                until = f"until {place['until']}" if place["until"] else "which no setting of the table removes"
                detail = f"{place.get('kind', 'rows that were forgotten')}, {until}"
                found.append({"place": place["place"], "kind": kind, "detail": detail, "rows": place["rows"]})
    return found


def _counted(missing: Mapping[str, Any]) -> str:
    return missing["why"] if missing["count"] is None else f"{missing['count']} of them: {missing['why']}"


def _receipt(session: Session, request_id: str, progress: Progress) -> dict[str, Any]:
    """Search the lake for what one request names, and write the next state of its receipt."""
    ticket = session.ledger().tickets.get(request_id)
    if ticket is None:
        raise unknown_request(session.config, request_id)
    if ticket.state not in (State.COMMITTED, State.COMPLETED):
        raise InputError(
            f"request {request_id} is {ticket.state.value}, and only what was carried out has a receipt. See `unlearnrec "
            f"status {request_id}`"
        )
    key = signing_key(session.config)  # raises for a bad key, before the lake is read
    named = named_by(session, ticket, open_list(session.store))
    parts = look_at_lake(session, named, progress=progress)
    live = "name what the request named"
    found = [{"place": x["place"], "kind": LAKE, "detail": live, "rows": x["rows"]} for x in parts["current"]["places"]]
    return {**bring_up_to_date(session, ticket, parts, key), "residues": [*found, *_residues(parts)]}


def _count_rows(session: Session, table: str, names: RowFilter, progress: Progress) -> int:
    """The number of live rows of a table that name something forgotten.

    Raises:
        InputError: it cannot be read as a table of interactions.
    """
    rows, columns = 0, session.columns
    time = columns.time if names.needs_times else None
    with progress.task("rows read") as task:
        for batch in read_table(table, (columns.user, columns.item), session.options, time=time):
            rows += int(names(*batch.columns).sum())
            task.advance(batch.num_rows)
    return rows
