"""How a request is accepted into the log, answered and closed. Used by `forget` and by `serve`."""

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
from ..output.session import Session
from ..output.tickets import State, Ticket
from ..requests.digests import KINDS, digests_of
from ..requests.request import Request, Tally, commitment, is_purged, is_same, read_request
from .refusals import TakenId, UnreadableRequest
from .suppression import open_list

NOTHING: dict[str, Any] = {"removed_interactions": 0, "affected_partitions": [], "seconds": 0.0}
"""The answer to a request for which nothing was done; a real answer replaces these values."""


def accept(
    session: Session,
    request: Request,
    requester: str | None = None,
    written: Callable[[str], None] = lambda content: None,
) -> None:
    """Accept a request: write its content to a file of its own, then its commitment to the log.

    A request that is accepted already stays as it is. One that failed is open again. The request is acknowledged when this
    returns.

    Args:
        requester: the operator who asks; the log keeps the name.
        written: called between the two writes, at each attempt, with the name of the file with the content. At that moment
            no other content can have this id any more, and the log as it is known does not have the request.

    Raises:
        TakenId: another request has this id.
    """
    body = request.body()
    while True:
        ledger = session.ledger(look=False)  # records that others wrote meanwhile are found by the append
        seen, name = ledger.seen, ledger.content_name(request.request_id)
        # A salt for the commitment, without which the content of a small request could be found by trying.
        salt = secrets.token_hex(16)
        new: dict[str, Any] = {"salt": salt, "body": body.decode()}
        if rows := request.tally.document():
            new["rows"] = rows
        # W1 comes before W2: from the record on the request has to be carried out, and its content must be there.
        try:
            session.store.create(name, json.dumps(new).encode())
        except FileExistsError:
            # An attempt before, or another process, has written this id. The same content goes on with the salt in the file.
            content = json.loads(session.store.read(name))
            check_same(session, content, request)
            salt = content.get("salt", salt)
        ticket = ledger.tickets.get(request.request_id)
        if ticket is not None and ticket.state is not State.FAILED:
            return
        # Callbacks (Wu) come before W2 too: the request may be carried out as soon as the record is there.
        written(name)
        who = {} if requester is None else {"requester": requester}
        where = {} if name == content_name(request.request_id) else {"content": name}
        entry = {"request_id": request.request_id, "commitment": commitment(body, salt), **who, **where}
        # W2. It is void if a purge began that takes the content, or if another process has accepted the same request.
        try:
            session.log.append(ACCEPTED, entry, after=seen, void=voids_acceptance(request.request_id))
        except LogConflict:
            continue
        return


def under_current_id(session: Session, request: Request) -> Request:
    """A request whose id was derived from its content, under the id that it has now (`Ledger.derived_id`).

    Everybody who asks for the same gets the same id, and so the same request, until that request is closed and its id is out
    of date.
    """
    ledger = session.ledger()
    if request.request_id not in ledger.tickets:
        return request
    # An ingest puts ids out of date because it may have brought the data back. It has not, if the list kept them out.
    head = 0 if _kept_out(session, request) else ingest_head(session)
    return replace(request, request_id=ledger.derived_id(request.request_id, head))


def _kept_out(session: Session, request: Request) -> bool:
    """Whether all that a request names is on the suppression list, so that no ingest has brought it back."""
    try:
        suppression = open_list(session.store)
    except InputError:  # the error is reported where the request is carried out
        return False
    if suppression is None:
        return False
    time = times(session)
    named = digests_of(suppression.key, request, id_types(session), time.unit if time else None)
    listed, _ = suppression.state()
    return all(named[kind] <= listed[kind] for kind in KINDS)


def final_answer(session: Session, request: Request) -> dict[str, Any] | None:
    """The final answer of a request; None if it has none yet.

    Raises:
        TakenId: the id belongs to another request, or to one whose content was purged and cannot be shown to be the same.
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
    answer = NOTHING | {key: value for key, value in ticket.describe().items() if key not in ("phase", "checks")}
    return answer | {"content_purged": True} if is_purged(content) else answer


def stored_content(session: Session, request_id: str) -> dict[str, Any] | None:
    """The stored content of a request, as a JSON object; None where there is none, or where it was purged."""
    try:
        content: dict[str, Any] = json.loads(session.store.read(session.ledger().content_name(request_id)))
    except FileNotFoundError:
        return None
    return None if is_purged(content) else content


def check_same(session: Session, content: dict[str, Any], request: Request) -> None:
    """Raise TakenId unless `content` is the stored content of the request, or what a purge left in its place."""
    # create=False: the first `ingest` makes the key, and without a key there is no derived id to compare with.
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
    """Close, hold or approve an open request with one record. Returns whether the record was written.

    It is not written if the request is closed, or not `allowed`. kind, body: those of the record; the id of the request is
    added to the body. since: the head of the log that the decision was based on; a version that was committed later makes
    it void. None where the decision does not depend on a version.

    Raises:
        LogConflict: a version was committed after `since`.
    """
    while True:
        ledger = session.ledger()
        # `seen` before the ticket is looked at: what came later is found by the append, and decided anew.
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
    """Read the content of an accepted request.

    Raises:
        UnreadableRequest: the content is missing, or does not match the commitment in the log.
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
