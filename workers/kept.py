"""Workers that outlive a command: what `unlearnrec.Session` gives to the commands it calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager

from .group import WorkerGroup


class KeptWorkers(ABC):
    """Workers that somebody keeps between commands. They may not run yet: the first block that uses them starts them, so
    that a command can check its input before it costs the start of Ray."""

    @property
    @abstractmethod
    def running(self) -> bool:
        """Whether there are workers."""

    @abstractmethod
    def use(self) -> AbstractContextManager[WorkerGroup]:
        """The group, for a `with` block, which does not end it."""

    @abstractmethod
    def stop(self) -> None:
        """End the workers, if there are any. The next block starts others."""


Workers = WorkerGroup | KeptWorkers
"""What a command may be given instead of starting workers of its own."""
