"""What requests name and remove, written down before their commit, and looked up by later ones: the suppression list, and
notes without any id."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ...distributed.graph.removal import Found
from ...partitioning.manifest import Graph
from ..layout import SUPPRESSION, outcome_name
from ..output.ledger import State
from ..output.manifest import Manifest
from ..output.session import Session
from ..reporting.progress import Progress
from ..requests.digests import Digests, entry_digests, no_digests
from ..requests.matching import Resolved
from ..requests.outcome import INVALID, NOT_FOUND, Outcome, outcome_of
from ..requests.request import Request, read_request
from ..requests.rows import KINDS
from .acceptance import stored_content
from .suppression import ENVIRONMENT, FORGOTTEN, SuppressionList, open_list

LATEST_CONTENTS = 1000
"""So many contents of earlier requests are read at most."""


def note_outcomes(
    session: Session,
    version: Manifest,
    requests: Sequence[Request],
    named: Mapping[str, Resolved],
    found: Found,
    progress: Progress,
) -> dict[str, Outcome]:
    """What becomes of each request's entries in a version, by request id; written down where the next `ingest` and later
    requests look.

    It must come before the commit, so that no crash leaves a version without the data and a list without the names. What is
    noted for a request that then fails is right too: it stays accepted.
    """
    graph, suppression = version.graph, open_list(session.store)
    known = _Earlier(session, graph, suppression, named)
    outcomes = {}
    for request in requests:
        outcome = known.outcome(request, named[request.request_id], found, graph.items)
        if outcome.not_removed:
            name = outcome_name(request.request_id, version.version)
            session.store.write(name, json.dumps(outcome.not_removed).encode())
        outcomes[request.request_id] = outcome
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
    """What would become of a request's entries; nothing is noted."""
    known = _Earlier(session, graph, open_list(session.store), [request.request_id])
    return known.outcome(request, named, found, graph.items)


class _Earlier:
    """What earlier requests removed, as far as that is still known; read when it is first asked for.

    With the key of the suppression list, the list tells; without it, contents of the latest requests that are not purged.
    """

    def __init__(
        self,
        session: Session,
        graph: Graph,
        suppression: SuppressionList | None,
        without: Collection[str],
    ) -> None:
        """without: the requests that are asked about, which are no earlier ones."""
        self._session, self._suppression, self._without = session, suppression, set(without)
        self._key = suppression.key if suppression else secrets.token_bytes(32)
        self._id_types, time = graph.id_type, graph.time
        self._unit = time.unit if time else None
        self._removed: Digests | None = None

    def digests(self, request: Request, covering: bool = False) -> list[list[tuple[str, bytes]]]:
        """Of its entries, as `entry_digests`."""
        return entry_digests(self._key, request, self._id_types, self._unit, covering)

    def outcome(self, request: Request, named: Resolved, found: Found, num_items: int) -> Outcome:
        """What becomes of a request's entries."""
        first = outcome_of(found, named, num_items)
        gone = self._positions(request, first.not_removed.get(NOT_FOUND, []))
        return outcome_of(found, named, num_items, gone) if gone else first

    def _positions(self, request: Request, missing: Collection[int]) -> set[int]:
        """Those of the positions `missing` whose entry, or all of whose user or item, an earlier request removed."""
        if not missing:
            return set()
        removed = self._known()
        if not any(removed.values()):
            return set()
        named = self.digests(with_entries(request, missing), covering=True)
        hits = (any(digest in removed[kind] for kind, digest in names) for names in named)
        return {position for position, hit in zip(sorted(missing), hits, strict=True) if hit}

    def _known(self) -> Digests:
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
        """(version, request) of the earlier ones."""
        tickets = list(self._session.ledger().tickets.values())
        answers = [t.answer for t in tickets if t.state is State.COMMITTED and t.answer is not None]
        return sorted((a["version"], a["request_id"]) for a in answers if a["request_id"] not in self._without)


def with_entries(request: Request, positions: Collection[int]) -> Request:
    """The request with some of its entries."""
    wanted = set(positions)
    kept: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    for position, (kind, value) in enumerate(request.entries()):
        if position in wanted:
            kept[kind].append(value)
    users, items, interactions, ranges = (tuple(kept[kind]) for kind in KINDS)
    return Request(request.request_id, users, items, interactions, ranges)


def noted_without_effect(session: Session, request_id: str, version: int) -> dict[str, list[int]]:
    """By result, the positions of entries of a request that removed nothing from this version."""
    try:
        found: dict[str, list[int]] = json.loads(session.store.read(outcome_name(request_id, version)))
    except FileNotFoundError:
        return {}
    return found
