"""What `Session.forget` returns: a request that is accepted, to wait for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .results import ForgetResult

if TYPE_CHECKING:
    import pyarrow as pa


class ForgetRequest:
    """A deletion request that was accepted: it is in the log, and durable. Nothing is forgotten before `wait`.

    Several requests become one version where all are accepted before the first is waited for. Requests that nobody waits
    for are carried out at the end of the session's `with` block.
    """

    def __init__(
        self,
        request_id: str,
        status: Callable[[], str],
        settle: Callable[[float | None], dict[str, Any]],
        results: Callable[[], pa.Table],
    ) -> None:
        """status: asks the log. settle: carries the request out within so many seconds of waiting, and returns its answer.
        results: what became of its rows."""
        self._request_id, self._status, self._settle, self._results = request_id, status, settle, results

    @property
    def request_id(self) -> str:
        """The id under which the log has it, and under which any process can ask where it is."""
        return self._request_id

    @property
    def status(self) -> str:
        """Where the request is, as the log says now: "accepted" and not carried out, "held" until somebody approves it,
        "failed", "committed", "completed" (there was nothing to forget) or "cancelled"."""
        return self._status()

    @property
    def done(self) -> bool:
        """Whether it has its final answer, so that `wait` returns at once."""
        return self.status in ("committed", "completed", "cancelled")

    def wait(self, timeout: float | None = None) -> ForgetResult:
        """Carry the request out, together with the others of the session that wait, and return what became of it.

        When this returns with `status == "committed"`, a version without what was named is the current one. After Ctrl-C the
        request is still accepted, or it is committed, and `wait` can be called again.

        Args:
            timeout: how many seconds to wait for the end of the grace window (`forget.grace_seconds`); None: until it ends.
                Once the work has begun it is not given up.

        Raises:
            Held: the request removes more than `forget.max_share`. See `Session.approve` and `Session.cancel`.
            TimeoutError: the grace window ends later. The request stays accepted.
            SessionClosed: the session was closed, and the request has no answer yet. It stays accepted.
            WorkerFailure: workers failed again and again. The request stays accepted.
        """
        return ForgetResult.of(self._settle(timeout))

    def results(self) -> pa.Table:
        """What became of each row of `requests`, in their order: `row` (from 1), `result` ("deleted", "not_found",
        "already_gone" or "invalid"), `removed_interactions`, `removed_events`, `reason`. It has no ids.

        Raises:
            InputError: the request was not given as `requests`, is not carried out yet, or a `purge` has removed what would
                tell.
        """
        return self._results()

    def __repr__(self) -> str:
        about = {"accepted": "accepted and durable, not carried out yet", "held": "held until somebody approves it"}
        status = self.status
        return f"<ForgetRequest {self._request_id}: {about.get(status, status)}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # IPython's own guess would be the same, and slower
        printer.text(repr(self))
