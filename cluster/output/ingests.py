"""What was ingested, and the graph to train on."""

from __future__ import annotations

import hashlib
import json

from ...partitioning.manifest import Graph


def digest(manifest: Graph) -> str:
    """Of what an ingest left, to tell one from the next."""
    return hashlib.sha256(json.dumps(manifest.document(), sort_keys=True).encode()).hexdigest()


def graph_key(graph: Graph) -> str:
    """What names of folders begin with whose files come from this graph; `purge` removes those of other graphs."""
    return digest(graph)[:12]
