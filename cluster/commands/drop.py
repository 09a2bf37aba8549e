"""`drop`: carry out a batch of California's DROP, and answer each work item with a code (docs/drop.md)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ...partitioning.errors import InputError
from ...partitioning.lake import read_ids
from ...workers import WorkerGroup
from ..config.schema import Config
from ..drop.answer import AnswerFile, result_table
from ..drop.batch import Batch, Item, read_batch
from ..drop.codes import TAKEN_BACK, Code, Decision, Rules, on_match, on_ticket
from ..drop.mapping import Looked, key_of, match
from ..drop.requests import cancel, ensure, latest, request_id_of
from ..evidence.report import add_evidence
from ..lifecycle.acceptance import read_accepted
from ..lifecycle.decisions import next_batch
from ..lifecycle.refusals import TakenId
from ..lifecycle.results_file import ResultsFile
from ..lifecycle.suppression import open_list
from ..log.log import LogConflict
from ..models.carry_out import able_version, carry_out
from ..output.ingests import ingest_head
from ..output.ledger import Ledger
from ..output.session import Session
from ..output.tickets import State
from ..reporting.progress import SILENT, Progress

SHOWN = 100
"""The largest number of malformed rows that the answer names. The file of `--results` has all of them."""
CONFLICTS = 5
"""The number of conflicts in a row with other processes after which the command gives up. The same command again goes on."""


def drop(
    config: Config,
    *,
    batch: str,
    out: str,
    results: str | None = None,
    suffix: str | None = None,
    accept_only: bool = False,
    progress: Progress = SILENT,
    group: WorkerGroup | None = None,
) -> dict[str, Any]:
    """Turn the work items of a batch into deletion requests, carry them out, and write the codes that follow from the log.

    The same batch again gives the same codes and makes no further request, unless an ingest began meanwhile. A work item
    that has no code yet is not in the answer; run the batch again.

    Args:
        batch, out: the options `--in` and `--out`.
        results: a file for what became of each row, as of `forget --results`.
        suffix: a suffix for the names of the answer's files.
        accept_only: only accept the requests; a service carries them out.

    Raises:
        InputError: the batch or a table cannot be read, the section `drop` has no table for a list of the batch, a place
            cannot be written, or as `forget`. No code was written then.
        WorkerFailure: as `forget`. The requests stay accepted: run the command again.
    """
    session = Session(config)
    answer = AnswerFile(session, out, batch, suffix)
    file = None if results is None else ResultsFile(session, results, batch)
    read = read_batch(batch, session.options)
    version = able_version(session).version
    rules = _rules(session)
    removed = set(read.removed)
    asked = [item for item in read.items if item.work_item not in removed]
    looked = _match(session, asked)
    users = {item.work_item: looked[item.list].users.get(item.digest, set()) for item in asked}
    nameless = {item.work_item for item in asked if item.digest in looked[item.list].nameless}
    session.whole_version()
    open_list(session.store)  # a wrong key is told before any request is accepted
    key = session.request_key()
    names = {work_item: request_id_of(work_item, key) for work_item in [*users, *removed]}

    # Work items that were taken back are cancelled first, because a service may carry out their requests at any time.
    session.ledger()
    taken_back = Counter(cancel(session, names[work_item]) for work_item in read.removed)
    decided, waiting = _accept(session, users, nameless, names, rules, key)
    if not accept_only:
        _carry_out(session, [names[work_item] for work_item in users if work_item not in decided], progress, group)
    # A code follows from the log alone, so it is decided after the requests and their evidence are in the log.
    ledger = session.ledger()
    if not accept_only:
        _write_missing_evidence(session, ledger, list(names.values()), progress)
        ledger = session.ledger()
    decisions = dict.fromkeys((item.work_item for item in read.items if item.work_item in removed), TAKEN_BACK)
    decisions |= decided | _from_log(ledger, [item for item in asked if item.work_item not in decided], names, rules)
    decisions |= {item: Decision(None, why) for item, why in waiting.items()}
    tickets = {item: ticket.request_id for item in users if (ticket := latest(ledger, names[item])) is not None}
    # The codes are written last. If the command dies before, the same batch again gives the same codes.
    if file is not None:
        file.write(result_table(read, decisions, tickets))
    answer.write(read, decisions)
    told = _answer(ledger, read, decisions, taken_back, looked.values(), progress)
    told |= {"evidence_failed": sum(name in ledger.evidence_failed for name in tickets.values())}
    told |= {"needs_retrain": ledger.needs_retrain() and told["version"] != version, "out": out}
    return told if results is None else told | {"results": results}


def _rules(session: Session) -> Rules:
    """The rules of the section `drop`: exempt users, users who opted out, and the codes where there is a choice."""
    section = session.config.drop
    named = {
        name: frozenset(map(str, read_ids(place, "user_id", session.options)["user_id"].to_pylist())) if place else ()
        for name, place in (("exempt", section.exempt), ("opted_out", section.opted_out))
    }
    return Rules(**named, several=section.several, nothing_held=section.nothing_held)


def _match(session: Session, asked: Sequence[Item]) -> dict[str, Looked]:
    """What the table of each list says of the batch's hashes, by the name of the list.

    Raises:
        InputError: the section `drop` has no table for a list of the batch.
    """
    section, wanted = session.config.drop, dict[str, set[bytes]]()
    for item in asked:
        wanted.setdefault(item.list, set()).add(item.digest)
    settings = {name: getattr(section, name.lower()) for name in wanted}
    missing = [name for name, setting in settings.items() if setting is None]
    if missing:
        raise InputError(
            f"the batch has identifiers of the list {missing[0]}, and drop.{missing[0].lower()} is not set: nobody can be "
            "found there. Name the table, or do not select this list in DROP"
        )
    key = key_of(section.key_variable) if any(setting.keyed for setting in settings.values()) else b""
    return {name: match(name, settings[name], wanted[name], session.options, key) for name in wanted}


def _accept(
    session: Session,
    users: Mapping[str, Collection[str]],
    nameless: Collection[str],
    names: Mapping[str, str],
    rules: Rules,
    key: bytes,
) -> tuple[dict[str, Decision], dict[str, str]]:
    """Accept a request for each work item that needs one.

    users: the users that each work item matches. nameless: work items that match only rows without a user. names: the
    request id of each work item.

    Returns:
        (the decisions on work items that need no request; for each work item whose request does not cover all users that
        it matches now, why not).
    """
    decided: dict[str, Decision] = {}
    waiting: dict[str, str] = {}
    head_of_ingest = ingest_head(session)
    for work_item, matched in users.items():
        found = on_match(matched, work_item in nameless, rules)
        if isinstance(found, Decision):
            # If there is a request already, it counts and not the table. After a deletion the table may not have the user
            # any more.
            if latest(session.ledger(look=False), names[work_item]) is None:
                decided[work_item] = found
                continue
            found = sorted(set(matched).difference(rules.exempt))
        try:
            why = ensure(session, names[work_item], found, key, head_of_ingest)
        except TakenId:
            why = "another request has its id"
        if why is not None:
            waiting[work_item] = why
    return decided, waiting


def _carry_out(session: Session, request_ids: Sequence[str], progress: Progress, group: WorkerGroup | None) -> None:
    """Carry out those of the work items' requests that are due, at most `serve.max_batch` in a version."""
    if not _due(session, request_ids):
        return
    conflicts = 0
    with session.workers(group) as workers:
        while due := _due(session, request_ids):
            tickets = session.ledger(look=False).tickets
            try:
                requests = [read_accepted(session, tickets[request_id]) for request_id in due]
                answers = carry_out(session, requests, workers, progress)
            except LogConflict:  # a service or another command was faster; decide again on what it left
                conflicts += 1
                if conflicts == CONFLICTS:
                    raise
                continue
            conflicts = 0
            add_evidence(session, list(answers.values()), workers, progress)


def _due(session: Session, request_ids: Sequence[str]) -> list[str]:
    """The ids of the requests to carry out next: accepted ones whose grace window is over."""
    ledger, config = session.ledger(), session.config
    tickets = [ticket for name in request_ids if (ticket := latest(ledger, name)) is not None]
    waiting = [ticket for ticket in tickets if ticket.state is State.ACCEPTED]
    return next_batch(waiting, time.time(), config.forget.grace_seconds, config.serve.max_batch)


def _write_missing_evidence(session: Session, ledger: Ledger, names: Sequence[str], progress: Progress) -> None:
    """Write the reports of these requests that are missing, as after a crash of who carried them out, between a commit and
    the last of its reports."""
    tickets = [ticket for name in names if (ticket := latest(ledger, name)) is not None]
    add_evidence(session, [t.describe() for t in tickets if t.state is State.COMMITTED], progress=progress)


def _from_log(ledger: Ledger, items: Sequence[Item], names: Mapping[str, str], rules: Rules) -> dict[str, Decision]:
    """The decision on each of these work items that follows from the log, by work item."""
    all_reported = not (ledger.evidence_failed or ledger.unreported)
    decisions = {}
    for item in items:
        ticket = latest(ledger, names[item.work_item])
        if ticket is None:
            decisions[item.work_item] = Decision(None, "no request was accepted for it")
        else:
            decisions[item.work_item] = on_ticket(ticket, ticket.request_id in ledger.evidence, all_reported, rules)
    return decisions


def _answer(
    ledger: Ledger,
    read: Batch,
    decisions: Mapping[str, Decision],
    taken_back: Mapping[str, int],
    looked: Collection[Looked],
    progress: Progress,
) -> dict[str, Any]:
    """What the command returns. It also tells the user what has no code yet, and which rows are malformed."""
    codes = Counter(decision.code for decision in decisions.values() if decision.code is not None)
    waits = Counter(decision.reason for decision in decisions.values() if decision.result == "waits")
    waiting = sum(waits.values())
    if waiting:
        progress.note(f"{waiting} of {len(read.items)} work items have no code yet: run the same batch again")
    for row in read.malformed[:SHOWN]:
        progress.note(f"{row.file}, row {row.row}: {row.why}")
    return {
        "rows": len(read.items) + len(read.malformed),
        "codes": {str(int(code)): codes[code] for code in Code},
        "waiting": waiting,
        "waits_because": dict(waits),
        "removed": {name: taken_back.get(name, 0) for name in ("cancelled", "too_late", "unknown")},
        "malformed": len(read.malformed),
        "malformed_rows": [{"file": row.file, "row": row.row, "why": row.why} for row in read.malformed[:SHOWN]],
        "looked_at": [one.document() for one in looked],
        "version": ledger.current.version if ledger.current else None,
    }
