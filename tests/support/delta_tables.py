"""Delta tables for the tests: made by deltalake, and deletion vectors, which it does not write, after the protocol."""

import base64
import json
import struct
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from lake_tables import rows, text
from pyroaring import BitMap

_FROM = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_TO = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def deleted_once(path: Path | str, **options: Any) -> str:
    """A table of users 1..4 in two files, from which user 2 was deleted: version 2."""
    write_deltalake(str(path), pa.table(rows(1, 2)), **options)
    write_deltalake(str(path), pa.table(rows(3, 4)), mode="append", **options)
    DeltaTable(str(path), storage_options=options.get("storage_options")).delete("user_id = 2")
    return str(path)


def commit(table: Path, actions: Sequence[dict[str, Any]]) -> None:
    """Append a version by hand."""
    log = table / "_delta_log"
    version = max(int(entry.stem) for entry in log.glob("*.json")) + 1
    text(log / f"{version:020}.json", "".join(json.dumps(action) + "\n" for action in actions))


def actions(table: Path, version: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (table / "_delta_log" / f"{version:020}.json").read_text().splitlines()]


def z85(data: bytes) -> str:
    return base64.b85encode(data + bytes(-len(data) % 4)).decode().translate(str.maketrans(_FROM, _TO))


def vector(positions: Sequence[int]) -> bytes:
    """A RoaringBitmapArray in the portable form: magic, number of bitmaps, then key and bitmap of each."""
    return struct.pack("<IQI", 1681511377, 1, 0) + BitMap(positions).serialize()


def delete_by_vector(table: Path, version: int, positions: Sequence[int], storage: str) -> None:
    """Rows of the file that a version added, deleted by a vector: inline, beside the table, or at an absolute path."""
    add = next(action["add"] for action in actions(table, version) if "add" in action)
    data = vector(positions)
    name = uuid.UUID(int=0x1234)
    descriptor: dict[str, Any] = {"storageType": storage, "sizeInBytes": len(data), "cardinality": len(positions)}
    if storage == "i":
        descriptor["pathOrInlineDv"] = z85(data)
    else:
        file = table / "ab" / f"deletion_vector_{name}.bin" if storage == "u" else table / "deletes.bin"
        text(file, b"\1" + struct.pack(">i", len(data)) + data + struct.pack(">I", zlib.crc32(data)))
        descriptor["pathOrInlineDv"] = "ab" + z85(name.bytes) if storage == "u" else f"file://{file}"
        descriptor["offset"] = 1
    features = ["deletionVectors"]
    commit(
        table,
        [
            {
                "protocol": {
                    "minReaderVersion": 3,
                    "minWriterVersion": 7,
                    "readerFeatures": features,
                    "writerFeatures": features,
                }
            },
            {
                "remove": {
                    **{k: add[k] for k in ("path", "partitionValues", "size")},
                    "deletionTimestamp": 1,
                    "dataChange": True,
                    "extendedFileMetadata": True,
                }
            },
            {"add": {**add, "deletionVector": descriptor}},
        ],
    )
