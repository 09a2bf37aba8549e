"""Leases: who reads a version says so, and a purge leaves its files until the lease ends (docs/commit.md).

A lease is a file `leases/VERSION-ID.json`: {"until": seconds since the epoch, "files": names}. A reader that dies leaves
it to end by itself. One that cannot be read holds the files of all versions, for as long as it could if it had just been
written.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from .session import Manifest, Session

FOLDER = "leases"


@contextmanager
def leased(session: Session) -> Iterator[Manifest]:
    """The current version, whose files stay for the block, or `forget.lease_seconds` if that is less.

    Who may not write to the output reads without a lease.

    Raises:
        InputError: as `Session.version`.
    """
    while True:
        version = session.version()
        name = f"{FOLDER}/{version['version']:06d}-{uuid.uuid4().hex[:12]}.json"
        until = time.time() + session.config.forget.lease_seconds
        try:
            session.store.create(name, json.dumps({"until": until, "files": sorted(version["files"])}).encode())
        except PermissionError:
            yield version
            return
        # A purge takes files of what is not current any more, and reads the leases after the log: it has seen this one if
        # the version is still current now.
        if session.version()["version"] == version["version"]:
            break
        session.store.remove(name)
    try:
        yield version
    finally:
        with contextlib.suppress(OSError):
            session.store.remove(name)


def leases(session: Session) -> dict[str, tuple[float, set[str] | None]]:
    """Name -> (end in seconds since the epoch, files) of those that are there; None for files that cannot be read."""
    found: dict[str, tuple[float, set[str] | None]] = {}
    for name in session.store.list(FOLDER):
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
