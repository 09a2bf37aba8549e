"""What a later record of the log does to an earlier decision: every such rule, and no other place has one.

A decision is made on the log up to some record, its head. While it is carried out, others append records. Each function here
says which of those records make the decision void, so that it is made again or given up. All are pure: records in, yes or
no out. docs/protocol.md has the same rules beside the writes; the names of writes (W6, P1) are its.

A commit (W6), of a version at head h, is void when a later record
    commits another version; closes or holds a request that it answers; is of a purge that takes a file it names, or
    that ignores its lease; completes a request that looked at another ingest.
Accepting a request (W2) is void when a later record
    accepts the same request; is of a purge that takes a file of its id.
A step of an open request (Wn, Wc, Wh, Wa, Wf) is void when a later record
    is about the same request; commits a version.
Evidence (W10) is void when a later record is evidence of the same request.
The beginning of a purge (P1) is void when a later record
    is of another purge; accepts a request of which a file would go; commits a version that is no deletion's, or that
    names a file that would go.
`train` is given up as soon as a later record voids its commit.
`pretrain` is given up when a later record
    commits anything but a deletion; is of a purge that takes a file its result names.
`retrain` is given up when a later record
    commits another training or a rollback; is of a purge that takes a file it names, or that ignores its lease.
`rollback` is refused when a record after its target
    commits a deletion; completes a request in a graph of another ingest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence, Set

from ...partitioning.manifest import IngestedGraph
from ..layout import callbacks_name, content_name, request_of
from ..log.records import ACCEPTED, CANCELLED, COMMITTED, COMPLETED, EVIDENCE, FAILED, HELD, PURGED, PURGING, Record
from .manifest import Manifest, manifest_of

Rule = Callable[[Record], bool]
"""Whether a record makes a decision void that was made without it."""

BESIDE_RETRAIN = frozenset({"forget", "pretrain"})
"""Reasons of versions that may be committed while a retrain runs."""


# ---- commits ---------------------------------------------------------------------------------------------------------


def voids_commit(manifest: Manifest, current: Manifest | None, lease: str | None = None) -> Rule:
    """W6 and Wt: `manifest` was decided on the version `current`. lease: the name of one on all that it names."""

    def voids(record: Record) -> bool:
        return (
            record.kind == COMMITTED
            or purge_takes(record, manifest.reason, manifest.files)
            or _closes_or_holds(record, manifest)
            or _looked_elsewhere(record, manifest.lake_graph, current)
            or (lease is not None and purge_ignores(record, lease))
        )

    return voids


def purge_takes(record: Record, reason: str, files: Collection[str]) -> bool:
    """Whether a purge began with this record that takes one of the files which the manifest of a version made for this
    reason names."""
    if record.kind != PURGING:
        return False
    # It also takes what older versions alone have, and only a rollback wants.
    return reason == "rollback" or not set(record.body["unnamed"]).isdisjoint(files)


def purge_ignores(record: Record, lease: str) -> bool:
    """Whether a purge began with this record that may take what this lease is on: it had not seen the lease, or not
    minded it (`purge --now`)."""
    return record.kind == PURGING and lease not in record.body.get("held", ())


def _closes_or_holds(record: Record, manifest: Manifest) -> bool:
    """Whether it closes, or holds, a request that this manifest would answer."""
    return record.kind in (COMPLETED, CANCELLED, FAILED, HELD) and record.body["request_id"] in manifest.answers


def _looked_elsewhere(record: Record, graph: IngestedGraph, current: Manifest | None) -> bool:
    """Whether a request found nothing in a version of another ingest than this graph's: it may be in this one."""
    return record.kind == COMPLETED and current is not None and current.lake_graph.ingest != graph.ingest


# ---- requests --------------------------------------------------------------------------------------------------------


def voids_acceptance(request_id: str) -> Rule:
    """W2: its content goes, or somebody else was faster."""

    def voids(record: Record) -> bool:
        if record.kind == PURGING:
            return any(
                found is not None and found[0] == request_id for found in map(request_of, record.body["unnamed"])
            )
        return record.kind == ACCEPTED and record.body["request_id"] == request_id

    return voids


def voids_step(request_id: str) -> Rule:
    """Wn, Wc, Wh, Wa, Wf: what changes what may be said of an open request."""
    return lambda record: record.kind == COMMITTED or record.body.get("request_id") == request_id


def voids_evidence(request_id: str) -> Rule:
    """W10: the first record of evidence counts."""
    return lambda record: record.kind == EVIDENCE and record.body["request_id"] == request_id


# ---- purges ----------------------------------------------------------------------------------------------------------


def voids_purge(due: Set[str]) -> Rule:
    """P1: these files would go."""

    def voids(record: Record) -> bool:
        if record.kind == ACCEPTED:
            content = record.body.get("content") or content_name(record.body["request_id"])
            return not due.isdisjoint({content, callbacks_name(content)})
        if record.kind == COMMITTED:
            manifest = manifest_of(record)
            names = {*manifest.files, *manifest.graph.files, *manifest.lake_graph.files}
            return manifest.reason != "forget" or not due.isdisjoint(names)
        return record.kind in (PURGING, PURGED)

    return voids


# ---- long commands ---------------------------------------------------------------------------------------------------


def voids_training(graph: IngestedGraph, current: Manifest | None) -> Rule:
    """`train` on this graph, which has no files yet: whether its commit would be void."""
    return lambda record: (
        record.kind == COMMITTED or purge_takes(record, "train", ()) or _looked_elsewhere(record, graph, current)
    )


def newer_after_requests(records: Sequence[Record], manifest: Manifest) -> Manifest | None:
    """The newest version, where deletions alone were committed since a pre-training began and no purge took a file that
    `manifest`, its result, names: the encoder may be put to that version. None: it is void."""
    newer = [manifest_of(record) for record in records if record.kind == COMMITTED]
    lost = any(purge_takes(record, manifest.reason, manifest.files) for record in records)
    if lost or not newer or any(one.reason != "forget" for one in newer):
        return None
    return newer[-1]


def others_beside_retrain(records: Sequence[Record]) -> list[str]:
    """Reasons of versions committed while a retrain ran that make its result void."""
    reasons = {manifest_of(record).reason for record in records if record.kind == COMMITTED}
    return sorted(reasons.difference(BESIDE_RETRAIN))


def purge_took_from_retrain(records: Sequence[Record], files: Collection[str], lease: str) -> bool:
    """Whether a purge did not wait for a retrain, which may have lost what it names."""
    return any(purge_ignores(record, lease) or purge_takes(record, "train", files) for record in records)


def carried_out_by(records: Sequence[Record]) -> list[str]:
    """The requests that these records close as carried out, in order; also those that found nothing, because in another
    graph they may find something."""
    found: list[str] = []
    for record in records:
        if record.kind == COMMITTED:
            found += manifest_of(record).answers
        elif record.kind == COMPLETED:
            found.append(record.body["request_id"])
    return found


def deletions_after(target: Manifest, records: Sequence[Record]) -> tuple[list[int], str | None]:
    """What a rollback to `target` would bring back: (versions in which data were deleted since, the first request that found
    nothing in a graph of another ingest). records: those after the target's."""
    ingest, versions = target.graph.ingest, []
    for record in records:
        if record.kind == COMMITTED:
            ingest = manifest_of(record).graph.ingest
            if manifest_of(record).reason == "forget":
                versions.append(manifest_of(record).version)
        elif record.kind == COMPLETED and ingest != target.graph.ingest:
            return versions, record.body["request_id"]
    return versions, None
