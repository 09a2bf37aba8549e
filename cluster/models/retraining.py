"""The end of `retrain`: commit a new model with its encoder, although requests were carried out while it was trained.

These requests are carried out on the new model too, by its own encoder, before it becomes a version (docs/commit.md). So
every version that readers and services see can forget.
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
from ..requests.matching import changed_partitions, effect, effects
from ..requests.request import Request
from .unlearning import Change, make_candidate

SWITCH_SECONDS = 60.0
"""The shortest time, in seconds, for which services are asked to carry nothing out."""


def commit_replayed(
    session: Session, group: WorkerGroup, head: int, manifest: Manifest, progress: Progress, lease: Lease
) -> Manifest:
    """Carry out on this manifest, which was decided on `head`, the requests that were carried out since, and commit it.

    If further requests are carried out before the commit, all of this is done again for them. `replayed` of the committed
    manifest lists the ids of all these requests.

    lease: a lease on the files that the manifest names.

    Raises:
        InputError, RuntimeError, WorkerFailure: as `retrain`.
    """
    replayed: list[str] = []
    seconds = 0.0
    while True:
        started = time.monotonic()
        # Everything in this round is decided on these records. A later one makes the commit void or waits for it.
        records = session.log.since(head)
        # Another training, a rollback or a purge that ignored the lease makes the result useless; no request is read then.
        check_still_valid(records, manifest.files, lease)
        if seconds:
            # Not the first round: a request was faster than the last commit. The record `switching` (Ws) comes before the
            # work, so that services carry nothing out during it and the next commit is not void for the same reason.
            # It asks for twice the seconds of the last round, because this round may take longer.
            session.log.append(SWITCHING, {"behind": head, "seconds": max(2 * seconds, SWITCH_SECONDS)})
            progress.note("a request was carried out meanwhile: it is carried out here too, and services wait for that")
        since = carried_out_by(records)
        manifest = _carry_out_on(session, group, manifest, _read_requests(session, since), progress)
        # No version names the new files before the commit; the lease does, so that a purge leaves them.
        lease.add(manifest.files)
        # The last check before the commit: what requests removed from the current version must not come back.
        _check_same_graph(records, manifest)
        replayed += since
        # The commit (Wt) is decided on all records that were carried out here, no longer on the first head.
        head = records[-1].number if records else head
        try:
            return session.versions.commit(manifest.replaced(replayed=tuple(replayed)), after=head, lease=lease.name)
        except LogConflict:
            # The work of this round is kept: the next one carries out only what came after this head.
            seconds = time.monotonic() - started


def check_still_valid(records: Sequence[Record], files: Collection[str], lease: Lease) -> None:
    """Check that a retrain's result may still become the current version.

    records: those since the retrain began. files: the names that its manifest has so far.

    Raises:
        RuntimeError: another training or a rollback was committed, or a purge did not wait for the retrain.
    """
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
    """The contents of these requests.

    Raises:
        RuntimeError: a purge has removed one of them.
    """
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
    """Carry out these requests, all in one batch, on a version that is not committed; returns its new manifest.

    Raises:
        RuntimeError: as `_check_means_the_same`.
    """
    version = manifest.replaced(version=session.versions.next_number())
    if not requests:
        return manifest
    graph = version.graph
    way = route(session.id_maps, graph, requests)
    found = find_by_workers(session, group, version, way)
    named = list(way.named.values())
    before = session.version().lake_graph
    if before.ingest != graph.ingest:
        # The requests were accepted and approved for a graph of another ingest. In this one they may name much more.
        own = effects(found, way.named, graph.items)
        shares = [own[request_id].share(graph) for request_id in way.named]
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
    """Check that requests which were carried out on another ingest mean the same in the last one.

    shares: the share of the graph that each request removes. same_times: whether both ingests have the same kind of times.

    Raises:
        RuntimeError: a request names a time range, and the kinds of times differ; or it removes more than
            `forget.max_share`, and nobody approved that.
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
    """Check that no deleted data come back: as many interactions and events are left as in the last version of the same
    ingest among the records.

    Raises:
        RuntimeError: the numbers differ.
    """
    versions = [manifest_of(record) for record in records if record.kind == COMMITTED]
    if versions and versions[-1].lake_graph.ingest == manifest.graph.ingest:
        left = [(graph.interactions, graph.events) for graph in (versions[-1].lake_graph, manifest.graph)]
        if left[0] != left[1]:
            raise RuntimeError(
                f"after the requests that were carried out meanwhile, {left[1]} interactions and events are left here, and "
                f"{left[0]} in version {versions[-1].version}. This is a defect; the result is not made a version"
            )
