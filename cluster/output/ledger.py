"""The ledger: the state that all records of the log lead to. It has a ticket for each deletion request, and the current
version.

Nothing here reads, writes or waits. lifecycle/decisions.py decides what becomes of the tickets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from threading import Lock
from typing import Any, ClassVar

from ..layout import content_name, request_of
from ..log.checkpoints import FORMAT
from ..log.records import (
    ACCEPTED,
    APPROVED,
    CANCELLED,
    CHECKPOINT,
    COMMITTED,
    COMPLETED,
    EVIDENCE,
    FAILED,
    HELD,
    INGESTED,
    PURGED,
    PURGING,
    RECEIPT,
    SWITCHING,
    Record,
)
from .manifest import Manifest, cached_manifest, manifest_of
from .steps import with_step
from .tickets import OPEN, State, Ticket


class Ledger:
    """The state that the records of a log lead to: all tickets in the order of their acceptance, and the versions.

    `seen` is the number of the last record that it has taken in. Threads may take in records and read at the same time.
    """

    def __init__(self, records: Sequence[Record] = (), state: Mapping[str, Any] | None = None) -> None:
        """records: the records to take in. state: what `Ledger.state` gave for all records before them; None where there
        are none."""
        state = state or {}
        self.evidence: dict[str, dict[str, Any]] = dict(state.get("evidence", {}))
        """Request id -> the body of the record that fixes its report, and as `file` the segment that holds the record."""
        self.tickets = {entry["request_id"]: _ticket(entry, state) for entry in state.get("tickets", ())}
        self.open = {request_id: self.tickets[request_id] for request_id in state.get("open", ())}
        self.failed = {request_id: self.tickets[request_id] for request_id in state.get("failed", ())}
        self.evidence_failed = {ticket.request_id: ticket for ticket in self.tickets.values() if ticket.evidence_failed}
        """The committed requests whose evidence has a check that failed, by id."""
        self.counts = Counter(ticket.state for ticket in self.tickets.values())
        self.current = cached_manifest(state["current"], "the checkpoint of the log") if state.get("current") else None
        self.committed_at: int = state.get("committed_at", 0)
        """The number of the record that committed the current version; 0 without one."""
        self.versions: int = state.get("versions", 0)
        self.ingested_version: int = state.get("ingested_version", 0)
        """The first version on the ingest of the current version."""
        self.makers: dict[str, int] = dict(state.get("makers", {}))
        """File -> the number of the first version that names it."""
        self.receipts: dict[str, dict[str, Any]] = dict(state.get("receipts", {}))
        """Request id -> the body of the record that fixes the newest state of its receipt, and as `file` the segment that
        holds the record."""
        self.unreported: dict[str, float] = dict(state.get("unreported", {}))
        """Committed requests whose evidence is not in the log: request id -> the time of the commit."""
        self.purging: dict[int, int] = _purges(state)
        """Purges that may still remove files: the number of the record that began a purge -> the version that was current
        then. The purge leaves the files of that version and of later ones."""
        self.contents: dict[str, str] = dict(state.get("contents", {}))
        """Request id -> the file of its content, where a purge removes the file that an earlier attempt had left."""
        self.steps: dict[str, list[Any]] = dict(state.get("steps", {}))
        """Request id -> what happened after its first acceptance (`steps.with_step`). What a checkpoint of an earlier
        release stands for is missing. A list is never changed, but replaced."""
        self.commits: dict[str, float] = dict(state.get("commits", {}))
        """Number of a version, as text -> the time of its commit, as far as known."""
        self.ingests: dict[str, int] = dict(state.get("ingests", {}))
        """Digest of an ingest's manifest -> the head of the log when the ingest began to read."""
        self.checkpointed: int = state.get("checkpointed", 0)
        """The number of records that the last checkpoint of the present format stands for."""
        self.seen: int = state.get("seen", 0)
        self.carried_out_at: int = state.get("carried_out_at", 0)
        """The number of the last record that closes a request as carried out."""
        self.switching: tuple[float, float] | None = tuple(state["switching"]) if "switching" in state else None
        """(when, for how many seconds) a retrain asked services to wait for its version; None once the version is there."""
        self._trained = {int(version): interactions for version, interactions in state.get("trained", {}).items()}
        """Version -> the number of interactions in the training that it comes from."""
        self._lock = Lock()
        self.absorb(records)

    def state(self) -> dict[str, Any]:
        """The whole ledger as a JSON object: `Ledger(later records, state)` is the ledger of all records."""
        with self._lock:
            return {
                "tickets": [vars(ticket) | {"state": ticket.state.value} for ticket in self.tickets.values()],
                "open": list(self.open),
                "failed": list(self.failed),
                "current": self.current.document() if self.current else None,
                "committed_at": self.committed_at,
                "versions": self.versions,
                "ingested_version": self.ingested_version,
                "makers": dict(self.makers),
                "evidence": dict(self.evidence),
                "tickets_have_evidence": True,
                "unreported": dict(self.unreported),
                "purging": {str(number): version for number, version in self.purging.items()} or None,
                "checkpointed": self.checkpointed,
                "seen": self.seen,
                "carried_out_at": self.carried_out_at,
                "trained": {str(version): interactions for version, interactions in self._trained.items()},
                **({"switching": list(self.switching)} if self.switching is not None else {}),
                **({"contents": dict(self.contents)} if self.contents else {}),
                **({"ingests": dict(self.ingests)} if self.ingests else {}),
                **({"receipts": dict(self.receipts)} if self.receipts else {}),
                **({"steps": dict(self.steps)} if self.steps else {}),
                **({"commits": dict(self.commits)} if self.commits else {}),
            }

    def absorb(self, records: Sequence[Record]) -> None:
        """Take in the records after `seen`. Records up to `seen` are known already, and left out."""
        with self._lock:
            for record in records:
                if record.number > self.seen:
                    self._absorb(record)
                    self.seen = record.number

    def _absorb(self, record: Record) -> None:
        handle = self._handlers.get(record.kind)
        if handle is not None:  # a kind that a later release adds says nothing to this one
            handle(self, record)

    def _accepted(self, record: Record) -> None:
        body, known = record.body, self.tickets.get(record.body["request_id"])
        if known is not None and known.state is not State.FAILED:
            return
        # A request that failed begins anew, but is as old as before: its deadline counts from the first time.
        ticket = Ticket(
            body["request_id"],
            State.ACCEPTED,
            record.seconds if known is None else known.accepted_at,
            commitment=body.get("commitment", ""),
            requester=body.get("requester"),
            first_record=record.number,
            accepted_again_at=None if known is None else record.seconds,
        )
        self._set(ticket)
        if known is not None:
            self._add_step(ticket.request_id, ACCEPTED, record)
        self.contents.pop(ticket.request_id, None)
        if "content" in body:
            self.contents[ticket.request_id] = body["content"]

    def _held(self, record: Record) -> None:
        if (ticket := self.open.get(record.body["request_id"])) is not None:
            self._set(replace(ticket, state=State.HELD, share=record.body["share"]))
            self._add_step(ticket.request_id, HELD, record)

    def _approved(self, record: Record) -> None:
        if (ticket := self.open.get(record.body["request_id"])) is not None:
            self._set(replace(ticket, state=State.ACCEPTED, approved_by=record.body["by"]))
            self._add_step(ticket.request_id, APPROVED, record)

    def _committed(self, record: Record) -> None:
        manifest = manifest_of(record)
        self._trained[manifest.version] = self._interactions_trained_on(manifest)
        self.commits[str(manifest.version)] = record.seconds
        if manifest.reason == "train":
            self.switching = None  # what services waited for is there
        if manifest.reason == "forget":
            self.carried_out_at = record.number
        for request_id, answer in manifest.answers.items():
            known = self.tickets.get(request_id)
            # Evidence names the record of the acceptance, that of the version before, and the one before this record.
            first = min(known.first_record if known else record.number, self.committed_at, record.number - 1)
            self._close(request_id, State.COMMITTED, record, answer=answer, first_record=first)
            self.unreported[request_id] = record.seconds
        for files in (manifest.files, manifest.graph.files, manifest.lake_graph.files):
            for name in files:
                self.makers.setdefault(name, manifest.version)
        if self.current is None or manifest.lake_graph.ingest != self.current.lake_graph.ingest:
            self.ingested_version = manifest.version
        self.current, self.versions, self.committed_at = manifest, self.versions + 1, record.number

    def _interactions_trained_on(self, manifest: Manifest) -> int:
        """The number of interactions in the training that this version comes from."""
        if manifest.reason == "train":
            # A training with an encoder is a retrain. It may have trained on more interactions than the graph has, because
            # requests were carried out on its result; the encoder has the number.
            return (manifest.model.encoder or manifest.graph).interactions
        source = manifest.version - 1 if manifest.rolled_back_to is None else manifest.rolled_back_to
        return self._trained.get(source, 0)

    def _completed(self, record: Record) -> None:
        self.carried_out_at = record.number
        self._close(record.body["request_id"], State.COMPLETED, record, answer=record.body["answer"])

    def _cancelled_or_failed(self, record: Record) -> None:
        self._close(record.body["request_id"], State(record.kind), record, error=record.body.get("error"))

    def _evidence(self, record: Record) -> None:
        request_id = record.body["request_id"]
        if request_id in self.evidence:  # the first one counts
            return
        self.evidence[request_id] = record.body | {"file": record.file}
        self.unreported.pop(request_id, None)
        self._add_step(request_id, EVIDENCE, record)
        if (ticket := self.tickets.get(request_id)) is not None:
            self._set(replace(ticket, evidence_failed=record.body.get("evidence_failed", [])))

    def _receipt(self, record: Record) -> None:
        known = self.receipts.get(record.body["request_id"])
        if known is None or known["number"] < record.body["number"]:
            request_id = record.body["request_id"]
            self.receipts[request_id] = record.body | {"file": record.file}
            self._add_step(request_id, RECEIPT, record)

    def _switching(self, record: Record) -> None:
        self.switching = record.seconds, record.body["seconds"]

    def _ingested(self, record: Record) -> None:
        self.ingests[record.body["ingest"]] = record.body["log_head"]

    def _purging(self, record: Record) -> None:
        self.purging[record.number] = self.current.version if self.current else 0
        # The purge may stand still for any time before it removes a file. So no request gets a file of this name any more.
        for request_id, _ in filter(None, map(request_of, record.body["unnamed"])):
            if request_id not in self.tickets:
                self.contents[request_id] = content_name(request_id, record.number)

    def _purged(self, record: Record) -> None:
        for number in record.body.get("ends", list(self.purging)):
            self.purging.pop(number, None)

    def _checkpoint(self, record: Record) -> None:
        if record.body.get("format") == FORMAT:
            self.checkpointed = record.body["number"]

    _handlers: ClassVar[Mapping[str, Callable[[Ledger, Record], None]]] = {
        ACCEPTED: _accepted,
        HELD: _held,
        APPROVED: _approved,
        COMMITTED: _committed,
        COMPLETED: _completed,
        CANCELLED: _cancelled_or_failed,
        FAILED: _cancelled_or_failed,
        EVIDENCE: _evidence,
        RECEIPT: _receipt,
        SWITCHING: _switching,
        INGESTED: _ingested,
        PURGING: _purging,
        PURGED: _purged,
        CHECKPOINT: _checkpoint,
    }

    def _close(self, request_id: str, state: State, record: Record, **fields: Any) -> None:
        """Give a request the state with which this record closes it, unless it has a final one."""
        ticket = self.tickets.get(request_id) or Ticket(request_id, State.ACCEPTED, record.seconds)
        if not ticket.final:  # the first final answer counts
            self._set(replace(ticket, state=state, closed_at=record.number, **fields))
            self._add_step(request_id, state.value, record)

    def _add_step(self, request_id: str, kind: str, record: Record) -> None:
        self.steps[request_id] = with_step(self.steps.get(request_id, ()), kind, record.seconds)

    def _set(self, ticket: Ticket) -> None:
        """Replace the ticket of a request, in all collections that it belongs to."""
        before = self.tickets.get(ticket.request_id)
        self.counts.subtract([before.state] if before else [])
        self.counts[ticket.state] += 1
        self.tickets[ticket.request_id] = ticket
        for where, belongs in (
            (self.open, ticket.state in OPEN),
            (self.failed, ticket.state is State.FAILED),
            (self.evidence_failed, ticket.evidence_failed),
        ):
            if belongs:
                where[ticket.request_id] = ticket
            else:
                where.pop(ticket.request_id, None)

    def content_name(self, request_id: str) -> str:
        """The name of the file that holds the content of a request, or will hold it once the request is accepted."""
        return self.contents.get(request_id) or content_name(request_id)

    def derived_id(self, request_id: str, ingest_head: int) -> str:
        """The id of a request whose content gives `request_id`: the first of ID, ID-2, ID-3, ... that is not out of date.

        An id is out of date when its request was cancelled, or answered before the last ingest began to read: the ingest may
        have brought the data back. ingest_head: the head of the log when that ingest began.
        """
        names = chain([request_id], (f"{request_id}-{n}" for n in count(2)))
        return next(name for name in names if not self._outdated(name, ingest_head))

    def _outdated(self, request_id: str, ingest_head: int) -> bool:
        ticket = self.tickets.get(request_id)
        return (
            ticket is not None and ticket.final and (ticket.state is State.CANCELLED or ticket.closed_at <= ingest_head)
        )

    def unanswered(self) -> list[Ticket]:
        """The tickets of requests that have no answer and were not cancelled: open and failed ones, oldest first."""
        return sorted([*self.open.values(), *self.failed.values()], key=lambda ticket: ticket.accepted_at)

    def needed_from(self) -> int:
        """The number of the first record that may still be looked up: one that evidence which is not written yet will name,
        or that of the current version."""
        waiting = [self.tickets[request_id].first_record for request_id in [*self.open, *self.unreported]]
        return min([self.committed_at or self.seen, *waiting])

    def needs_retrain(self) -> bool:
        """Whether the current version, or one that it was made from since the last training, missed its gate."""
        return self.current is not None and self.current.needs_retrain

    def debt(self) -> float:
        """The unlearning debt: the share of the interactions of the last training that were forgotten since; from 0 to 1."""
        trained = self._trained[self.current.version] if self.current is not None else 0
        return 1 - self.current.graph.interactions / trained if self.current is not None and trained else 0.0


def _ticket(entry: Mapping[str, Any], state: Mapping[str, Any]) -> Ticket:
    """A ticket from the state of a ledger. That of an earlier release does not say which record closed a request, which was
    the last one of the state at the latest, nor that no check of its evidence failed."""
    ticket = Ticket(**{**entry, "state": State(entry["state"])})
    earlier = not state.get("tickets_have_evidence")
    if earlier and ticket.evidence_failed is None and ticket.request_id in state.get("evidence", ()):
        ticket = replace(ticket, evidence_failed=[])
    return replace(ticket, closed_at=state.get("seen", 0)) if ticket.final and not ticket.closed_at else ticket


def _purges(state: Mapping[str, Any]) -> dict[int, int]:
    """`Ledger.purging` from the state of a ledger."""
    found = state.get("purging") or {}
    if isinstance(found, list):  # an earlier release kept names of files here
        return {0: state["current"]["version"] if state["current"] else 0}
    return {int(number): version for number, version in found.items()}
