"""Deletion requests of a session: accepted at once, carried out together when somebody waits for one of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ...partitioning.errors import InputError
from ...workers import WorkerGroup
from ..evidence.report import add_evidence
from ..lifecycle.acceptance import accept, final_answer, under_current_id
from ..lifecycle.decisions import due_at
from ..lifecycle.operators import check_operator
from ..lifecycle.refusals import Held
from ..lifecycle.results_file import result_rows, stored_outcome
from ..lifecycle.suppression import open_list
from ..log.log import LogConflict
from ..log.records import iso
from ..models.carry_out import able_version, carry_out
from ..output.session import Session as OpenOutput
from ..output.tickets import State
from ..reporting.progress import Progress
from ..requests.request import Request
from ..tracking.run import Run
from .asked import Asked

if TYPE_CHECKING:
    import pyarrow as pa

    from ..output.tickets import Ticket

CONFLICTS, CONFLICT_SECONDS = 20, 0.5
"""How often a batch is tried again that another process overtook, and the pause between two attempts."""


class Requests:
    """The requests of one output that this session accepted. Not thread-safe."""

    def __init__(
        self,
        output: OpenOutput,
        workers: Callable[[], AbstractContextManager[WorkerGroup]],
        progress: Progress,
    ) -> None:
        """Raises InputError as `tracking.run.trackers_of`."""
        self._output, self._workers, self._progress = output, workers, progress
        self._run = Run(output.config, progress.note)
        self._open: dict[str, Request] = {}
        self._answers: dict[str, dict[str, Any]] = {}
        self._asked: dict[str, Request] = {}

    @property
    def waiting(self) -> list[str]:
        """The ids of the requests that were accepted here and have no answer yet, oldest first."""
        return [name for name in self._open if self._answered(name) is None]

    def accept(self, asked: Asked, request_id: str | None, requester: str | None) -> str:
        """Accept a request; returns its id. Its record is durable when this returns, and nothing is forgotten yet.

        Raises:
            InputError: as `commands.forget.forget`. Nothing was written then.
        """
        check_operator("requester", requester)
        output = self._output
        # Everything that somebody has to mend is checked before the request is accepted: from then on it counts.
        able_version(output)
        output.whole_version()
        open_list(output.store)
        request = asked.request(request_id, output.options, output.request_key())
        if request_id is None:
            request = under_current_id(output, request)
        self._asked[request.request_id] = request
        if (answer := final_answer(output, request)) is None:
            accept(output, request, requester)
            self._open[request.request_id] = request
        else:
            self._answers[request.request_id] = self._with_evidence([answer])[0] | {"repeated": True}
        return request.request_id

    def results(self, request_id: str) -> pa.Table:
        """What became of each row of a request that has its answer: a table as of `results_file.SCHEMA`.

        Raises:
            InputError: it was not given as rows, it has no answer yet, or what would tell was purged.
        """
        request = self._asked[request_id]
        if not request.rows:
            raise InputError(
                "results: only rows that are given as `requests` have results. Name users as rows: "
                'requests=[{"user_id": 17}]'
            )
        answer = final_answer(self._output, request)
        if answer is None:
            raise InputError(f"results: request {request_id} is not carried out yet. Call `wait()` first")
        outcome = stored_outcome(self._output, request, answer)
        if outcome is None:
            raise InputError(f"results: of request {request_id} a purge has removed what would tell")
        return result_rows(request, outcome)

    def close(self) -> None:
        """Send trackers what is left for them."""
        self._run.close()

    def ticket(self, request_id: str) -> Ticket:
        """What the log says of a request."""
        return self._output.ledger().tickets[request_id]

    def settle(self, request_id: str, seconds: float | None) -> dict[str, Any]:
        """Carry out a request, with all others that are due, and return its answer.

        seconds: how long to wait for the end of its grace window; None: as long as it takes.

        Raises:
            Held: it waits for an approval.
            RuntimeError: a service tried it in vain and put it aside; `forget` under its id opens it again.
            TimeoutError: its grace window does not end in time.
            LogConflict: other processes commit versions again and again.
            WorkerFailure: as `WorkerGroup.run`. In all of these cases it stays accepted.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        conflicts, alone = 0, False
        while True:
            if (answer := self._answered(request_id)) is not None:
                return answer
            ticket = self.ticket(request_id)
            if ticket.state is State.HELD and ticket.share is not None:
                raise Held(request_id, ticket.share, self._output.config.forget.max_share)
            if ticket.state is State.FAILED:
                raise RuntimeError(
                    f"request {request_id} failed in another process ({ticket.error}), and is put aside. Ask for it again"
                )
            if self._await_grace(ticket, deadline):
                continue  # it may have been cancelled meanwhile
            try:
                self._carry_out(request_id, alone)
            except LogConflict:
                # A service on the same output, or another command, was faster. Its version counts, and its answers too.
                conflicts += 1
                if conflicts > CONFLICTS:
                    raise
                time.sleep(CONFLICT_SECONDS)
            except Exception:
                if alone or len(self._due(request_id)) == 1:
                    raise
                alone = True  # another request of the batch may be the reason

    def _await_grace(self, ticket: Ticket, deadline: float | None) -> bool:
        """Wait a while for the end of a request's grace window; returns whether it is still open.

        Raises:
            TimeoutError: it ends after the deadline.
        """
        due = self._due_at(ticket)
        left = due - time.time()
        if left <= 0:
            return False
        if deadline is not None and time.monotonic() + left > deadline:
            raise TimeoutError(
                f"request {ticket.request_id} is accepted and waits until {iso(due)} (forget.grace_seconds); after that a "
                "`wait()` carries it out, or `unlearnrec serve`"
            )
        time.sleep(min(left, 1.0))
        return True

    def _due_at(self, ticket: Ticket) -> float:
        return due_at(ticket, self._output.config.forget.grace_seconds)

    def _due(self, request_id: str) -> list[Request]:
        """This request and the others that are due, as many as one version may carry out, oldest first."""
        now, others = time.time(), []
        for name in self._open:
            ticket = self._output.ledger(look=False).open.get(name)
            waits = ticket is not None and ticket.state is State.ACCEPTED
            if name != request_id and ticket is not None and waits and self._due_at(ticket) <= now:
                others.append(name)
        chosen = {request_id, *others[: self._output.config.serve.max_batch - 1]}
        return [request for name, request in self._open.items() if name in chosen]

    def _carry_out(self, request_id: str, alone: bool) -> None:
        batch = [self._open[request_id]] if alone else self._due(request_id)
        with self._workers() as group:
            # The evidence comes after the commit, because it is read back from the committed files.
            done = carry_out(self._output, batch, group, self._progress)
            self._run.requests(list(done.values()))
            for answer in add_evidence(self._output, list(done.values()), group, self._progress):
                self._answers[answer["request_id"]] = answer

    def _answered(self, request_id: str) -> dict[str, Any] | None:
        """The final answer of a request; None while it has none."""
        if request_id not in self._answers:
            answer = final_answer(self._output, self._open[request_id])
            if answer is None:
                return None
            # Somebody else carried it out, or this session did, and was interrupted behind the commit.
            self._answers[request_id] = self._with_evidence([answer])[0]
        return self._answers[request_id]

    def _with_evidence(self, answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return add_evidence(self._output, answers, progress=self._progress)
