"""What can be asked of the service, written down once: the HTTP side imports it, and mypy checks all who implement it.

`Intake` and `Service` implement it in the process of the loop, `Coordinator` as an actor, and `RemoteService` in another
process. Those that only hand calls on take their methods from here with `forwarded`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from ..requests.request import Id, Range
from .documents import Document
from .listing import RequestQuery

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")
Method = Callable[Concatenate[Any, Arguments], Answer]
"""A method of a class, named as `Class.method`: mypy checks the arguments that go with it."""


@dataclass(frozen=True)
class NewRequest:
    """A deletion request as somebody makes it."""

    users: Sequence[Id] = ()
    items: Sequence[Id] = ()
    interactions: Sequence[tuple[Id, Id]] = ()
    ranges: Sequence[Range] = ()
    request_id: str | None = None
    """None: the id is derived from what is named."""
    requester: str | None = None
    """The operator who asks, whose name the log keeps."""
    callback_urls: Sequence[str] = ()
    """They are told of each change of the request's state."""
    invalid: int = 0
    """The number of rows of a file that mean nothing. They are counted in the answer's `rows`."""


class RequestsInterface(Protocol):
    """Deletion requests: made, looked at, cancelled, approved."""

    def accept(self, new: NewRequest) -> dict[str, Any]:
        """Accept a request. If it was accepted before, say where it is, with `repeated`; one that failed is tried again.

        Its record is durable when this returns. The callback URLs of a request that is accepted already stay as they are.

        Raises:
            TakenId: another request has this id.
            TooMany: so many requests are open that no other is accepted.
        """

    def status(self, request_id: str) -> dict[str, Any] | None:
        """Where a request is; None if nobody made it."""

    def cancel(self, request_id: str) -> dict[str, Any] | None:
        """Cancel a request that is held, or in its grace window; None if nobody made it. Cancelling it again changes
        nothing.

        Raises:
            TooLate: it cannot be cancelled any more.
        """

    def approve(self, request_id: str, by: str) -> dict[str, Any] | None:
        """Let a held request be carried out; None if nobody made it. Approving it again changes nothing.

        Raises:
            NotApproved: it is not held, or `by` asked for it.
        """


class DeskInterface(Protocol):
    """What somebody wants to see who works with requests. Nothing here names a user or an item."""

    def requests(self, query: RequestQuery) -> dict[str, Any]:
        """A page of requests: `requests`, each as `RequestsInterface.status` says where it is, and `next`, the
        `RequestQuery.after` of the next page (None: there is none)."""

    def timeline(self, request_id: str) -> dict[str, Any] | None:
        """What happened to a request: `request` (as `RequestsInterface.status`), `steps` (as `timeline.timeline`) and
        `documents` (as `documents.list_documents`); None if nobody made it."""

    def document(self, request_id: str, name: str) -> Document | None:
        """A document of a request; None if there is no such request, or none of this name.

        Raises:
            InputError: the file is not the one that the log fixes.
        """

    def preview(self, new: NewRequest) -> dict[str, Any]:
        """What a request would change, in counts (as `forget --dry-run`). Nothing is accepted and nothing written.

        Raises:
            InputError: there is no version from which requests can be forgotten, or a file of it is damaged.
            OSError: the storage does not answer, or too many others look at the moment.
        """

    def versions(self, before: int | None, limit: int) -> dict[str, Any]:
        """As `overview.Overview.versions`."""

    def suppressed(self) -> dict[str, Any]:
        """As `overview.Overview.suppressed`."""


class ServiceInterface(RequestsInterface, DeskInterface, Protocol):
    """All that the HTTP side asks."""

    def recommendations(self, user: str, k: int) -> dict[str, Any] | None:
        """The k best items for a user in the version that is loaded; None for a user who is not in it.

        Raises:
            LookupError: no version is loaded yet.
        """

    def health(self) -> dict[str, Any]:
        """Whether recommendations can be answered (`status`), from which `version`, and what keeps requests waiting
        (`blocked`: the class of an error); where a table is followed, what keeps its deletions from becoming requests
        (`watch_blocked`). No id of a user or item."""

    def gauges(self) -> dict[str, float]:
        """Name and labels -> value, for `/metrics`. No id of a user or item."""


def forwarded(method: Method[Arguments, Answer]) -> Method[Arguments, Answer]:
    """The same method for a class that has no answer of its own: its `forward(method, ...)` knows who has."""

    def forward(self: Any, *arguments: Arguments.args, **keywords: Arguments.kwargs) -> Answer:
        answer: Answer = self.forward(method, *arguments, **keywords)
        return answer

    # Not functools.wraps: Ray would look behind this function, and find no concurrency group there.
    forward.__name__, forward.__qualname__, forward.__doc__ = method.__name__, method.__qualname__, method.__doc__
    return forward


class ForwardsRequests(RequestsInterface, DeskInterface):
    """`RequestsInterface` and `DeskInterface`, forwarded."""

    accept = forwarded(RequestsInterface.accept)
    status = forwarded(RequestsInterface.status)
    cancel = forwarded(RequestsInterface.cancel)
    approve = forwarded(RequestsInterface.approve)
    requests = forwarded(DeskInterface.requests)
    timeline = forwarded(DeskInterface.timeline)
    document = forwarded(DeskInterface.document)
    preview = forwarded(DeskInterface.preview)
    versions = forwarded(DeskInterface.versions)
    suppressed = forwarded(DeskInterface.suppressed)

    @abstractmethod
    def forward(
        self, method: Method[Arguments, Answer], *arguments: Arguments.args, **keywords: Arguments.kwargs
    ) -> Answer:
        """Call this method of whoever answers."""


class ForwardsAll(ForwardsRequests, ServiceInterface):
    """`ServiceInterface`, forwarded."""

    recommendations = forwarded(ServiceInterface.recommendations)
    health = forwarded(ServiceInterface.health)
    gauges = forwarded(ServiceInterface.gauges)
