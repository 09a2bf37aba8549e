"""Versions of graph and model. A version exists when the log has its "committed" record; nothing else makes one.

Files are written first, under names that no other attempt uses; an attempt that dies leaves garbage that no record
names. `versions/NNNNNN/manifest.json` is a copy of the record's manifest for readers, made again when it is missing.
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
        """The manifest of the last version, None before the first."""
        checkpoint, records = self._log.resume(0)
        for record in reversed(records):
            if record.kind == COMMITTED:
                return manifest_of(record)
        found = checkpoint.state["current"] if checkpoint else None
        return cached_manifest(found, "the checkpoint of the log") if found else None

    def next_number(self) -> int:
        """The number that the next commit will have."""
        current = self.current()
        return current.version + 1 if current else 1

    def new_name(self, number: int, stem: str, suffix: str) -> str:
        """A name in the folder of a version to be that no other attempt uses."""
        self._made += 1
        return version_file(number, f"{stem}-{self._attempt}{self._made:03d}.{suffix}")

    def put(self, name: str, data: bytes) -> File:
        """Write a file; returns its entry for `files`."""
        self._store.write(name, data)
        return File(sha256=self._store.sha256(data), bytes=len(data))

    def commit(self, manifest: Manifest, after: int, lease: str | None = None) -> Manifest:
        """Make it the current version: one record of the log, which is the commit. Returns it with number and base.

        manifest: its number and base are taken for none. after: the head of the log that it was
        decided on. lease: the name of one on all that the manifest names, from before it was decided.

        Raises:
            LogConflict: another version was committed since, a purge removes a file that this one names (for a
                rollback: any purge began; with a lease: one that ignores it), a request that it answers was closed
                (cancelled, say) or held, or it is of a new ingest and a request was carried out that did not look there.
                This one does not exist.
            RuntimeError: a file that it names is not there.
        """
        self.repair()
        current = self.current()
        number = current.version + 1 if current else 1
        manifest = manifest.replaced(version=number, base=current.version if current else None)
        if missing := [name for name in manifest.files if not self._store.exists(name)]:
            raise RuntimeError(
                f"{self._store.root_uri}: cannot commit version {manifest.version}, no {missing[0]}. If a purge removed "
                "it, run this command again"
            )
        record = self._log.append(
            COMMITTED,
            {"manifest": manifest.document()},
            after=after,
            void=voids_commit(manifest, current, lease),
        )
        committed = manifest_of(record)
        self._copy(committed)
        return committed

    def repair(self) -> None:
        """Make the copy of the current version's manifest again, if a crash kept it from being made."""
        current = self.current()
        if current is not None and not self._store.exists(manifest_name(current.version)):
            self._copy(current)

    def _copy(self, manifest: Manifest) -> None:
        self._store.write(manifest_name(manifest.version), json.dumps(manifest.document(), indent=1).encode())
