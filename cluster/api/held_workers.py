"""Workers that stay between the calls of a session, and Ray, which the sessions of a process share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import ray

from ...partitioning.errors import InputError
from ...workers import KeptWorkers, WorkerGroup
from ...workers.connection import connect_to_ray
from ...workers.shared_folder import check_folder
from ..config.schema import Config
from ..log.log import LogConflict
from ..output.session import worker_settings


class _SharedRay:
    """The connection to Ray of all sessions of this process. There is one Ray in a process, so the last session that uses
    it ends it, and only where a session has started it."""

    def __init__(self) -> None:
        self._lock, self._users, self._owned = Lock(), 0, False

    def take(self, address: str | None) -> None:
        """Connect, unless the process is connected."""
        with self._lock:
            self._owned |= connect_to_ray(address)
            self._users += 1

    def release(self) -> None:
        """Count a user less; after the last one, end what was started here."""
        with self._lock:
            self._users -= 1
            if not self._users and self._owned:
                self._owned = False
                ray.shutdown()


_shared_ray = _SharedRay()


class HeldWorkers(KeptWorkers):
    """The group of workers of one session. It starts when it is first needed, and stays until `stop`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._group: WorkerGroup | None = None

    @property
    def running(self) -> bool:
        """Whether there are workers."""
        return self._group is not None

    @contextmanager
    def use(self) -> Iterator[WorkerGroup]:
        """The group, for a `with` block.

        Bad input, and a commit that another process overtook, leave the workers as they are. After anything else, such as
        Ctrl-C in the middle of a call, they may still be at work for nobody: they are ended, and the next block starts
        others.
        """
        group = self._group or self._start()
        try:
            yield group
        except (InputError, LogConflict):
            raise
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the workers, if there are any."""
        if self._group is not None:
            group, self._group = self._group, None
            try:
                group.shutdown()
            finally:
                _shared_ray.release()

    def _start(self) -> WorkerGroup:
        cluster = self._config.cluster
        _shared_ray.take(cluster.address)
        try:
            group = WorkerGroup.start(worker_settings(cluster), address=cluster.address)
        except BaseException:
            _shared_ray.release()
            raise
        self._group = group  # before the check: whatever it raises, `stop` ends the workers
        try:
            check_folder(self._config.output)  # workers on other machines must see the same folder before they use it
        except BaseException:
            self.stop()
            raise
        return group
