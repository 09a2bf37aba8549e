"""Decides what DROP is told about a work item: pure functions of what it matched and of its request (docs/drop.md)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

from ..output.tickets import State, Ticket
from ..requests.outcome import ALREADY_GONE


class Code(IntEnum):
    """The status codes of DROP that are used here; 0 and 1 are not."""

    EXEMPTED = 2
    DELETED = 3
    OPTED_OUT = 4
    NOT_FOUND = 5


WAITS, REMOVED = "waits", "removed"


@dataclass(frozen=True)
class Decision:
    """What becomes of a work item in the answer.

    code: the code of DROP, or None where there is none to be told yet. reason: why it has this code or none. result: for the
    table of results.
    """

    code: Code | None
    reason: str | None = None
    result: str = WAITS

    @classmethod
    def of(cls, code: Code, reason: str | None = None) -> Decision:
        """A decision that has a code; its result is the name of the code."""
        return cls(code, reason, code.name.lower())


TAKEN_BACK = Decision(None, "the consumer took it back", REMOVED)


@dataclass(frozen=True)
class Rules:
    """What the section `drop` of the configuration says of matches. Users are named by id.

    exempt: users who are not forgotten. opted_out: users who were opted out of sale and sharing. several: what to do where
    several users have one identifier. nothing_held: what to say of a user of whom the model holds nothing.
    """

    exempt: Collection[str] = field(default=(), repr=False)
    opted_out: Collection[str] = field(default=(), repr=False)
    several: Literal["wait", "delete"] = "wait"
    nothing_held: Literal["wait", "deleted"] = "wait"


def on_match(users: Collection[str], nameless: bool, rules: Rules) -> Decision | list[str]:
    """The decision on a work item that has no request: its code, or the ids of the users to be forgotten for it, sorted.

    users: those whom its identifier leads to. nameless: whether a row of the table has its identifier and no user.
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
    """The decision on a work item that has a request. It says no more than the log does.

    reported: whether the log has the evidence of the request. all_reported: whether the log has the evidence of all requests
    that were carried out, and no check failed.
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
    """The decision where the request found nothing to remove. rows: the numbers of its rows by result."""
    gone = rows.get(ALREADY_GONE, 0)
    if gone and gone == sum(rows.values()):
        if all_reported:
            return Decision.of(Code.DELETED, "an earlier request removed it")
        return Decision(None, "an earlier request removed it, and some evidence is missing or has a check that failed")
    if rules.nothing_held == "deleted":
        return Decision.of(Code.DELETED, "the model held nothing of it (drop.nothing_held)")
    return Decision(None, "it matched a user of whom the model holds nothing (drop.nothing_held)")
