"""What a request would change, found in stored files and without workers. Nothing is written."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ...partitioning.ingest import load_assignment
from ..output.id_maps import IdMaps
from ..output.manifest import Manifest
from ..output.session import Session
from ..requests.matching import changed_partitions, effect
from ..requests.outcome import Outcome
from ..requests.request import Request
from .estimate import estimated_seconds
from .finding import find_stored
from .outcomes import expected_outcome


def preview_request(
    session: Session, version: Manifest, request: Request, id_maps: IdMaps | None = None
) -> tuple[dict[str, Any], Outcome]:
    """(the answer of `forget --dry-run`: counts and no ids; what would become of each entry of the request).

    id_maps: as `find_stored`.

    Raises:
        InputError: a file of the version is missing or damaged.
    """
    start = time.perf_counter()
    graph = version.graph
    named, found = find_stored(session.store, graph, [request], id_maps)
    whole = effect(found, named, graph.items)
    outcome = expected_outcome(session, graph, request, named[0], found)
    answer = {
        "request_id": request.request_id,
        "status": "dry_run",
        "version": version.version,
        "removed_interactions": len(whole.users),
        "removed_events": whole.events,
        "matched": outcome.matched,
        "rows": outcome.counts(request.tally),
        "affected_partitions": changed_partitions(version, load_assignment(session.store, graph), whole),
        "touched_nodes": len(np.unique(whole.users)) + len(np.unique(whole.items)),
        "share": whole.share(graph),
        "needs_approval": whole.share(graph) > session.config.forget.max_share,
        "unknown_ids": named[0].unknown,
        "estimated_seconds": estimated_seconds(session.ledger(), len(whole.users)),
    }
    return answer | {"seconds": time.perf_counter() - start}, outcome
