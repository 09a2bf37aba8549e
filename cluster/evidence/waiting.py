"""Evidence that waits: of the requests that this process carried out, while others are waiting to be carried out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...workers import WorkerGroup
from ..output.session import Session
from ..reporting.progress import Progress
from .report import add_evidence, drafted

THREADS = 8
"""The reports that are written at a time."""


class Waiting:
    """The reports of committed requests, from their commit until they are written.

    Nothing is lost with it: the log says which committed requests have no evidence, and whoever comes later makes it from
    the files, without scores and phases.
    """

    def __init__(self, session: Session, progress: Progress, threads: int = THREADS) -> None:
        self._session, self._progress, self._threads = session, progress, threads
        self._answers: list[Mapping[str, Any]] = []
        """Of the last version, while the workers hold it and nobody has looked at it."""
        self._drafts: dict[str, dict[str, Any]] = {}

    def committed(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """Take in the answers of a batch that was committed."""
        self._answers += answers

    def look(self, group: WorkerGroup | None) -> None:
        """Look at the version that was committed last, unless that was done: after another commit the workers hold that
        version, and nobody can score the pairs of this one any more."""
        answers, self._answers = self._answers, []
        self._drafts |= drafted(self._session, answers, group) if answers else {}

    def write(self, request_ids: Sequence[str], group: WorkerGroup | None) -> None:
        """Write the evidence of these committed requests; those that another process left, too."""
        self.look(group)
        tickets = self._session.ledger().tickets
        answers = [tickets[request_id].describe() for request_id in request_ids]
        known = {request_id: self._drafts.pop(request_id) for request_id in request_ids if request_id in self._drafts}
        add_evidence(self._session, answers, None, self._progress, known=known, threads=self._threads)
