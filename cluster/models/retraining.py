"""`retrain`: a new model with its encoder, as one version, while requests are carried out on the current one.

What is carried out meanwhile is carried out on the result as well, by its own encoder, before it becomes a version
(docs/commit.md). Readers and services therefore go from a version that can forget to another one.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from typing import Any

from ...distributed.graph.removal import Removal, merged
from ...distributed.training.checkpoint import Checkpoints
from ...distributed.training.run import Probe
from ...partitioning.errors import InputError
from ...partitioning.ingest import load_assignment, load_ids
from ...workers import WorkerFailure, WorkerGroup
from ..config.schema import Config
from ..layout import LOG, REQUESTS, pretraining_folder, training_folder
from ..lifecycle.acceptance import UnreadableRequest, read_accepted
from ..log.journal import JournalConflict
from ..log.records import COMMITTED, COMPLETED, SWITCHING, Record
from ..output.leases import Lease
from ..output.session import Manifest, Session, graph_key, silent
from ..output.versions import ignores, removes
from ..reporting.progress import Progress
from ..requests.matching import asked_of, changed_partitions, effect, resolve, union
from ..requests.request import Request
from .pretraining import clear_runs, fit_encoder, wants_around, with_encoder
from .training import begin, make_run, now_and_then, told, trained_version
from .unlearning import unlearned

HARMLESS = ("forget", "pretrain")
"""Reasons of versions that may be committed while a retrain runs."""

SWITCH_SECONDS = 60.0
"""So long services are asked to wait at least."""


def retrain(
    config: Config,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    probe: Probe | None = None,
    group: WorkerGroup | None = None,
) -> dict[str, Any]:
    """Train and pre-train, and commit both as one version, in which no request is undone that was carried out meanwhile.

    Args:
        resume: go on from the last checkpoint of the same training, and from finished counterfactual runs.
        probe, group: as for `train`.

    Raises:
        InputError: as `train` and `pretrain`; `purge --truncate-log --now` removed what the log said meanwhile.
        RuntimeError: another training or a rollback was committed meanwhile, or a purge took what is needed.
        WorkerFailure: as `WorkerGroup.run`.
    """
    progress = progress or silent()
    session = Session(config)
    wants_around(config, config.backbone.model_dump())  # refused before anything is done
    session.lake_graph()  # where there is none, nothing is written
    started = time.perf_counter()
    with Lease(session, session.versions.next_number(), [f"{REQUESTS}/*", f"{LOG}/*"]) as lease:
        head, graph = _begun(session, lease)
        run = make_run(config, graph, Removal(), probe)
        begin(session, graph, run, resume, progress)
        look = now_and_then(lambda: _check_stands(session.journal.since(head), (), lease))
        try:
            with nullcontext(group) if group is not None else session.workers() as workers:
                trained, curve = trained_version(session, workers, graph, run, progress, look)
                lease.add(trained["files"])
                numbered = trained | {"version": session.versions.next_number()}
                encoder, files, pretrained = fit_encoder(session, numbered, workers, progress, look)
                lease.add(files)
                manifest = with_encoder(trained, encoder, files) | {"reason": "train"}
                committed = commit_replayed(session, workers, head, manifest, progress, lease)
        except (InputError, FileNotFoundError, WorkerFailure):
            _check_stands(session.journal.since(head), (), lease)  # where a purge took the file, it says so
            raise
    Checkpoints(session.store, run.folder).clear()
    clear_runs(session, trained)
    return told(committed, curve) | {
        "seconds": time.perf_counter() - started,
        "replayed_requests": len(committed["replayed"]),
        "replayed_interactions": graph["interactions"] - committed["graph"]["interactions"],
        "pretrain": pretrained,
    }


def _begun(session: Session, lease: Lease) -> tuple[int, Manifest]:
    """(the head of the log, the graph to train on then), whose files and checkpoints the lease holds from now on."""
    while True:
        head = session.journal.head()  # before the graph is read: what is carried out from here on is not in it
        graph = session.lake_graph()
        lease.add([*graph["files"], training_folder(graph_key(graph), "*"), pretraining_folder(graph_key(graph), "*")])
        # A purge looks at the log before the leases: none has taken the graph as superseded if it is not so now.
        if session.lake_graph() == graph:
            return head, graph


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
        records = session.journal.since(head)
        _check_stands(records, manifest["files"], lease)
        if seconds:
            session.journal.append(SWITCHING, {"behind": head, "seconds": max(2 * seconds, SWITCH_SECONDS)})
            progress.note("a request was carried out meanwhile: it is carried out here too, and services wait for that")
        since = _carried_out(records)
        manifest = _without(session, group, manifest, _read(session, since), progress)
        lease.add(manifest["files"])
        _check_same_graph(records, manifest)
        replayed += since
        head = records[-1].number if records else head
        try:
            return session.versions.commit(manifest | {"replayed": replayed}, after=head, lease=lease.name)
        except JournalConflict:
            seconds = time.monotonic() - started


def _check_stands(records: Sequence[Record], files: Collection[str], lease: Lease) -> None:
    """Raise RuntimeError where records since it began forbid to make a version with these files the current one."""
    reasons = {record.body["manifest"]["reason"] for record in records if record.kind == COMMITTED}
    if other := sorted(reasons.difference(HARMLESS)):
        raise RuntimeError(
            f"another version was committed while this retrain ran ({', '.join(other)}), so its result is not made the "
            "current version. Run `unlearnrec retrain` again if you want another one"
        )
    named: Manifest = {"reason": "train", "files": dict.fromkeys(files)}
    if any(ignores(record, lease.name) or removes(record, named) for record in records):
        raise RuntimeError(
            "a purge did not wait for this retrain, and may have removed its files: `purge --now`, or one when this process "
            "had stood still for more than forget.lease_seconds. Run `unlearnrec retrain` again"
        )


def _carried_out(records: Sequence[Record]) -> list[str]:
    """The requests that these records close as carried out, also those that found nothing: here they may."""
    found: list[str] = []
    for record in records:
        if record.kind == COMMITTED:
            found += record.body["manifest"].get("answers", {})
        elif record.kind == COMPLETED:
            found.append(record.body["request_id"])
    return found


def _read(session: Session, request_ids: Sequence[str]) -> list[Request]:
    tickets = session.ledger().tickets
    try:
        return [read_accepted(session, tickets[request_id]) for request_id in request_ids]
    except UnreadableRequest as error:
        raise RuntimeError(
            f"{error}; it was carried out while this retrain ran, and a purge has removed what it names. Run "
            "`unlearnrec retrain` again: what the graph holds now is without it"
        ) from error


def _without(
    session: Session, group: WorkerGroup, manifest: Manifest, requests: Sequence[Request], progress: Progress
) -> Manifest:
    """A version to be from which these requests were carried out too, all at once."""
    version = manifest | {"version": session.versions.next_number()}
    graph = version["graph"]
    maps = [load_ids(session.store, graph, side) for side in ("user", "item")]
    named = [resolve(request, maps[0], maps[1], graph.get("time")) for request in requests]
    if not named:
        return manifest
    owners = load_assignment(session.store, graph)
    removal, timed = union(named)
    asked = asked_of(owners, removal, timed)
    found = merged(session.call(group, version, "find", removal, timed, partitions=asked) if asked else [])
    before = session.version()["lake_graph"]
    if before["ingest"] != graph["ingest"]:
        shares = [effect(found, [one], graph["items"]).share(graph) for one in named]
        _check_means_the_same(session, requests, shares, before.get("time") == graph.get("time"))
    whole = effect(found, named, graph["items"])
    if not whole.events:
        return manifest
    affected = changed_partitions(version, owners, whole)
    candidate, change = unlearned(session, group, version, whole, affected, lambda phase: None, progress)
    candidate.finish(lambda phase: None, progress, change, kept_rows=not len(whole.users))
    return candidate.manifest | {"reason": "train"}


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
    versions = [record.body["manifest"] for record in records if record.kind == COMMITTED]
    graphs = versions[-1:] and [versions[-1]["lake_graph"], manifest["graph"]]
    if graphs and graphs[0]["ingest"] == graphs[1]["ingest"]:
        left = [(graph["interactions"], graph["events"]) for graph in graphs]
        if left[0] != left[1]:
            raise RuntimeError(
                f"after the requests that were carried out meanwhile, {left[1]} interactions and events are left here, and "
                f"{left[0]} in version {versions[-1]['version']}. This is a defect; the result is not made a version"
            )
