"""Delta tables: the package deltalake finds the files, deletion vectors and schema of a version; the rows are read here.

So memory is bounded as with plain Parquet, and deletion vectors are applied, which deltalake's own readers refuse.
"""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from ..errors import InputError
from ..storage import StorageOptions, filesystem_for, split_uri
from .data_file import DataFile, Table
from .deleted import DeletedRows, compact
from .files import LakeFile
from .formats import formats_at, table_around
from .location import DELTA, Location

FEATURES = frozenset(
    {
        "columnMapping",
        "deletionVectors",
        "timestampNtz",
        "typeWidening",
        "typeWidening-preview",
        "v2Checkpoint",
        "vacuumProtocolCheck",
        # Of types that cannot be ids or times, so that such columns are not read.
        "variantShredding-preview",
        "variantType",
        "variantType-preview",
    }
)
"""What a table may demand of its readers. With any other it is refused: its rows might mean something else."""


def open_delta(location: Location, options: StorageOptions) -> Table:
    """A version of a Delta table: the current one, or the one that the location selects.

    Raises:
        InputError: deltalake is not installed; there is no such table, version, or log to tell it from; the table demands
            a feature that is not known here.
    """
    try:
        import deltalake
        from deltalake.exceptions import DeltaError, TableNotFoundError
    except ImportError as error:
        raise InputError(
            f"{location.uri}: is a Delta table, and the package deltalake is not installed: pip install 'unlearnrec[delta]'"
        ) from error
    if location.selection.snapshot is not None:
        raise InputError(f"{location.uri}: a Delta table has versions, not snapshots. Write ?version= or ?timestamp=")
    filesystem, root = filesystem_for(location.place, options)
    _check_there(location, filesystem, root)
    s3 = split_uri(location.place)[0] == "s3"
    # deltalake would take them for parts of a URL, and perhaps find another table there.
    if found := set("%#?" if s3 else "%") & set(root):
        raise InputError(
            f"{location.uri}: a Delta table whose path has a {found.pop()} cannot be read. Rename the folder"
        )
    place, storage = (f"s3://{root}", storage_options(options)) if s3 else (Path(root).as_uri(), None)
    try:
        table = deltalake.DeltaTable(place, version=location.selection.version, storage_options=storage)
        if location.selection.timestamp is not None:
            table.load_as_version(location.selection.timestamp)
        features = table.protocol().reader_features or ()
        _check_features(location, features)
        deleted = _deleted(table) if "deletionVectors" in features else {}
        actions, schema = pa.table(table.get_add_actions()), pa.schema(table.schema())
        mapping = json.loads(table.schema().to_json())["fields"]
    except InputError:
        raise
    except (DeltaError, OSError, ValueError) as error:
        if location.selection and deltalake.DeltaTable.is_deltatable(place, storage):
            raise InputError(
                f"{location.uri}: there is no such version, not yet or no more: {error}. Name one that is left in its log"
            ) from error
        if isinstance(error, TableNotFoundError):
            raise InputError(
                f"{location.uri}: has a folder _delta_log, and in it no log of a Delta table: {error}. Name the table, or "
                "copy it with its log"
            ) from error
        raise InputError(f"{location.uri}: cannot be read as a Delta table: {error}. {_ADVICE}") from error
    committed = _commit_time(filesystem, root, table.version())
    wanted = location.selection.timestamp
    # deltalake takes the oldest version for a moment before it.
    if wanted is not None and committed is not None and wanted < committed:
        raise InputError(
            f"{location.uri}: there is no version as old as that; the oldest that is left is {table.version()}, of "
            f"{committed.isoformat()}"
        )
    shared = DataFile(
        LakeFile(filesystem, root, location.uri, {}),
        # A file that was written before a column was added does not have it.
        defaults={field.name: pa.scalar(None, field.type) for field in schema},
        names={field["name"]: [field["metadata"].get(_PHYSICAL_NAME, field["name"])] for field in mapping},
        field_ids=_field_ids(mapping) if table.metadata().configuration.get(_MODE) == "id" else None,
        plain=False,
    )
    files = []
    for action in actions.select([name for name in _COLUMNS if name in actions.column_names]).to_pylist():
        path = file_path(root, action["path"], s3, location.uri)
        values = (action.get("partition") or {}).items()
        files.append(
            replace(
                shared,
                file=LakeFile(filesystem, path, f"s3://{path}" if s3 else path, {}, action["size_bytes"]),
                constants={name: pa.scalar(value, schema.field(name).type) for name, value in values},
                deleted=deleted.pop(path, None),
            )
        )
    if deleted:
        raise InputError(
            f"{location.uri}: has deletion vectors of files that it does not have: {', '.join(deleted)}. {_ADVICE}"
        )
    counts = actions["num_records"].to_pylist() if "num_records" in actions.column_names else [None]
    pinned = {
        "format": DELTA,
        "id": str(table.metadata().id),
        "version": table.version(),
        "timestamp": committed.isoformat() if committed else None,
        "schema": table.schema().to_json(),
        "files": len(files),
        "bytes": sum(file.file.bytes for file in files),
        "rows": None if None in counts else sum(counts) - sum(len(file.deleted or ()) for file in files),
    }
    return Table(location.uri, sorted(files, key=lambda file: file.uri), pinned, schema)


_ADVICE = "Check its log; to read it as a plain table, write its live rows elsewhere with an engine that reads it"
_MODE, _PHYSICAL_NAME, _ID = (f"delta.columnMapping.{key}" for key in ("mode", "physicalName", "id"))
_COLUMNS = ("path", "size_bytes", "num_records", "partition")


def _check_there(location: Location, filesystem: pafs.FileSystem, root: str) -> None:
    try:
        found = formats_at(filesystem, root)
        around = None if DELTA in found else table_around(filesystem, root)
    except OSError as error:
        raise InputError(
            f"{location.uri} cannot be reached: {error}. Check the path, the permissions or credentials, "
            "storage.endpoint_url and storage.region"
        ) from error
    if DELTA not in found:
        advice = "For a table on S3 write delta://s3://bucket/path"
        if around is not None and around[0] == DELTA:
            advice = f"It lies in the Delta table {around[1]}: name that one"
        raise InputError(f"{location.uri}: there is no Delta table in {root}, that is no folder _delta_log. {advice}")


def _check_features(location: Location, features: Any) -> None:
    unknown = sorted(set(features) - FEATURES)
    if unknown:
        raise InputError(
            f"{location.uri}: this Delta table demands of its readers {', '.join(unknown)}, which is not known here. Drop "
            "the feature from the table, or write its live rows elsewhere with an engine that knows it"
        )


def _field_ids(mapping: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {field["name"]: field["metadata"][_ID] for field in mapping if _ID in field["metadata"]}


def storage_options(options: StorageOptions) -> dict[str, str]:
    """For deltalake; credentials it takes from the usual chain."""
    found = {}
    if options.endpoint_url:
        found["AWS_ENDPOINT_URL"] = options.endpoint_url
        found["AWS_ALLOW_HTTP"] = str(options.endpoint_url.startswith("http://")).lower()
    if options.region or options.endpoint_url:
        found["AWS_REGION"] = options.region or "us-east-1"
    if options.anonymous:
        found["AWS_SKIP_SIGNATURE"] = "true"
    return found


def _deleted(table: Any) -> dict[str, DeletedRows]:
    """{path: deleted rows} of the files that have a deletion vector."""
    found = {}
    for batch in pa.RecordBatchReader.from_stream(table.deletion_vectors()):
        masks = batch.column("selection_vector")
        for uri, mask in zip(batch.column("filepath").to_pylist(), masks, strict=True):
            keep = mask.values.to_numpy(zero_copy_only=False)
            found[_path_of_uri(uri)] = DeletedRows([compact(np.flatnonzero(~keep))])
    return found


def _path_of_uri(uri: str) -> str:
    parts = urlsplit(uri)
    return unquote(parts.path) if parts.scheme in ("", "file") else unquote(uri.partition("://")[2])


def file_path(root: str, path: str, s3: bool, uri: str) -> str:
    """Of an action's path, which is percent-encoded, and absolute in a shallow clone."""
    if "://" not in path and not path.startswith(("/", "file:")):
        return f"{root.rstrip('/')}/{unquote(path)}"
    scheme = urlsplit(path).scheme
    if (scheme in ("s3", "s3a", "s3n")) != s3:
        raise InputError(
            f"{uri}: its file {path} lies on another kind of store than the table. Copy the table (a deep clone)"
        )
    return _path_of_uri(
        path.replace("file:/", "file:///", 1) if path.startswith("file:/") and "://" not in path else path
    )


def _commit_time(filesystem: pafs.FileSystem, root: str, version: int) -> dt.datetime | None:
    """When a version was committed: as its entry says (in-commit timestamps), else when the entry was written; None where
    only a checkpoint is left."""
    path = f"{root.rstrip('/')}/_delta_log/{version:020}.json"
    info = filesystem.get_file_info(path)
    if info.type != pafs.FileType.File:
        return None
    with filesystem.open_input_stream(path) as stream:
        first = stream.read(1 << 16).split(b"\n", 1)[0]
    try:
        said: Mapping[str, Any] = json.loads(first).get("commitInfo") or {}
    except ValueError:
        said = {}
    if "inCommitTimestamp" in said:
        return dt.datetime.fromtimestamp(said["inCommitTimestamp"] / 1000, dt.UTC)
    when: dt.datetime = info.mtime
    return when
