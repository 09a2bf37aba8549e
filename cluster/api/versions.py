"""The versions of an output, as its log lists them."""

from __future__ import annotations

from datetime import datetime

from ..log.records import COMMITTED
from ..output.manifest import manifest_of
from ..output.session import Session as OpenOutput
from .results import VersionInfo


def read_versions(output: OpenOutput) -> list[VersionInfo]:
    """All versions whose records the log still has, oldest first.

    Raises:
        InputError: the log is damaged.
    """
    found = []
    records = [record for record in output.log.records() if record.kind == COMMITTED]
    for record in records:
        manifest = manifest_of(record)
        graph = manifest.graph
        found.append(
            VersionInfo(
                version=manifest.version,
                reason=manifest.reason,
                committed_at=datetime.fromisoformat(record.time),
                users=graph.live("user"),
                items=graph.live("item"),
                interactions=graph.interactions,
                encoder=manifest.model.encoder is not None,
                current=record is records[-1],
                requests=tuple(manifest.answers),
            )
        )
    return found
