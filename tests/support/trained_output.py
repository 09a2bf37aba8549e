"""A small output as `ingest`, `train` and `pretrain` leave it, made by real workers in a few seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import Config, parse_config
from unlearnrec.cluster.output.manifest import Manifest
from unlearnrec.cluster.output.session import Session
from unlearnrec.distributed.partition.files import read_rows
from unlearnrec.partitioning.sample import make_sample
from unlearnrec.workers import WorkerGroup


def small_sample(folder: Path) -> dict[str, Any]:
    """60 users, 40 items: what `make_sample` gives."""
    return make_sample(folder / "data", users=60, items=40, mean_interactions=10, communities=4, factors=4)


def with_names(path: str, target: Path) -> str:
    """The same table with ids that can be searched for: long texts that contain no other."""
    table = pq.read_table(path)
    users = [f"user-{u:06d}@example" for u in table["user_id"].to_pylist()]
    items = [f"item-{i:06d}-sku" for i in table["item_id"].to_pylist()]
    pq.write_table(pa.table({"user_id": users, "item_id": items}), target)
    return str(target)


def trained_output(
    folder: Path, group: WorkerGroup, names: bool = False, **sections: dict[str, Any]
) -> tuple[Config, list[tuple[Any, Any]]]:
    """(configuration, events as (user, item)); the output is folder/output.

    names: ids as of `with_names`. sections: of the configuration, where it is to be another than one epoch of either.
    """
    interactions = small_sample(folder)["train"]
    if names:
        interactions = with_names(interactions, folder / "train.parquet")
    config = parse_config(
        {
            "interactions": interactions,
            "output": str(folder / "output"),
            **sections,
            "backbone": {"embedding_size": 8, "num_layers": 2},
            "train": {"epochs": 1, "batch_size": 500, **sections.get("train", {})},
            "pretrain": {"epochs": 1, "counterfactuals": 1, **sections.get("pretrain", {})},
        }
    )
    pipeline.ingest(config)
    pipeline.train(config, group=group)
    pipeline.pretrain(config, group=group)
    table = pq.read_table(interactions, columns=["user_id", "item_id"])
    return config, list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def rows_by_partition(session: Session, version: Manifest) -> list[np.ndarray]:
    """The rows of E0 in the files of a version, users first."""
    return [read_rows(session.store, version, k) for k in range(version.graph.partitions)]
