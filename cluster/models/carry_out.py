"""Accepted requests, from ids to one committed version without what they name (docs/forgetting.md)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...distributed.encoder.influence import readable_format
from ...distributed.graph.removal import merged
from ...distributed.partition.partition import Partition
from ...partitioning.errors import InputError
from ...partitioning.ingest import load_assignment, load_ids
from ...workers import WorkerGroup, calling
from ..lifecycle.acceptance import advance
from ..lifecycle.decisions import within_limit
from ..lifecycle.outcomes import note_outcomes
from ..log.journal import JournalConflict
from ..log.records import COMPLETED, HELD
from ..output.ledger import State
from ..output.manifest import Manifest
from ..output.session import Session
from ..reporting.progress import Progress
from ..requests.matching import asked_of, changed_partitions, effect, resolve, union
from ..requests.request import Request
from .gate import baseline
from .unlearning import unlearned


def able_version(session: Session) -> Manifest:
    """The current version, from which something can be forgotten.

    Raises:
        InputError: it has no encoder, or is a counterfactual.
    """
    version = session.version()
    if version["graph"]["shard_files"] != version["lake_graph"]["shard_files"]:
        raise InputError(
            f"version {version['version']} was trained --without some data that the lake still has: a counterfactual, "
            "from which nothing is forgotten. Run `unlearnrec train` and `pretrain` first"
        )
    encoder = version["model"]["encoder"]
    if encoder is None:
        raise InputError(f"version {version['version']} has no Influence Encoder. Run `unlearnrec pretrain` first")
    if encoder.get("format") != (needed := readable_format(encoder)):
        raise InputError(
            f"version {version['version']} has an Influence Encoder of format {encoder.get('format', 1)}, and this release "
            f"uses {needed}. Run `unlearnrec pretrain` again"
        )
    return version


def carry_out(
    session: Session,
    requests: Sequence[Request],
    group: WorkerGroup,
    progress: Progress,
    cut_only: bool = False,
    before_commit: Callable[[Manifest], None] = lambda version: None,
) -> dict[str, dict[str, Any]]:
    """Carry out accepted requests as one version: the answer of each by its id.

    Those that remove nothing are completed without a version. Those above `forget.max_share` are held, and those that
    would take the version above it stay accepted for the next; neither has an answer. What a request removed is
    counted against the version before, so that a pair which two of them name counts in both. `before_commit` is called
    with the manifest when all its files are written. Evidence is not written here: whoever calls this does it next
    (`evidence.report.add_evidence`).

    Raises:
        JournalConflict: another version was committed meanwhile, or a request was closed: decide anew.
        InputError, WorkerFailure: as `forget`. All stay accepted, unless the commit was made.
    """
    # Before the version is read: a commit by somebody else from here on is then a conflict, not overwritten.
    ledger = session.ledger()
    head, tickets = ledger.seen, [ledger.open.get(request.request_id) for request in requests]
    approved = {ticket.request_id for ticket in tickets if ticket is not None and ticket.approved_by is not None}
    for request, ticket in zip(requests, tickets, strict=True):
        if ticket is None or ticket.state is not State.ACCEPTED:
            raise JournalConflict(f"request {request.request_id} was closed or held by somebody else")
    version = able_version(session)
    start = time.perf_counter()
    session.ensure_loaded(group, version)
    baseline(session, group, version)
    startup = time.perf_counter() - start

    start = time.perf_counter()
    marks: dict[str, float] = {}

    def mark(phase: str) -> None:
        marks[phase] = marks.get(phase, 0.0) + time.perf_counter() - start - sum(marks.values())

    graph = version["graph"]
    maps = [load_ids(session.store, graph, side) for side in ("user", "item")]
    named = {request.request_id: resolve(request, maps[0], maps[1], graph.get("time")) for request in requests}
    owners = load_assignment(session.store, graph)
    removal, timed = union(named.values())
    asked = asked_of(owners, removal, timed)
    mark("route")
    find = calling(Partition.find, removal, timed)
    found = merged(session.call(group, version, find, partitions=asked) if asked else [])
    own = {request_id: effect(found, [what], graph["items"]) for request_id, what in named.items()}
    shares = {request_id: mine.share(graph) for request_id, mine in own.items()}
    max_share = session.config.forget.max_share
    batch, held = within_limit(shares, max_share, approved)
    for request_id in held:
        body = {"share": shares[request_id], "max_share": max_share}
        if not advance(session, request_id, HELD, body, since=head):
            raise JournalConflict(f"request {request_id} was closed by somebody else")
        progress.note(
            f"request {request_id} is held: {shares[request_id]:.2%} of the interactions, forget.max_share={max_share:g}"
        )
    if not batch:
        return {}
    requests = [request for request in requests if request.request_id in batch]
    named = {request_id: named[request_id] for request_id in batch}
    own = {request_id: own[request_id] for request_id in batch}
    outcomes = note_outcomes(session, version, requests, named, found, progress)
    whole = effect(found, list(named.values()), graph["items"])
    mark("find")
    base = {
        request.request_id: {
            "request_id": request.request_id,
            "unknown_ids": named[request.request_id].unknown,
            "rows": outcomes[request.request_id].counts(request.tally),
            "removed_events": own[request.request_id].events,
            "startup_seconds": startup,
        }
        for request in requests
    }
    answers: dict[str, dict[str, Any]] = {}
    for request_id in [request_id for request_id, mine in own.items() if not mine.events]:
        answer = {
            **base[request_id],
            "status": "nothing_to_forget",
            "version": version["version"],
            "removed_interactions": 0,
            "affected_partitions": [],
            "seconds": time.perf_counter() - start,
        }
        if not advance(session, request_id, COMPLETED, {"answer": answer}, since=head):
            raise JournalConflict(f"request {request_id} was closed by somebody else")
        answers[request_id] = answer
    if not whole.events:
        return answers
    affected = changed_partitions(version, owners, whole, cut_only)
    candidate, largest_change = unlearned(session, group, version, whole, affected, mark, progress, cut_only)
    manifest, gone, number = candidate.manifest, candidate.gone, candidate.number
    judged = candidate.finish(mark, progress, largest_change, kept_rows=cut_only or not len(whole.users))
    drift = 1 - manifest["graph"]["interactions"] / manifest["model"]["encoder"]["interactions"]
    stale = drift > session.config.pretrain.drift_budget
    if stale:
        progress.note(
            f"{drift:.1%} of the interactions were forgotten since the encoder's pre-training, more than "
            f"pretrain.drift_budget={session.config.pretrain.drift_budget:g}: run `unlearnrec pretrain` again"
        )
    done = {
        request_id: {
            **base[request_id],
            "status": "committed",
            "version": number,
            "removed_interactions": len(mine.users),
            "deleted_users": int(np.isin(gone[0], mine.users).sum()),
            "deleted_items": int(np.isin(gone[1], mine.items).sum()),
            "touched_nodes": 0 if cut_only else len(np.unique(mine.users)) + len(np.unique(mine.items)),
            "affected_partitions": changed_partitions(version, owners, mine, cut_only),
            "batch_requests": len(requests) - len(answers),
            "encoder_drift": drift,
            "encoder_stale": stale,
            **judged,
        }
        for request_id, mine in own.items()
        if request_id not in answers
    }
    seconds = time.perf_counter() - start
    manifest["answers"] = {request_id: answer | {"seconds": seconds} for request_id, answer in done.items()}
    before_commit(manifest)
    committed = session.versions.commit(manifest, after=head)
    mark("commit")
    session.ensure_loaded(group, committed)
    mark("refresh")
    finished = {"seconds": time.perf_counter() - start, "phases": marks}
    return answers | {request_id: answer | finished for request_id, answer in done.items()}
