"""`forget`: a deletion request, from the user's ids to a committed version without them (docs/forgetting.md)."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import replace
from typing import Any

import numpy as np

from ..distributed.removal import Removal
from ..partitioning.errors import InputError
from ..partitioning.ingest import load_assignment, load_ids, load_shard
from ..workers import WorkerGroup
from .config import Config
from .graphs import Ids, merged_gone, new_graph
from .progress import Progress
from .requests import TOMBSTONE, Request, Resolved, commitment, content_name, parse_request, resolve
from .session import Manifest, Session, files_of, silent
from .suppression import ENVIRONMENT, FORGOTTEN, digests_of, open_list
from .suppression import FOLDER as SUPPRESSION
from .training import as_trained, make_run, needed_files


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
        return answer
    version = session.version()
    if version["graph"]["shard_files"] != version["lake_graph"]["shard_files"]:
        raise InputError(
            f"version {version['version']} was trained --without some data that the lake still has: a counterfactual, "
            "from which nothing is forgotten. Run `unlearnrec train` and `pretrain` first"
        )
    if version["model"]["encoder"] is None:
        raise InputError(f"version {version['version']} has no Influence Encoder. Run `unlearnrec pretrain` first")
    if dry_run:
        return _dry_run(session, version, request)
    suppression = open_list(session.store)
    _accept(session, request)
    if suppression is not None:
        # Before the commit, so that no crash leaves a version without the data and a list without the names. An entry of
        # a request that fails is right too: it stays accepted.
        suppression.append(FORGOTTEN, digests_of(suppression.key, request, version["graph"]["id_type"]))
    elif session.store.list(SUPPRESSION):
        progress.note(f"{ENVIRONMENT} is not set: this request is not put on the suppression list")
    if group is not None:
        return _forget(session, request, group, progress, cut_only)
    with session.workers() as own:
        return _forget(session, request, own, progress, cut_only)


def status(config: Config, request_id: str) -> dict[str, Any]:
    """Where a request is: its status and phase, and the version that has it.

    Raises:
        InputError: no such request.
    """
    session = Session(config)
    for record in reversed(session.journal.records()):
        if record.kind == "committed" and request_id in record.body["manifest"].get("answers", {}):
            answer = record.body["manifest"]["answers"][request_id]
            return {"phase": "committed", **answer}
        if record.body.get("request_id") == request_id:
            if record.kind == "completed":
                return {"phase": "completed", **record.body["answer"]}
            return {"request_id": request_id, "status": "accepted", "phase": "accepted", "version": None}
    raise InputError(f"{config.output} has no request {request_id!r}. Check the id and `output`")


def _accept(session: Session, request: Request) -> None:
    """Write the request down before anything is done: its content as a side object, its commitment in the log."""
    name = content_name(request.request_id)
    salt = secrets.token_hex(16)
    try:
        session.store.create(name, json.dumps({"salt": salt, "body": request.body().decode()}).encode())
    except FileExistsError:
        salt = json.loads(session.store.read(name)).get("salt", salt)
    if not any(r.kind == "accepted" and r.body["request_id"] == request.request_id for r in session.journal.records()):
        digest = commitment(request.body(), salt)
        session.journal.append("accepted", {"request_id": request.request_id, "commitment": digest})


def _answer(session: Session, request: Request) -> dict[str, Any] | None:
    """The answer that this request was given already, None if it has not been carried out.

    Raises:
        InputError: its id belongs to another request; not noticed when that one's content has been purged.
    """
    name = content_name(request.request_id)
    if session.store.exists(name):
        content = json.loads(session.store.read(name))
        purged = content == TOMBSTONE
        if not purged and content["body"] != request.body().decode():
            raise InputError(
                f"--request-id {request.request_id}: another request has this id. Choose a new one, or leave it out"
            )
        found = status(session.config, request.request_id) if _logged(session, request.request_id) else None
        if found is not None and found["phase"] != "accepted":
            answer = {key: value for key, value in found.items() if key != "phase"}
            return answer | {"content_purged": True} if purged else answer
    return None


def _logged(session: Session, request_id: str) -> bool:
    return any(
        r.body.get("request_id") == request_id or request_id in r.body.get("manifest", {}).get("answers", {})
        for r in session.journal.records()
    )


def _forget(
    session: Session, request: Request, group: WorkerGroup, progress: Progress, cut_only: bool
) -> dict[str, Any]:
    # Before the version is read: a commit by somebody else from here on is then a conflict, not overwritten.
    head = session.journal.head()
    version = session.version()
    start = time.perf_counter()
    session.call(group, version, "holds")
    startup = time.perf_counter() - start

    start = time.perf_counter()
    marks: dict[str, float] = {}

    def mark(phase: str) -> None:
        marks[phase] = time.perf_counter() - start - sum(marks.values())

    graph = version["graph"]
    found = _resolve(session, graph, request)
    owners = load_assignment(session.store, graph)
    named = np.concatenate([owners.owner_of_user[found.users], owners.owner_of_item[found.items]])
    pairs_at = owners.owner_of_user[found.pair_users]
    asked = sorted({int(k) for k in np.concatenate([named, pairs_at])})
    mark("route")
    removal = Removal(found.users, found.items, found.pair_users, found.pair_items)
    pairs = (
        _distinct(session.call(group, version, "find", removal, partitions=asked), graph["items"]) if asked else None
    )
    mark("find")
    base = {
        "request_id": request.request_id,
        "unknown_ids": found.unknown,
        "startup_seconds": startup,
    }
    if pairs is None or not len(pairs[0]):
        answer = {
            **base,
            "status": "nothing_to_forget",
            "version": version["version"],
            "removed_interactions": 0,
            "affected_partitions": [],
            "seconds": time.perf_counter() - start,
        }
        session.journal.append("completed", {"request_id": request.request_id, "answer": answer})
        return answer
    affected = sorted({int(k) for k in (*owners.owner_of_user[pairs[0]], *owners.owner_of_item[pairs[1]])})
    number = session.versions.next_number()
    names = {
        k: (
            session.versions.new_name(number, f"shard-{k:03d}", "safetensors"),
            session.versions.new_name(number, f"embeddings-{k:03d}", "safetensors"),
            session.versions.new_name(number, f"encoder-{k:03d}", "safetensors"),
        )
        for k in affected
    }
    with progress.task("forget", len(affected)) as task:
        results = session.call(
            group, version, "forget", session.location, pairs[0], pairs[1], names, cut_only, partitions=affected
        )
        task.advance(len(affected))
    mark("unlearn")
    by_partition = dict(zip(affected, results, strict=True))
    gone = merged_gone(results)
    shards = {k: r["shard"] for k, r in by_partition.items()}
    changed = new_graph(session, graph, number, shards, gone, len(pairs[0]))
    embeddings = list(version["model"]["embeddings"])
    encoder = dict(version["model"]["encoder"])
    encoder["tables"] = encoder["tables"] and list(encoder["tables"])
    for k, result in by_partition.items():
        embeddings[k] = result["files"][0]["name"]
        if encoder["tables"]:
            encoder["tables"][k] = result["files"][1]["name"]
    manifest: Manifest = {
        "format": 1,
        "reason": "forget",
        "graph": changed,
        "lake_graph": changed,
        "model": version["model"] | {"embeddings": embeddings, "encoder": encoder},
    }
    files = version["files"] | changed["files"] | files_of(results)
    manifest["files"] = {name: files[name] for name in needed_files(manifest)}
    mark("write")
    if session.config.forget.fine_tune_steps and not cut_only:
        _fine_tune(session, group, manifest, number, pairs)
        mark("fine_tune")
    drift = 1 - changed["interactions"] / encoder["interactions"]
    stale = drift > session.config.pretrain.drift_budget
    if stale:
        progress.note(
            f"{drift:.1%} of the interactions were forgotten since the encoder's pre-training, more than "
            f"pretrain.drift_budget={session.config.pretrain.drift_budget:g}: run `unlearnrec pretrain` again"
        )
    answer = {
        **base,
        "status": "committed",
        "version": number,
        "removed_interactions": len(pairs[0]),
        "deleted_users": len(gone[0]),
        "deleted_items": len(gone[1]),
        "touched_nodes": sum(r["touched"] for r in results),
        "affected_partitions": affected,
        "encoder_drift": drift,
        "encoder_stale": stale,
    }
    manifest["answers"] = {request.request_id: answer | {"seconds": time.perf_counter() - start}}
    committed = session.versions.commit(manifest, after=head)
    mark("commit")
    session.load(group, committed)
    mark("refresh")
    return answer | {"seconds": time.perf_counter() - start, "phases": marks}


def _fine_tune(session: Session, group: WorkerGroup, manifest: Manifest, number: int, pairs: tuple[Ids, Ids]) -> None:
    """Let the touched rows take some training steps, and the manifest name the files that result."""
    model, graph = manifest["model"], manifest["graph"]
    trained = as_trained(session.config, model)
    # Draws of an epoch that neither the training nor another request had.
    run = replace(make_run(trained, graph, Removal()), epochs=trained.train.epochs + number)
    names = [session.versions.new_name(number, f"tuned-{k:03d}", "safetensors") for k in range(graph["partitions"])]
    steps = session.config.forget.fine_tune_steps
    candidate = manifest | {"version": number}
    arguments = (session.location, np.unique(pairs[0]), np.unique(pairs[1]), run, steps, names)
    results = session.call(group, candidate, "fine_tune", *arguments)
    for k, result in enumerate(results):
        for file in result["files"]:
            manifest["files"].pop(model["embeddings"][k])
            model["embeddings"][k] = file["name"]
            manifest["files"][file["name"]] = {"sha256": file["sha256"], "bytes": file["bytes"]}


def _resolve(session: Session, graph: Manifest, request: Request) -> Resolved:
    return resolve(request, *(load_ids(session.store, graph, side) for side in ("user", "item")))


def _distinct(parts: list[tuple[Ids, Ids]], num_items: int) -> tuple[Ids, Ids]:
    codes = np.unique(np.concatenate([users * num_items + items for users, items in parts]))
    return codes // num_items, codes % num_items


def _dry_run(session: Session, version: Manifest, request: Request) -> dict[str, Any]:
    """What would be touched; no workers, nothing written."""
    start = time.perf_counter()
    graph = version["graph"]
    found, owners = _resolve(session, graph, request), load_assignment(session.store, graph)
    removal = Removal(found.users, found.items, found.pair_users, found.pair_items)
    parts = [removal.pairs(load_shard(session.store, graph, k)) for k in range(graph["partitions"])]
    users, items = _distinct(parts, graph["items"])
    affected = sorted({int(k) for k in (*owners.owner_of_user[users], *owners.owner_of_item[items])})
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
