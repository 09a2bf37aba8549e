"""What was ingested, and the graph to train on next.

A graph of an ingest may be trained on only if the ingest began to read after the last request that was carried out: it
would bring the data of a later one back. Both ends check that: `ingest` before it publishes its manifest
(`record_ingest`), and whoever asks for the graph to train on (`lake_graph`).
"""

from __future__ import annotations

import hashlib
import json

from ...partitioning.errors import InputError
from ...partitioning.manifest import MANIFEST, EventTimes, Graph, IngestedGraph, load_manifest
from ..log.records import INGESTED
from .session import Session


def digest(manifest: Graph) -> str:
    """Of what an ingest left, to tell one from the next."""
    return hashlib.sha256(json.dumps(manifest.document(), sort_keys=True).encode()).hexdigest()


def graph_key(graph: Graph) -> str:
    """What names of folders begin with whose files come from this graph; `purge` removes those of other graphs."""
    return digest(graph)[:12]


def lake_graph(session: Session) -> IngestedGraph:
    """The graph to train on: what was ingested last, minus what was forgotten since.

    Raises:
        InputError: nothing was ingested, or for another number of partitions; or a request was carried out since that
            ingest began, which it may have the data of.
    """
    graph = ingested(session)
    current = session.versions.current()
    if current is not None and current.lake_graph.ingest == graph.ingest:
        graph = current.lake_graph
    else:
        check_none_carried_out(session, graph.log_head)
    session.check_partitions(graph)
    return graph


def record_ingest(session: Session, manifest: Graph, head: int) -> None:
    """Log what `ingest` is about to leave, which began to read at this head; nothing where there is no log yet.

    Raises:
        InputError: a request was carried out since.
    """
    check_none_carried_out(session, head)
    if session.ledger(look=False).seen:
        session.log.append(INGESTED, {"ingest": digest(manifest), "log_head": head})


def check_none_carried_out(session: Session, head: int) -> None:
    """Raise InputError if a request was carried out after this head of the log."""
    if session.ledger().carried_out_at > head:
        raise InputError(
            "a deletion request was carried out after `ingest` began to read, and the new graph may hold its data. Run "
            "`unlearnrec ingest` again, with the key of the suppression list in the environment"
        )


def ingested(session: Session) -> IngestedGraph:
    """The graph that was ingested last, whatever was forgotten since; `log_head` is the one in the log, 0 where it has
    none for this manifest.

    Raises:
        InputError: nothing was ingested.
    """
    found = load_manifest(session.store)
    ingest = digest(found)
    more = {"log_head": session.ledger().ingests.get(ingest, 0), "ingested_interactions": found.interactions}
    return IngestedGraph.model_validate(found.document() | more | {"ingest": ingest})


def ingest_head(session: Session) -> int:
    """The head of the log when the last ingest began to read; 0 where there was none."""
    return ingested(session).log_head if session.store.exists(MANIFEST) else 0


def id_types(session: Session) -> dict[str, str]:
    """{"user", "item"}: "int64" or "string", as the table of the last ingest has them; "string" before the first."""
    types = {"user": "string", "item": "string"}
    return types | (load_manifest(session.store).id_type if session.store.exists(MANIFEST) else {})


def times(session: Session) -> EventTimes | None:
    """Of the last ingest, None where it has none."""
    return load_manifest(session.store).time if session.store.exists(MANIFEST) else None
