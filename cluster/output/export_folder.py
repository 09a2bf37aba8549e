"""An export as Parquet files in a folder, local or s3://.

Three files cannot be replaced in one step. So each export has a folder of its own, `export-VERSION-UNIQUE`, which never
changes. The file `current.json` names the folder, and is replaced in one step when the folder is complete: a reader that
begins with it sees one whole version. `users.parquet`, `items.parquet` and `recommendations.parquet` beside it are the same
files under names that stay. Each of them is whole, but a reader of two of them may find two versions.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ...partitioning.errors import InputError
from ...partitioning.local_files import fsync_path
from ...partitioning.storage import StorageOptions, Store, split_uri
from .exports import FILES, PARTS, About

CURRENT = "current.json"
FORMAT = 1
UNDER_WAY_SECONDS = 3600
"""Folders of exports that `current.json` does not name and that are younger than this may be of an export under way, and are
left."""

_FOLDER = re.compile(r"(export-\d{6,}-[0-9a-f]{8})/.*")


class FolderTarget:
    """The folder that `--to` names."""

    def __init__(self, uri: str, options: StorageOptions) -> None:
        self._uri = uri
        self._store = Store(uri, options)
        self._local = Path(os.path.abspath(split_uri(uri)[1])) if split_uri(uri)[0] == "file" else None
        self._unique = uuid.uuid4().hex[:8]
        self._spooled: dict[str, Any] = {}

    def open(self) -> dict[str, Any]:
        """As `Target.open`. Local parts are spooled in the folder itself, so that publishing them only changes names."""
        try:
            if self._local is not None:
                self._local.mkdir(parents=True, exist_ok=True)
                self._spooled = {part: self._local / f"{part}.parquet.{self._unique}.tmp" for part in PARTS}
                for path in self._spooled.values():
                    path.touch()
            else:
                self._try_out()
                # Files without names: nothing of them is left when the process dies.
                self._spooled = {part: tempfile.TemporaryFile() for part in PARTS}  # noqa: SIM115
        except Exception as error:  # missing credentials are no OSError
            self.discard()
            raise InputError(
                f"--to {self._uri}: cannot be written ({error}). Name a folder that you may write to"
            ) from error
        return dict(self._spooled)

    def publish(self, about: About) -> dict[str, Any]:
        """As `Target.publish`. The folders of earlier exports are removed last; they hold what was forgotten since."""
        folder = f"export-{about.version:06d}-{self._unique}"
        before = self._named()  # read before it is replaced
        rows = {f"{part}.parquet": pq.ParquetFile(self._spooled[part]).metadata.num_rows for part in PARTS}
        if self._local is not None:
            self._put_locally(self._local, folder)
        else:
            for part in PARTS:
                for place in (folder, ""):
                    self._spooled[part].seek(0)
                    self._store.write(f"{place}/{part}.parquet".lstrip("/"), self._spooled[part].read())
        pointer = {"format": FORMAT, "version": about.version, "log_head": about.log_head, "source": about.source}
        pointer |= {"folder": folder, "rows": rows}
        # After the folder is complete, and before the earlier one goes: `current.json` always names a whole folder.
        self._store.write(CURRENT, json.dumps(pointer, indent=1).encode() + b"\n")
        self._remove_others(folder, before)
        return {"to": self._uri, "folder": folder}

    def discard(self) -> None:
        """As `Target.discard`."""
        for sink in self._spooled.values():
            if self._local is not None:
                sink.unlink(missing_ok=True)
            else:
                sink.close()

    def _put_locally(self, root: Path, folder: str) -> None:
        """Publish the spooled files under both of their names. Where the file system has hard links, both are one file."""
        (root / folder).mkdir()
        for part in PARTS:
            spooled, name = self._spooled[part], f"{part}.parquet"
            fsync_path(spooled)  # the content is durable before a name refers to it
            try:
                os.link(spooled, root / folder / name)
            except OSError:
                shutil.copyfile(spooled, root / folder / name)
                fsync_path(root / folder / name)
            os.replace(spooled, root / name)
        fsync_path(root / folder)

    def _named(self) -> str | None:
        """The folder that `current.json` names; None where there is none."""
        try:
            return str(json.loads(self._store.read(CURRENT))["folder"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _remove_others(self, folder: str, before: str | None) -> None:
        """Remove the files of earlier exports: of the folder `before`, and of others that are old enough."""
        # Only what is listed now is removed: another export that ends from here on is not old enough.
        found = self._store.details()
        now = time.time()
        for name, about in found.items():
            own = _FOLDER.fullmatch(name)
            if own is None or own[1] == folder or not name.endswith(FILES):
                continue
            if own[1] == before or now - about.modified > UNDER_WAY_SECONDS:
                with contextlib.suppress(FileNotFoundError):  # another export was faster
                    self._store.remove(name)
                if self._local is not None:
                    with contextlib.suppress(OSError):
                        (self._local / own[1]).rmdir()

    def _try_out(self) -> None:
        """Write and remove a file, so that a place that cannot be written is reported before the work and not after it."""
        name = f".tmp-{uuid.uuid4().hex}"
        self._store.write(name, b"")
        self._store.remove(name)
