"""How much memory and temporary disk `ingest` needs, from the sizes of its arrays and the measurements in docs/log.md."""

from __future__ import annotations

from .graph import CHUNK_ROWS
from .spool import MEMORY_BYTES
from .streaming import SAMPLE_INTERACTIONS
from .traffic import COVER_EDGES

PROCESS_BYTES = 110_000_000
"""Python with its modules."""
BYTES_AN_ID = 110
"""The ids themselves, a hash table of them, ranks, degrees and owners. Ids that are texts take their length in addition."""
BYTES_A_CHUNK_ROW = 150
METIS_BYTES_AN_INTERACTION, METIS_BYTES_A_NODE = 210, 250
COVER_BYTES_AN_INTERACTION = 50
DISK_BYTES_AN_INTERACTION, DISK_BYTES_A_ROW = 36, 16
TIME_BYTES_A_ROW = 24


def metis_bytes(interactions: int, nodes: int) -> int:
    """The peak memory of METIS's process and of the arrays that are made for it."""
    return METIS_BYTES_AN_INTERACTION * interactions + METIS_BYTES_A_NODE * nodes


def ingest_bytes(
    users: int, items: int, interactions: int, partitions: int, strategy: str = "metis", metis_limit: int = 4 << 30
) -> int:
    """The peak memory of `ingest` with METIS's process. metis_limit: bytes, as `partitioning.metis_gib` says."""
    ids = users + items
    own = PROCESS_BYTES + MEMORY_BYTES + BYTES_AN_ID * ids + BYTES_A_CHUNK_ROW * max(CHUNK_ROWS, ids // 2)
    if partitions == 1:
        return own
    placing = 0
    if strategy in ("metis", "stream"):
        placing = metis_bytes(interactions, ids)
        if strategy == "stream" or placing > metis_limit:
            placing = metis_bytes(min(interactions, SAMPLE_INTERACTIONS), min(ids, 2 * SAMPLE_INTERACTIONS))
    # One after the other: METIS's arrays are gone when a cover is counted.
    return own + max(placing, COVER_BYTES_AN_INTERACTION * min(interactions, COVER_EDGES))


def temporary_bytes(rows: int, interactions: int, timed: bool = False) -> int:
    """The most bytes that `ingest` has in temporary files at a time. rows: of the table. timed: with `columns.time`."""
    times = TIME_BYTES_A_ROW * rows if timed else 0
    return max(0, max(DISK_BYTES_A_ROW * rows, DISK_BYTES_AN_INTERACTION * interactions) + times - MEMORY_BYTES)
