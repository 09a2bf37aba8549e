"""The HTTP side of the service (docs/serving.md): it validates, checks scopes and chooses status codes; all else is
decided by the service."""

from __future__ import annotations

import anyio
from fastapi import FastAPI

from ..serving.callbacks import API_VERSION
from ..serving.interface import ServiceInterface
from .admission import Admission, AdmissionRules, Pages
from .errors import handle_errors
from .list_routes import add_evidence_routes, add_list_route
from .read_routes import MEMORY_THREADS, add_operations_routes, add_recommendations_route
from .request_routes import add_approval_route, add_discovery_route, add_request_routes, document_callback_urls
from .strict_json import StrictRoute


def make_app(
    service: ServiceInterface, rules: AdmissionRules, callback_pattern: str | None = None, pages: Pages | None = None
) -> FastAPI:
    """The application.

    callback_pattern: of the URLs that may be called (`callbacks.url_pattern`); None: none may. pages: those that the caller
    adds to the application; None: none.
    """
    app = FastAPI(title="unlearnrec", version=API_VERSION, docs_url=None, redoc_url=None)
    app.router.route_class = StrictRoute
    app.add_middleware(Admission, rules=rules, pages=pages)
    handle_errors(app)
    threads = anyio.CapacityLimiter(MEMORY_THREADS)
    # On the application itself, not on an APIRouter: `errors` looks through `app.routes` for the methods of a path.
    add_request_routes(app, service, callback_pattern)
    add_list_route(app, service)
    add_evidence_routes(app, service)
    add_approval_route(app, service, bool(rules.tokens))
    add_discovery_route(app)
    add_recommendations_route(app, service, threads)
    add_operations_routes(app, service, threads)
    document_callback_urls(app, callback_pattern)
    return app
