"""`status --verify`: check that the log, the contents of requests, their evidence and the current version agree."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...partitioning.errors import InputError
from ...partitioning.manifest import MANIFEST
from ..config.schema import Config
from ..evidence.receipt_checks import by_request, check_receipt
from ..evidence.report import contradicted
from ..evidence.signing import known_keys
from ..layout import REPORTS, manifest_name, receipt_name, report_name
from ..log.records import PURGING, Record
from ..output.ingests import ingested
from ..output.ledger import Ledger
from ..output.manifest import Manifest
from ..output.session import Session
from ..output.tickets import OPEN, State, Ticket
from ..requests.request import commitment, is_purged
from .status import status

Check = dict[str, Any]


def verify(config: Config, request_id: str | None = None) -> dict[str, Any]:
    """Check one request or all of them, and the current version. Nothing is written.

    Returns:
        `ok` (whether every check passed), `checks` ({"name", "ok", "detail"} each), and for one request the keys of
        `status`, for all of them `requests` (their number) and the current `version`. If the log is broken, its check is
        the only one, because all others depend on the log.

    Raises:
        InputError: there is no such request, or no log.
    """
    session = Session(config)
    answer: dict[str, Any] = {"request_id": request_id, "status": None, "phase": None, "version": None}
    # The log is checked first, as every other file is compared with it.
    try:
        records = session.log.records()
        ledger = session.ledger()
    except InputError as error:
        return answer | {"ok": False, "checks": [_check("log", False, str(error))]}
    if not records:
        raise InputError(f"{config.output} has no log, so there is nothing to verify. Check `output`")
    checks = [_check("log", True, _extent(records)), *_checkpoint(session, records)]
    if request_id is None:
        tickets = list(ledger.tickets.values())
        answer |= {"requests": len(tickets), "version": ledger.current.version if ledger.current else None}
    else:
        answer |= status(config, request_id)
        tickets = [ledger.tickets[request_id]]
    digests = {record.number: record.digest for record in records}
    reports = session.store.list(REPORTS)
    receipts, keys = by_request(reports), known_keys(config)
    # A log whose beginning was removed may have had a purge there.
    purges = any(record.kind == PURGING for record in records) or records[0].number > 1
    for ticket in tickets:
        checks.append(_check(f"request {ticket.request_id}: content", *_content(session, ticket, purges)))
        if ticket.state is State.COMMITTED:
            found = _evidence(session, digests, ticket, ledger.evidence.get(ticket.request_id))
            checks.append(_check(f"request {ticket.request_id}: evidence", *found))
        if (there := receipts.get(ticket.request_id, [])) or ticket.request_id in ledger.receipts:
            found = check_receipt(session.store, ledger, digests, ticket, there, keys)
            checks.append(_check(f"request {ticket.request_id}: receipt", *found))
    # Files that the log does not know were put there by somebody else, and somebody might rely on them.
    if request_id is None:
        checks += _stray_reports(reports, ledger)
    if ledger.current:
        checks += [*_file_checks(session, ledger.current), _ingest_check(session, ledger, ledger.current)]
    return answer | {"ok": all(check["ok"] for check in checks), "checks": checks}


def _extent(records: Sequence[Record]) -> str:
    """Which records of the log are there, as a sentence."""
    kept = f"{len(records)} records, each continues the one before"
    if records[0].number == 1:
        return kept
    return f"{kept}; those before record {records[0].number} were removed, and the checkpoint stands for them"


def _checkpoint(session: Session, records: Sequence[Record]) -> Iterator[Check]:
    """Check the checkpoint at which readers of the log begin. If all records are there, its state must be the one that
    follows from them."""
    checkpoint = session.log.checkpoint()
    if checkpoint is None:
        return
    detail = f"its SHA-256 is the one of the log, and the log goes on from record {checkpoint.number}"
    ok = True
    if records[0].number == 1:
        ok = Ledger(records[: checkpoint.number]).state() == checkpoint.state
        detail += (
            "; it is what the records come to"
            if ok
            else ("; but it is not what the records come to. Remove it, and the log is read from its beginning")
        )
    yield _check(checkpoint.name, ok, detail)


def _check(name: str, ok: bool, detail: str) -> Check:
    return {"name": name, "ok": ok, "detail": detail}


def _content(session: Session, ticket: Ticket, purges: bool) -> tuple[bool, str]:
    """Check the content of a request against its commitment in the log; returns (whether it is right, a sentence).

    purges: whether the log has a record of a purge, or may have had one.
    """
    place = session.ledger().content_name(ticket.request_id)
    try:
        content = json.loads(session.store.read(place))
        if is_purged(content) and ticket.state in OPEN:
            return (
                False,
                f"{place} was purged, and the log has no answer yet: it is of another moment than the log. Ask again",
            )
        if is_purged(content) and not purges:
            return False, f"{place} says that it was purged, and the log has no purge. Restore it from a backup"
        if is_purged(content):
            return True, "purged: it can no longer be compared with its commitment"
        same = commitment(content["body"].encode(), content["salt"]) == ticket.commitment
    except FileNotFoundError:
        return False, f"{place} is missing, though its request was accepted. Restore it from a backup"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return False, f"{place} is no content of a request ({type(error).__name__}). Restore it from a backup"
    if same:
        return True, f"as the log's commitment says; {ticket.state.value}"
    return False, f"{place} was changed: its HMAC is not the one of the log. Restore it from a backup"


def _evidence(
    session: Session, digests: Mapping[int, str], ticket: Ticket, fixed: Mapping[str, Any] | None
) -> tuple[bool, str]:
    """Check a request's evidence against the log; returns (whether it is right, a sentence).

    digests: the SHA-256 of the records that are there, by number. fixed: the evidence's record, as in `Ledger.evidence`;
    None if the log has none.
    """
    request_id = ticket.request_id
    if fixed is None:
        return False, "the log has none. Run the same `forget` again to write it"
    for suffix, key in (("json", "sha256"), ("html", "page_sha256")):
        place = report_name(request_id, suffix)
        try:
            data = session.store.read(place)
        except FileNotFoundError:
            return False, f"{place} is missing. Restore it from a backup"
        if session.store.sha256(data) != fixed[key]:
            return False, f"{place} was changed: its SHA-256 is not the one of {fixed['file']}"
    document = json.loads(session.store.read(report_name(request_id)))
    first = min(digests)
    for role, named in document["records"].items():
        # A record that was removed from the log after a checkpoint cannot be compared any more.
        if named["number"] >= first and digests.get(named["number"]) != named["sha256"]:
            return False, f"{named['file']} ({role}) is not the record that {report_name(request_id)} names"
    if wrong := contradicted(document, ticket):
        return False, f"{report_name(request_id)} is the one of the log, and contradicts its answer: {', '.join(wrong)}"
    failed = [check["name"] for check in document["verification"]["checks"] if check["ok"] is False]
    if failed:
        return (
            False,
            f"{report_name(request_id)} is the one of the log, and says that a check failed: {', '.join(failed)}",
        )
    detail = f"{report_name(request_id)} and its page are those of {fixed['file']}"
    left_out = [check["name"] for check in document["verification"]["checks"] if check["ok"] is None]
    return True, f"{detail}; it says why these checks were left out: {', '.join(left_out)}" if left_out else detail


def _stray_reports(reports: Sequence[str], ledger: Ledger) -> Iterator[Check]:
    """A failed check for each report of evidence and each receipt that belongs to no request in the log."""
    committed = [ticket.request_id for ticket in ledger.tickets.values() if ticket.state is State.COMMITTED]
    known = {report_name(request_id, suffix) for request_id in committed for suffix in ("json", "html")}
    answered = {ticket.request_id for ticket in ledger.tickets.values() if ticket.final}
    strays = {request_id: numbers for request_id, numbers in by_request(reports).items() if request_id not in answered}
    for request_id, numbers in strays.items():
        detail = "the log has no answered request of this name. Nobody should rely on it: remove it"
        yield _check(receipt_name(request_id, numbers[0]), False, detail)
    for place in reports:
        if place.startswith(f"{REPORTS}/evidence-") and place not in known:
            yield _check(
                place, False, "the log has no committed request of this name. Nobody should rely on it: remove it"
            )


def _ingest_check(session: Session, ledger: Ledger, version: Manifest) -> Check:
    """Check that the graph from which the next `train` begins is one that the log has an ingest for."""
    try:
        found = ingested(session).ingest
        ok = found in ledger.ingests or found == version.lake_graph.ingest
    except (InputError, ValueError, KeyError, TypeError):
        ok = False
    if ok:
        return _check(MANIFEST, True, "of an ingest that the log has")
    return _check(
        MANIFEST,
        False,
        f"{MANIFEST} is not what an ingest left that the log has. Restore it from a backup, or ingest again",
    )


def _file_checks(session: Session, version: Manifest) -> Iterator[Check]:
    """Check the files of a version, and the copy of its manifest. There is one check for all of them if they are as
    committed, otherwise one for each file that is not."""
    files = version.lake_graph.files | version.files
    wrong = 0
    for place, entry in files.items():
        try:
            found = session.store.sha256(session.store.read(place))
        except FileNotFoundError:
            found = None
        if found != entry.sha256:
            wrong += 1
            what = "is missing" if found is None else "was changed: its SHA-256 is not the one of the log"
            yield _check(
                f"version {version.version}: {place}",
                False,
                f"{place} {what}. Restore it from a backup, or train again",
            )
    place = manifest_name(version.version)
    with contextlib.suppress(FileNotFoundError):  # a missing copy is no error: the next commit makes it
        try:
            same = json.loads(session.store.read(place)) == version.document()
        except ValueError:
            same = False
        if not same:
            wrong += 1
            yield _check(
                f"version {version.version}: {place}",
                False,
                f"{place} is not the manifest that the log has. Remove it: the next commit makes it again",
            )
    if not wrong:
        total = sum(entry.bytes for entry in files.values())
        yield _check(f"version {version.version}: files", True, f"{len(files)} files, {total:,} bytes, as committed")
