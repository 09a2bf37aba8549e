"""Every refusal of a request that a caller may get, as an exception."""

from __future__ import annotations

from ...partitioning.errors import InputError
from ..config.schema import Config


class Held(InputError):
    """A request waits for somebody's approval."""

    def __init__(self, request_id: str, share: float, max_share: float) -> None:
        super().__init__(
            f"request {request_id} removes {share:.2%} of the interactions, more than forget.max_share={max_share:g}, and "
            f"is held: nothing was deleted. Let somebody else look at it and run `unlearnrec approve {request_id} --by "
            f"NAME`, then this command again; or `unlearnrec cancel {request_id}`"
        )


class NotApproved(InputError):
    """The request is not held, or not this person's to approve."""


def unknown_request(config: Config, request_id: str) -> InputError:
    """What to raise for an id that the log does not have."""
    return InputError(f"{config.output} has no request {request_id!r}. Check the id and `output`")


class TakenId(InputError):
    """Another request has this id."""


class UnreadableRequest(RuntimeError):
    """The content of an accepted request is not there, or not the one that was accepted."""


class TooMany(Exception):
    """So many requests are open that no other is accepted; another attempt is worth it after `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class TooLate(InputError):
    """The request cannot be cancelled any more."""
