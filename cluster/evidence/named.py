"""Find out what a request names, as far as that is still known.

Its content says it. After a purge of the content, the suppression list has keyed digests of it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..layout import SUPPRESSION
from ..lifecycle.acceptance import read_accepted
from ..lifecycle.outcomes import noted_without_effect, with_entries
from ..lifecycle.refusals import UnreadableRequest
from ..lifecycle.suppression import ENVIRONMENT, SuppressionList
from ..output.ingests import id_types, times
from ..output.session import Session
from ..output.tickets import State, Ticket
from ..requests.digests import KINDS, Digests, digests_of, no_digests
from ..requests.outcome import INVALID
from ..requests.request import Request, is_purged, read_request

Wanted = Mapping[str, list[str]]
"""Ids as text, by side ("user" and "item"). A row that is named has at least one of them."""


@dataclass(frozen=True)
class Named:
    """What the rows have in common that are searched for in the lake."""

    key: bytes
    """The key of the digests."""
    digests: Digests = field(default_factory=no_digests)
    wanted: Wanted | None = None
    """The ids in plain text. None: only digests are known, so no file can be left out by its statistics."""
    known_by: str = ""
    """How this is known, as a phrase for the receipt."""
    unknown: str | None = None
    """Why it is not known any more; None if it is known."""


def named_by(session: Session, ticket: Ticket, suppression: SuppressionList | None) -> Named:
    """What a request names, without what was lifted from the suppression list since.

    Raises:
        InputError: the suppression list is damaged, or was made with another key.
    """
    key = suppression.key if suppression else secrets.token_bytes(32)
    lifted = suppression.state()[1] if suppression else no_digests()
    try:
        request = valid_entries(session, read_accepted(session, ticket), ticket)
    except UnreadableRequest:
        return _listed(session, ticket, suppression, key, lifted)
    time = times(session)
    digests = digests_of(key, request, id_types(session), time.unit if time else None)
    known_by = "the request's content, as the log has its commitment"
    if suppression is None and session.store.list(SUPPRESSION):
        known_by += f"; {ENVIRONMENT} is not set, so what was lifted since is looked for too"
    return Named(key, _without(digests, lifted), _wanted(request), known_by)


def all_forgotten(
    session: Session, suppression: SuppressionList | None, contents: Mapping[str, Ticket]
) -> tuple[bytes, Digests]:
    """(a key, the digests with this key of all that is known to be forgotten and was not lifted from the suppression
    list). contents: files with the contents of requests that were carried out, each with its ticket."""
    key = suppression.key if suppression else secrets.token_bytes(32)
    named = no_digests()
    types, time = id_types(session), times(session)
    for place, ticket in contents.items():
        content = json.loads(session.store.read(place))
        if is_purged(content):  # a purge was faster
            continue
        request = read_request(ticket.request_id, content["body"].encode())
        digests = digests_of(key, valid_entries(session, request, ticket), types, time.unit if time else None)
        named = {kind: named[kind] | digests[kind] for kind in KINDS}
    if suppression is not None:
        listed, lifted = suppression.state()
        named = {kind: (named[kind] - lifted[kind]) | listed[kind] for kind in KINDS}
    return key, named


def valid_entries(session: Session, request: Request, ticket: Ticket) -> Request:
    """The request without the entries that were invalid when it was carried out, such as a time range in a graph without
    times."""
    answered = (ticket.answer or {}).get("version") or 0
    noted = noted_without_effect(session, request.request_id, answered - (ticket.state is State.COMMITTED))
    return with_entries(request, set(range(len(list(request.entries())))).difference(noted.get(INVALID, ())))


def _listed(
    session: Session, ticket: Ticket, suppression: SuppressionList | None, key: bytes, lifted: Digests
) -> Named:
    """What a request without a content names, by the suppression list. lifted: what was taken off the list since."""
    gone = "its content was purged, or is not the one that was accepted"
    if suppression is None:
        there = bool(session.store.list(SUPPRESSION))
        why = (
            f"{ENVIRONMENT} is not set, so the suppression list cannot be read"
            if there
            else "no suppression list is kept"
        )
        return Named(key, unknown=f"what the request names is not known any more: {gone}, and {why}")
    found = suppression.of_request(ticket.request_id)
    if found is None:
        why = f"{gone}, and the suppression list does not have it"
        return Named(key, unknown=f"what the request names is not known any more: {why}")
    digests, requests = found
    known_by = "the keyed digests of the suppression list, since its content was purged"
    if requests > 1:
        known_by += f"; they are of {requests} requests that were carried out together, and do not say which named what"
    return Named(key, _without(digests, lifted), None, known_by)


def _without(digests: Digests, lifted: Digests) -> Digests:
    return {kind: digests[kind] - lifted[kind] for kind in KINDS}


def _wanted(request: Request) -> Wanted:
    """The ids of which each named row has one. Interactions and ranges are found by their users."""
    users = {*request.users, *(pair[0] for pair in request.interactions), *(entry[0] for entry in request.ranges)}
    return {"user": _texts(users), "item": _texts(set(request.items))}


def _texts(ids: set[int | str]) -> list[str]:
    """The ids as text, sorted. "017" is also listed as "17", because that is its meaning in a table with integer ids."""
    found = {str(one) for one in ids}
    return sorted(found | {str(int(text)) for text in found if text.isascii() and text.isdecimal()})
