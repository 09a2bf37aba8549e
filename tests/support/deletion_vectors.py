"""Deletion vectors in Delta tables, by hand after the protocol: deltalake does not write them."""

import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from pyroaring import BitMap

FEATURES = ["deletionVectors"]


def delete_by_vector(table: Path, added_in: int, positions: Sequence[int]) -> None:
    """Delete rows of the file that version `added_in` added, as one more version. The vector lies at an absolute path."""
    log = table / "_delta_log"
    newest = max(int(entry.stem) for entry in log.glob("*.json"))
    add = next(
        action["add"]
        for action in map(json.loads, (log / f"{added_in:020}.json").read_text().splitlines())
        if "add" in action
    )
    data = struct.pack("<IQI", 1681511377, 1, 0) + BitMap(positions).serialize()
    file = table / f"deletion_vector_{newest}.bin"
    file.write_bytes(b"\1" + struct.pack(">i", len(data)) + data + struct.pack(">I", zlib.crc32(data)))
    vector = {
        "storageType": "p",
        "pathOrInlineDv": f"file://{file}",
        "offset": 1,
        "sizeInBytes": len(data),
        "cardinality": len(positions),
    }
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": FEATURES, "writerFeatures": FEATURES}
    removed = {
        "path": add["path"],
        "deletionTimestamp": 0,
        "dataChange": True,
        "partitionValues": {},
        "size": add["size"],
    }
    if "deletionVector" in add:
        removed["deletionVector"] = add["deletionVector"]
    actions = [{"protocol": protocol}, {"remove": removed}, {"add": add | {"deletionVector": vector}}]
    (log / f"{newest + 1:020}.json").write_text("".join(json.dumps(action) + "\n" for action in actions))
