"""Versions of graph and model. A version exists when the log has its "committed" record; nothing else makes one.

The files of a version are written first, under names that no other attempt uses. An attempt that dies leaves files that no
record names; a purge removes them. `versions/NNNNNN/manifest.json` is a copy of the manifest in the record, for readers. It
is made again when it is missing.
"""

from __future__ import annotations

import json
import uuid

from ...partitioning.manifest import File
from ...partitioning.storage import Store
from ..layout import manifest_name, version_file
from ..log.log import Log
from ..log.records import COMMITTED
from .conflicts import voids_commit
from .manifest import Manifest, cached_manifest, manifest_of


class Versions:
    """The versions of one output."""

    def __init__(self, store: Store, log: Log) -> None:
        self._store, self._log = store, log
        self._attempt = uuid.uuid4().hex[:8]
        self._made = 0

    def current(self) -> Manifest | None:
        """The manifest of the current version; None before the first version.

        Raises:
            InputError: the log is damaged.
        """
        checkpoint, records = self._log.resume(0)
        for record in reversed(records):
            if record.kind == COMMITTED:
                return manifest_of(record)
        found = checkpoint.state["current"] if checkpoint else None
        return cached_manifest(found, "the checkpoint of the log") if found else None

    def next_number(self) -> int:
        """The number that the next version will have, if no other process commits one before."""
        current = self.current()
        return current.version + 1 if current else 1

    def new_name(self, number: int, stem: str, suffix: str) -> str:
        """A new name for a file of version `number`, which no other attempt uses: STEM-ATTEMPT.SUFFIX."""
        self._made += 1
        return version_file(number, f"{stem}-{self._attempt}{self._made:03d}.{suffix}")

    def put(self, name: str, data: bytes) -> File:
        """Write a file; returns what a manifest says of it in `files`."""
        self._store.write(name, data)
        return File(sha256=self._store.sha256(data), bytes=len(data))

    def commit(self, manifest: Manifest, after: int, lease: str | None = None) -> Manifest:
        """Make a manifest the current version. One record of the log is the commit. Returns it with its number and base.

        manifest: its own number and base are replaced. after: the head of the log that it was decided on. lease: the name of
        a lease that was taken before the decision, on all files that the manifest names; None where there is none.

        Raises:
            LogConflict: the decision is void (`conflicts.voids_commit`), because since `after` another version was
                committed; or a purge began that removes a file which the manifest names, or that ignores the lease, or, for
                a rollback, any purge; or a request that it answers was closed or held; or it is of a new ingest, and a
                request was completed that did not look there. No version was made.
            RuntimeError: a file that the manifest names is not there. No version was made.
        """
        # The copy that a crash may have kept the commit before from making: each commit mends the one before it.
        self.repair()
        current = self.current()
        number = current.version + 1 if current else 1
        manifest = manifest.as_committed(number, current.version if current else None)
        # Before the record: from the record on, readers rely on every file that it names.
        if missing := [name for name in manifest.files if not self._store.exists(name)]:
            raise RuntimeError(
                f"{self._store.root_uri}: cannot commit version {manifest.version}, no {missing[0]}. If a purge removed "
                "it, run this command again"
            )
        # The commit. The log refuses it if a record since `after` makes the decision void.
        record = self._log.append(
            COMMITTED,
            {"manifest": manifest.document()},
            after=after,
            void=voids_commit(manifest, current, lease),
        )
        committed = manifest_of(record)
        # The copy comes last: one without a record would show readers a version that does not exist.
        self._copy(committed)
        return committed

    def repair(self) -> None:
        """Write the copy of the current version's manifest, if it is missing because of a crash after the commit."""
        current = self.current()
        if current is not None and not self._store.exists(manifest_name(current.version)):
            self._copy(current)

    def _copy(self, manifest: Manifest) -> None:
        self._store.write(manifest_name(manifest.version), json.dumps(manifest.document(), indent=1).encode())
