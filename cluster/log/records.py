"""Records of the log: their kinds, what each kind says, and how a record is written as one line.

`output/conflicts.py` says which later records make a decision void that was made without them.
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
"""A request was accepted; it is open from here on. Body: `request_id` and `commitment`; `requester` where one was named;
`content`, the file of its content, where that is not the usual one."""
HELD, APPROVED = "held", "approved"
"""HELD: an open request waits for an approval. APPROVED: the approval was given. Bodies: `request_id`, and `share` or
`by`."""
COMMITTED = "committed"
"""A new version was made. It closes the requests that the manifest answers. Body: `manifest`."""
COMPLETED, CANCELLED, FAILED = "completed", "cancelled", "failed"
"""These close a request without a new version. COMPLETED: it was carried out, and there was nothing to remove. CANCELLED:
somebody took it back. FAILED: it could not be carried out, and may be accepted again."""
EVIDENCE = "evidence"
"""The report of a request was written, and is fixed by this record. Body: `request_id`, `version`, `sha256` of the JSON
file, `page_sha256` of the page, and `seconds` that the request took, where that was known."""
RECEIPT = "receipt"
"""`residue` made a state of a request's receipt. This record fixes the state, and all states before it. Body: `request_id`,
`number` of the state, `sha256` of its file."""
INGESTED = "ingested"
"""A table was ingested. `ingest` writes this record before the manifest of the graph. Body: `ingest`, the digest of that
manifest (`output.ingests.digest`), and `log_head`, the head of the log when the ingest began to read. An ingest into an
empty log writes none: no request was carried out before it, and its head is 0."""
SWITCHING = "switching"
"""`retrain` asks services to wait. It writes this record when a request was carried out while it was carrying out earlier
ones on its result. Body: `behind`, the head of the log then, and `seconds` for which services carry out no request, so that
the next attempt can end."""
PURGING, PURGED = "purging", "purged"
"""`purge` writes PURGING before it removes anything, and PURGED at its end. Body of PURGING: `unnamed`, the files that no
record names and that will be removed, and `held`, the leases whose files stay. Body of PURGED: the answer of the command,
and `ends`, the numbers of the PURGING records that it ends."""
CHECKPOINT = "checkpoint"
"""A checkpoint was written, and counts from here on. Body: `number` of records that it stands for, `file`, `sha256` of the
file, and `format`, which is absent in format 1."""

FIRST = "0" * 64
"""What the first record of a log has in the place of the digest of the record before it."""


@dataclass(frozen=True)
class Record:
    """One record of the log.

    number: from 1, without a gap. time: in ISO-8601, by the clock of its writer. digest: the SHA-256 of its line, which the
    next record names. file: the segment that holds it.
    """

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
    """The line of a new record.

    previous: the digest of the record before it. The line holds a nonce, so that two writers of the same content write
    different lines, and each can tell whether the line that is there is its own.
    """
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
