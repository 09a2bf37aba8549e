"""What the report of a committed request says, from the files of two versions, the log and the workers.

docs/evidence.md says what the report contains and what it does not prove. It names no user and no item, only the request's
id, which the log has too.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from ...distributed.partition.version import Model
from ...partitioning.errors import InputError
from ...workers import WorkerGroup
from ..layout import SUPPRESSION as SUPPRESSION_FOLDER
from ..lifecycle.acceptance import read_accepted
from ..lifecycle.refusals import UnreadableRequest
from ..log.records import ACCEPTED, COMMITTED, Record, iso
from ..output.manifest import Manifest, manifest_of
from ..output.session import Session, missing_text
from ..output.tickets import Ticket
from ..reporting.software import software
from ..requests.matching import Effect
from ..requests.request import Request, is_purged
from .change import Change, Ids
from .checks import checks_of, events_check, scores_of, version_checks

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
CARRIED_ENCODER = (
    ENCODER[0],
    "its weights were fitted on models that had seen the data, and are unchanged. It was carried over from the model of an "
    "earlier version, so these may also be models of before the last training",
)
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


@dataclass(frozen=True)
class _Look:
    """What the files of a version and the workers say of the requests that the version answers."""

    change: Change
    effects: dict[str, Effect | None]
    """What each request removed, by its id; None if that is not known any more."""
    checks: list[dict[str, Any]]
    """The checks that are the same for all requests of the version (`version_checks`)."""
    scores: dict[str, dict[str, Any]]
    """The scores of each request's forgotten pairs, by its id (`scores_of`)."""
    partitions: list[dict[str, Any]]
    files: dict[str, Any]
    """partitions, files: these parts of a report."""
    listed: bool
    """Whether the output has a suppression list."""


class Drafts:
    """The reports of some requests before they are written. A version is looked at once for all of its requests, and its
    pairs are scored together."""

    def __init__(self, session: Session, request_ids: Collection[str], group: WorkerGroup | None) -> None:
        """request_ids: of the requests whose reports are wanted. group: workers that score the forgotten pairs; None: this
        part is left out."""
        self._session, self._ids, self._group = session, request_ids, group
        self._lock = Lock()
        self._looks: dict[int, _Look] = {}
        """What was seen of the last version, by its number. Only one is kept, because it may be large."""

    def document(self, answer: Mapping[str, Any], ticket: Ticket, chain: Mapping[str, Record]) -> dict[str, Any]:
        """The report of a request. Any thread may ask.

        answer: that of `forget`. chain: of `chain_of`.

        Raises:
            UnreadableRequest: its content is missing, or is not the one that was accepted.
            OSError, InputError: a file is missing that no purge can have removed, or cannot be read.
        """
        with self._lock:
            _content(self._session, ticket)
            return _document(answer, ticket, chain, self._look(chain))

    def _look(self, chain: Mapping[str, Record]) -> _Look:
        """Look at the version that the record `committed` of this chain made, and score the pairs of its requests.

        A content that is not the accepted one counts as unknown.
        """
        after = manifest_of(chain["committed"])
        if after.version not in self._looks:
            store, tickets = self._session.store, self._session.ledger().tickets
            change = Change.read(store, manifest_of(chain["version before"]), after, self._session.id_maps)
            if not change.has_after:
                self._check_purged(after)
            known = {}
            for request_id in after.answers:
                with contextlib.suppress(UnreadableRequest):
                    if (content := _content(self._session, tickets[request_id])) is not None:
                        known[request_id] = content
            effects = dict.fromkeys(after.answers) | change.effects(store, known)
            asked = {one: _pairs(did) for one, did in effects.items() if one in self._ids}
            self._looks = {
                after.version: _Look(
                    change=change,
                    effects=effects,
                    checks=version_checks(change, _touched(effects.values())),
                    scores=scores_of(self._session, change, asked, self._group),
                    partitions=change.partitions(),
                    files={"changed": change.changed_files(), "unchanged": change.unchanged_files},
                    listed=bool(store.list(SUPPRESSION_FOLDER)),
                )
            }
        return self._looks[after.version]

    def _check_purged(self, version: Manifest) -> None:
        """Check that a purge can have removed the missing files of a version.

        It cannot, if the current version names one of them too, as after a rollback or a training on the same graph.

        Raises:
            InputError: such a file is missing, so the output is damaged.
        """
        current = self._session.ledger().current
        kept = {**current.files, **current.lake_graph.files} if current is not None else {}
        missing = next((name for name in version.files if name in kept and not self._session.store.exists(name)), None)
        if current is not None and missing is not None:
            raise InputError(missing_text(self._session.store, missing, current))


def chain_of(records: Sequence[Record], ticket: Ticket) -> dict[str, Record]:
    """The records that a report names, by role: "committed", "accepted", "version before" and "record before".

    records: from the ticket's first record on, or from an earlier one.
    """
    request_id = ticket.request_id
    # What closed it is the commit, unless the ticket comes from a checkpoint that does not know the number.
    told = ticket.closed_at - records[0].number
    places = [told] if 0 <= told < len(records) else []
    places += reversed(range(len(records))) if not places or not _answers(records[told], request_id) else []
    place = next(n for n in places if _answers(records[n], request_id))
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
        *([] if model.encoder is None else [ENCODER if model.encoder.carried_from is None else CARRIED_ENCODER]),
        CHANGED_NEIGHBOURS if around else NEIGHBOURS,
    ]
    entries = [*own, *NOT_REMOVED, *([SUPPRESSION] if listed else [])]
    return [{"what": what, "why": why} for what, why in entries]


def _document(answer: Mapping[str, Any], ticket: Ticket, chain: Mapping[str, Record], look: _Look) -> dict[str, Any]:
    """The report of a request (docs/evidence.md)."""
    request_id, committed, accepted = answer["request_id"], chain["committed"], chain["accepted"]
    after = manifest_of(committed)
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
            "partitions_of_version": look.partitions,
        },
        "records": {
            role: {"number": record.number, "file": record.file, "kind": record.kind, "sha256": record.digest}
            for role, record in chain.items()
        },
        "files": look.files,
        "verification": {
            "checks": _checks(look, request_id, told),
            "scores": look.scores[request_id],
        },
        "not_removed": not_removed(after.model, look.listed),
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
    checks = checks_of(look.change, look.checks, _pairs(effect), told)
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
