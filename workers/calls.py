"""A call of a method on all workers, as a value: the method, named as itself, and its arguments.

`calling(Partition.find, removal, timed)` gives mypy the method, so that it checks the arguments and knows the result; the
value holds only the method's name, so that the driver sends no code and a worker looks the method up on its own host.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Call(Generic[R]):
    """A method of the host with its arguments; R is what the method returns on one worker. Picklable if these are."""

    method: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def on(self, host: object) -> R:
        """Call the method on this host and return its result."""
        result: R = getattr(host, self.method)(*self.args, **self.kwargs)
        return result


def calling(method: Callable[Concatenate[Any, P], R], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
    """The call of `method`, a function of the host's class such as `Partition.find`, with these arguments."""
    return Call(method.__name__, args, kwargs)
