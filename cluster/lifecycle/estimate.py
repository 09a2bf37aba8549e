"""How long a request will take, from those that the log has (docs/forgetting.md)."""

from __future__ import annotations

from statistics import median

from ..output.ledger import Ledger, State

LATEST = 20
"""Versions that are looked at."""


def estimated_seconds(ledger: Ledger, interactions: int) -> float | None:
    """The median of the latest versions that requests made on the graph of the current ingest; None where there is none.

    With readouts where the version's evidence says how long it took, else until its commit. A request for more interactions
    than any of these is given the median in proportion: rather too much, because a part of the time does not grow.
    """
    seconds: dict[int, float] = {}
    removed: dict[int, int] = {}
    for ticket in list(ledger.tickets.values()):
        answer = ticket.answer
        if ticket.state is State.COMMITTED and answer and answer["version"] >= ledger.ingested_version:
            version = answer["version"]
            reported = ledger.evidence.get(ticket.request_id, {}).get("seconds") or 0.0
            seconds[version] = max(seconds.get(version, 0.0), answer["seconds"], reported)
            removed[version] = removed.get(version, 0) + answer["removed_interactions"]
    latest = sorted(seconds)[-LATEST:]
    if not latest:
        return None
    return median(seconds[v] for v in latest) * max(1.0, interactions / max(1, *(removed[v] for v in latest)))
