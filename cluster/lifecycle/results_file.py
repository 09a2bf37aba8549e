"""The file of `forget --results`. It says what became of each row of the file of requests, by row number and without ids."""

from __future__ import annotations

import io
import json
import posixpath
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ...partitioning.errors import InputError
from ...partitioning.storage import Store, canonical_uri
from ..log.records import COMMITTED
from ..output.manifest import manifest_of
from ..output.session import Session
from ..requests.outcome import ALREADY_GONE, INVALID, Outcome, outcome_of
from ..requests.request import Request
from .acceptance import stored_content
from .finding import find_stored
from .outcomes import noted_without_effect

SCHEMA = pa.schema(
    {
        "row": pa.int64(),
        "result": pa.string(),
        "removed_interactions": pa.int64(),
        "removed_events": pa.int64(),
        "reason": pa.string(),
    }
)
"""The columns of the file. Rows count from 1, in the order of the file of requests. The numbers of interactions and events
are those that a row removes by itself."""


class ResultsFile:
    """The place of the file of results, local or s3://. Its folder is made if it is missing."""

    def __init__(self, session: Session, uri: str, requests: str | None) -> None:
        """Check the place, so that a wrong one is reported before the work. requests: the file of requests.

        Raises:
            InputError: there is no file of requests; the name has an ending that is not known; the place is in the output or
                is the file of requests; or the folder cannot be written.
        """
        if requests is None:
            raise InputError(f"--results {uri}: only the rows of a file of --requests have results. Name one")
        self._ending = posixpath.splitext(uri)[1].lower()
        if self._ending not in _WRITERS:
            raise InputError(f"--results {uri}: the name must end with {', '.join(_WRITERS)}")
        session.refuse_own("--results", uri)
        if canonical_uri(uri) == canonical_uri(requests):
            raise InputError(f"--results {uri} is the file of requests. Choose another")
        folder, self._name = posixpath.split(uri)
        self._uri, self._store = uri, Store(folder or ".", session.options)
        self._store.check()

    def write(self, rows: pa.Table) -> str:
        """Write the table, complete or not at all; returns the place."""
        self._store.write(self._name, _WRITERS[self._ending](rows))
        return self._uri


class KeptResults:
    """In the place of a file: keeps the table for who asked."""

    def write(self, rows: pa.Table) -> pa.Table:
        """The table itself."""
        return rows


def result_rows(request: Request, outcome: Outcome) -> pa.Table:
    """A table with one line, as SCHEMA, for each row of the file that the request was read from."""
    positions = {entry: position for position, entry in enumerate(request.entries())}
    numbers = zip(outcome.interactions.tolist(), outcome.events.tolist(), strict=True)
    of_entry = list(zip(outcome.results, numbers, outcome.reasons, strict=True))
    lines: list[tuple[Any, ...]] = []
    for number, row in enumerate(request.rows, start=1):
        if isinstance(row, str):
            lines.append((number, INVALID, 0, 0, row))
        else:
            result, removed, reason = of_entry[positions[row]]
            lines.append((number, result, *removed, reason))
    columns = list(zip(*lines, strict=True)) or [()] * len(SCHEMA)
    return pa.table([pa.array(values, kind) for values, kind in zip(columns, SCHEMA.types, strict=True)], schema=SCHEMA)


def stored_outcome(session: Session, request: Request, answer: Mapping[str, Any]) -> Outcome | None:
    """What became of the entries of a request that has its answer.

    It is found anew in the files of the version before. None where the request has no answer yet, and where a purge has
    removed its content or those files.
    """
    if answer["status"] == "accepted" or stored_content(session, request.request_id) is None:
        return None
    versions = [manifest_of(r) for r in session.log.records() if r.kind == COMMITTED]
    by_number = {version.version: version for version in versions}
    answered = by_number.get(answer["version"])
    before = by_number.get(answered.base or 0) if answered and answer["status"] == "committed" else answered
    if before is None:
        return None
    try:
        (named,), found = find_stored(session.store, before.graph, [request])
    except InputError:
        return None
    gone = noted_without_effect(session, request.request_id, before.version).get(ALREADY_GONE, [])
    return outcome_of(found, named, before.graph.items, gone)


def _csv(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    pyarrow.csv.write_csv(rows, sink, pyarrow.csv.WriteOptions(quoting_style="needed"))
    return sink.getvalue()


def _jsonl(rows: pa.Table) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows.to_pylist()).encode()


def _parquet(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(rows, sink)
    return sink.getvalue()


_WRITERS = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
