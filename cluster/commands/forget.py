"""`forget`: accept a deletion request and carry it out as a version without what it names (docs/forgetting.md)."""

from __future__ import annotations

import time
from typing import Any, TypedDict, Unpack

import numpy as np

from ...workers import WorkerGroup
from ..config.schema import Config
from ..evidence.report import add_evidence
from ..layout import REQUEST_KEY
from ..lifecycle.acceptance import NOTHING, accept, final_answer, under_current_id
from ..lifecycle.decisions import due_at
from ..lifecycle.operators import check_operator
from ..lifecycle.preview import preview_request
from ..lifecycle.refusals import Held
from ..lifecycle.results_file import KeptResults, ResultsFile, result_rows, stored_outcome
from ..lifecycle.suppression import open_list
from ..log.log import LogConflict
from ..log.records import iso
from ..models.carry_out import able_version, carry_out
from ..output.manifest import Manifest
from ..output.session import Session
from ..output.tickets import State
from ..reporting.progress import SILENT, Progress
from ..requests.outcome import Outcome
from ..requests.request import Request, parse_request
from ..tracking.run import Run, open_run


class Asked(TypedDict, total=False):
    """What is to be forgotten, as the options of the command (`requests.request.parse_request`), and the request's id."""

    users: str | None
    items: str | None
    interactions: str | None
    requests: str | None
    request_id: str | None


def forget(
    config: Config,
    *,
    dry_run: bool = False,
    results: str | None = None,
    requester: str | None = None,
    progress: Progress = SILENT,
    group: WorkerGroup | None = None,
    cut_only: bool = False,
    **asked: Unpack[Asked],
) -> dict[str, Any]:
    """Carry out a deletion request. The same id and content again changes nothing and gives the same answer, `repeated`.

    A request without `request_id` gets an id from its content. The same content is the same request only as long as its
    answer is up to date (`Ledger.derived_id`).

    `seconds` in the answer is the time from the request until the workers hold readouts without what was forgotten. It
    does not include the time to start workers and load the version before, which is `startup_seconds`.

    Args:
        dry_run: return what would change, and change nothing.
        results: a file for what became of each row of `requests`.
        requester: the name of the person who asks. The log keeps it.
        group: workers that run already; None: workers are started and ended here.
        cut_only: remove the interactions and leave the parameters as they are, for comparisons.
        asked: what is to be forgotten.

    Raises:
        InputError: ids or files are bad, there is no encoder, another request has this id, the key of the suppression list
            is wrong, or `results` cannot be written. Nothing has been changed then.
        Held: the request removes more than `forget.max_share`, and nobody has approved it.
        WorkerFailure: as `WorkerGroup.run`. The request stays accepted: run the command again.
    """
    check_operator("--requester", requester)
    session = Session(config)
    request_id = asked.get("request_id")
    file = None if results is None else ResultsFile(session, results, asked.get("requests"))
    if not (dry_run or session.store.exists(REQUEST_KEY)):
        able_version(session)  # an output without a model may be a mistyped name, so no key is written there
    key = session.request_key(create=not dry_run)
    named = (asked.get("users"), asked.get("items"), asked.get("interactions"), asked.get("requests"))
    request = parse_request(*named, request_id, session.options, key)
    if request_id is None:
        request = under_current_id(session, request)
    if request.empty and not dry_run:
        return _nothing_named(session, request, request_id, file)
    if dry_run:
        session.whole_version()
        if request_id is not None:
            final_answer(session, request)  # an id of another request is told here as well
        return preview(session, able_version(session), request, file)
    with open_run(config, progress) as run:
        answer = _forget(session, request, requester, progress, group, cut_only, run)
    if file is not None:
        answer = {**answer, "results": _write_results(session, request, answer, file, progress)}
    return answer


def _nothing_named(
    session: Session, request: Request, request_id: str | None, file: ResultsFile | None
) -> dict[str, Any]:
    """The answer to a file of requests without rows. Nothing is accepted, so no id is derived from a content."""
    outcome = Outcome([], np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), [], known=False)
    answer = {"request_id": request_id, "status": "nothing_to_forget", "version": able_version(session).version}
    answer |= NOTHING | {"rows": outcome.counts(request.tally)}
    return answer | ({"results": file.write(result_rows(request, outcome))} if file is not None else {})


def _write_results(
    session: Session, request: Request, answer: dict[str, Any], file: ResultsFile, progress: Progress
) -> str | None:
    """Write the file of results; returns its place. If the results are not known, a note says why, and it returns None."""
    outcome = stored_outcome(session, request, answer)
    if outcome is None:
        why = "the request waits" if answer["status"] == "accepted" else "what would tell has been purged"
        progress.note(f"no results were written: {why}")
        return None
    return file.write(result_rows(request, outcome))


def _forget(
    session: Session,
    request: Request,
    requester: str | None,
    progress: Progress,
    group: WorkerGroup | None,
    cut_only: bool,
    run: Run,
) -> dict[str, Any]:
    """Accept the request, carry it out, and write its evidence. Any of these may have been done by an earlier attempt."""
    # The first attempt may have died between its commit and its evidence, which is then written now.
    if (answer := final_answer(session, request)) is not None:
        return add_evidence(session, [answer], progress=progress)[0] | {"repeated": True}
    # Everything that the user must mend is checked before the request is accepted (W1, W2). An accepted request counts,
    # whether this command goes on or not.
    able_version(session)
    session.whole_version()
    open_list(session.store)  # raises if the key is wrong
    accept(session, request, requester)
    if (waiting := _in_grace(session, request)) is not None:
        progress.note(
            f"accepted; it waits until {waiting['due']} (forget.grace_seconds), then run this again or `serve`"
        )
        return waiting
    _check_not_held(session, request)
    try:
        with session.workers(group) as workers:
            # The evidence (W8 to W10) comes after the commit (W6), because it is read back from the committed files.
            carried_out = carry_out(session, [request], workers, progress, cut_only)
            run.requests(list(carried_out.values()))
            answers = add_evidence(session, list(carried_out.values()), workers, progress)
    except LogConflict:
        # Another process, such as a service on this output, may have answered the request or held it. Its answer counts.
        if (answer := final_answer(session, request)) is not None:
            return add_evidence(session, [answer], progress=progress)[0]
        _check_not_held(session, request)
        raise
    if not answers:
        _check_not_held(session, request)
    return answers[0]


def _check_not_held(session: Session, request: Request) -> None:
    """Raise Held if the request waits for an approval."""
    ticket = session.ledger().tickets[request.request_id]
    if ticket.state is State.HELD and ticket.share is not None:
        raise Held(request.request_id, ticket.share, session.config.forget.max_share)


def _in_grace(session: Session, request: Request) -> dict[str, Any] | None:
    """The answer while the request's grace window is open; None if the request may be carried out."""
    ticket = session.ledger().tickets[request.request_id]
    due = due_at(ticket, session.config.forget.grace_seconds)
    if ticket.state is not State.ACCEPTED or time.time() >= due:
        return None
    return {"request_id": request.request_id, "status": "accepted", "version": None, "due": iso(due), **NOTHING}


def preview(
    session: Session, version: Manifest, request: Request, results: ResultsFile | KeptResults | None = None
) -> dict[str, Any]:
    """What the request would change. It needs no workers, and writes nothing under the output."""
    answer, outcome = preview_request(session, version, request)
    if results is not None:
        answer["results"] = results.write(result_rows(request, outcome))
    return answer
