"""`residue`: where deleted data still lies, under the output and in the lake's tables. Read only."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

from ...partitioning.errors import InputError
from ...partitioning.lake import read_table
from ..config.schema import Config
from ..layout import REQUESTS, SUPPRESSION
from ..lifecycle.outcomes import noted_without_effect, with_entries
from ..lifecycle.suppression import ENVIRONMENT, SuppressionList, open_list
from ..output.ingests import id_types, times
from ..output.ledger import State, Ticket
from ..output.leftovers import final_contents, leftovers
from ..output.session import Session
from ..reporting.progress import SILENT, Progress
from ..requests.digests import KINDS, Digests, digests_of, no_digests
from ..requests.outcome import INVALID
from ..requests.request import Request, is_purged, read_request
from ..requests.row_filter import RowFilter

LAKE = "lake rows"


def residue(config: Config, *, progress: Progress = SILENT) -> dict[str, Any]:
    """List what `purge --now` would remove, and count the rows of the lake's tables that name something forgotten.

    What was forgotten is known from contents of requests that are not purged yet and, with its key, from the suppression
    list. `not_read` says what could not be looked at. No id is in the answer, except those of requests.

    Raises:
        InputError: the log is damaged, or the suppression list was made with another key.
    """
    session = Session(config)
    found: list[dict[str, Any]] = []
    not_read: list[dict[str, str]] = []
    left = leftovers(session)
    found += [{"place": item.place, "kind": item.kind, "detail": item.detail, "bytes": item.bytes} for item in left]
    tickets = final_contents(session.ledger())
    carried_out = {name: ticket for name, ticket in tickets.items() if ticket.state is not State.CANCELLED}
    contents = {item.place: carried_out[item.place] for item in left if item.place in carried_out}
    suppression = open_list(session.store)
    if suppression is None and session.store.list(SUPPRESSION):
        not_read.append({"place": SUPPRESSION, "why": f"{ENVIRONMENT} is not set"})
    if suppression is None and (purged := len(carried_out) - len(contents)):
        why = f"{purged} purged: what they named is known to no one, and its rows in the lake are not counted"
        not_read.append({"place": REQUESTS, "why": why})
    key, named = _forgotten(session, suppression, contents)
    if any(named.values()):
        for table in dict.fromkeys(x for x in (config.interactions, config.test_interactions) if x):
            try:
                rows = _count_rows(session, table, RowFilter(key, named, session.columns.time_unit), progress)
            except InputError:  # its message may name a file after an id
                why = "cannot be read as a table of interactions, or its times not compared with ranges that were forgotten"
                not_read.append({"place": table, "why": why})
                continue
            if rows:
                detail = "name a user, an item or an interaction that was forgotten"
                found.append({"place": table, "kind": LAKE, "detail": detail, "rows": rows})
    return {"residues": found, "not_read": not_read}


def _forgotten(
    session: Session, suppression: SuppressionList | None, contents: Mapping[str, Ticket]
) -> tuple[bytes, Digests]:
    """(a key, digests under it of all that is known to be forgotten and was not lifted)."""
    key = suppression.key if suppression else secrets.token_bytes(32)
    named = no_digests()
    types, time = id_types(session), times(session)
    for place, ticket in contents.items():
        content = json.loads(session.store.read(place))
        if is_purged(content):  # purged meanwhile
            continue
        request = read_request(ticket.request_id, content["body"].encode())
        digests = digests_of(key, _valid_entries(session, request, ticket), types, time.unit if time else None)
        named = {kind: named[kind] | digests[kind] for kind in KINDS}
    if suppression is not None:
        listed, lifted = suppression.state()
        named = {kind: (named[kind] - lifted[kind]) | listed[kind] for kind in KINDS}
    return key, named


def _valid_entries(session: Session, request: Request, ticket: Ticket) -> Request:
    """The request without entries that meant nothing when it was carried out, such as a range where there were no times."""
    answered = (ticket.answer or {}).get("version") or 0
    noted = noted_without_effect(session, request.request_id, answered - (ticket.state is State.COMMITTED))
    return with_entries(request, set(range(len(list(request.entries())))).difference(noted.get(INVALID, ())))


def _count_rows(session: Session, table: str, names: RowFilter, progress: Progress) -> int:
    rows, columns = 0, session.columns
    time = columns.time if names.needs_times else None
    with progress.task("rows read") as task:
        for batch in read_table(table, (columns.user, columns.item), session.options, time=time):
            rows += int(names(*batch.columns).sum())
            task.advance(batch.num_rows)
    return rows
