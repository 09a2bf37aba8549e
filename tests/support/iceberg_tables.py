"""Iceberg tables for the tests: made by pyiceberg, and deletes that it does not write, after the specification."""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestWriterV2,
    write_manifest_list,
)
from pyiceberg.table import Table
from pyiceberg.typedef import Record
from pyroaring import BitMap64


def catalog(folder: Path, warehouse: str | None = None, **properties: str) -> SqlCatalog:
    """A catalog `lake` in SQLite, with the namespace `shop`."""
    folder.mkdir(parents=True, exist_ok=True)
    uri = f"sqlite:///{folder}/catalog.db"
    made = SqlCatalog("lake", uri=uri, warehouse=warehouse or f"file://{folder}/warehouse", **properties)
    made.create_namespace_if_not_exists("shop")
    return made


def create(folder: Path, *parts: Mapping[str, Any], name: str = "shop.events", **options: Any) -> Table:
    """A table with one snapshot for each part."""
    tables = [pa.table(part) for part in parts]
    table = catalog(folder).create_table(name, tables[0].schema, **options)
    for part in tables:
        table.append(part)
    return table


def root(table: Table) -> Path:
    """The folder of a local table."""
    return Path(table.location().removeprefix("file://"))


class _Deletes(ManifestWriterV2):
    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


def add_deletes(table: Table, files: Sequence[DataFile], sequence: int | None = None, version: int = 2) -> int:
    """A snapshot that adds delete files to the current one, beside the catalog: in the newest metadata of the folder.

    sequence: of the deletes; None is that of the new snapshot. Returns the id of the snapshot.
    """
    io, metadata = PyArrowFileIO({}), table.metadata
    snapshot_id, number = 4_000_000_000_000_000_000 + metadata.last_sequence_number, metadata.last_sequence_number + 1
    base = f"{table.location()}/metadata"
    with _Deletes(
        table.spec(), table.schema(), io.new_output(f"{base}/deletes-{number}.avro"), snapshot_id, "null"
    ) as writer:
        for file in files:
            file.spec_id = table.spec().spec_id
            entry = ManifestEntry.from_args(
                status=ManifestEntryStatus.EXISTING if sequence is not None else ManifestEntryStatus.ADDED,
                snapshot_id=snapshot_id,
                sequence_number=sequence,
                file_sequence_number=sequence,
                data_file=file,
            )
            writer.existing(entry) if sequence is not None else writer.add_entry(entry)
    current = table.current_snapshot()
    assert current is not None
    listed = f"{base}/snap-{snapshot_id}.avro"
    with write_manifest_list(2, io.new_output(listed), snapshot_id, current.snapshot_id, number, "null") as list_writer:
        list_writer.add_manifests([*current.manifests(io), writer.to_manifest_file()])
    document = json.loads(metadata.model_dump_json())
    snapshot = {
        "snapshot-id": snapshot_id,
        "parent-snapshot-id": current.snapshot_id,
        "sequence-number": number,
        "timestamp-ms": metadata.last_updated_ms + 1,
        "manifest-list": listed,
        "summary": {"operation": "delete"},
        "schema-id": metadata.current_schema_id,
    }
    document["snapshots"].append(snapshot)
    document["current-snapshot-id"] = snapshot_id
    document["refs"] = {"main": {"snapshot-id": snapshot_id, "type": "branch"}}
    document["last-sequence-number"] = number
    document["last-updated-ms"] = snapshot["timestamp-ms"]
    document["format-version"] = version
    if version == 3:
        document["next-row-id"] = 0
        for entry in document["snapshots"]:
            entry.update({"first-row-id": 0, "added-rows": 0})
    written = sorted(Path(base.removeprefix("file://")).glob("*.metadata.json"))
    (written[-1].parent / f"{int(written[-1].name.split('-')[0]) + 1:05}-by-hand.metadata.json").write_text(
        json.dumps(document)
    )
    return snapshot_id


def delete_file(path: str, kind: FileFormat, size: int, count: int, content: DataFileContent, **more: Any) -> DataFile:
    """An entry for a delete file."""
    fields = {
        "content": content,
        "file_path": path,
        "file_format": kind,
        "partition": more.pop("partition", Record()),
        "record_count": count,
        "file_size_in_bytes": size,
        "column_sizes": {},
        "value_counts": {},
        "null_value_counts": {},
        "nan_value_counts": {},
        "lower_bounds": {},
        "upper_bounds": {},
        "key_metadata": None,
        "split_offsets": [],
        "equality_ids": None,
        "sort_order_id": None,
    }
    return DataFile.from_args(**{**fields, **more})


def position_deletes(table: Table, name: str, rows: Sequence[tuple[str, int]], **more: Any) -> DataFile:
    """A Parquet file of positions."""
    path = root(table) / "data" / name
    ordered = sorted(rows)
    pq.write_table(pa.table({"file_path": [file for file, _ in ordered], "pos": [pos for _, pos in ordered]}), path)
    size = path.stat().st_size
    return delete_file(f"file://{path}", FileFormat.PARQUET, size, len(rows), DataFileContent.POSITION_DELETES, **more)


def deletion_vectors(table: Table, name: str, vectors: Mapping[str, Sequence[int]]) -> DataFile:
    """A Puffin file with a deletion vector for each data file."""
    path = root(table) / "data" / name
    content, blobs = b"PFA1", []
    for file, rows in vectors.items():
        body = struct.pack("<I", 1681511377) + BitMap64(rows).serialize()
        blob = struct.pack(">I", len(body)) + body + struct.pack(">I", zlib.crc32(body))
        blobs.append(
            {
                "type": "deletion-vector-v1",
                "fields": [],
                "snapshot-id": -1,
                "sequence-number": -1,
                "offset": len(content),
                "length": len(blob),
                "properties": {"referenced-data-file": file, "cardinality": str(len(rows))},
            }
        )
        content += blob
    footer = json.dumps({"blobs": blobs, "properties": {}}).encode()
    path.write_bytes(content + b"PFA1" + footer + struct.pack("<i", len(footer)) + bytes(4) + b"PFA1")
    count = sum(map(len, vectors.values()))
    size = path.stat().st_size
    return delete_file(f"file://{path}", FileFormat.PUFFIN, size, count, DataFileContent.POSITION_DELETES)
