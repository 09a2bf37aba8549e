"""`status --verify`: the log, the contents of requests, their evidence and the current version against each other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ..partitioning.errors import InputError
from .config import Config
from .coordinator import Ledger, State, Ticket
from .evidence import EVIDENCE, record_file, report_name
from .forgetting import status
from .journal import Record
from .requests import TOMBSTONE, commitment, content_name
from .session import Session
from .versions import COMMITTED

Check = dict[str, Any]


def verify(config: Config, request_id: str | None = None) -> dict[str, Any]:
    """Check one request, or all of them, and the current version. Read only.

    Returns:
        `ok` (every check is), `checks` ({name, ok, detail} each), and the keys of `status`: those of the request, or
        `requests` (their number) and the current `version`. Where the log is broken, nothing else can be relied on, and
        its check is the only one.

    Raises:
        InputError: no such request, or no log at all.
    """
    session = Session(config)
    answer: dict[str, Any] = {"request_id": request_id, "status": None, "phase": None, "version": None}
    try:
        records = session.journal.records()
    except InputError as error:
        return answer | {"ok": False, "checks": [_check("log", False, str(error))]}
    if not records:
        raise InputError(f"{config.output} has no log, so there is nothing to verify. Check `output`")
    checks = [_check("log", True, f"{len(records)} records, each continues the one before")]
    versions = [r.body["manifest"] for r in records if r.kind == COMMITTED]
    if request_id is None:
        tickets = list(Ledger(records).tickets.values())
        answer |= {"requests": len(tickets), "version": versions[-1]["version"] if versions else None}
    else:
        answer |= status(config, request_id)
        tickets = [Ledger(records).tickets[request_id]]
    evidence = {r.body["request_id"]: r for r in records if r.kind == EVIDENCE}
    for ticket in tickets:
        checks.append(_check(f"request {ticket.request_id}: content", *_content(session, ticket)))
        if ticket.state is State.COMMITTED:
            found = _evidence(session, records, evidence.get(ticket.request_id))
            checks.append(_check(f"request {ticket.request_id}: evidence", *found))
    if versions:
        checks += _file_checks(session, versions[-1])
    return answer | {"ok": all(check["ok"] for check in checks), "checks": checks}


def _check(name: str, ok: bool, detail: str) -> Check:
    return {"name": name, "ok": ok, "detail": detail}


def _content(session: Session, ticket: Ticket) -> tuple[bool, str]:
    place = content_name(ticket.request_id)
    try:
        content = json.loads(session.store.read(place))
        if content == TOMBSTONE:
            return True, "purged: it can no longer be compared with its commitment"
        same = commitment(content["body"].encode(), content["salt"]) == ticket.commitment
    except FileNotFoundError:
        return False, f"{place} is missing, though its request was accepted. Restore it from a backup"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return False, f"{place} is no content of a request ({type(error).__name__}). Restore it from a backup"
    if same:
        return True, f"as the log's commitment says; {ticket.state.value}"
    return False, f"{place} was changed: its HMAC is not the one of the log. Restore it from a backup"


def _evidence(session: Session, records: Sequence[Record], record: Record | None) -> tuple[bool, str]:
    if record is None:
        return False, "the log has none. Run the same `forget` again to write it"
    request_id = record.body["request_id"]
    for suffix, key in (("json", "sha256"), ("html", "page_sha256")):
        place = report_name(request_id, suffix)
        try:
            data = session.store.read(place)
        except FileNotFoundError:
            return False, f"{place} is missing. Restore it from a backup"
        if session.store.sha256(data) != record.body[key]:
            return False, f"{place} was changed: its SHA-256 is not the one of {record_file(record)}"
    document = json.loads(session.store.read(report_name(request_id)))
    for role, named in document["records"].items():
        if not 0 < named["number"] <= len(records) or records[named["number"] - 1].digest != named["sha256"]:
            return False, f"{named['file']} ({role}) is not the record that {report_name(request_id)} names"
    failed = [check["name"] for check in document["verification"]["checks"] if check["ok"] is False]
    if failed:
        return (
            False,
            f"{report_name(request_id)} is the one of the log, and says that a check failed: {', '.join(failed)}",
        )
    return True, f"{report_name(request_id)} and its page are those of {record_file(record)}"


def _file_checks(session: Session, version: dict[str, Any]) -> Iterator[Check]:
    """One check for all files when they are as committed, else one for each that is not."""
    files = version["lake_graph"]["files"] | version["files"]
    wrong = 0
    for place, entry in files.items():
        try:
            found = session.store.sha256(session.store.read(place))
        except FileNotFoundError:
            found = None
        if found != entry["sha256"]:
            wrong += 1
            what = "is missing" if found is None else "was changed: its SHA-256 is not the one of the log"
            yield _check(
                f"version {version['version']}: {place}",
                False,
                f"{place} {what}. Restore it from a backup, or train again",
            )
    if not wrong:
        total = sum(entry["bytes"] for entry in files.values())
        yield _check(f"version {version['version']}: files", True, f"{len(files)} files, {total:,} bytes, as committed")
