"""A new request: typed or from a file, looked at as a draft, and sent. What it names stays in this process."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ...partitioning.errors import InputError
from ..http.request_routes import FULL, TAKEN
from ..lifecycle.refusals import TakenId, TooMany
from .drafts import Draft
from .forms import read_file, read_sending, read_typed
from .visits import Visit

GONE = "this draft is not kept any more (for 15 minutes, and until the service is restarted). Enter the request again"
NO_PREVIEW = "What it would change is not known: the service cannot look at the moment. It can be sent without."
NOT_ALLOWED = "What it would change is not shown: this token lacks the scope requests:read."

log = logging.getLogger(__name__)


def new_request(visit: Visit) -> Response:
    """The two forms of a new request."""
    return _forms(visit)


def preview_typed(visit: Visit) -> Response:
    """Make a draft of what was typed."""
    found = read_typed(visit.form)
    if isinstance(found, dict):
        return _forms(visit, 422, found)
    return _keep(visit, found)


def preview_file(visit: Visit) -> Response:
    """Make a draft of a file of requests."""
    file = visit.form.get("file")
    name, content = (file.filename or "", file.file.read()) if isinstance(file, UploadFile) else ("", b"")
    found = read_file(name, content)
    if isinstance(found, dict):
        return _forms(visit, 422, found)
    return _keep(visit, found)


def show_draft(visit: Visit, name: str) -> Response:
    """The counts of a draft, and the form that sends it."""
    draft = _draft(visit, name)
    if draft.sent_as is not None:
        return visit.go(f"/desk/requests/{draft.sent_as}?said=repeated")
    return _draft_page(visit, name, draft)


def send_draft(visit: Visit, name: str) -> Response:
    """Send a draft. A form that is sent twice leads to the same request."""
    draft = _draft(visit, name)
    if draft.new is None:
        return visit.go(f"/desk/requests/{draft.sent_as}?said=repeated")
    given = read_sending(visit.form, asks_name=visit.token is None)
    if isinstance(given, dict):
        return _draft_page(visit, name, draft, 422, given, visit.form)
    request_id, requester = given
    new = replace(draft.new, request_id=request_id, requester=visit.token.name if visit.token else requester)
    try:
        state = visit.site.service.accept(new)
    except TakenId:
        return _draft_page(visit, name, draft, 409, {"request_id": TAKEN}, visit.form)
    except TooMany as full:
        answer = _draft_page(visit, name, draft, 429, {"": FULL}, visit.form)
        answer.headers["Retry-After"] = str(full.seconds)
        return answer
    visit.site.drafts.sent(visit.form_secret, name, state["request_id"])
    said = "repeated" if state.get("repeated") else "sent"
    if not visit.may("requests:read"):
        return visit.page("sent.html", request_id=state["request_id"], said=said)
    return visit.go(f"/desk/requests/{state['request_id']}?said={said}")


def discard_draft(visit: Visit, name: str) -> Response:
    """Forget a draft."""
    visit.site.drafts.drop(visit.form_secret, name)
    return visit.go("/desk/new")


def _forms(visit: Visit, status_code: int = 200, wrong: Mapping[str, str] | None = None) -> Response:
    # What was typed is kept, but for ids.
    kept = {name: str(visit.form.get(name, "")) for name in ("since", "until")}
    return visit.page("new_request.html", status_code, wrong=wrong or {}, kept=kept)


def _keep(visit: Visit, draft: Draft) -> Response:
    new = draft.new
    assert new is not None
    if not visit.may("requests:read"):
        draft = replace(draft, without_preview=NOT_ALLOWED)
    else:
        try:
            draft = replace(draft, preview=visit.site.service.preview(new))
        except (InputError, OSError, LookupError) as error:
            log.warning("no preview: %s", error if isinstance(error, InputError) else type(error).__name__)
            draft = replace(draft, without_preview=NO_PREVIEW)
    return visit.go(f"/desk/drafts/{visit.site.drafts.add(visit.form_secret, draft)}")


def _draft(visit: Visit, name: str) -> Draft:
    draft = visit.site.drafts.find(visit.form_secret, name)
    if draft is None:
        raise HTTPException(404, GONE)
    return draft


def _draft_page(
    visit: Visit,
    name: str,
    draft: Draft,
    status_code: int = 200,
    wrong: Mapping[str, str] | None = None,
    form: Mapping[str, Any] | None = None,
) -> Response:
    known = None
    if draft.preview is not None and draft.preview["request_id"]:
        known = visit.site.service.status(draft.preview["request_id"])
    kept = {field: str((form or {}).get(field, "")) for field in ("request_id", "requester")}
    return visit.page("draft.html", status_code, draft=draft, name=name, wrong=wrong or {}, kept=kept, known=known)
