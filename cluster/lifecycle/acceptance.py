"""A request on its way in and out of the log: accepted, answered, closed. Used by `forget` and by `serve`."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...partitioning.errors import InputError
from ..layout import content_name
from ..log.log import LogConflict
from ..log.records import ACCEPTED, COMMITTED
from ..output.conflicts import voids_acceptance, voids_step
from ..output.ingests import id_types, ingest_head, times
from ..output.ledger import State, Ticket
from ..output.session import Session
from ..requests.digests import KINDS, digests_of
from ..requests.request import Request, Tally, commitment, is_purged, is_same, read_request
from .refusals import TakenId, UnreadableRequest
from .suppression import open_list

NOTHING: dict[str, Any] = {"removed_interactions": 0, "affected_partitions": [], "seconds": 0.0}
"""What is told of a request of which nothing was done."""


def accept(
    session: Session,
    request: Request,
    requester: str | None = None,
    written: Callable[[str], None] = lambda content: None,
) -> None:
    """Write the request down before anything is done: its content as a side object, its commitment in the log.

    One that is accepted already stays as it is; one that failed is open again.

    Args:
        requester: the operator who asks, whose name the log keeps.
        written: called between the two, at each try, with the name of the content: no other content can have this id any
            more, and nobody is known to have accepted it yet.

    Raises:
        TakenId: another request has this id.
    """
    body = request.body()
    while True:
        ledger = session.ledger(look=False)  # what others wrote meanwhile, the append finds
        seen, name = ledger.seen, ledger.content_name(request.request_id)
        salt = secrets.token_hex(16)
        new: dict[str, Any] = {"salt": salt, "body": body.decode()}
        if rows := request.tally.document():
            new["rows"] = rows
        try:
            session.store.create(name, json.dumps(new).encode())
        except FileExistsError:
            content = json.loads(session.store.read(name))
            check_same(session, content, request)
            salt = content.get("salt", salt)
        ticket = ledger.tickets.get(request.request_id)
        if ticket is not None and ticket.state is not State.FAILED:
            return
        written(name)
        who = {} if requester is None else {"requester": requester}
        where = {} if name == content_name(request.request_id) else {"content": name}
        entry = {"request_id": request.request_id, "commitment": commitment(body, salt), **who, **where}
        try:
            session.log.append(ACCEPTED, entry, after=seen, void=voids_acceptance(request.request_id))
        except LogConflict:
            continue
        return


def under_current_id(session: Session, request: Request) -> Request:
    """A request whose id was derived from its content, under the id that it has now (`Ledger.derived_id`).

    Whoever asks the same before that one is closed and out of date too gets the same id, so that it is one request.
    """
    ledger = session.ledger()
    if request.request_id not in ledger.tickets:
        return request
    head = 0 if _kept_out(session, request) else ingest_head(session)
    return replace(request, request_id=ledger.derived_id(request.request_id, head))


def _kept_out(session: Session, request: Request) -> bool:
    """Whether all that it names is on the suppression list, so that no ingest has brought it back."""
    try:
        suppression = open_list(session.store)
    except InputError:  # it is told where the request is carried out
        return False
    if suppression is None:
        return False
    time = times(session)
    named = digests_of(suppression.key, request, id_types(session), time.unit if time else None)
    listed, _ = suppression.state()
    return all(named[kind] <= listed[kind] for kind in KINDS)


def final_answer(session: Session, request: Request) -> dict[str, Any] | None:
    """The answer that this request was given already, None if it has not been carried out.

    Raises:
        TakenId: its id belongs to another request, or to one whose content was purged and cannot be shown to be the same.
    """
    ledger = session.ledger()
    name = ledger.content_name(request.request_id)
    if not session.store.exists(name):
        return None
    content = json.loads(session.store.read(name))
    check_same(session, content, request)
    ticket = ledger.tickets.get(request.request_id)
    if ticket is None or not ticket.final:
        return None
    answer = NOTHING | {key: value for key, value in ticket.describe().items() if key != "phase"}
    return answer | {"content_purged": True} if is_purged(content) else answer


def stored_content(session: Session, request_id: str) -> dict[str, Any] | None:
    """The stored content of a request; None where there is none, or where it was purged."""
    try:
        content: dict[str, Any] = json.loads(session.store.read(session.ledger().content_name(request_id)))
    except FileNotFoundError:
        return None
    return None if is_purged(content) else content


def check_same(session: Session, content: dict[str, Any], request: Request) -> None:
    """Raise TakenId unless this is the stored content of the request, or what a purge left of it."""
    # The key is made by the first `ingest`; without one there is no id that was derived.
    if not is_same(content, request, session.request_key(create=False)):
        gone = " (its content was purged, and this one is not the same)" if is_purged(content) else ""
        raise TakenId(
            f"--request-id {request.request_id}: another request has this id{gone}. Choose a new one, or leave it out"
        )


def append_step(
    session: Session,
    request_id: str,
    kind: str,
    body: dict[str, Any],
    since: int | None = None,
    allowed: Callable[[Ticket], bool] = lambda ticket: True,
) -> bool:
    """Close, hold or approve an open request with one record, unless it is closed already or not `allowed`; says whether
    it did.

    since: the head that the decision was based on; a version that was committed later makes it void.

    Raises:
        LogConflict: there is such a version.
    """
    while True:
        ledger = session.ledger()
        seen, ticket = ledger.seen, ledger.open.get(request_id)
        if since is not None and any(record.kind == COMMITTED for record in session.log.since(since)):
            raise LogConflict(f"a version was committed after record {since}")
        if ticket is None or not allowed(ticket):
            return False
        try:
            session.log.append(kind, {"request_id": request_id, **body}, after=seen, void=voids_step(request_id))
        except LogConflict:
            continue
        return True


def read_accepted(session: Session, ticket: Ticket) -> Request:
    """The content of an accepted request.

    Raises:
        UnreadableRequest: it is missing, or not what the log has the commitment of.
    """
    name = session.ledger(look=False).content_name(ticket.request_id)
    try:
        content = json.loads(session.store.read(name))
        body = content["body"].encode()
        if commitment(body, content["salt"]) == ticket.commitment:
            return read_request(ticket.request_id, body, Tally.read(content.get("rows", {})))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    raise UnreadableRequest(f"{name} is not the content that was accepted")
