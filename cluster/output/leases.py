"""Leases: who reads a version says so, and a purge leaves its files until the lease ends (docs/commit.md).

A lease is a file `leases/VERSION-ID.json`: {"until": seconds since the epoch, "files": names}; a name that ends in `*`
stands for all that begin so. A reader that dies leaves it to end by itself. One that cannot be read holds the files of all
versions, for as long as it could if it had just been written.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
import uuid
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread

from ..layout import LEASES, lease_name
from .manifest import Manifest
from .session import Session

log = logging.getLogger(__name__)


@contextmanager
def leased(session: Session) -> Iterator[Manifest]:
    """The current version, whose files stay for the block, or `forget.lease_seconds` if that is less.

    Who may not write to the output reads without a lease.

    Raises:
        InputError: as `Session.version`.
    """
    while True:
        version = session.version()
        name = lease_name(version.version, _unique())
        try:
            session.store.create(name, _lease(session, version.files))
        except PermissionError:
            yield version
            return
        # A purge takes files of what is not current any more, and reads the leases after the log: it has seen this one if
        # the version is still current now.
        if session.version().version == version.version:
            break
        session.store.remove(name)
    try:
        yield version
    finally:
        with contextlib.suppress(OSError):
            session.store.remove(name)


class Lease:
    """One for a long command, renewed while it runs; `with` ends it. Files can be added."""

    def __init__(self, session: Session, number: int, files: Iterable[str]) -> None:
        """number: of the version that is under way. files: names, as above."""
        self.name = lease_name(number, _unique())
        self._session, self._files = session, set(files)
        self._lock, self._over = Lock(), Event()
        self._thread = Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._session.store.remove(self.name)

    def add(self, files: Iterable[str]) -> None:
        """Hold these too, from now on."""
        with self._lock:
            self._files |= set(files)
        self._write()

    def _write(self) -> None:
        with self._lock:
            self._session.store.write(self.name, _lease(self._session, self._files))

    def _renew(self) -> None:
        while not self._over.wait(self._session.config.forget.lease_seconds / 3):
            try:
                self._write()
            except OSError as error:  # the next time, perhaps; if not, a purge may take the files, and the command ends
                log.warning("a lease could not be renewed (%s)", type(error).__name__)


def _unique() -> str:
    return uuid.uuid4().hex[:12]


def _lease(session: Session, files: Collection[str]) -> bytes:
    until = time.time() + session.config.forget.lease_seconds
    return json.dumps({"until": until, "files": sorted(files)}).encode()


def covered_places(places: Iterable[str], files: Collection[str]) -> set[str]:
    """Those of these places that the files of a lease name."""
    beginnings = tuple(name.removesuffix("*") for name in files if name.endswith("*"))
    return {place for place in places if place in files or place.startswith(beginnings)}


def read_leases(session: Session) -> dict[str, tuple[float, set[str] | None]]:
    """Name -> (end in seconds since the epoch, files) of those that are there; None for files that cannot be read."""
    found: dict[str, tuple[float, set[str] | None]] = {}
    for name in session.store.list(LEASES):
        with contextlib.suppress(FileNotFoundError):
            data = session.store.read(name)
            try:
                lease = json.loads(data)
                if not isinstance(lease["files"], list):
                    raise TypeError
                found[name] = float(lease["until"]), set(lease["files"])
            except (ValueError, KeyError, TypeError):
                found[name] = session.store.modified(name) + session.config.forget.lease_seconds, None
    return found
