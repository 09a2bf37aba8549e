"""Leases: a command that reads a version says so, and a purge leaves its files until the lease ends (docs/commit.md).

A lease is a file `leases/VERSION-ID.json`: {"until": seconds since the epoch, "files": names}. A name that ends in `*`
stands for all names that begin with the part before it. The lease of a reader that died ends at its time. A lease that
cannot be read holds the files of all versions until `forget.lease_seconds` after it was last written.
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
    """The current version. A purge leaves its files until the block ends, or for `forget.lease_seconds` if that is less.

    A process that may not write to the output gets the version without a lease: a purge may then remove its files.

    Raises:
        InputError: as `Session.version`.
    """
    while True:
        # The order is: look, write the lease, look again. A purge may have read the leases before this one was there.
        version = session.version()
        name = lease_name(version.version, _unique())
        try:
            session.store.create(name, _lease(session, version.files))
        except PermissionError:
            yield version
            return
        # A purge removes files of a version only after it has read a log in which the version is not current, and it reads
        # the leases after that log. The version is current now, and the lease is there: such a purge will see the lease.
        if session.version().version == version.version:
            break
        session.store.remove(name)  # another version is current: a purge may have begun without this lease
    try:
        yield version
    finally:
        with contextlib.suppress(OSError):
            session.store.remove(name)


class Lease:
    """The lease of a long command. It begins with the `with` block, is renewed while the block runs, and ends with it.

    A thread renews it three times in `forget.lease_seconds`. Files can be added.
    """

    def __init__(self, session: Session, number: int, files: Iterable[str]) -> None:
        """number: that of the version that the command makes. files: names, of which some may end in `*`."""
        self.name = lease_name(number, _unique())
        self._session, self._files = session, set(files)
        self._lock, self._over = Lock(), Event()
        self._thread = Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        # Written here and not by the thread: it is there before the command looks at the log.
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._session.store.remove(self.name)

    def add(self, files: Iterable[str]) -> None:
        """Hold these files too; when this returns, the lease in the store names them."""
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
            # It is tried again the next time. If the lease ends before that, a purge may remove the files, and the command
            # ends with an error.
            except OSError as error:
                log.warning("a lease could not be renewed (%s)", type(error).__name__)


def _unique() -> str:
    return uuid.uuid4().hex[:12]


def _lease(session: Session, files: Collection[str]) -> bytes:
    """The content of a lease that begins now."""
    until = time.time() + session.config.forget.lease_seconds
    return json.dumps({"until": until, "files": sorted(files)}).encode()


def covered_places(places: Iterable[str], files: Collection[str]) -> set[str]:
    """The `places` that the names in a lease stand for. files: the names, of which some may end in `*`."""
    beginnings = tuple(name.removesuffix("*") for name in files if name.endswith("*"))
    return {place for place in places if place in files or place.startswith(beginnings)}


def leased_places(session: Session, places: Collection[str]) -> set[str]:
    """Those of the `places` that a command holds now. A lease that cannot be read holds all of them."""
    now, held = time.time(), set[str]()
    for until, files in read_leases(session).values():
        if until > now:
            held |= set(places) if files is None else covered_places(places, files)
    return held


def read_leases(session: Session) -> dict[str, tuple[float, set[str] | None]]:
    """All leases that are in the store, by name: (end in seconds since the epoch, names of files).

    The names are None where the lease cannot be read.
    """
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
