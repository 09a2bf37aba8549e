"""The health of the service with what is owed, and the versions with their measures."""

from __future__ import annotations

from starlette.responses import Response

from .visits import Visit

VERSIONS = 25


def health(visit: Visit) -> Response:
    """What keeps requests waiting, and with the scope of the metrics all that needs somebody's attention."""
    service = visit.site.service
    may = visit.may("metrics:read")
    return visit.page(
        "health.html",
        health=service.health(),
        gauges=service.gauges() if may else None,
        suppressed=service.suppressed() if may else None,
    )


def versions(visit: Visit) -> Response:
    """A page of versions, newest first."""
    before = visit.request.query_params.get("before", "")
    page = visit.site.service.versions(int(before) if before.isdecimal() and len(before) < 10 else None, VERSIONS)
    return visit.page("versions.html", versions=page["versions"], next=page["next"])
