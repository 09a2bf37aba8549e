"""Carry out a batch of accepted requests: find what they name, unlearn it, and commit one version without it.

The steps are described in docs/forgetting.md; the writes W3 to W7 in docs/protocol.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...distributed.encoder.influence import readable_formats
from ...distributed.graph.removal import Found
from ...partitioning.errors import InputError
from ...workers import WorkerGroup
from ..lifecycle.acceptance import append_step
from ..lifecycle.decisions import within_limit
from ..lifecycle.finding import Route, find_by_workers, route
from ..lifecycle.outcomes import note_outcomes
from ..log.log import LogConflict
from ..log.records import COMPLETED, HELD
from ..output.manifest import Manifest
from ..output.session import Session
from ..output.tickets import State
from ..reporting.progress import Progress
from ..reporting.spans import span
from ..requests.matching import Effect, Resolved, changed_partitions, effect, effects
from ..requests.outcome import Outcome
from ..requests.request import Request
from .gate import measured_baseline
from .stopwatch import Stopwatch
from .unlearning import Candidate, Change, make_candidate


def able_version(session: Session) -> Manifest:
    """The current version, after a check that requests can be carried out on it.

    Raises:
        InputError: the version has no encoder, an encoder of a format that this release does not read, or is a
            counterfactual.
    """
    version = session.version()
    if version.graph.shard_chains != version.lake_graph.shard_chains:
        raise InputError(
            f"version {version.version} was trained --without some data that the lake still has: a counterfactual, "
            "from which nothing is forgotten. Run `unlearnrec train` and `pretrain` first"
        )
    encoder = version.model.encoder
    if encoder is None:
        raise InputError(f"version {version.version} has no Influence Encoder. Run `unlearnrec pretrain` first")
    if not encoder.readable:
        newest = max(readable_formats(encoder.objective))
        later = "It was made by a later release: use that one, or run" if encoder.format > newest else "Run"
        raise InputError(
            f"version {version.version} has an Influence Encoder of format {encoder.format}, and this release "
            f"uses {newest}. {later} `unlearnrec pretrain` again"
        )
    return version


@dataclass(frozen=True, eq=False)
class _Batch:
    """Requests that become one version together, and what each of them removes from the version before."""

    requests: Sequence[Request]
    way: Route
    """The dense ids that each request names, and the partitions that own them."""
    found: Found
    """The interactions that the requests name, as the workers found them in the graph."""
    effects: Mapping[str, Effect]
    """What each request removes, by request id. A pair that two requests name counts in both."""
    num_items: int

    def of(self, request_ids: Collection[str]) -> _Batch:
        """The batch with only these requests."""
        kept = [request for request in self.requests if request.request_id in request_ids]
        return replace(self, requests=kept, effects={r.request_id: self.effects[r.request_id] for r in kept})

    @property
    def named(self) -> dict[str, Resolved]:
        """What each request names in the graph, by request id."""
        return {request.request_id: self.way.named[request.request_id] for request in self.requests}

    def whole(self) -> Effect:
        """What all requests of the batch remove together."""
        return effect(self.found, list(self.named.values()), self.num_items)


def carry_out(
    session: Session,
    requests: Sequence[Request],
    group: WorkerGroup,
    progress: Progress,
    cut_only: bool = False,
    before_commit: Callable[[Manifest], None] = lambda version: None,
) -> dict[str, dict[str, Any]]:
    """Carry out accepted requests as one version, and return the answer of each request by its id.

    A request that removes nothing is completed without a version. A request that alone removes more than
    `forget.max_share` of the graph is held. Requests with which the batch would remove more than that share stay accepted
    for the next version. Neither of these two has an answer. What a request removed is counted against the version
    before, so a pair that two requests name counts in both.

    The evidence is not written here; the caller writes it next (`evidence.report.add_evidence`).

    Args:
        cut_only: remove the interactions, and leave the model's rows unchanged.
        before_commit: called with the manifest when all its files are written, just before the commit.

    Raises:
        LogConflict: another version was committed meanwhile, or a request was closed. The caller decides again.
        InputError, WorkerFailure: as `forget`. All requests stay accepted, unless the commit was made.
    """
    with span("carry_out", requests=[request.request_id for request in requests]):
        return _carry_out(session, requests, group, progress, cut_only, before_commit)


def _carry_out(
    session: Session,
    requests: Sequence[Request],
    group: WorkerGroup,
    progress: Progress,
    cut_only: bool,
    before_commit: Callable[[Manifest], None],
) -> dict[str, dict[str, Any]]:
    """As `carry_out`."""
    # The head of the log is read before the version. A commit by another process after this head is then a conflict, and
    # no version overwrites another.
    head, approved = _check_open(session, requests)
    version = able_version(session)
    startup = _load(session, group, version)
    watch = Stopwatch()
    # The workers search their shards. Nothing is written yet.
    batch = _find(session, group, version, requests, watch)
    # Record `held` (Wh) comes before the notes and the suppression list (Wo, W3): a held request may never be carried
    # out, so neither of them may name what it names.
    batch = _hold_too_large(session, version, batch, approved, head, progress)
    if not batch.requests:
        return {}
    # The notes and the suppression list (Wo, W3) come before the commit (W6). Otherwise a crash between them would leave
    # a version without the data and a list without their names, and the next `ingest` would read the data again.
    outcomes = note_outcomes(session, version, batch.requests, batch.named, batch.found, progress)
    whole = batch.whole()
    watch.mark("find")
    told = _told_of_all(batch, outcomes, startup)
    # Record `completed` (Wn) has the answer of a request that removes nothing. It needs no version, so it does not wait
    # for the commit of the others.
    answers = _complete_without_effect(session, version, batch, told, head, watch)
    if not whole.events:
        return answers
    affected = changed_partitions(version, batch.way.owners, whole, cut_only)
    change = Change(whole, affected, cut_only)
    # Shards, rows and id maps (W4, W5) are written under names of this attempt. Until the commit no manifest names them,
    # so a crash leaves only files that a purge removes.
    candidate, largest_change = make_candidate(session, group, version, change, watch.mark, progress)
    # The gate measures before the commit, because the answers, which are final from the commit on, contain its result.
    judged = candidate.fine_tune_and_judge(
        watch.mark, progress, largest_change, kept_rows=cut_only or not len(whole.users)
    )
    judged |= _drift(session, candidate.manifest, progress)
    # The requests that were completed above are not answered a second time.
    rest = batch.of(batch.effects.keys() - answers.keys())
    done = {
        request_id: {**told[request_id], **_counts(version, rest, request_id, candidate, cut_only), **judged}
        for request_id in rest.effects
    }
    # The log has the seconds up to the commit. The caller also gets those of the refresh, and those of each phase.
    seconds = watch.seconds
    logged = {request_id: answer | {"seconds": seconds} for request_id, answer in done.items()}
    manifest = candidate.manifest.replaced(answers=logged)
    # All files are written, so the version is whole as soon as its record is in the log. The record (W6) makes the answers
    # of all requests final. It is void if a record after `head` changes what was decided here.
    before_commit(manifest)
    committed = session.versions.commit(manifest, after=head)
    watch.mark("commit")
    # The commit stands without this. It prepares the workers for the evidence and for the next batch.
    session.ensure_loaded(group, committed)
    watch.mark("refresh")
    _prepare(session, group, committed)
    watch.mark("prepare")
    finished = {"seconds": watch.seconds, "phases": watch.phases}
    return answers | {request_id: answer | finished for request_id, answer in done.items()}


def _check_open(session: Session, requests: Sequence[Request]) -> tuple[int, set[str]]:
    """Check that all requests are open; returns (head of the log, ids of the requests that somebody approved).

    Raises:
        LogConflict: one of the requests is closed or held.
    """
    ledger = session.ledger()
    head, tickets = ledger.seen, [ledger.open.get(request.request_id) for request in requests]
    for request, ticket in zip(requests, tickets, strict=True):
        if ticket is None or ticket.state is not State.ACCEPTED:
            raise LogConflict(f"request {request.request_id} was closed or held by somebody else")
    return head, {ticket.request_id for ticket in tickets if ticket is not None and ticket.approved_by is not None}


def _load(session: Session, group: WorkerGroup, version: Manifest) -> float:
    """Load the version into the workers and measure the baseline of its gate, unless both are there. Returns the seconds
    that this took."""
    start = time.perf_counter()
    session.ensure_loaded(group, version)
    _prepare(session, group, version)
    return time.perf_counter() - start


def _prepare(session: Session, group: WorkerGroup, version: Manifest) -> None:
    """Do beforehand what the next batch on this version needs: the gate's baseline."""
    measured_baseline(session, group, version)


def _find(
    session: Session, group: WorkerGroup, version: Manifest, requests: Sequence[Request], watch: Stopwatch
) -> _Batch:
    """Look up what the requests name: their dense ids in the id maps, their interactions in the workers' shards."""
    way = route(session.id_maps, version.graph, requests)
    watch.mark("route")
    found, items = find_by_workers(session, group, version, way), version.graph.items
    return _Batch(requests, way, found, effects(found, way.named, items), items)


def _hold_too_large(
    session: Session, version: Manifest, batch: _Batch, approved: set[str], head: int, progress: Progress
) -> _Batch:
    """Hold each request that alone removes more than `forget.max_share` and is not approved; returns the batch to carry out.

    That batch has the other requests, oldest first, as many as together stay within the share (`within_limit`).

    Raises:
        LogConflict: another process closed one of the requests, or committed a version after `head`.
    """
    shares = {request_id: own.share(version.graph) for request_id, own in batch.effects.items()}
    max_share = session.config.forget.max_share
    taken, held = within_limit(shares, max_share, approved)
    for request_id in held:
        body = {"share": shares[request_id], "max_share": max_share}
        if not append_step(session, request_id, HELD, body, since=head):
            raise LogConflict(f"request {request_id} was closed by somebody else")
        progress.note(
            f"request {request_id} is held: {shares[request_id]:.2%} of the interactions, forget.max_share={max_share:g}"
        )
    return batch.of(taken)


def _told_of_all(batch: _Batch, outcomes: Mapping[str, Outcome], startup: float) -> dict[str, dict[str, Any]]:
    """The part of the answers that requests with and without an effect have in common, by request id."""
    return {
        request.request_id: {
            "request_id": request.request_id,
            "matched": outcomes[request.request_id].matched,
            "unknown_ids": batch.named[request.request_id].unknown,
            "rows": outcomes[request.request_id].counts(request.tally),
            "removed_events": batch.effects[request.request_id].events,
            "startup_seconds": startup,
        }
        for request in batch.requests
    }


def _complete_without_effect(
    session: Session,
    version: Manifest,
    batch: _Batch,
    told: Mapping[str, Mapping[str, Any]],
    head: int,
    watch: Stopwatch,
) -> dict[str, dict[str, Any]]:
    """Close the requests that remove nothing from the version; returns their answers by request id.

    Raises:
        LogConflict: as `_hold_too_large`.
    """
    answers = {}
    for request_id in [request_id for request_id, own in batch.effects.items() if not own.events]:
        answer = {
            **told[request_id],
            "status": "nothing_to_forget",
            "version": version.version,
            "removed_interactions": 0,
            "affected_partitions": [],
            "seconds": watch.seconds,
        }
        if not append_step(session, request_id, COMPLETED, {"answer": answer}, since=head):
            raise LogConflict(f"request {request_id} was closed by somebody else")
        answers[request_id] = answer
    return answers


def _drift(session: Session, manifest: Manifest, progress: Progress) -> dict[str, Any]:
    """The share of interactions that was forgotten since the encoder's pre-training, and whether it is above the budget."""
    assert manifest.model.encoder is not None, "able_version lets no version pass without one"
    drift = 1 - manifest.graph.interactions / manifest.model.encoder.interactions
    budget = session.config.pretrain.drift_budget
    if drift > budget:
        progress.note(
            f"{drift:.1%} of the interactions were forgotten since the encoder's pre-training, more than "
            f"pretrain.drift_budget={budget:g}: run `unlearnrec pretrain` again"
        )
    return {"encoder_drift": drift, "encoder_stale": drift > budget}


def _counts(version: Manifest, batch: _Batch, request_id: str, candidate: Candidate, cut_only: bool) -> dict[str, Any]:
    """The counts in a committed request's answer, against the version before. batch: the requests of the new version."""
    own, (gone_users, gone_items) = batch.effects[request_id], candidate.gone
    return {
        "status": "committed",
        "version": candidate.manifest.version,
        "removed_interactions": len(own.users),
        "deleted_users": int(np.isin(gone_users, own.users).sum()),
        "deleted_items": int(np.isin(gone_items, own.items).sum()),
        "touched_nodes": 0 if cut_only else len(np.unique(own.users)) + len(np.unique(own.items)),
        "affected_partitions": changed_partitions(version, batch.way.owners, own, cut_only),
        "batch_requests": len(batch.requests),
    }
