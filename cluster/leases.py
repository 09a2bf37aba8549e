"""Leases: who reads a version says so, and a purge leaves its files until the lease ends (docs/commit.md).

A lease is a file `leases/VERSION-ID.json`: {"until": seconds since the epoch, "files": names}. A reader that dies leaves
it to end by itself.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from ..partitioning.storage import Store
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


def leases(store: Store) -> dict[str, tuple[float, set[str]]]:
    """Name -> (end, files) of those that are there."""
    found = {}
    for name in store.list(FOLDER):
        with contextlib.suppress(FileNotFoundError):
            lease = json.loads(store.read(name))
            found[name] = float(lease["until"]), set(lease["files"])
    return found
