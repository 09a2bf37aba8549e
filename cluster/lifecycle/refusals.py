"""The refusals of requests, each an exception that a caller may get."""

from __future__ import annotations

from ...partitioning.errors import InputError
from ..config.schema import Config


class Held(InputError):
    """The request is held: it removes more than `forget.max_share`, and waits for an approval."""

    def __init__(self, request_id: str, share: float, max_share: float) -> None:
        super().__init__(
            f"request {request_id} removes {share:.2%} of the interactions, more than forget.max_share={max_share:g}, and "
            f"is held: nothing was deleted. Let somebody else look at it and run `unlearnrec approve {request_id} --by "
            f"NAME`, then this command again; or `unlearnrec cancel {request_id}`"
        )


class NotApproved(InputError):
    """The request cannot be approved: it is not held, or the person who approves is the one who asked for it."""


def unknown_request(config: Config, request_id: str) -> InputError:
    """The error to raise for a request id that the log does not have."""
    return InputError(f"{config.output} has no request {request_id!r}. Check the id and `output`")


class TakenId(InputError):
    """Another request has this id."""


class UnreadableRequest(RuntimeError):
    """The content of an accepted request is missing, or is not the one that was accepted."""


class TooMany(Exception):
    """Too many requests are open, and no other is accepted now. The client should try again after `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class TooLate(InputError):
    """The request cannot be cancelled any more."""
