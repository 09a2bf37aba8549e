"""What is told of a work item: pure decisions on what it matched and on its request (docs/drop.md)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

from ..output.ledger import State, Ticket
from ..requests.outcome import ALREADY_GONE


class Code(IntEnum):
    """DROP's status codes; 0 and 1 are not used."""

    EXEMPTED = 2
    DELETED = 3
    OPTED_OUT = 4
    NOT_FOUND = 5


WAITS, REMOVED = "waits", "removed"


@dataclass(frozen=True)
class Decision:
    """What becomes of a work item in the answer: a code, or none and why not."""

    code: Code | None
    reason: str | None = None
    result: str = WAITS

    @classmethod
    def of(cls, code: Code, reason: str | None = None) -> Decision:
        """One that has a code."""
        return cls(code, reason, code.name.lower())


TAKEN_BACK = Decision(None, "the consumer took it back", REMOVED)


@dataclass(frozen=True)
class Rules:
    """What the configuration says of matches; users by id."""

    exempt: Collection[str] = field(default=(), repr=False)
    opted_out: Collection[str] = field(default=(), repr=False)
    several: Literal["wait", "delete"] = "wait"
    nothing_held: Literal["wait", "deleted"] = "wait"


def on_match(users: Collection[str], nameless: bool, rules: Rules) -> Decision | list[str]:
    """Of a work item without a request: its code, or the users to be forgotten for it.

    nameless: whether a row with its identifier has no user.
    """
    if nameless:
        return Decision(None, "a row with its identifier has no user")
    if not users:
        return Decision.of(Code.NOT_FOUND)
    left = sorted(set(users).difference(rules.exempt))
    if not left:
        return Decision.of(Code.EXEMPTED)
    if len(users) > 1 and rules.several == "wait":
        if set(left) <= set(rules.opted_out):
            return Decision.of(Code.OPTED_OUT)
        return Decision(None, "several users have its identifier, and not all are in drop.opted_out")
    return left


def on_ticket(ticket: Ticket, reported: bool, all_reported: bool, rules: Rules) -> Decision:
    """Of a work item with a request: what the log says of it, and no more than that.

    reported: whether the log has the evidence of the request. all_reported: whether it has that of all that were carried
    out, without any check that failed.
    """
    if ticket.state is State.CANCELLED:
        return Decision(None, "its request was cancelled", REMOVED)
    if ticket.state is State.COMMITTED:
        if not reported or ticket.evidence_failed is None:
            return Decision(None, "its evidence is not written yet")
        if ticket.evidence_failed:
            return Decision(None, "a check of its evidence failed")
        return Decision.of(Code.DELETED)
    if ticket.state is State.COMPLETED:
        return _nothing_removed((ticket.answer or {}).get("rows", {}), all_reported, rules)
    waiting = {
        State.HELD: "its request is held until somebody approves it",
        State.FAILED: "its request failed",
        State.ACCEPTED: "its request is accepted and not carried out yet",
    }
    return Decision(None, waiting[ticket.state])


def _nothing_removed(rows: dict[str, Any], all_reported: bool, rules: Rules) -> Decision:
    gone = rows.get(ALREADY_GONE, 0)
    if gone and gone == sum(rows.values()):
        if all_reported:
            return Decision.of(Code.DELETED, "an earlier request removed it")
        return Decision(None, "an earlier request removed it, and some evidence is missing or has a check that failed")
    if rules.nothing_held == "deleted":
        return Decision.of(Code.DELETED, "the model held nothing of it (drop.nothing_held)")
    return Decision(None, "it matched a user of whom the model holds nothing (drop.nothing_held)")
