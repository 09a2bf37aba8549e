"""`retrain`: a new model with its encoder, as one version, while requests are carried out on the current one.

What is carried out meanwhile is carried out on the result as well, by its own encoder, before it becomes a version
(docs/commit.md). Readers and services therefore go from a version that can forget to another one.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from ...workers import WorkerGroup
from ..lifecycle.acceptance import read_accepted
from ..lifecycle.finding import find_by_workers, route
from ..lifecycle.refusals import UnreadableRequest
from ..log.log import LogConflict
from ..log.records import COMMITTED, SWITCHING, Record
from ..output.conflicts import carried_out_by, others_beside_retrain, purge_took_from_retrain
from ..output.leases import Lease
from ..output.manifest import Manifest, manifest_of
from ..output.session import Session
from ..reporting.progress import Progress
from ..requests.matching import changed_partitions, effect
from ..requests.request import Request
from .unlearning import Change, make_candidate

SWITCH_SECONDS = 60.0
"""So long services are asked to wait at least."""


def commit_replayed(
    session: Session, group: WorkerGroup, head: int, manifest: Manifest, progress: Progress, lease: Lease
) -> Manifest:
    """Make a version of this manifest, which was decided on `head`, after carrying out on it what was carried out since.

    `replayed` of the committed manifest lists these requests. lease: on what the manifest names.

    Raises:
        InputError, RuntimeError, WorkerFailure: as `retrain`.
    """
    replayed: list[str] = []
    seconds = 0.0
    while True:
        started = time.monotonic()
        records = session.log.since(head)
        check_still_valid(records, manifest.files, lease)
        if seconds:
            session.log.append(SWITCHING, {"behind": head, "seconds": max(2 * seconds, SWITCH_SECONDS)})
            progress.note("a request was carried out meanwhile: it is carried out here too, and services wait for that")
        since = carried_out_by(records)
        manifest = _carry_out_on(session, group, manifest, _read_requests(session, since), progress)
        lease.add(manifest.files)
        _check_same_graph(records, manifest)
        replayed += since
        head = records[-1].number if records else head
        try:
            return session.versions.commit(manifest.replaced(replayed=tuple(replayed)), after=head, lease=lease.name)
        except LogConflict:
            seconds = time.monotonic() - started


def check_still_valid(records: Sequence[Record], files: Collection[str], lease: Lease) -> None:
    """Raise RuntimeError where records since it began forbid to make a version with these files the current one."""
    if other := others_beside_retrain(records):
        raise RuntimeError(
            f"another version was committed while this retrain ran ({', '.join(other)}), so its result is not made the "
            "current version. Run `unlearnrec retrain` again if you want another one"
        )
    if purge_took_from_retrain(records, files, lease.name):
        raise RuntimeError(
            "a purge did not wait for this retrain, and may have removed its files: `purge --now`, or one when this process "
            "had stood still for more than forget.lease_seconds. Run `unlearnrec retrain` again"
        )


def _read_requests(session: Session, request_ids: Sequence[str]) -> list[Request]:
    tickets = session.ledger().tickets
    try:
        return [read_accepted(session, tickets[request_id]) for request_id in request_ids]
    except UnreadableRequest as error:
        raise RuntimeError(
            f"{error}; it was carried out while this retrain ran, and a purge has removed what it names. Run "
            "`unlearnrec retrain` again: what the graph holds now is without it"
        ) from error


def _carry_out_on(
    session: Session, group: WorkerGroup, manifest: Manifest, requests: Sequence[Request], progress: Progress
) -> Manifest:
    """A version to be from which these requests were carried out too, all at once."""
    version = manifest.replaced(version=session.versions.next_number())
    if not requests:
        return manifest
    graph = version.graph
    way = route(session.store, graph, requests)
    found = find_by_workers(session, group, version, way)
    named = list(way.named.values())
    before = session.version().lake_graph
    if before.ingest != graph.ingest:
        shares = [effect(found, [one], graph.items).share(graph) for one in named]
        _check_means_the_same(session, requests, shares, before.time == graph.time)
    whole = effect(found, named, graph.items)
    if not whole.events:
        return manifest
    affected = changed_partitions(version, way.owners, whole)
    candidate, change = make_candidate(session, group, version, Change(whole, affected), lambda phase: None, progress)
    candidate.fine_tune_and_judge(lambda phase: None, progress, change, kept_rows=not len(whole.users))
    return candidate.manifest.replaced(reason="train")


def _check_means_the_same(
    session: Session, requests: Sequence[Request], shares: Sequence[float], same_times: bool
) -> None:
    """Raise RuntimeError where nobody can say that one of these, carried out on another ingest, means the same here.

    shares: of the graph that each removes. same_times: whether both ingests have times of one kind.
    """
    limit, tickets = session.config.forget.max_share, session.ledger().tickets
    again = "Run `unlearnrec ingest` again, with the key of the suppression list in the environment, then `retrain`"
    for request, share in zip(requests, shares, strict=True):
        name = f"request {request.request_id} was carried out while this retrain ran, and "
        if request.ranges and not same_times:
            raise RuntimeError(f"{name}names a time range, on times of another kind than the last ingest's. {again}")
        if share > limit and tickets[request.request_id].approved_by is None:
            raise RuntimeError(
                f"{name}would remove {share:.2%} of the interactions of the last ingest; forget.max_share={limit:g}, and "
                f"nobody has approved that. {again}"
            )


def _check_same_graph(records: Sequence[Record], manifest: Manifest) -> None:
    """Raise RuntimeError unless as much is left as in the last version of the same ingest: nothing comes back, ever."""
    versions = [manifest_of(record) for record in records if record.kind == COMMITTED]
    if versions and versions[-1].lake_graph.ingest == manifest.graph.ingest:
        left = [(graph.interactions, graph.events) for graph in (versions[-1].lake_graph, manifest.graph)]
        if left[0] != left[1]:
            raise RuntimeError(
                f"after the requests that were carried out meanwhile, {left[1]} interactions and events are left here, and "
                f"{left[0]} in version {versions[-1].version}. This is a defect; the result is not made a version"
            )
