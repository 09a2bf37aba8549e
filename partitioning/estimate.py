"""How much memory and temporary disk `ingest` needs, and METIS in particular. docs/log.md has the measurements."""

from __future__ import annotations

from .spool import MEMORY_BYTES

METIS_BYTES_AN_INTERACTION = 210
METIS_BYTES_A_NODE = 250
DISK_BYTES_AN_INTERACTION = 36
DISK_BYTES_A_ROW = 16


def metis_bytes(interactions: int, nodes: int) -> int:
    """The peak memory of METIS's process and of the arrays that are made for it."""
    return METIS_BYTES_AN_INTERACTION * interactions + METIS_BYTES_A_NODE * nodes


def temporary_bytes(rows: int, interactions: int, timed: bool = False) -> int:
    """The most bytes that `ingest` has in temporary files at a time."""
    return max(0, max(DISK_BYTES_A_ROW * rows, DISK_BYTES_AN_INTERACTION * interactions) - MEMORY_BYTES)
