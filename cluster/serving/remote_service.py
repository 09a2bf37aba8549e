"""The coordinator's service as another process sees it, such as that of the HTTP side."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from .interface import Answer, Arguments, ForwardsAll, Method

ANSWER_SECONDS = 60.0


def call_actor(
    actor: Any,
    seconds: float,
    method: Method[Arguments, Answer],
    *arguments: Arguments.args,
    **keywords: Arguments.kwargs,
) -> Answer:
    """Call a method of an actor, named as that of its class, and wait for its answer this long.

    Raises:
        RayActorError, GetTimeoutError: the actor does not answer.
        Exception: what the method raises there.
    """
    try:
        answer: Answer = ray.get(getattr(actor, method.__name__).remote(*arguments, **keywords), timeout=seconds)
    except RayTaskError as error:
        raise error.cause from None
    return answer


class RemoteService(ForwardsAll):
    """`ServiceInterface` at an actor (`actor.Coordinator`), whose exceptions are raised here.

    Raises (every method but `health`): ConnectionError where the actor does not answer, such as while it is restarted.
    """

    def __init__(self, actor: Any, seconds: float = ANSWER_SECONDS) -> None:
        """seconds: the longest that an answer may take."""
        self._actor, self._seconds = actor, seconds

    def forward(
        self, method: Method[Arguments, Answer], *arguments: Arguments.args, **keywords: Arguments.kwargs
    ) -> Answer:
        """Ask the actor."""
        try:
            return call_actor(self._actor, self._seconds, method, *arguments, **keywords)
        except (RayActorError, GetTimeoutError):
            raise ConnectionError("the coordinator does not answer") from None

    def health(self) -> dict[str, Any]:
        """As `ServiceInterface.health`; without the actor nothing is served."""
        try:
            return super().health()
        except ConnectionError:
            return {"status": "starting", "version": None, "blocked": "the coordinator is being restarted"}
