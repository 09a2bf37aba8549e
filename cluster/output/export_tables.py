"""An export as tables of the lake: `users`, `items`, `recommendations` and `current`, as Delta or Iceberg.

Each table is overwritten by one commit, so that a reader of one table sees one version. A reader of all three could see
several versions, between their commits. Therefore the table `current`, which is committed last, has one row that names the
state of each of the three: a version of Delta, or a snapshot of Iceberg. A reader that begins with it, and then reads the
states that it names, sees one whole version of all three (docs/exports.md).
"""

from __future__ import annotations

import datetime as dt
import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...partitioning.errors import InputError
from ...partitioning.lake.delta import storage_options
from ...partitioning.storage import StorageOptions, filesystem_for, split_uri
from .exports import PARTS, About

CURRENT = "current"
MADE_BY = "unlearnrec export"
ROWS = 16384
"""The number of rows of a batch; one batch at a time is held in memory."""
COMMITS = 100
"""How many commits of others may come between a commit of an export and the search for it."""


class TablesTarget(ABC):
    """What the targets for Delta and for Iceberg have in common."""

    def __init__(self, uri: str, options: StorageOptions) -> None:
        self._uri, self._options = uri, options
        self._spooled: dict[str, Any] = {}

    def open(self) -> dict[str, Any]:
        """As `Target.open`."""
        # All four are checked before anything is written.
        for name in (*PARTS, CURRENT):
            self._check(name)
        # Files without names: nothing of them is left when the process dies.
        self._spooled = {part: tempfile.TemporaryFile() for part in PARTS}  # noqa: SIM115
        return dict(self._spooled)

    def publish(self, about: About) -> dict[str, Any]:
        """As `Target.publish`."""
        states = {}
        for part in PARTS:
            self._spooled[part].seek(0)
            states[part] = self._overwrite(part, _batches(pq.ParquetFile(self._spooled[part]), about), about)
        row = pa.table(
            {
                "version": [about.version],
                "log_head": [about.log_head],
                "source": [json.dumps(about.source, sort_keys=True)],
                "exported_at": pa.array([dt.datetime.now(dt.UTC)], pa.timestamp("us", "UTC")),
                **{f"{part}_state": pa.array([states[part]], pa.int64()) for part in PARTS},
            }
        )
        # Last: it names the states that the three commits have made.
        state = self._overwrite(CURRENT, row.to_reader(), about)
        return {"to": self._uri, "tables": {**states, CURRENT: state}}

    def discard(self) -> None:
        """As `Target.discard`."""
        for sink in self._spooled.values():
            sink.close()

    @abstractmethod
    def _check(self, name: str) -> None:
        """Raise InputError where the place of this table cannot be reached, or holds a table that no export made."""

    @abstractmethod
    def _overwrite(self, name: str, reader: pa.RecordBatchReader, about: About) -> int:
        """Replace all rows of the table by these, in one commit; returns the state that the commit made."""

    def _foreign(self, name: str) -> InputError:
        """The error for a table that no export made."""
        return InputError(
            f"--to {self._uri}: there is a table {name!r}, and no export made it: it would be overwritten. Choose "
            "another place"
        )


def _batches(file: pq.ParquetFile, about: About) -> pa.RecordBatchReader:
    """A reader of a spooled part, batch by batch, with the additional column `version`."""
    schema = file.schema_arrow.remove_metadata().append(pa.field("version", pa.int64()))

    def rows() -> Iterator[pa.RecordBatch]:
        for batch in file.iter_batches(ROWS):
            version = pa.repeat(pa.scalar(about.version, pa.int64()), batch.num_rows)
            yield pa.RecordBatch.from_arrays([*batch.columns, version], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, rows())


class DeltaTarget(TablesTarget):
    """Delta tables below one place, local or s3://."""

    def __init__(self, uri: str, place: str, options: StorageOptions) -> None:
        super().__init__(uri, options)
        try:
            import deltalake
        except ImportError as error:
            raise InputError(f"--to {uri}: needs the package deltalake: pip install 'unlearnrec[delta]'") from error
        self._deltalake = deltalake
        scheme, path = split_uri(place)
        # deltalake would take them for parts of a URL, and perhaps write another place.
        if found := set("%#?" if scheme == "s3" else "%") & set(path):
            raise InputError(
                f"--to {uri}: a Delta table cannot lie below a name with a {found.pop()}. Choose another place"
            )
        self._folder = None if scheme == "s3" else Path(os.path.abspath(path))
        self._root = f"s3://{path}" if self._folder is None else self._folder.as_uri()
        self._filesystem, self._place = filesystem_for(place, options)
        self._storage = storage_options(options) if scheme == "s3" else None

    def _table(self, name: str) -> Any:
        return self._deltalake.DeltaTable(f"{self._root}/{name}", storage_options=self._storage)

    def _check(self, name: str) -> None:
        from deltalake.exceptions import TableNotFoundError

        try:
            if self._table(name).metadata().description != MADE_BY:
                raise self._foreign(name)
        except TableNotFoundError:
            folder = self._folder and self._folder / name
            if folder is not None and folder.is_dir() and any(folder.iterdir()):
                raise self._foreign(name) from None
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"--to {self._uri}: cannot be reached ({error})") from error

    def _overwrite(self, name: str, reader: pa.RecordBatchReader, about: About) -> int:
        self._deltalake.write_deltalake(
            f"{self._root}/{name}",
            reader,
            mode="overwrite",
            schema_mode="overwrite",
            description=MADE_BY,
            storage_options=self._storage,
            commit_properties=self._deltalake.CommitProperties(custom_metadata=about.properties()),
        )
        # Not the latest version: another export may have committed meanwhile. And not `history`, which is empty where the
        # path has signs that a URL quotes.
        latest = self._table(name).version()
        for version in range(latest, max(-1, latest - COMMITS), -1):
            entry = f"{self._place}/{name}/_delta_log/{version:020}.json"
            with self._filesystem.open_input_stream(entry) as stream:
                actions = [json.loads(line) for line in stream.read().splitlines()]
            if any(action.get("commitInfo", {}).get("unlearnrec.export") == about.unique for action in actions):
                return version
        raise RuntimeError(f"{self._root}/{name}: the commit of this export is not in its log")


class IcebergTarget(TablesTarget):
    """Iceberg tables in a namespace of a catalog, which is opened as pyiceberg is configured."""

    def __init__(self, uri: str, catalog: str, namespace: str, options: StorageOptions) -> None:
        super().__init__(uri, options)
        try:
            from pyiceberg.catalog import load_catalog
        except ImportError as error:
            raise InputError(f"--to {uri}: needs the package pyiceberg: pip install 'unlearnrec[iceberg]'") from error
        properties = {"s3.endpoint": options.endpoint_url, "s3.region": options.region}
        try:
            self._catalog = load_catalog(catalog, **{name: text for name, text in properties.items() if text})
        except Exception as error:
            raise InputError(
                f"--to {uri}: the catalog {catalog!r} cannot be opened ({error}). Describe it in .pyiceberg.yaml or in "
                f"PYICEBERG_CATALOG__{catalog.upper()}__URI"
            ) from error
        self._namespace = namespace

    def _check(self, name: str) -> None:
        from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

        try:
            table = self._catalog.load_table(f"{self._namespace}.{name}")
        except (NoSuchTableError, NoSuchNamespaceError):
            return
        except Exception as error:
            raise InputError(f"--to {self._uri}: cannot be reached ({error})") from error
        if table.properties.get("comment") != MADE_BY:
            raise self._foreign(name)

    def _overwrite(self, name: str, reader: pa.RecordBatchReader, about: About) -> int:
        self._catalog.create_namespace_if_not_exists(self._namespace)
        table = self._catalog.create_table_if_not_exists(
            f"{self._namespace}.{name}", schema=reader.schema, properties={"comment": MADE_BY}
        )
        try:
            write = table.append if table.current_snapshot() is None else table.overwrite
            write(reader, snapshot_properties=about.properties())
        except ValueError as error:
            raise InputError(
                f"--to {self._uri}: the table {name!r} has other columns than this export ({error}). Drop the four tables"
            ) from error
        snapshot = next(one for one in reversed(table.snapshots()) if _is_of(one, about))
        return int(snapshot.snapshot_id)


def _is_of(snapshot: Any, about: About) -> bool:
    """Whether this export made the snapshot."""
    return (
        snapshot.summary is not None and snapshot.summary.additional_properties.get("unlearnrec.export") == about.unique
    )
