"""The whole site: the API, the pages of the privacy desk beside it, and the API's reference."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.responses import Response
from starlette.routing import Route

from ..http.admission import AdmissionRules
from ..http.app import make_app
from ..serving.interface import ServiceInterface
from .new_request_pages import discard_draft, new_request, preview_file, preview_typed, send_draft, show_draft
from .output_pages import health, versions
from .reference import reference
from .request_pages import approve, cancel, document, list_requests, one_request, search
from .sign_in_pages import sign_in, sign_in_form, sign_out
from .visits import HERE, Site

STYLE = (HERE / "static" / "desk.css").read_text(encoding="utf-8")
ICON = (HERE / "static" / "icon.svg").read_text(encoding="utf-8")


def make_site(service: ServiceInterface, rules: AdmissionRules, callback_pattern: str | None = None) -> FastAPI:
    """The application with its pages. Arguments as for `make_app`."""
    site = Site(service, rules)
    app = make_app(service, rules, callback_pattern, site)
    app.router.routes += [*_routes(site), *_reference_routes(app, site)]
    return app


def _routes(site: Site) -> list[Route]:
    one, draft = "/desk/requests/{request_id}", "/desk/drafts/{name}"
    return [
        site.route("/", lambda visit: visit.go("/desk/"), public=True),
        site.route("/desk", lambda visit: visit.go("/desk/"), public=True),
        site.route("/desk/style.css", lambda visit: _fixed(STYLE, "text/css"), public=True),
        site.route("/desk/icon.svg", lambda visit: _fixed(ICON, "image/svg+xml"), public=True),
        site.route("/desk/sign-in", sign_in_form, public=True),
        site.route("/desk/sign-in", sign_in, public=True, post=True),
        site.route("/desk/sign-out", sign_out, public=True, post=True),
        site.route("/desk/", list_requests, scope="requests:read"),
        site.route("/desk/search", search, scope="requests:read", post=True),
        site.route(one, one_request, scope="requests:read"),
        site.route(f"{one}/documents/{{document}}", document, scope="requests:read"),
        site.route(f"{one}/cancel", cancel, scope="requests:write", post=True),
        site.route(f"{one}/approve", approve, scope="requests:approve", post=True),
        site.route("/desk/new", new_request, scope="requests:write"),
        site.route("/desk/new/typed", preview_typed, scope="requests:write", post=True),
        site.route("/desk/new/file", preview_file, scope="requests:write", post=True),
        site.route(draft, show_draft, scope="requests:write"),
        site.route(f"{draft}/send", send_draft, scope="requests:write", post=True),
        site.route(f"{draft}/discard", discard_draft, scope="requests:write", post=True),
        site.route("/desk/health", health),
        site.route("/desk/versions", versions, scope="requests:read"),
    ]


def _reference_routes(app: FastAPI, site: Site) -> list[Route]:
    return [
        site.route("/docs", lambda visit: reference(visit, app.openapi())),
        site.route("/desk/{rest:path}", lambda visit, rest: visit.error(404, "there is no such page"), public=True),
    ]


def _fixed(text: str, media_type: str) -> Response:
    """A file of the site, which holds nothing about anybody, so a browser may keep it for a while."""
    headers = {"Cache-Control": "max-age=300", "X-Content-Type-Options": "nosniff"}
    return Response(text, media_type=media_type, headers=headers)
