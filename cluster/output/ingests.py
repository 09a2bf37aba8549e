"""What was ingested, and the graph to train on next.

The graph of a new ingest may be trained on only if no request was carried out since the ingest began to read: the ingest
may have read the data of such a request, and training would bring them back. This is checked twice: by `ingest` before it
publishes its manifest (`record_ingest`), and by each command that asks for the graph to train on (`lake_graph`).
"""

from __future__ import annotations

import hashlib
import json

from ...partitioning.errors import InputError
from ...partitioning.manifest import MANIFEST, EventTimes, Graph, IngestedGraph, load_manifest
from ..log.records import INGESTED
from .session import Session


def digest(manifest: Graph) -> str:
    """SHA-256 of the manifest of a graph, in hexadecimal. It identifies an ingest."""
    return hashlib.sha256(json.dumps(manifest.document(), sort_keys=True).encode()).hexdigest()


def graph_key(graph: Graph) -> str:
    """The first 12 digits of the graph's digest. The names of the folders of trainings on this graph begin with it; `purge`
    removes folders of other graphs."""
    return digest(graph)[:12]


def lake_graph(session: Session) -> IngestedGraph:
    """The graph to train on: what was ingested last, minus what was forgotten since.

    Raises:
        InputError: nothing was ingested; or it has another number of partitions than the configuration; or a request was
            carried out since a new ingest began, so that its graph may have the data of that request.
    """
    graph = ingested(session)
    current = session.versions.current()
    if current is not None and current.lake_graph.ingest == graph.ingest:
        # The same ingest, with the removals of all requests since.
        graph = current.lake_graph
    else:
        check_none_carried_out(session, graph.log_head)
    session.check_partitions(graph)
    return graph


def record_ingest(session: Session, manifest: Graph, head: int) -> None:
    """Write the `ingested` record of an ingest that is about to publish its manifest; nothing where the log is empty.

    The record comes before the manifest, because an ingest without a record counts as one that began at head 0. head: the
    head of the log when this ingest began to read.

    Raises:
        InputError: a request was carried out since. Nothing was written.
    """
    check_none_carried_out(session, head)
    # A log without records has no request that was carried out, and the head of the ingest is 0 anyway.
    if session.ledger(look=False).seen:
        session.log.append(INGESTED, {"ingest": digest(manifest), "log_head": head})


def check_none_carried_out(session: Session, head: int) -> None:
    """Raise InputError if a request was carried out after record `head` of the log."""
    if session.ledger().carried_out_at > head:
        raise InputError(
            "a deletion request was carried out after `ingest` began to read, and the new graph may hold its data. Run "
            "`unlearnrec ingest` again, with the key of the suppression list in the environment"
        )


def ingested(session: Session) -> IngestedGraph:
    """The graph that was ingested last, without the removals of later requests.

    Its `log_head` is that of the `ingested` record of this manifest, or 0 where the log has no such record.

    Raises:
        InputError: nothing was ingested.
    """
    found = load_manifest(session.store)
    ingest = digest(found)
    more = {"log_head": session.ledger().ingests.get(ingest, 0), "ingested_interactions": found.interactions}
    return IngestedGraph.model_validate(found.document() | more | {"ingest": ingest})


def ingest_head(session: Session) -> int:
    """The head of the log when the last ingest began to read; 0 where nothing was ingested."""
    return ingested(session).log_head if session.store.exists(MANIFEST) else 0


def id_types(session: Session) -> dict[str, str]:
    """The types of the ids of "user" and "item": "int64" or "string", as the last ingest has them; "string" before the first
    ingest."""
    types = {"user": "string", "item": "string"}
    return types | (load_manifest(session.store).id_type if session.store.exists(MANIFEST) else {})


def times(session: Session) -> EventTimes | None:
    """The `time` of the last ingest's manifest; None where it has no times of events, and before the first ingest."""
    return load_manifest(session.store).time if session.store.exists(MANIFEST) else None
