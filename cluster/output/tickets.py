"""The ticket of a request: its state, and what the log says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


class State(Enum):
    """The state of a request. HELD waits for an approval. FAILED is a quarantine: the request may be accepted again. The
    last three are final."""

    ACCEPTED = "accepted"
    HELD = "held"
    FAILED = "failed"
    COMMITTED = "committed"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


OPEN = frozenset({State.ACCEPTED, State.HELD})
FINAL = frozenset({State.COMMITTED, State.COMPLETED, State.CANCELLED})


@dataclass(frozen=True)
class Ticket:
    """What the log says of one request. Times are in seconds since the epoch."""

    request_id: str
    state: State
    accepted_at: float
    """When it was accepted for the first time. Its deadline counts from then."""
    commitment: str = ""
    """The salted digest of its content (`requests.request.commitment`)."""
    answer: Mapping[str, Any] | None = None
    error: str | None = None
    first_record: int = 0
    """The number of the first record that its evidence names, or will name."""
    requester: str | None = None
    """The operator who asked for it, as named at its acceptance."""
    share: float | None = None
    """The share of the interactions that it would remove, because of which it was held; None where it was not held."""
    approved_by: str | None = None
    closed_at: int = 0
    """The number of the record that closed it; 0 while it is open."""
    accepted_again_at: float | None = None
    """When it was accepted for the last time, where it failed and was posted again. It has a new grace window then, but the
    deadline stays."""
    evidence_failed: Sequence[str] | None = None
    """The names of the checks of its evidence that failed; None where it has no evidence yet."""

    @property
    def waits_from(self) -> float:
        """When it was last accepted. Its grace window begins then."""
        return self.accepted_at if self.accepted_again_at is None else self.accepted_again_at

    @property
    def final(self) -> bool:
        """Whether its state will not change any more."""
        return self.state in FINAL

    def describe(self) -> dict[str, Any]:
        """What `status` says of it: the answer where there is one, and always `request_id`, `status`, `phase` and
        `version`. A committed request without evidence has `checks`: "pending"."""
        plain = {"request_id": self.request_id, "status": self.state.value, "version": None}
        more = {name: getattr(self, name) for name in ("error", "requester", "share", "approved_by", "evidence_failed")}
        known = {name: value for name, value in more.items() if value is not None}
        known |= {"checks": "pending"} if self.state is State.COMMITTED and self.evidence_failed is None else {}
        return {"phase": self.state.value, **(self.answer or plain), **known}
