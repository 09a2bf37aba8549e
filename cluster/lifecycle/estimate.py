"""Estimates how long a request will take, from the requests in the log (docs/forgetting.md)."""

from __future__ import annotations

from statistics import median

from ..output.ledger import Ledger
from ..output.tickets import State

LATEST = 20
"""The number of latest versions that an estimate is made from."""


def estimated_seconds(ledger: Ledger, interactions: int) -> float | None:
    """The seconds that a request will take which removes this number of interactions; None where nothing is known yet.

    It is the median time of the latest versions that requests made on the current ingest. A version's time is that in its
    evidence, which includes the readouts, or else the time until its commit. For a request with more interactions than any
    of these versions removed, the median grows in proportion. That is rather too much, because a part of the time does not
    grow.
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
