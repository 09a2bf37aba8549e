"""Writes down what requests name and remove, before their commit, and looks it up for later requests. It is kept on the
suppression list and in the files of outcomes, which hold no ids of users or items."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ...distributed.graph.removal import Found
from ...partitioning.manifest import Graph
from ..layout import SUPPRESSION, outcome_name
from ..output.manifest import Manifest
from ..output.session import Session
from ..output.tickets import State
from ..reporting.progress import Progress
from ..requests.digests import Digests, entry_digests, no_digests
from ..requests.matching import Resolved
from ..requests.outcome import INVALID, NOT_FOUND, Outcome, outcome_of
from ..requests.request import Request, read_request
from ..requests.rows import KINDS
from .acceptance import stored_content
from .suppression import ENVIRONMENT, FORGOTTEN, SuppressionList, open_list

LATEST_CONTENTS = 1000
"""The number of contents of earlier requests that are read at most."""


def note_outcomes(
    session: Session,
    version: Manifest,
    requests: Sequence[Request],
    named: Mapping[str, Resolved],
    found: Found,
    progress: Progress,
) -> dict[str, Outcome]:
    """Tell what becomes of each request's entries in a version, and write it down for the next `ingest` and for later
    requests.

    It has to come before the commit: otherwise a crash could leave a version without the data and a suppression list
    without the names, and the next `ingest` would bring the data back. What is written for a request that then fails stays
    right, because the request stays accepted.

    named: request id -> what it means in the graph. found: what the version has of all that is named. Returns the outcomes
    by request id.

    Raises:
        InputError: as `open_list` and `SuppressionList.append`.
    """
    graph, suppression = version.graph, open_list(session.store)
    known = _Earlier(session, graph, suppression, named)
    outcomes = {}
    for request in requests:
        outcome = known.outcome(request, named[request.request_id], found, graph.items)
        if outcome.not_removed:
            # Wo. Under the number of the version, because what is not there depends on the version.
            name = outcome_name(request.request_id, version.version)
            session.store.write(name, json.dumps(outcome.not_removed).encode())
        outcomes[request.request_id] = outcome
    # W3. One entry for the whole batch. It also names what the graph does not have, and says which of the digests that is.
    if suppression is not None:
        valid, missing = no_digests(), no_digests()
        for request in requests:
            without_effect = outcomes[request.request_id].not_removed
            invalid = set(without_effect.pop(INVALID, ()))
            nothing = {position for positions in without_effect.values() for position in positions}
            for position, ((kind, digest), *_) in enumerate(known.digests(request)):
                if position not in invalid:
                    valid[kind].add(digest)
                if position in nothing:
                    missing[kind].add(digest)
        if any(valid.values()):
            suppression.append(FORGOTTEN, valid, missing, list(outcomes))
    elif session.store.list(SUPPRESSION):
        progress.note(f"{ENVIRONMENT} is not set: this request is not put on the suppression list")
    return outcomes


def expected_outcome(session: Session, graph: Graph, request: Request, named: Resolved, found: Found) -> Outcome:
    """What would become of a request's entries. Nothing is written down."""
    known = _Earlier(session, graph, open_list(session.store), [request.request_id])
    return known.outcome(request, named, found, graph.items)


class _Earlier:
    """What earlier requests removed, as far as it is still known. It is read when it is first needed.

    With the key of the suppression list, the list says it. Without the key, the contents of the latest requests say it,
    unless they were purged.
    """

    def __init__(
        self,
        session: Session,
        graph: Graph,
        suppression: SuppressionList | None,
        without: Collection[str],
    ) -> None:
        """without: the requests that are asked about, which do not count as earlier ones."""
        self._session, self._suppression, self._without = session, suppression, set(without)
        # Without the list's key any key will do: its digests are compared with one another only, and not kept.
        self._key = suppression.key if suppression else secrets.token_bytes(32)
        self._id_types, time = graph.id_type, graph.time
        self._unit = time.unit if time else None
        self._removed: Digests | None = None

    def digests(self, request: Request, covering: bool = False) -> list[list[tuple[str, bytes]]]:
        """The digests of a request's entries, as `entry_digests` returns them."""
        return entry_digests(self._key, request, self._id_types, self._unit, covering)

    def outcome(self, request: Request, named: Resolved, found: Found, num_items: int) -> Outcome:
        """What becomes of a request's entries."""
        first = outcome_of(found, named, num_items)
        gone = self._positions(request, first.not_removed.get(NOT_FOUND, []))
        return outcome_of(found, named, num_items, gone) if gone else first

    def _positions(self, request: Request, missing: Collection[int]) -> set[int]:
        """The positions among `missing` of entries that an earlier request removed: by the same entry, or by one for their
        whole user, item or interaction."""
        if not missing:
            return set()
        removed = self._known()
        if not any(removed.values()):
            return set()
        named = self.digests(with_entries(request, missing), covering=True)
        hits = (any(digest in removed[kind] for kind, digest in names) for names in named)
        return {position for position, hit in zip(sorted(missing), hits, strict=True) if hit}

    def _known(self) -> Digests:
        """The digests of what earlier requests removed."""
        if self._removed is None:
            self._removed = no_digests()
            if self._suppression is not None:
                self._removed = self._suppression.removed(self._without)
                return self._removed
            for version, request_id in self._carried_out()[-LATEST_CONTENTS:]:
                content = stored_content(self._session, request_id)
                if content is None:
                    continue
                request = read_request(request_id, content["body"].encode())
                kept = {
                    p
                    for positions in noted_without_effect(self._session, request_id, version - 1).values()
                    for p in positions
                }
                places = [p for p, _ in enumerate(request.entries()) if p not in kept]
                for (kind, digest), *_ in self.digests(with_entries(request, places)):
                    self._removed[kind].add(digest)
        return self._removed

    def _carried_out(self) -> list[tuple[int, str]]:
        """(version, request id) of the earlier requests that made a version, in order of version."""
        tickets = list(self._session.ledger().tickets.values())
        answers = [t.answer for t in tickets if t.state is State.COMMITTED and t.answer is not None]
        return sorted((a["version"], a["request_id"]) for a in answers if a["request_id"] not in self._without)


def with_entries(request: Request, positions: Collection[int]) -> Request:
    """The same request with only the entries at these positions."""
    wanted = set(positions)
    kept: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    for position, (kind, value) in enumerate(request.entries()):
        if position in wanted:
            kept[kind].append(value)
    users, items, interactions, ranges = (tuple(kept[kind]) for kind in KINDS)
    return Request(request.request_id, users, items, interactions, ranges)


def noted_without_effect(session: Session, request_id: str, version: int) -> dict[str, list[int]]:
    """Result -> the positions of the entries of a request that removed nothing from this version, as `note_outcomes` wrote
    them; {} where it wrote none."""
    try:
        found: dict[str, list[int]] = json.loads(session.store.read(outcome_name(request_id, version)))
    except FileNotFoundError:
        return {}
    return found
