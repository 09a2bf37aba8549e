"""One call of a page: who makes it, whether it is allowed, what its form says, and how it is answered.

Every page goes through `Site.endpoint`, which refuses whoever has no session or lacks the scope, and forms without the
secret of their browser, before the function of the page is called.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import python_multipart  # noqa: F401 - starlette reads forms with it, and would miss it only when the first one comes
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Scope as AsgiScope

from ...partitioning.errors import InputError
from ..http.admission import AdmissionRules
from ..http.rate_limit import Buckets
from ..http.tokens import Scope, Token
from ..serving.interface import ServiceInterface
from . import words
from .drafts import Drafts
from .sessions import Sessions, SignedIn, new_cookie

HERE = Path(__file__).parent
SESSION, FORM = "unlearnrec-session", "unlearnrec-form"
"""The cookies: of a session, and of forms of a browser that has none."""
SIGN_INS, SIGN_IN_SECONDS = 10, 6.0
"""An address may try to sign in so often at once, and then once in so many seconds."""
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": a browser then says of its own forms, too, that they come from nowhere.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
AWAY = "not available at the moment: try again (a request that is sent twice under one id is one request)"
STALE = "the form is out of date: go back, reload the page and try again. Nothing was changed"

log = logging.getLogger(__name__)


@dataclass
class Visit:
    """One call of a page."""

    site: Site
    request: Request
    signed_in: SignedIn | None
    form_secret: str
    form_cookie: str | None
    """A cookie to set, where the browser had none."""
    form: FormData = field(default_factory=FormData)

    @property
    def token(self) -> Token | None:
        """The token in whose name the call is made; None where no tokens are needed."""
        return self.signed_in.token if self.signed_in else self.request.scope["state"]["token"]

    def may(self, scope: Scope) -> bool:
        """Whether the caller has this scope; without tokens everybody has all."""
        return not self.site.rules.tokens or (self.token is not None and scope in self.token.scopes)

    def url(self, path: str) -> str:
        """The address of a path of the service, such as "/desk/new"."""
        return f"{self.request.scope.get('root_path', '')}{path}"

    def page(self, template: str, status_code: int = 200, **values: Any) -> Response:
        """The page that a template makes of these values."""
        known = {
            "visit": self,
            "url": self.url,
            "may": self.may,
            "open": not self.site.rules.tokens,
            "now": time.time(),
        }
        text = self.site.templates.get_template(template).render(**known, **values)
        return self._sent(Response(text, status_code, media_type="text/html"))

    def error(self, code: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
        """A page that says what is wrong."""
        answer = self.page("error.html", code, code=code, text=text)
        answer.headers.update(headers or {})
        return answer

    def go(self, path: str) -> Response:
        """Lead the browser to another page, which it asks for with GET."""
        return self._sent(RedirectResponse(self.url(path), 303))

    def set_cookie(self, answer: Response, name: str, value: str | None) -> None:
        """Set a cookie that no script reads and that no other site sends along; None removes it."""
        proxy = self.request.headers.get("x-forwarded-proto", "").partition(",")[0].strip()
        options: dict[str, Any] = {
            "path": self.request.scope.get("root_path", "") or "/",
            "secure": "https" in (self.request.url.scheme, proxy),
            "httponly": True,
            "samesite": "strict",
        }
        if value is None:
            answer.delete_cookie(name, **options)
        else:
            answer.set_cookie(name, value, **options)

    def _sent(self, answer: Response) -> Response:
        answer.headers.update(HEADERS)
        if self.form_cookie is not None:
            self.set_cookie(answer, FORM, self.form_cookie)
        return answer


Page = Callable[..., Response]
"""The function of a page. It gets the visit, and the parameters of its path by name. It is called in a thread."""


class Site:
    """What all pages share."""

    def __init__(self, service: ServiceInterface, rules: AdmissionRules) -> None:
        self.service, self.rules = service, rules
        self.sessions, self.drafts = Sessions(), Drafts()
        self.sign_ins = Buckets(1 / SIGN_IN_SECONDS, SIGN_INS)
        loader = FileSystemLoader(HERE / "templates")
        self.templates = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
        self.templates.globals["words"] = words

    def has(self, path: str) -> bool:
        """As `admission.Pages.has`."""
        return path in ("", "/", "/docs", "/desk") or path.startswith("/desk/")

    def refuse(self, scope: AsgiScope, code: int, text: str, retry_seconds: int | None = None) -> Response:
        """As `admission.Pages.refuse`."""
        scope.setdefault("state", {})["token"] = None
        headers = {} if retry_seconds is None else {"Retry-After": str(retry_seconds)}
        return self._visit(Request(scope)).error(code, text, headers)

    def route(
        self, path: str, page: Page, *, scope: Scope | None = None, post: bool = False, public: bool = False
    ) -> Route:
        """The route of a page.

        scope: what a token needs for it; None: nothing more than to be known. post: it takes a form. public: it is for
        people who are not signed in, too.
        """

        async def endpoint(request: Request) -> Response:
            visit = self._visit(request)
            if not public:
                if self.rules.tokens and visit.token is None:
                    return visit.go("/desk/sign-in" + ("?over=1" if SESSION in request.cookies else ""))
                if scope is not None and not visit.may(scope):
                    return visit.error(403, f"this token lacks the scope {scope}")
            try:
                if post:
                    visit.form = await _form(request, self.rules.max_body_bytes)
                    if (refusal := _refuse_foreign(visit)) is not None:
                        return refusal
                return await run_in_threadpool(page, visit, **request.path_params)
            except HTTPException as error:
                return visit.error(error.status_code, str(error.detail), error.headers)
            except MultiPartException as error:
                return visit.error(400, f"the form cannot be read: {error.message}")
            except OSError as error:
                log.error("not available: %s", type(error).__name__)
                return visit.error(503, AWAY, {"Retry-After": "5"})
            except Exception as error:
                log.error("%s", error if isinstance(error, InputError) else type(error).__name__)
                return visit.error(500, "the service's log says what is wrong")

        return Route(path, endpoint, methods=["POST"] if post else ["GET"], include_in_schema=False)

    def _visit(self, request: Request) -> Visit:
        cookie = request.cookies.get(SESSION)
        signed_in = self.sessions.find(cookie) if self.rules.tokens else None
        if signed_in is not None and cookie is not None:
            return Visit(self, request, signed_in, self.sessions.form_secret(cookie), None)
        known = request.cookies.get(FORM)
        made = None if known else new_cookie()
        return Visit(self, request, None, self.sessions.form_secret(known or made or ""), made)


async def _form(request: Request, limit: int) -> FormData:
    """The form of a call. Files stay in memory: a file of requests names people, and is never written to a disk."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        parser = MultiPartParser(request.headers, request.stream(), max_files=1, max_fields=20, max_part_size=limit)
        parser.spool_max_size = limit + 1
        return await parser.parse()
    return await request.form(max_fields=20)


def _refuse_foreign(visit: Visit) -> Response | None:
    """A refusal of a form that another site sent, or that was made for another session; None where it is the page's own."""
    if visit.request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return visit.error(403, STALE)
    given = visit.form.get("form_secret")
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(), visit.form_secret.encode()):
        return visit.error(403, STALE)
    return None
