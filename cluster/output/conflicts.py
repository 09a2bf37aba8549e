"""The rules by which a later record of the log makes an earlier decision void. All such rules are in this file.

A decision is made on the log up to some record, its head. While it is carried out, other processes append records. Each
function here says which of those records make the decision void, so that it is made again or given up. All are pure
functions of records. docs/protocol.md has the same rules beside the writes, and names the writes (W6, P1).

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
    commits anything but a deletion or a compaction; is of a purge that takes a file its result names.
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
"""Whether this record makes a decision void that was made without it."""

BESIDE_PRETRAIN = frozenset({"forget", "compact"})
BESIDE_RETRAIN = BESIDE_PRETRAIN | {"pretrain"}
"""The reasons (`Manifest.reason`) of versions that may be committed while a pretrain or a retrain runs, without making it
void."""


# ---- commits ---------------------------------------------------------------------------------------------------------


def voids_commit(manifest: Manifest, current: Manifest | None, lease: str | None = None) -> Rule:
    """The rule for W6 and Wt: which records make the commit of `manifest` void.

    current: the version that was current when it was decided. lease: the name of a lease on all files that `manifest` names.
    """

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
    """Whether a purge began with this record that may remove a file of a new version.

    reason, files: those of the version's manifest.
    """
    if record.kind != PURGING:
        return False
    # The record names only files that no record names. A purge also removes files of older versions, which only a rollback
    # makes current again: to it any purge is a conflict.
    return reason == "rollback" or not set(record.body["unnamed"]).isdisjoint(files)


def purge_ignores(record: Record, lease: str) -> bool:
    """Whether a purge began with this record that may remove files of this lease, because it had not seen the lease, or did
    not wait for it (`purge --now`)."""
    return record.kind == PURGING and lease not in record.body.get("held", ())


def _closes_or_holds(record: Record, manifest: Manifest) -> bool:
    """Whether the record closes, or holds, a request that this manifest would answer."""
    return record.kind in (COMPLETED, CANCELLED, FAILED, HELD) and record.body["request_id"] in manifest.answers


def _looked_elsewhere(record: Record, graph: IngestedGraph, current: Manifest | None) -> bool:
    """Whether the record says that a request found nothing to remove, in a version of another ingest than that of `graph`:
    it may find something in `graph`."""
    return record.kind == COMPLETED and current is not None and current.lake_graph.ingest != graph.ingest


# ---- requests --------------------------------------------------------------------------------------------------------


def voids_acceptance(request_id: str) -> Rule:
    """The rule for W2: a purge removes the file with the content, or another process has accepted the same request."""

    def voids(record: Record) -> bool:
        if record.kind == PURGING:
            return any(
                found is not None and found[0] == request_id for found in map(request_of, record.body["unnamed"])
            )
        return record.kind == ACCEPTED and record.body["request_id"] == request_id

    return voids


def voids_step(request_id: str) -> Rule:
    """The rule for Wn, Wc, Wh, Wa and Wf: the current version changed, or the request may have, on which the step was
    decided."""
    return lambda record: record.kind == COMMITTED or record.body.get("request_id") == request_id


def voids_evidence(request_id: str) -> Rule:
    """The rule for W10: another process has written the evidence of the request, and the first record counts."""
    return lambda record: record.kind == EVIDENCE and record.body["request_id"] == request_id


# ---- purges ----------------------------------------------------------------------------------------------------------


def voids_purge(due: Set[str]) -> Rule:
    """The rule for P1, of a purge that would remove the files `due`: somebody needs one of them now, or the files to remove
    have to be looked for anew."""

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
    """The rule for a `train` that is still running on `graph`: its commit, which has no files yet, would be void."""
    return lambda record: (
        record.kind == COMMITTED or purge_takes(record, "train", ()) or _looked_elsewhere(record, graph, current)
    )


def newer_after_requests(records: Sequence[Record], manifest: Manifest) -> Manifest | None:
    """The newest version, to which the encoder of a finished pre-training may be put; None where the pre-training is void.

    It is void unless all versions that were committed since it began are of deletions, or the same in other files, and no
    purge removes a file of `manifest`, its result. records: all since it began.
    """
    newer = [manifest_of(record) for record in records if record.kind == COMMITTED]
    lost = any(purge_takes(record, manifest.reason, manifest.files) for record in records)
    if lost or not newer or any(one.reason not in BESIDE_PRETRAIN for one in newer):
        return None
    return newer[-1]


def others_beside_retrain(records: Sequence[Record]) -> list[str]:
    """The reasons of the versions that were committed while a retrain ran and that make its result void, sorted."""
    reasons = {manifest_of(record).reason for record in records if record.kind == COMMITTED}
    return sorted(reasons.difference(BESIDE_RETRAIN))


def purge_took_from_retrain(records: Sequence[Record], files: Collection[str], lease: str) -> bool:
    """Whether a purge did not wait for a retrain, which may have lost files that it needs. files: those that it has made."""
    return any(purge_ignores(record, lease) or purge_takes(record, "train", files) for record in records)


def carried_out_by(records: Sequence[Record]) -> list[str]:
    """The ids of the requests that these records close as carried out, in order. Requests that found nothing are among them,
    because they may find something in another graph."""
    found: list[str] = []
    for record in records:
        if record.kind == COMMITTED:
            found += manifest_of(record).answers
        elif record.kind == COMPLETED:
            found.append(record.body["request_id"])
    return found


def deletions_after(target: Manifest, records: Sequence[Record]) -> tuple[list[int], str | None]:
    """What a rollback to `target` would bring back: (the versions in which data were deleted since, the id of the first
    request that found nothing in a graph of another ingest, or None).

    records: those after the record of `target`. The search ends at such a request.
    """
    ingest, versions = target.graph.ingest, []
    for record in records:
        if record.kind == COMMITTED:
            ingest = manifest_of(record).graph.ingest
            if manifest_of(record).reason == "forget":
                versions.append(manifest_of(record).version)
        elif record.kind == COMPLETED and ingest != target.graph.ingest:
            return versions, record.body["request_id"]
    return versions, None
