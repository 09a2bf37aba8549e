"""Iceberg tables: the package pyiceberg finds the files, deletes and schema of a snapshot; the rows are read here.

Position deletes and deletion vectors are applied. Equality deletes are refused: to apply them, all deleted values would
have to be held against every row.
"""

import datetime as dt
import os
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from ..errors import InputError
from ..storage import StorageOptions, filesystem_for, split_uri
from .data_file import DataFile, Table
from .files import LakeFile
from .formats import table_around
from .iceberg_deletes import deleted_rows, filesystem_of
from .location import ICEBERG, Location

_NUMBER = re.compile(r"v?0*([0-9]+)(?:-[^/]*)?(?:\.gz)?\.metadata\.json(?:\.gz)?")


def open_iceberg(location: Location, options: StorageOptions) -> Table:
    """A snapshot of an Iceberg table: the current one, or the one that the location selects.

    Raises:
        InputError: pyiceberg is not installed; there is no such catalog, table or snapshot; the snapshot has equality
            deletes, or files of another format than Parquet.
    """
    try:
        from pyiceberg.io.pyarrow import schema_to_pyarrow
    except ImportError as error:
        raise InputError(
            f"{location.uri}: is an Iceberg table, and the package pyiceberg is not installed: "
            "pip install 'unlearnrec[iceberg]'"
        ) from error
    table = load_iceberg(location, options)
    snapshot = _snapshot(location, table)
    schema = table.schema()
    if snapshot is not None and snapshot.schema_id is not None:
        schema = table.schemas()[snapshot.schema_id]
    arrow_schema = schema_to_pyarrow(schema, include_field_ids=False)
    tasks = [] if snapshot is None else _plan(location, table, snapshot)
    files = _files(location, table, schema, arrow_schema, tasks)
    pinned = {
        "format": ICEBERG,
        "id": str(table.metadata.table_uuid),
        "snapshot": snapshot.snapshot_id if snapshot else None,
        "timestamp": _moment(snapshot.timestamp_ms).isoformat() if snapshot else None,
        "schema": schema.model_dump_json(),
        "files": len(files),
        "bytes": sum(file.file.bytes for file in files),
        "rows": sum(task.file.record_count for task in tasks) - sum(len(file.deleted or ()) for file in files),
    }
    return Table(location.uri, files, pinned, arrow_schema)


def load_iceberg(location: Location, options: StorageOptions) -> Any:
    """pyiceberg's table."""
    from pyiceberg.catalog import load_catalog
    from pyiceberg.table import StaticTable

    properties = _properties(options)
    if location.catalog is None:
        metadata = _metadata_file(location, options)
        # pyiceberg would take them for parts of a URL, and perhaps find another table there.
        if found := set("#?") & set(metadata):
            raise InputError(
                f"{location.uri}: an Iceberg table whose path has a {found.pop()} cannot be read. Name it by its catalog, "
                "or rename the folder"
            )
        try:
            table = StaticTable.from_metadata(metadata, properties)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{location.uri}: {metadata} is no metadata of an Iceberg table that is read: {error}"
            ) from error
        _check_place(location, table.metadata.location, metadata)
        return table
    catalog, name = location.catalog
    try:
        return load_catalog(catalog, **properties).load_table(name)
    except Exception as error:  # each kind of catalog raises what its client does
        raise InputError(
            f"{location.uri}: cannot be opened: {type(error).__name__}: {error}. Check the name, pyiceberg's configuration "
            f"of the catalog {catalog} (.pyiceberg.yaml or PYICEBERG_CATALOG__{catalog.upper()}__URI), and credentials"
        ) from error


def _check_place(location: Location, written_for: str, metadata: str) -> None:
    """Refuse a copy: its metadata name the files of the original."""

    def plain(path: str) -> str:
        scheme, colon, rest = path.partition("://")
        if colon and scheme in ("s3", "s3a", "s3n"):
            return f"s3://{rest.strip('/')}"
        return os.path.realpath(re.sub("^file:/*", "/", path))

    there = metadata.rpartition("/metadata/")[0]
    if plain(written_for) != plain(there):
        raise InputError(
            f"{location.uri}: is a copy of the Iceberg table {written_for}, or was moved: its metadata name files there, "
            "not here. Name the table itself, or register the copy with rewritten paths (Spark: rewrite_table_path)"
        )


def _properties(options: StorageOptions) -> dict[str, str]:
    """For pyiceberg; what is not set here comes from its own configuration, credentials from the usual chain."""
    found = {}
    if options.endpoint_url:
        found["s3.endpoint"] = options.endpoint_url
    if options.region or options.endpoint_url:
        found["s3.region"] = options.region or "us-east-1"
    if options.anonymous:
        found["s3.anonymous"] = "true"
    return found


def _metadata_file(location: Location, options: StorageOptions) -> str:
    """The newest metadata of a table that is named by its folder; or the file itself that is named.

    Only a catalog knows which file is current. In a folder it is that of the highest number, as for tables without a
    catalog; two of the same number are the trace of writers that met, and only the hint can decide then.
    """
    filesystem, root = filesystem_for(location.place, options)
    scheme = "s3://" if split_uri(location.place)[0] == "s3" else ""
    if root.endswith(".metadata.json"):
        return scheme + root
    folder = f"{root.rstrip('/')}/metadata"
    try:
        entries = filesystem.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
        around = None if entries else table_around(filesystem, root)
        hint = _hint(filesystem, folder)
    except OSError as error:
        raise InputError(
            f"{location.uri} cannot be reached: {error}. Check the path, the permissions or credentials, "
            "storage.endpoint_url and storage.region"
        ) from error
    numbers = {entry.base_name: int(found[1]) for entry in entries if (found := _NUMBER.fullmatch(entry.base_name))}
    if not numbers:
        advice = "Name its root, or iceberg://CATALOG/NAMESPACE.TABLE"
        if around is not None and around[0] == ICEBERG:
            advice = f"It lies in the Iceberg table {around[1]}: name that one"
        raise InputError(f"{location.uri}: there is no Iceberg table in {root}: no metadata/*.metadata.json. {advice}")
    newest = [name for name, number in numbers.items() if number == max(numbers.values())]
    if hint in numbers:
        newest = [hint]
    if len(newest) > 1:
        raise InputError(
            f"{location.uri}: has two newest metadata files, {' and '.join(sorted(newest))}, and only its catalog knows "
            "which counts. Name it by its catalog (iceberg://CATALOG/NAMESPACE.TABLE), or name one of the files"
        )
    return f"{scheme}{folder}/{newest[0]}"


def _hint(filesystem: pafs.FileSystem, folder: str) -> str:
    """The file that version-hint.text names in full; a number there may be older than the newest file."""
    path = f"{folder}/version-hint.text"
    if filesystem.get_file_info(path).type != pafs.FileType.File:
        return ""
    with filesystem.open_input_stream(path) as stream:
        return str(stream.read(1024).decode("utf-8", "replace")).strip()


def _snapshot(location: Location, table: Any) -> Any:
    selection = location.selection
    if selection.version is not None:
        raise InputError(
            f"{location.uri}: an Iceberg table has snapshots, not versions. Write ?snapshot= or ?timestamp="
        )
    if not selection:
        return table.current_snapshot()
    if selection.snapshot is not None:
        found = table.snapshot_by_id(selection.snapshot)
    else:
        assert selection.timestamp is not None
        found = table.snapshot_as_of_timestamp(int(selection.timestamp.timestamp() * 1000))
    if found is None:
        there = ", ".join(
            f"{one.snapshot_id} ({_moment(one.timestamp_ms).isoformat()})" for one in table.snapshots()[-5:]
        )
        raise InputError(
            f"{location.uri}: there is no such snapshot, not yet or no more. The newest are {there or 'none'}"
        )
    return found


def _moment(milliseconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)


def _plan(location: Location, table: Any, snapshot: Any) -> list[Any]:
    """The data files of a snapshot, each with the deletes that apply to it, in order of path."""
    from pyiceberg.manifest import DataFileContent, ManifestContent

    try:
        for manifest in snapshot.manifests(table.io):
            if manifest.content != ManifestContent.DELETES:
                continue
            for entry in manifest.fetch_manifest_entry(table.io):
                if entry.data_file.content == DataFileContent.EQUALITY_DELETES:
                    raise InputError(
                        f"{location.uri}: snapshot {snapshot.snapshot_id} has equality deletes "
                        f"({entry.data_file.file_path}), which are not applied here. Compact the table first, for instance "
                        "with Spark's procedure rewrite_data_files and delete-file-threshold 1, or read it through an "
                        "engine that applies them"
                    )
        tasks = list(table.scan(snapshot_id=snapshot.snapshot_id).plan_files())
    except InputError:
        raise
    except (OSError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"{location.uri}: the files of snapshot {snapshot.snapshot_id} cannot be told: {error}. A file of the table may "
            "be missing, or be of a newer version of the format"
        ) from error
    for task in tasks:
        for file in (task.file, *task.delete_files):
            kind = str(getattr(file.file_format, "value", file.file_format)).upper()
            if kind != "PARQUET" and (file is task.file or kind != "PUFFIN"):
                raise InputError(
                    f"{location.uri}: {file.file_path} is {kind}, and only Parquet is read of Iceberg tables. Rewrite the "
                    "table with write.format.default=parquet"
                )
    return sorted(tasks, key=lambda task: str(task.file.file_path))


def _files(
    location: Location, table: Any, schema: Any, arrow_schema: pa.Schema, tasks: Sequence[Any]
) -> list[DataFile]:
    from pyiceberg.io.pyarrow import PyArrowFileIO

    # Of the table, since a catalog may hand out credentials for it.
    io = table.io if isinstance(table.io, PyArrowFileIO) else PyArrowFileIO(table.io.properties)
    deleted = deleted_rows(location.uri, io, tasks)
    ids = {field.name: field.field_id for field in schema.fields}
    mapping = table.name_mapping()
    names = None
    if mapping is not None:
        by_id = {field.field_id: list(field.names) for field in mapping}
        names = {name: by_id[number] for name, number in ids.items() if number in by_id}
    # A column that was added later has its initial default in older files.
    defaults = {
        field.name: pa.scalar(getattr(field, "initial_default", None), arrow_schema.field(field.name).type)
        for field in schema.fields
    }
    files = []
    for task in tasks:
        path = task.file.file_path
        filesystem, inner = filesystem_of(io, path)
        files.append(
            DataFile(
                LakeFile(filesystem, inner, path.removeprefix("file://"), {}, task.file.file_size_in_bytes),
                defaults={**defaults, **_identities(table, schema, arrow_schema, task.file)},
                names=names or {},
                field_ids=ids,
                deleted=deleted.get(path),
                plain=False,
            )
        )
    return files


def _identities(table: Any, schema: Any, arrow_schema: pa.Schema, file: Any) -> dict[str, pa.Scalar]:
    """Values of partition columns that stand for themselves: files of a migrated Hive table do not have them."""
    from pyiceberg.transforms import IdentityTransform

    found = {}
    for place, field in enumerate(table.specs()[file.spec_id].fields):
        name = schema.find_column_name(field.source_id)
        if isinstance(field.transform, IdentityTransform) and name in arrow_schema.names:
            found[name] = pa.scalar(file.partition[place], arrow_schema.field(name).type)
    return found
