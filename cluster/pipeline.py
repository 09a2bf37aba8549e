"""What each command does, start to end. `train`, `pretrain`, `forget` and `purge` have files of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..partitioning import ingest as ingestion
from ..partitioning.errors import InputError
from ..partitioning.ingest import load_ids
from ..workers import WorkerGroup
from .commands.evaluate_reference import evaluate_against
from .commands.forget import forget, status
from .commands.purge import purge
from .commands.residue import residue
from .commands.rollback import rollback
from .commands.verify import verify
from .config.schema import Config
from .layout import FOLDERS
from .lifecycle.approval import approve, cancel
from .lifecycle.suppression import lift, row_filter
from .models.held_out import held_out_pairs
from .models.pretraining import pretrain
from .models.retraining import retrain
from .models.training import train
from .output.exports import ExportWriter, made_at
from .output.leases import leased
from .output.session import Manifest, Session, silent
from .reporting.progress import Progress

__all__ = [
    "approve",
    "cancel",
    "evaluate",
    "export",
    "forget",
    "ingest",
    "lift",
    "pretrain",
    "purge",
    "residue",
    "retrain",
    "rollback",
    "status",
    "train",
    "verify",
]

Ids = npt.NDArray[np.int64]


def ingest(config: Config, *, progress: Progress | None = None) -> dict[str, Any]:
    """Read the table of interactions, partition the graph and write it under `graph/`.

    Raises:
        InputError: bad input or output, a suppression list without its key, or a request was carried out meanwhile; the
            graph that was there stays.
    """
    progress = progress or silent()
    session = Session(config)
    head = session.journal.head()  # before the list is read: what is carried out from here on may not be on it
    suppress = row_filter(session.store, config.columns.time_unit)
    with progress.task("rows read") as task:
        seen = 0

        def read(rows: int) -> None:
            nonlocal seen
            task.advance(rows - seen)
            seen = rows

        manifest = ingestion.ingest(
            config.interactions,
            session.columns,
            session.store,
            session.options,
            config.cluster.partitions,
            config.partitioning.strategy,
            config.seed,
            config.partitioning.halo,
            config.partitioning.assignment,
            read,
            suppress,
            lambda manifest: session.record_ingest(manifest, head),
        )
    session.request_key()
    session.save_config()
    keys = ("users", "items", "interactions", "events", "skipped", "suppressed", "partitions", "edge_cut", "balance")
    rows = manifest["rows_per_layer"]
    return {key: manifest[key] for key in keys} | {
        "rows_per_layer": rows[config.partitioning.halo],
        "rows_per_layer_by_halo": rows,
    }


def evaluate(
    config: Config,
    *,
    reference: str | None = None,
    users: str | None = None,
    items: str | None = None,
    interactions: str | None = None,
    progress: Progress | None = None,
    group: WorkerGroup | None = None,
) -> dict[str, Any]:
    """Recall and NDCG of the current version on `test_interactions`; with a reference also forgetting.

    Args:
        reference, users, items, interactions: as of `reference.evaluate_against`, all None or the first and another given.

    Raises:
        InputError: no test interactions are configured, they are unreadable, or nothing has been trained yet; or as
            `evaluate_against`.
    """
    named = {"users": users, "items": items, "interactions": interactions}
    if (reference is None) != all(value is None for value in named.values()):
        raise InputError(
            "evaluate: --reference needs what was forgotten (--users, --items or --interactions), and these need --reference"
        )
    if reference is not None:
        return evaluate_against(config, reference, **named, progress=progress or silent(), group=group)
    session = Session(config)
    with leased(session) as version:
        test_users, test_items, unknown = held_out_pairs(session, version)
        arguments = (test_users, test_items, config.evaluate.k, config.evaluate.batch_users)
        if group is not None:
            metrics = session.call(group, version, "evaluate", *arguments)[0]
        else:
            with session.workers() as own:
                metrics = session.call(own, version, "evaluate", *arguments)[0]
    return {"version": version["version"], **metrics, "users": int(metrics["users"]), "unknown_test_rows": unknown}


def export(
    config: Config, *, to: str, top_k: int = 20, progress: Progress | None = None, group: WorkerGroup | None = None
) -> dict[str, Any]:
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
        maps = {side: load_ids(session.store, version["graph"], side) for side in ("user", "item")}
        with ExportWriter(to, session.options, maps["user"][0].type, maps["item"][0].type, made) as writer:
            if group is not None:
                _export(session, version, group, writer, maps, top_k)
            else:
                with session.workers() as own:
                    _export(session, version, own, writer, maps, top_k)
            written = writer.close()
    return {"version": version["version"], **written}


def _export(
    session: Session, version: Manifest, group: WorkerGroup, writer: ExportWriter, maps: dict[str, Any], top_k: int
) -> None:
    places = {side: _by_node(node, version["graph"][f"{side}s"]) for side, (_, node, _) in maps.items()}

    def external(side: str, nodes: Ids) -> pa.Array:
        return maps[side][0].take(pa.array(places[side][nodes]))

    for users, user_rows, items, item_rows in session.call(group, version, "embeddings"):
        writer.embeddings("user", external("user", users), user_rows)
        writer.embeddings("item", external("item", items), item_rows)
    for users, items, scores in session.call(group, version, "recommend", top_k, session.config.evaluate.batch_users):
        k = items.shape[1]
        writer.recommendations(
            external("user", np.repeat(users, k)), external("item", items.reshape(-1)), scores.reshape(-1), k
        )


def _by_node(node: Ids, total: int) -> Ids:
    places = np.full(total, -1, dtype=np.int64)
    places[node] = np.arange(len(node))
    return places
