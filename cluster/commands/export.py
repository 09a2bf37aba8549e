"""`export`: embeddings and recommendations of the current version."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...distributed.partition.partition import Partition
from ...partitioning.ingest import load_ids
from ...workers import WorkerGroup, calling
from ..config.schema import Config
from ..layout import FOLDERS
from ..output.exports import ExportWriter, made_at
from ..output.leases import leased
from ..output.manifest import Manifest
from ..output.session import Session

Ids = npt.NDArray[np.int64]


def export(config: Config, *, to: str, top_k: int = 20, group: WorkerGroup | None = None) -> dict[str, Any]:
    """Write the current version's readouts and recommendations as Parquet. Forgotten users and items are absent.

    An export under `output` is one of its files: `residue` lists it once a later request was carried out, and `purge`
    removes it.

    Raises:
        InputError: the target lies in a folder of the output's own or cannot be written, or nothing has been trained yet.
    """
    session = Session(config)
    session.refuse_own("--to", to, FOLDERS)
    made = made_at(session)
    with leased(session) as version:
        maps = {side: load_ids(session.store, version.graph, side) for side in ("user", "item")}
        with ExportWriter(to, session.options, maps["user"][0].type, maps["item"][0].type, made) as writer:
            with session.workers(group) as workers:
                _export(session, version, workers, writer, maps, top_k)
            written = writer.close()
    return {"version": version.version, **written}


def _export(
    session: Session, version: Manifest, group: WorkerGroup, writer: ExportWriter, maps: dict[str, Any], top_k: int
) -> None:
    places = {side: _by_node(node, version.graph.nodes(side)) for side, (_, node, _) in maps.items()}

    def external(side: str, nodes: Ids) -> pa.Array:
        return maps[side][0].take(pa.array(places[side][nodes]))

    for users, user_rows, items, item_rows in session.call(group, version, calling(Partition.readouts)):
        writer.embeddings("user", external("user", users), user_rows)
        writer.embeddings("item", external("item", items), item_rows)
    recommend = calling(Partition.recommend, top_k, session.config.evaluate.batch_users)
    for users, items, scores in session.call(group, version, recommend):
        k = items.shape[1]
        writer.recommendations(
            external("user", np.repeat(users, k)), external("item", items.reshape(-1)), scores.reshape(-1), k
        )


def _by_node(node: Ids, total: int) -> Ids:
    places = np.full(total, -1, dtype=np.int64)
    places[node] = np.arange(len(node))
    return places
