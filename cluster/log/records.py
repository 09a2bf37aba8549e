"""Records of the log: their kinds, what each says, and how one is written as a line.

What a later record does to a decision that was made without it: `output/conflicts.py`.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

ACCEPTED = "accepted"
"""Opens a request."""
HELD, APPROVED = "held", "approved"
"""HELD makes an open request wait for an approval, APPROVED ends that."""
COMMITTED = "committed"
"""A new version, whose manifest it holds; closes the requests that the manifest answers."""
COMPLETED, CANCELLED, FAILED = "completed", "cancelled", "failed"
"""Close a request without a version."""
EVIDENCE = "evidence"
"""Fixes the report of a request. Body: `request_id`, `version`, `sha256` of the JSON file, `page_sha256` of the page, and
`seconds` of the request, where they were known."""
RECEIPT = "receipt"
"""Fixes a state of a request's receipt that `residue` made, and through it all before. Body: `request_id`, `number`,
`sha256` of its file."""
INGESTED = "ingested"
"""`ingest` writes it before the graph's manifest. Body: `ingest`, the manifest's digest (`output.ingests.digest`), and
`log_head`. The first ingest writes none: no request was carried out before it, and its head is 0."""
SWITCHING = "switching"
"""`retrain` writes it when requests were carried out while it was carrying out earlier ones on its result. Body: `behind`,
the head of the log then, and `seconds`, for which services carry out none, so that the next attempt can end."""
PURGING, PURGED = "purging", "purged"
"""`purge` writes PURGING before it removes anything, and PURGED at its end. Body of the first: `unnamed`, the files that no
record names, and `held`, the leases whose files stay."""
CHECKPOINT = "checkpoint"
"""Makes a checkpoint count. Body: `number` of records, `file`, `sha256` of the file, `format` (not there before 2)."""

FIRST = "0" * 64
"""What the first record names as the one before."""


@dataclass(frozen=True)
class Record:
    """One record; `digest` is the SHA-256 of its line, which the next one names; `file` holds it."""

    number: int
    kind: str
    time: str
    body: dict[str, Any]
    digest: str
    file: str = ""

    @property
    def seconds(self) -> float:
        """When it was written, in seconds since the epoch."""
        return datetime.fromisoformat(self.time).timestamp()


def encode(number: int, previous: str, kind: str, body: Mapping[str, Any]) -> bytes:
    """The line of a new record. Its nonce tells it from another writer's of the same content."""
    content = {
        "number": number,
        "previous": previous,
        "nonce": uuid.uuid4().hex,
        "time": iso(time.time()),
        "kind": kind,
        "body": body,
    }
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def iso(seconds: float) -> str:
    """Seconds since the epoch as ISO-8601 in UTC, to the millisecond: the form of all times in the log and in answers."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
