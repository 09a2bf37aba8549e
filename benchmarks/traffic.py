"""The least seconds of the parts of a request, if memory is all that they wait for. Part of `bench latency`."""

from __future__ import annotations

import math
import time

import numpy as np

from ..cluster.models.gate import HELD_OUT_PAIRS
from ..cluster.output.session import Session


def copy_bandwidth() -> float:
    """Bytes read and written in a second by a copy of 256 MB that is repeated."""
    source, target = np.ones(1 << 25), np.empty(1 << 25)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - started)
    return 2 * source.nbytes / min(seconds)


def least_seconds(session: Session, bandwidth: float, removed: float, touched: float) -> dict[str, float]:
    """The least seconds of parts of a request that removes so many interactions and touches so many nodes, if every thread
    has a core. By the bytes that each part reads and writes:

    - find: the external ids once, to find those that are named, and the entries that are found;
    - encoder: the row of E0, the readout and the means of each end of each interaction, and the changes;
    - write: the changed rows and pairs, for the file, its checksum and the disk's buffer;
    - edges: the arrays of the graph and the tables moved once, read and written, as when the first user goes;
    - readouts: in each layer a row for each entry, and one for each node;
    - gate: the readouts of all items for each block of the users of its sample.
    """
    graph, config = session.version().graph, session.config
    row = 4 * config.backbone.embedding_size
    nodes, entries = graph.users + graph.items, 2 * graph.interactions
    layer = row * (entries + nodes)
    arrays = entries * 3 * 4 + graph.interactions * 2 * 8 + nodes * row
    core = bandwidth
    cores = bandwidth * graph.partitions * (config.cluster.threads_per_worker or 1)
    blocks = math.ceil(min(HELD_OUT_PAIRS, graph.users) / config.evaluate.batch_users)
    return {
        "find": (8 * nodes + 8 * removed) / core,
        "encoder": row * (6 * removed + 2 * touched) / cores,
        "write": 3 * (row * touched + 16 * removed) / cores,
        "edges": 2 * arrays / cores,
        "readouts": config.backbone.num_layers * layer / cores,
        "gate": blocks * graph.items * row / cores,
    }
