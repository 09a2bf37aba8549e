"""Batches as DROP sends them, made by hand."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

DAY, BROKER = "20260312", "4821"


def base64_of(text: str) -> str:
    """DROP's hash of an identifier that is standardised already."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def work_item(n: int) -> str:
    return f"A7kP2xQ9{n:04d}"


def csv_of(header: str, rows: Sequence[Sequence[str]]) -> str:
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\n").writerows([header.split(","), *rows])
    return sink.getvalue()


def write_batch(path: Path, lists: Mapping[str, Sequence[Sequence[str]]]) -> str:
    """A ZIP with a file for each of these lists; rows of (ID, Hash), of "Removed" (ID, Hash, ListType)."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, rows in lists.items():
            header = "ID,Hash,ListType" if name == "Removed" else "ID,Hash"
            archive.writestr(f"{DAY}_{BROKER}_{name}.csv", csv_of(header, rows))
    return str(path)


def codes_in(path: Path | str) -> dict[str, dict[str, int]]:
    """{file: {work item: code}} of an answer."""
    with zipfile.ZipFile(path) as archive:
        found = {name: list(csv.reader(io.StringIO(archive.read(name).decode()))) for name in archive.namelist()}
    assert all(rows[0] == ["Id", "Status"] for rows in found.values())
    return {name: {item: int(code) for item, code in rows[1:]} for name, rows in found.items()}
