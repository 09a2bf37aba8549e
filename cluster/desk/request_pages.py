"""The list of requests, and one request: its timeline, its documents, and what can be done to it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.responses import Response

from ..http.list_routes import CURSOR, document_answer, read_cursor, write_cursor
from ..http.request_routes import LATE, REFUSED, UNKNOWN
from ..layout import REQUEST_ID
from ..lifecycle.refusals import NotApproved, TooLate
from ..output.tickets import State
from ..serving.listing import UNANSWERED, RequestQuery
from .forms import wrong_name
from .visits import Visit

PAGE = 50
DONE = frozenset({State.COMMITTED, State.COMPLETED})
FILTERS: dict[str, tuple[str, Callable[[float], dict[str, Any]]]] = {
    "waiting": ("Without an answer", lambda now: {"states": frozenset(UNANSWERED)}),
    "overdue": ("Overdue", lambda now: {"due_before": now}),
    "held": ("Held", lambda now: {"states": frozenset({State.HELD})}),
    "failed": ("Failed", lambda now: {"states": frozenset({State.FAILED})}),
    "checks": ("Checks failed", lambda now: {"evidence_failed": True, "newest_first": True}),
    "done": ("Done", lambda now: {"states": DONE, "newest_first": True}),
    "all": ("All", lambda now: {"newest_first": True}),
}
"""The lists: name in an address -> (title, the query at a moment)."""
TITLES = {name: title for name, (title, _) in FILTERS.items()}
SAID = {
    "sent": "The request is accepted and durable.",
    "repeated": "This request was there already. Nothing was done twice.",
    "cancelled": "The request is cancelled. Nothing was removed.",
    "approved": "The request is approved, and is carried out when its turn comes.",
}


def list_requests(visit: Visit) -> Response:
    """A page of one of the lists."""
    given = visit.request.query_params
    show = given.get("show", "waiting")
    show = show if show in FILTERS else "waiting"
    title, query = FILTERS[show]
    page, more = _listed(visit, given.get("cursor", ""), **query(time.time()))
    more = more and "?" + urlencode({"show": show, "cursor": more})
    return visit.page("requests.html", page=page, title=title, show=show, text="", more=more, filters=TITLES)


def search(visit: Visit) -> Response:
    """The requests with a text in their ids; a whole id leads to its page.

    It is a form that posts: somebody may type the id of a person, which has no place in an address.
    """
    text = str(visit.form.get("text", "")).strip()[:128]
    if REQUEST_ID.fullmatch(text) and visit.site.service.status(text) is not None:
        return visit.go(f"/desk/requests/{text}")
    page, more = _listed(visit, str(visit.form.get("cursor", "")), newest_first=True, text=text)
    return visit.page("requests.html", page=page, title="Found", show="", text=text, more=more, filters=TITLES)


def _listed(visit: Visit, cursor: str, **query: Any) -> tuple[list[dict[str, Any]], str | None]:
    """(a page of requests, the cursor of the next)."""
    after = read_cursor(cursor) if re.fullmatch(CURSOR, cursor) else None
    page = visit.site.service.requests(RequestQuery(**query, after=after, limit=PAGE))
    return page["requests"], write_cursor(page["next"])


def one_request(visit: Visit, request_id: str) -> Response:
    """Everything about one request."""
    return _page(visit, request_id)


def document(visit: Visit, request_id: str, document: str) -> Response:
    """A document of a request as a download; with `?show` a page is shown."""
    found = visit.site.service.document(request_id, document)
    if found is None:
        raise HTTPException(404, "no such request, or it has no such document yet")
    return document_answer(found, inline="show" in visit.request.query_params)


def cancel(visit: Visit, request_id: str) -> Response:
    """Cancel a request. To do it again changes nothing."""
    try:
        if _checked(visit, request_id, visit.site.service.cancel) is None:
            raise HTTPException(404, UNKNOWN)
    except TooLate:
        return _page(visit, request_id, 409, LATE)
    return visit.go(f"/desk/requests/{request_id}?said=cancelled")


def approve(visit: Visit, request_id: str) -> Response:
    """Approve a held request in the name of the token, or in the name that the form gives where there are no tokens."""
    by = visit.token.name if visit.token else str(visit.form.get("by", "")).strip()
    if message := wrong_name(by):
        return _page(visit, request_id, 422, wrong_by=message)
    try:
        if _checked(visit, request_id, lambda known: visit.site.service.approve(known, by)) is None:
            raise HTTPException(404, UNKNOWN)
    except NotApproved:
        return _page(visit, request_id, 409, REFUSED, by=by)
    return visit.go(f"/desk/requests/{request_id}?said=approved")


def _checked(visit: Visit, request_id: str, call: Callable[[str], Any]) -> Any:
    return call(request_id) if REQUEST_ID.fullmatch(request_id) else None


def _page(
    visit: Visit,
    request_id: str,
    status_code: int = 200,
    wrong: str | None = None,
    wrong_by: str | None = None,
    by: str = "",
) -> Response:
    found = visit.site.service.timeline(request_id) if REQUEST_ID.fullmatch(request_id) else None
    if found is None:
        raise HTTPException(404, UNKNOWN)
    request, token = found["request"], visit.token
    own = token is not None and (request.get("requester") or "").casefold() == token.name.casefold()
    return visit.page(
        "request.html",
        status_code,
        request=request,
        steps=found["steps"],
        documents=found["documents"],
        may_cancel=request["phase"] == "held" or "cancellable_until" in request,
        own=own,
        wrong=wrong,
        wrong_by=wrong_by,
        by=by,
        said=SAID.get(visit.request.query_params.get("said", "")),
    )
