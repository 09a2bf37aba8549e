"""Write the evidence of committed requests: a report as JSON and as an HTML page, and a record of the log with the SHA-256
of both.

What a report says is made in `drafts`. A request stays committed whatever happens here.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ...partitioning.errors import InputError
from ...workers import WorkerGroup
from ..layout import lineage_name, report_name
from ..lifecycle.refusals import UnreadableRequest
from ..log.log import LogConflict
from ..log.records import EVIDENCE, Record, iso
from ..output.conflicts import voids_evidence
from ..output.manifest import manifest_of
from ..output.session import Session
from ..output.tickets import Ticket
from ..reporting.progress import SILENT, Progress
from ..reporting.spans import traced
from .drafts import COUNTS, Drafts, chain_of
from .lineage import run_event
from .page import page
from .receipt import add_first_receipt


@traced("evidence")
def add_evidence(
    session: Session,
    answers: Sequence[Mapping[str, Any]],
    group: WorkerGroup | None = None,
    progress: Progress = SILENT,
    *,
    known: Mapping[str, Mapping[str, Any]] | None = None,
    threads: int = 1,
) -> list[dict[str, Any]]:
    """Write the reports of these requests that the log does not have yet, and add them to the answers.

    Nothing is raised. If a report cannot be written, `evidence` is None and a note says why.

    Args:
        answers: those of `forget`. Answers of requests that removed nothing are returned as they are.
        group: workers that score the forgotten pairs. Without them this part is left out, and the report says so.
        known: reports that were drafted before (`drafted`), by request id.
        threads: so many reports are written at a time. Writing is mostly waiting for the disk.

    Returns:
        The answers, with `evidence` (the name of the report) and `evidence_failed` (the names of its checks that failed).
    """
    drafts = Drafts(session, [a["request_id"] for a in answers if a.get("status") == "committed"], group)

    def write(answer: Mapping[str, Any]) -> dict[str, Any]:
        return _write(session, answer, drafts, (known or {}).get(answer["request_id"]), progress)

    if threads == 1 or len(answers) < 2:
        return list(map(write, answers))
    with ThreadPoolExecutor(threads, thread_name_prefix="evidence") as pool:
        return list(pool.map(write, answers))


def drafted(
    session: Session, answers: Sequence[Mapping[str, Any]], group: WorkerGroup | None
) -> dict[str, dict[str, Any]]:
    """The reports of these requests, by id, to be written later by `add_evidence`.

    A report that cannot be made now is left out: `add_evidence` tries it again, and says what is wrong.

    answers, group: as for `add_evidence`.
    """
    committed = [answer for answer in answers if answer.get("status") == "committed"]
    drafts = Drafts(session, [answer["request_id"] for answer in committed], group)
    found = {}
    for answer in committed:
        with contextlib.suppress(Exception):
            ticket = session.ledger().tickets[answer["request_id"]]
            found[ticket.request_id] = drafts.document(answer, ticket, _chain(session, ticket))
    return found


def _write(
    session: Session,
    answer: Mapping[str, Any],
    drafts: Drafts,
    known: Mapping[str, Any] | None,
    progress: Progress,
) -> dict[str, Any]:
    """Write what is missing of one request; returns its answer, as `add_evidence`."""
    answer = dict(answer)
    if answer.get("status") != "committed":
        return answer
    try:
        answer["evidence_failed"] = _ensure(session, answer, drafts, known)
        answer["evidence"] = report_name(answer["request_id"])
        answer.pop("checks", None)  # they are not pending any more
        for name in answer["evidence_failed"]:
            progress.note(f"request {answer['request_id']}: the check of {name} FAILED, see {answer['evidence']}")
        add_first_receipt(session, answer["request_id"], progress)
    except Exception as error:  # the request stays committed, whatever happens to its report
        answer["evidence"] = None
        # The message is shown only for exceptions that name settings and files. That of another one may contain ids.
        why = f": {error}" if isinstance(error, InputError | OSError | UnreadableRequest) else ""
        progress.note(
            f"request {answer['request_id']} is committed, but its evidence was not written: "
            f"{type(error).__name__}{why}. Repeat the request to write it"
        )
        return answer
    _write_lineage(session, answer["request_id"], progress)
    return answer


def _write_lineage(session: Session, request_id: str, progress: Progress) -> None:
    """Write the OpenLineage event of a request (Wl), unless it is there.

    It says nothing that the report does not say, so nothing is missing without it, and nothing is raised.
    """
    name = lineage_name(request_id)
    try:
        if session.store.exists(name):
            return
        data = session.store.read(report_name(request_id))
        ticket = session.ledger(look=False).tickets[request_id]
        graph = manifest_of(_chain(session, ticket)["committed"]).graph
        event = run_event(json.loads(data), session.store.sha256(data), graph, session.store.root_uri)
        session.store.write(name, json.dumps(event, indent=1).encode() + b"\n")
    except Exception as error:
        progress.note(
            f"request {request_id}: {name} was not written ({type(error).__name__}). Repeat the request to write it"
        )


def _chain(session: Session, ticket: Ticket) -> dict[str, Record]:
    return chain_of(session.log.since(ticket.first_record - 1), ticket)


def _ensure(session: Session, answer: Mapping[str, Any], drafts: Drafts, known: Mapping[str, Any] | None) -> list[str]:
    """Write what is missing of a request's report, its page and its record; returns the names of its checks that failed.

    known: the report, where it was drafted before.
    """
    request_id: str = answer["request_id"]
    # All is decided on this state of the log. The record below is not written if a later one has the evidence already.
    ledger = session.ledger()
    seen = ledger.seen
    if request_id in ledger.evidence:
        return list(ledger.evidence[request_id].get("evidence_failed", []))
    ticket = ledger.tickets[request_id]
    chain = _chain(session, ticket)
    # An earlier attempt may have written the report and died before its record. Its report counts, because somebody may
    # have read it.
    data = _kept(session, ticket, chain)
    if data is None:
        if known is not None and known["records"]["committed"]["sha256"] == chain["committed"].digest:
            document = dict(known)
        else:
            document = drafts.document(answer, ticket, chain)
        document["times"] = document["times"] | {"written": iso(time.time())}
        data = json.dumps(document, indent=1).encode() + b"\n"
        name = report_name(request_id)
        # The report (W8) is created, not overwritten, so of two processes that write it at once one wins.
        try:
            session.store.create(name, data)
        except FileExistsError:
            # Another process was faster, and its report is taken. Or the file there is damaged, and is replaced.
            if (kept := _kept(session, ticket, chain)) is None:
                session.store.write(name, data)
            data = kept or data
    document, digest = json.loads(data), session.store.sha256(data)
    # The page (W9) follows from the report alone: two processes that took the same report write the same page.
    html = page(document, digest).encode()
    session.store.write(report_name(request_id, "html"), html)
    body = {"request_id": request_id, "version": document["version"]["after"], "sha256": digest}
    body |= {"page_sha256": session.store.sha256(html), "seconds": document["times"]["seconds"]}
    failed = [check["name"] for check in document["verification"]["checks"] if check["ok"] is False]
    # The record (W10) is last, because it names the SHA-256 of both files: a request has evidence only when both are there.
    # On a conflict another process was faster, with the same report.
    with contextlib.suppress(LogConflict):
        session.log.append(EVIDENCE, body | {"evidence_failed": failed}, after=seen, void=voids_evidence(request_id))
    return failed


def _kept(session: Session, ticket: Ticket, chain: Mapping[str, Record]) -> bytes | None:
    """The bytes of the report that an earlier attempt left, if it is of this commit and says what the log says; else
    None."""
    try:
        data = session.store.read(report_name(ticket.request_id))
        document = json.loads(data)
        same = document["records"]["committed"]["sha256"] == chain["committed"].digest
        return data if same and not contradicted(document, ticket) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def contradicted(document: Mapping[str, Any], ticket: Ticket) -> list[str]:
    """The names of what a report says otherwise than the log.

    Raises:
        KeyError, TypeError: the document is not a report.
    """
    answer = ticket.answer or {}
    pairs: dict[str, tuple[Any, Any]] = {"request_id": (document["request_id"], ticket.request_id)}
    pairs["commitment"] = document["commitment"], ticket.commitment
    pairs["version"] = document["version"]["after"], answer.get("version")
    pairs |= {name: (document["removed"].get(name), answer.get(name)) for name in COUNTS}
    return [name for name, (told, logged) in pairs.items() if told != logged]
