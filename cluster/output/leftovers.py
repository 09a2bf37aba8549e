"""Files under the output that hold deleted data, or may hold some. `purge` removes and `residue` lists them
(docs/commit.md)."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ...partitioning.files import Details, is_temporary
from ...partitioning.manifest import MANIFEST
from ..layout import (
    AUDIT,
    CALLBACKS,
    CHECKPOINTS,
    FOLDERS,
    GRAPH,
    OUTCOMES,
    PRETRAIN,
    REQUEST_KEY,
    REQUESTS,
    SEARCHED,
    TABLES,
    VERSIONS,
    callbacks_name,
    graph_of_folder,
    request_of_outcome,
)
from ..requests.request import tombstone_sizes
from .exports import FILES, UNFINISHED, log_head_of
from .handed import kept_tables, table_of
from .ingests import graph_key, ingested
from .ledger import Ledger
from .session import Session
from .tickets import State, Ticket

OLDER, SUPERSEDED, CHECKPOINT = "older version", "superseded graph", "checkpoint"


REQUEST, UNNAMED, LOG_FILE, NOTE = "request content", "unnamed file", "file of the log", "note about a request"


EXPORT = "export"


@dataclass(frozen=True)
class Leftover:
    """A file that holds deleted data, or may hold some.

    place: its path under the output. kind: one of the constants above. detail: why it is a leftover, for messages. modified:
    when it was last written, in seconds since the epoch.
    """

    place: str
    kind: str
    detail: str
    bytes: int
    modified: float


def leftovers(session: Session) -> list[Leftover]:
    """All files that a purge would remove if none were too young, in the order of removal; without the files of the log.

    The store is asked for one listing of the output, and for no single file except exports, because there may be files of
    very many requests.

    Raises:
        InputError: another version of unlearnrec wrote the graph.
    """
    # The log before the listing: a file that a later record names may be listed, and `purge` decides anew after that record.
    ledger, files = session.ledger(), session.store.details()
    found = [Leftover(place, kind, why, *files[place]) for place, kind, why in _places(session, ledger, files)]
    # A manifest, or the mark that a run is done, goes before the files that it makes count: a purge that dies in between
    # leaves files that nothing refers to, and not a reference to files that are gone.
    return sorted(found, key=lambda x: (not x.place.endswith(("/manifest.json", "/done.json")), x.place))


def final_contents(ledger: Ledger) -> dict[str, Ticket]:
    """The files with the contents of requests that have their final answer or were cancelled, each with the ticket of the
    request."""
    return {ledger.content_name(request_id): ticket for request_id, ticket in ledger.tickets.items() if ticket.final}


def carried_out_contents(ledger: Ledger) -> dict[str, Ticket]:
    """Those of `final_contents` whose requests were not cancelled."""
    return {name: ticket for name, ticket in final_contents(ledger).items() if ticket.state is not State.CANCELLED}


def _places(session: Session, ledger: Ledger, files: Mapping[str, Details]) -> Iterator[tuple[str, str, str]]:
    """(place, kind, detail) of each leftover among `files`."""
    current = ledger.current
    latest = ingested(session) if session.store.exists(MANIFEST) else None
    # The graphs that are still needed: that of the current version, and the one to train on next. They differ in a
    # counterfactual version, which was trained `--without` some data.
    graphs = [current.graph, current.lake_graph] if current else []
    new = latest is not None and (current is None or current.lake_graph.ingest != latest.ingest)
    # A new ingest, on which no version was trained yet. `train` refuses it if a request was carried out since it began.
    if latest and new and ledger.carried_out_at <= latest.log_head:
        graphs.append(latest)
    keep = {MANIFEST}.union(current.files if current else (), *(graph.files for graph in graphs))
    maker = {name: f"of version {version}" for name, version in ledger.makers.items()}
    maker |= dict.fromkeys(latest.files if latest else (), "of the last ingest")

    for folder, kind in ((VERSIONS, OLDER), (GRAPH, SUPERSEDED)):
        for name in _in(folder, files):
            if name not in keep and posixpath.basename(name) != "manifest.json":
                yield name, kind if name in maker else UNNAMED, maker.get(name, "no record names it")
    keys = {graph_key(graph) for graph in graphs}
    for folder in (AUDIT, CHECKPOINTS, PRETRAIN):
        for name in _in(folder, files):
            if graph_of_folder(name) not in keys:
                yield name, CHECKPOINT, "of a run on a graph that is no longer current"
    handed = list(_in(TABLES, files))
    if handed and (in_use := kept_tables(session)) is not None:
        for name in handed:
            if table_of(name) not in in_use:
                yield name, UNNAMED, "of a table that was handed over, and that no configuration names any more"
    yield from _requests(session, ledger, files)
    for name in filter(is_temporary, files):
        if name.split("/")[0] in SEARCHED:
            yield name, UNNAMED, "a write that did not end"
    yield from _exports(session, ledger, files)


def _in(folder: str, files: Iterable[str]) -> Iterator[str]:
    """The names in this folder that are no temporary files."""
    return (name for name in files if name.startswith(f"{folder}/") and not is_temporary(name))


def _exports(session: Session, ledger: Ledger, files: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """(place, kind, detail) of each export under the output that was begun before the last request was carried out, and of
    each file of an export that did not end."""
    for name in files:
        if name.split("/")[0] in FOLDERS:
            continue
        if UNFINISHED.fullmatch(name):
            yield name, UNNAMED, "of an export that did not end"
        elif posixpath.basename(name) in FILES and is_old(session, ledger, name):
            yield name, EXPORT, "from before a request was carried out"


def is_old(session: Session, ledger: Ledger, name: str) -> bool:
    """Whether this file is of an export that was begun before the last request was carried out."""
    head = log_head_of(session, name)
    return head is not None and head < ledger.carried_out_at


def _requests(session: Session, ledger: Ledger, files: Mapping[str, Details]) -> Iterator[tuple[str, str, str]]:
    """(place, kind, detail) of each leftover of a request: its content, callbacks and outcomes."""
    logged = set(map(ledger.content_name, ledger.tickets))
    told, final = set(map(callbacks_name, logged)), final_contents(ledger)
    # Where `serve.callback_hosts` is set, the service calls back and then removes the file itself.
    untold = set() if session.config.serve.callback_hosts else set(map(callbacks_name, final))
    for name in _in(CALLBACKS, files):
        if name not in told:
            yield name, UNNAMED, "callbacks of a request that was not accepted"
        elif name in untold:
            yield name, NOTE, "callbacks of a request that has its answer, and serve.callback_hosts is empty"
    purged = tombstone_sizes()
    for name in _in(REQUESTS, files):
        if name in final:
            done = "cancelled" if final[name].state is State.CANCELLED else "carried out"
            if files[name].bytes not in purged:
                yield name, REQUEST, f"of a request that was {done}"
        elif name not in logged and name != REQUEST_KEY:
            yield name, UNNAMED, "of a request that was not accepted"
    for name in _in(OUTCOMES, files):
        if ledger.content_name(request_of_outcome(name)) in final:
            yield name, NOTE, "of a request that was carried out"
