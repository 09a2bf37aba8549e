"""The coordinator's service as the HTTP face of another process sees it."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

ANSWER_SECONDS = 60.0


class RemoteService:
    """`http.Service` and `http.Desk` at an actor (`detached.Coordinator`), whose exceptions are raised here.

    Raises (every method but `health`): ConnectionError where the actor does not answer, such as while it is restarted.
    """

    def __init__(self, actor: Any, seconds: float = ANSWER_SECONDS) -> None:
        """seconds: the longest that an answer may take."""
        self._actor, self._seconds = actor, seconds
        self.desk = self

    def accept(self, *arguments: Any, **keywords: Any) -> dict[str, Any]:
        """As `Desk.accept`."""
        return self._ask("accept", *arguments, **keywords)

    def status(self, request_id: str) -> dict[str, Any] | None:
        """As `Desk.status`."""
        return self._ask("status", request_id)

    def cancel(self, request_id: str) -> dict[str, Any] | None:
        """As `Desk.cancel`."""
        return self._ask("cancel", request_id)

    def approve(self, request_id: str, by: str) -> dict[str, Any] | None:
        """As `Desk.approve`."""
        return self._ask("approve", request_id, by)

    def recommendations(self, user: str, k: int) -> dict[str, Any] | None:
        """As `Service.recommendations`."""
        return self._ask("recommendations", user, k)

    def gauges(self) -> dict[str, float]:
        """As `Service.gauges`."""
        return self._ask("gauges")

    def health(self) -> dict[str, Any]:
        """As `Service.health`; without the actor nothing is served."""
        try:
            return self._ask("health")
        except ConnectionError:
            return {"status": "starting", "version": None, "blocked": "the coordinator is being restarted"}

    def _ask(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        try:
            return ray.get(getattr(self._actor, method).remote(*arguments, **keywords), timeout=self._seconds)
        except RayTaskError as error:
            raise error.cause from None
        except (RayActorError, GetTimeoutError):
            raise ConnectionError("the coordinator does not answer") from None
