"""The evidence of a committed request: a report as JSON and as an HTML page, and a record of the log with the SHA-256 of
both.

docs/evidence.md says what the report contains and what it does not prove. It names no user and no item, only the request's
id, which the log has too. A request stays committed whatever happens here.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...distributed.partition.version import Model
from ...partitioning.errors import InputError
from ...workers import WorkerGroup
from ..layout import SUPPRESSION as SUPPRESSION_FOLDER
from ..layout import lineage_name, report_name
from ..lifecycle.acceptance import read_accepted
from ..lifecycle.refusals import UnreadableRequest
from ..log.log import LogConflict
from ..log.records import ACCEPTED, COMMITTED, EVIDENCE, Record, iso
from ..output.conflicts import voids_evidence
from ..output.ledger import Ticket
from ..output.manifest import Manifest, manifest_of
from ..output.session import Session, missing_text
from ..reporting.progress import SILENT, Progress
from ..reporting.software import software
from ..reporting.spans import traced
from ..requests.matching import Effect
from ..requests.request import Request, is_purged
from .change import Change, Ids
from .checks import checks_of, events_check, scores_of
from .lineage import run_event
from .page import page
from .receipt import add_first_receipt

FORMAT = 1
"""The number of this format, which each report has."""

COUNTS = (
    "removed_interactions",
    "removed_events",
    "deleted_users",
    "deleted_items",
    "touched_nodes",
    "unknown_ids",
)
"""The keys of the answer in the log that a report repeats."""

DENSE = ("dense weights of the backbone", "unchanged, though they were trained with the forgotten data too")
ENCODER = ("the Influence Encoder", "its weights were fitted on models that had seen the data, and are unchanged")
NEIGHBOURS = (
    "rows of neighbours",
    "rows of users and items that are no end of a forgotten interaction were trained beside it, and are unchanged",
)
CHANGED_NEIGHBOURS = (
    NEIGHBOURS[0],
    "rows of users and items that are no end of a forgotten interaction were trained beside it; those around one were "
    "changed "
    "for the sake of those that are (`influence.around`), the others not",
)
SUPPRESSION = ("the suppression list", "keyed digests of what the request names, kept on purpose")
NOT_REMOVED = (
    ("older versions", "their files still hold the data, until `unlearnrec purge`"),
    ("the request's content", "the ids that it names lie in requests/, until `unlearnrec purge`"),
    ("checkpoints and superseded graphs", "where there are any: until `unlearnrec purge`"),
    ("the lake", "never changed; `unlearnrec residue` counts its rows that name what was forgotten"),
    ("exports and copies", "of the output and of the lake, elsewhere: unknown here"),
)
"""What every version leaves, and why."""


@traced("evidence")
def add_evidence(
    session: Session,
    answers: Sequence[Mapping[str, Any]],
    group: WorkerGroup | None = None,
    progress: Progress = SILENT,
) -> list[dict[str, Any]]:
    """Write the reports of these requests that the log does not have yet, and add them to the answers.

    Nothing is raised. If a report cannot be written, `evidence` is None and a note says why.

    Args:
        answers: those of `forget`. Answers of requests that removed nothing are returned as they are.
        group: workers that score the forgotten pairs. Without them this part is left out, and the report says so.

    Returns:
        The answers, with `evidence` (the name of the report) and `evidence_failed` (the names of its checks that failed).
    """
    batch = _Batch(session, [a["request_id"] for a in answers if a.get("status") == "committed"], group)
    done = []
    for answer in answers:
        answer = dict(answer)
        done.append(answer)
        if answer.get("status") != "committed":
            continue
        try:
            answer["evidence_failed"] = _ensure(batch, answer)
            answer["evidence"] = report_name(answer["request_id"])
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
            continue
        _write_lineage(session, answer["request_id"], progress)
    return done


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
        graph = manifest_of(_chain(session.log.since(ticket.first_record - 1), request_id)["committed"]).graph
        event = run_event(json.loads(data), session.store.sha256(data), graph, session.store.root_uri)
        session.store.write(name, json.dumps(event, indent=1).encode() + b"\n")
    except Exception as error:
        progress.note(
            f"request {request_id}: {name} was not written ({type(error).__name__}). Repeat the request to write it"
        )


@dataclass(frozen=True)
class _Look:
    """What the files of a version and the workers say of the requests that the version answers."""

    change: Change
    effects: dict[str, Effect | None]
    """What each request removed, by its id; None if that is not known any more."""
    touched: tuple[Ids, Ids] | None
    """The users and items that the requests touched, all together; None if it is not known of one of them."""
    scores: dict[str, dict[str, Any]]
    """The scores of each request's forgotten pairs, by its id (`scores_of`)."""


class _Batch:
    """Requests whose reports are written together. A version is read and scored once for all of its requests."""

    def __init__(self, session: Session, request_ids: Sequence[str], group: WorkerGroup | None) -> None:
        self.session, self._ids, self._group = session, request_ids, group
        self._looks: dict[int, _Look] = {}
        """What was read of the last version, by its number. Only one is kept, because it is large."""

    def look(self, chain: Mapping[str, Record]) -> _Look:
        """Read the version that the record `committed` of this chain made, and score the pairs of its requests.

        A content that is not the accepted one counts as unknown.
        """
        after = manifest_of(chain["committed"])
        if after.version not in self._looks:
            store = self.session.store
            change = Change.read(store, manifest_of(chain["version before"]), after)
            if not change.has_after:
                self._check_purged(after)
            known = {}
            for request_id in after.answers:
                with contextlib.suppress(UnreadableRequest):
                    if (content := _content(self.session, self.session.ledger().tickets[request_id])) is not None:
                        known[request_id] = content
            effects = dict.fromkeys(after.answers) | change.effects(store, known)
            asked = {one: _pairs(did) for one, did in effects.items() if one in self._ids}
            scores = scores_of(self.session, change, asked, self._group)
            self._looks = {after.version: _Look(change, effects, _touched(effects.values()), scores)}
        return self._looks[after.version]

    def _check_purged(self, version: Manifest) -> None:
        """Check that a purge can have removed the missing files of a version.

        It cannot, if the current version names one of them too, as after a rollback or a training on the same graph.

        Raises:
            InputError: such a file is missing, so the output is damaged.
        """
        current = self.session.ledger().current
        kept = {**current.files, **current.lake_graph.files} if current is not None else {}
        missing = next((name for name in version.files if name in kept and not self.session.store.exists(name)), None)
        if current is not None and missing is not None:
            raise InputError(missing_text(self.session.store, missing, current))


def _ensure(batch: _Batch, answer: Mapping[str, Any]) -> list[str]:
    """Write what is missing of a request's report, its page and its record; returns the names of its checks that failed."""
    session = batch.session
    request_id: str = answer["request_id"]
    # All is decided on this state of the log. The record below is not written if a later one has the evidence already.
    ledger = session.ledger()
    seen = ledger.seen
    if request_id in ledger.evidence:
        return list(ledger.evidence[request_id].get("evidence_failed", []))
    chain = _chain(session.log.since(ledger.tickets[request_id].first_record - 1), request_id)
    ticket = ledger.tickets[request_id]
    # An earlier attempt may have written the report and died before its record. Its report counts, because somebody may
    # have read it.
    data = _kept(session, ticket, chain)
    if data is None:
        _content(session, ticket)
        listed = bool(session.store.list(SUPPRESSION_FOLDER))
        document = _document(answer, ticket, chain, batch.look(chain), listed)
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


def _chain(records: Sequence[Record], request_id: str) -> dict[str, Record]:
    """The records that a report names, by role: "committed", "accepted", "version before" and "record before"."""
    # The search begins at the end, because the request was usually committed a moment ago.
    place = next(n for n in reversed(range(len(records))) if _answers(records[n], request_id))
    committed = records[place]
    base = manifest_of(committed).base
    chain = {"committed": committed, "record before": records[place - 1]}
    for record in reversed(records[:place]):
        if record.kind == ACCEPTED and record.body["request_id"] == request_id:
            chain.setdefault("accepted", record)
        if record.kind == COMMITTED and manifest_of(record).version == base:
            chain["version before"] = record
        if len(chain) == 4:
            break
    return chain


def _answers(record: Record, request_id: str) -> bool:
    return record.kind == COMMITTED and request_id in manifest_of(record).answers


def not_removed(model: Model, listed: bool) -> list[dict[str, str]]:
    """What a version with this model still has of the data, or was trained with them, and why. Only what is there is named.

    listed: whether the output has a suppression list.
    """
    around = model.encoder is not None and model.encoder.around
    own = [
        *([DENSE] if model.dense is not None else []),
        *([ENCODER] if model.encoder is not None else []),
        CHANGED_NEIGHBOURS if around else NEIGHBOURS,
    ]
    entries = [*own, *NOT_REMOVED, *([SUPPRESSION] if listed else [])]
    return [{"what": what, "why": why} for what, why in entries]


def _document(
    answer: Mapping[str, Any], ticket: Ticket, chain: Mapping[str, Record], look: _Look, listed: bool
) -> dict[str, Any]:
    """The report of a request (docs/evidence.md). listed: as for `not_removed`."""
    request_id, committed, accepted = answer["request_id"], chain["committed"], chain["accepted"]
    after = manifest_of(committed)
    change = look.change
    told = {**after.answers[request_id], **answer}
    return {
        "format": FORMAT,
        "request_id": request_id,
        "commitment": accepted.body["commitment"],
        "version": {"before": after.base, "after": after.version},
        "requests_in_version": len(after.answers),
        "times": {
            "accepted": iso(ticket.accepted_at),
            "committed": committed.time,
            "written": iso(time.time()),
            "seconds": told.get("seconds"),
            "phases": told.get("phases"),
        },
        "removed": {name: told.get(name) for name in COUNTS}
        | {
            "affected_partitions": told["affected_partitions"],
            "partitions_of_version": change.partitions(),
        },
        "records": {
            role: {"number": record.number, "file": record.file, "kind": record.kind, "sha256": record.digest}
            for role, record in chain.items()
        },
        "files": {"changed": change.changed_files(), "unchanged": change.unchanged_files},
        "verification": {
            "checks": _checks(look, request_id, told),
            "scores": look.scores[request_id],
        },
        "not_removed": not_removed(after.model, listed),
        "gate": told.get("gate"),
        "needs_retrain": told.get("needs_retrain"),
        "drift": {
            "share_forgotten_since_pretraining": told.get("encoder_drift"),
            "more_than_budget": told.get("encoder_stale"),
        },
        "software": software(),
    }


def _pairs(effect: Effect | None) -> tuple[Ids, Ids] | None:
    return None if effect is None else (effect.users, effect.items)


def _touched(effects: Collection[Effect | None]) -> tuple[Ids, Ids] | None:
    """(users, items) that all of these effects touch; None if one of them is not known."""
    known = [effect.touched for effect in effects if effect is not None]
    if len(known) < len(effects):
        return None
    users, items = (np.unique(np.concatenate(ends)) for ends in zip(*known, strict=True))
    return users, items


def _checks(look: _Look, request_id: str, told: Mapping[str, Any]) -> list[dict[str, Any]]:
    effect = look.effects[request_id]
    checks = checks_of(look.change, _pairs(effect), look.touched, told)
    if effect is None or not effect.partial:
        return checks
    return [*checks, events_check(look.change, effect, told.get("removed_events"))]


def _content(session: Session, ticket: Ticket) -> Request | None:
    """What a request names; None if its content was purged.

    Raises:
        UnreadableRequest: the content is missing, or is not the one that was accepted.
    """
    try:
        return read_accepted(session, ticket)
    except UnreadableRequest:
        name = session.ledger(look=False).content_name(ticket.request_id)
        with contextlib.suppress(FileNotFoundError, ValueError):
            if is_purged(json.loads(session.store.read(name))):
                return None
        raise
