"""What was ingested, and the graph to train on."""

from __future__ import annotations

import hashlib
import json

from .manifest import Manifest


def digest(manifest: Manifest) -> str:
    """Of what an ingest left, to tell one from the next."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def graph_key(graph: Manifest) -> str:
    """What names of folders begin with whose files come from this graph; `purge` removes those of other graphs."""
    return digest(graph)[:12]
