"""`forget`: a deletion request, from the user's ids to a committed version without them (docs/forgetting.md)."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ..distributed.removal import Removal
from ..partitioning.errors import InputError
from ..partitioning.ingest import load_assignment, load_ids, load_shard
from ..workers import WorkerGroup
from .accepting import accept as _accept
from .accepting import answered as _answer
from .carrying_out import able_version, carry_out, distinct, owners_of
from .config import Config
from .coordinator import State, iso
from .evidence import add_evidence
from .journal import JournalConflict
from .progress import Progress
from .requests import Request, Resolved, parse_request, resolve
from .session import Manifest, Session, silent
from .suppression import open_list


def forget(
    config: Config,
    *,
    users: str | None = None,
    items: str | None = None,
    interactions: str | None = None,
    requests: str | None = None,
    dry_run: bool = False,
    request_id: str | None = None,
    progress: Progress | None = None,
    group: WorkerGroup | None = None,
    cut_only: bool = False,
) -> dict[str, Any]:
    """Carry out a deletion request; the same id and content again gives the same answer and changes nothing.

    The arguments are those of the command. `seconds` counts from the request to readouts without it; starting workers
    and loading the version before (`startup_seconds`) are apart. `cut_only` leaves the parameters as they are: what
    comparisons measure against.

    Raises:
        InputError: bad ids or files, no encoder, another request under this id, or the wrong key of the suppression list.
        WorkerFailure: as `WorkerGroup.run`. The request stays accepted: run the command again.
    """
    progress = progress or silent()
    session = Session(config)
    request = parse_request(users, items, interactions, requests, request_id, session.options, session.request_key())
    if not dry_run and (answer := _answer(session, request)) is not None:
        return add_evidence(session, [answer], progress=progress)[0]
    version = able_version(session)
    session.whole_version()
    if dry_run:
        return _dry_run(session, version, request)
    open_list(session.store)  # a wrong key is told before the request is accepted
    _accept(session, request)
    if (waiting := _in_grace(session, request)) is not None:
        progress.note(
            f"accepted; it waits until {waiting['due']} (forget.grace_seconds), then run this again or `serve`"
        )
        return waiting
    try:
        if group is not None:
            return carry_out(session, [request], group, progress, cut_only)[request.request_id]
        with session.workers() as own:
            return carry_out(session, [request], own, progress, cut_only)[request.request_id]
    except JournalConflict:
        # Perhaps a service that runs on this output was faster.
        if (answer := _answer(session, request)) is not None:
            return add_evidence(session, [answer], progress=progress)[0]
        raise


def _in_grace(session: Session, request: Request) -> dict[str, Any] | None:
    """What to answer while the request's grace window is open; None when it may be carried out."""
    ticket = session.ledger().tickets[request.request_id]
    due = ticket.accepted_at + session.config.forget.grace_seconds
    if ticket.state is not State.ACCEPTED or time.time() >= due:
        return None
    nothing = {"removed_interactions": 0, "affected_partitions": [], "seconds": 0.0}
    return {"request_id": request.request_id, "status": "accepted", "version": None, "due": iso(due), **nothing}


def status(config: Config, request_id: str) -> dict[str, Any]:
    """Where a request is: its status and phase, and the version that has it.

    Raises:
        InputError: no such request.
    """
    session = Session(config)
    ticket = session.ledger().tickets.get(request_id)
    if ticket is not None:
        return ticket.describe()
    raise InputError(f"{config.output} has no request {request_id!r}. Check the id and `output`")


def _resolve(session: Session, graph: Manifest, request: Request) -> Resolved:
    return resolve(request, *(load_ids(session.store, graph, side) for side in ("user", "item")))


def _dry_run(session: Session, version: Manifest, request: Request) -> dict[str, Any]:
    """What would be touched; no workers, nothing written."""
    start = time.perf_counter()
    graph = version["graph"]
    found, owners = _resolve(session, graph, request), load_assignment(session.store, graph)
    removal = Removal(found.users, found.items, found.pair_users, found.pair_items)
    parts = [removal.pairs(load_shard(session.store, graph, k)) for k in range(graph["partitions"])]
    users, items = distinct(parts, graph["items"])
    affected = owners_of(owners, (users, items))
    return {
        "request_id": request.request_id,
        "status": "dry_run",
        "version": version["version"],
        "removed_interactions": len(users),
        "affected_partitions": affected,
        "touched_nodes": len(np.unique(users)) + len(np.unique(items)),
        "unknown_ids": found.unknown,
        "seconds": time.perf_counter() - start,
    }
