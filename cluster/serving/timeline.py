"""The timeline of a request: what happened to it, when, and who did it. Pure functions of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..log.records import ACCEPTED, APPROVED, CANCELLED, COMMITTED, COMPLETED, EVIDENCE, FAILED, HELD, RECEIPT, iso
from ..output.steps import pairs
from ..output.tickets import Ticket

RECEIVED, MATCHED, CARRIED_OUT, CHECKED = "received", "matched", "carried_out", "checked"
STEPS = (RECEIVED, HELD, APPROVED, MATCHED, CARRIED_OUT, CHECKED, RECEIPT, CANCELLED, FAILED, "received_again")
"""The names of steps."""
FOUND = ("removed_interactions", "removed_events", "deleted_users", "deleted_items", "rows", "unknown_ids")
"""The counts of an answer that the step MATCHED repeats."""
_NAMES = {ACCEPTED: "received_again", COMMITTED: CARRIED_OUT, COMPLETED: CARRIED_OUT, EVIDENCE: CHECKED}


def timeline(ticket: Ticket, steps: Sequence[Any], first_receipt: str | None = None) -> list[dict[str, Any]]:
    """The steps of a request in order, each with `step` (one of STEPS), `at` (ISO-8601; None where it is not known), `by`
    (who did it, by the name in the log; None where nobody is named), and what more is known of it.

    A request is matched with the data when it is carried out, or held; that step has the time of the one that it comes with.

    steps: of this request (`Ledger.steps`); a checkpoint of an earlier release leaves some out, and their times are not
    known then. first_receipt: when the receipt that comes with the evidence was written (ISO-8601), which no record says.
    """
    found = [_step(RECEIVED, ticket.accepted_at, by=ticket.requester)]
    told = list(pairs(steps))
    for kind, seconds in told:
        if kind == HELD:
            found += [_step(HELD, seconds, share=ticket.share)]
        elif kind == APPROVED:
            found.append(_step(APPROVED, seconds, by=ticket.approved_by))
        elif kind in (COMMITTED, COMPLETED):
            found += _carried_out(ticket, seconds)
        elif kind == EVIDENCE:
            found.append(_step(CHECKED, seconds, failed=list(ticket.evidence_failed or ())))
        elif kind == FAILED:
            found.append(_step(FAILED, seconds, error=ticket.error))
        else:
            found.append(_step(_NAMES.get(kind, kind), seconds))
    known = {kind for kind, _ in told}
    # What the ticket says and no step does: a checkpoint of an earlier release stands for it.
    if ticket.share is not None and HELD not in known:
        found.insert(1, _step(HELD, None, share=ticket.share))
    if ticket.approved_by is not None and APPROVED not in known:
        found.insert(2 if ticket.share is not None else 1, _step(APPROVED, None, by=ticket.approved_by))
    if ticket.state.value in (COMMITTED, COMPLETED) and ticket.state.value not in known:
        late = [place for place, one in enumerate(found) if one["step"] in (CHECKED, RECEIPT)]
        place = min(late, default=len(found))
        found[place:place] = _carried_out(ticket, None)
    if ticket.state.value in (CANCELLED, FAILED) and ticket.state.value not in known:
        found.append(_step(ticket.state.value, None, error=ticket.error))
    if first_receipt is not None and RECEIPT not in known:  # later states of the receipt have a record each
        found.append({**_step(RECEIPT, None), "at": first_receipt, "number": 1})
    return found


def _carried_out(ticket: Ticket, seconds: float | None) -> list[dict[str, Any]]:
    answer = ticket.answer or {}
    counts = {name: answer[name] for name in FOUND if name in answer}
    return [
        _step(MATCHED, seconds, matched=answer.get("matched"), **counts),
        _step(
            CARRIED_OUT,
            seconds,
            version=answer.get("version"),
            seconds=answer.get("seconds"),
            gate=answer.get("gate", {}).get("status"),
        ),
    ]


def _step(name: str, at: float | None, by: str | None = None, **more: Any) -> dict[str, Any]:
    known = {key: value for key, value in more.items() if value is not None}
    return {"step": name, "at": None if at is None else iso(at), "by": by, **known}
