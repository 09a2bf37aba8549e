"""What the tests run on plain processes: importable there, so not in a test module."""

from __future__ import annotations

import unittest.mock
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from unlearnrec.distributed.backbones import BACKBONES
from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.encoder.published import (
    Published,
    PublishedEncoder,
    PublishedSettings,
    TrainedModel,
    pretrain_published,
    published_influence,
)
from unlearnrec.distributed.graph.local_graph import LocalGraph
from unlearnrec.distributed.measures import ranking
from unlearnrec.distributed.training.trainer import Trainer, TrainSettings
from unlearnrec.partitioning.assignment import Assignment, hash_owner
from unlearnrec.partitioning.shard import build_shards

USERS, ITEMS = 70, 45
_BACKBONE_KEYS = {"embedding_size", "contrast_weight"}


def pairs(users: int = USERS, items: int = ITEMS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Distinct interactions, sorted, with popular items, one user and one item without any."""
    rng = np.random.default_rng(seed)
    popularity = rng.dirichlet(np.full(items - 1, 0.3))
    table = np.zeros((users, items), dtype=bool)
    for u in range(users - 1):
        table[u, rng.choice(items - 1, size=rng.integers(2, 12), p=popularity * 0.9 + 0.1 / (items - 1))] = True
    found = np.nonzero(table)
    return found[0].astype(np.int32), found[1].astype(np.int32)


def assignment(size: int, users: int = USERS, items: int = ITEMS) -> Assignment:
    return Assignment(
        hash_owner(np.arange(users), "user", size, 0), hash_owner(np.arange(items), "item", size, 0), size
    )


def local_graph(
    comm: Comm, halo: str = "pull", kernel: str = "torch", without: tuple[Any, Any] | None = None
) -> LocalGraph:
    users, items = pairs()
    owners = assignment(comm.size)
    shard = build_shards(users, items, np.ones_like(users), owners)[comm.rank]
    if without is not None:
        shard = shard.without(*without)
    return LocalGraph(shard, owners, comm, halo, kernel)


def settings(**changes: Any) -> TrainSettings:
    values: dict[str, Any] = {
        "seed": 3,
        "batch_size": 64,
        "learning_rate": 0.01,
        "loss": "bpr",
        "initial_deviation": 0.1,
        "l2": 1e-3,
        "softmax_temperature": 0.2,
        "softmax_negatives": 16,
        "total_pairs": len(pairs()[0]),
    }
    return TrainSettings(**(values | changes))


def make_trainer(comm: Comm, backbone: str, halo: str, kernel: str, changes: dict[str, Any], without: Any) -> Trainer:
    graph = local_graph(comm, halo, kernel, without)
    own = {"embedding_size": 16} | {name: changes.pop(name) for name in _BACKBONE_KEYS & changes.keys()}
    model = BACKBONES[backbone](num_layers=2, seed=3, **own).to(comm.device)
    return Trainer(graph, model, settings(**changes))


def train(
    comm: Comm,
    backbone: str = "lightgcn",
    halo: str = "pull",
    kernel: str = "torch",
    epochs: int = 3,
    changes: dict[str, Any] | None = None,
    without: Any = None,
) -> dict[str, Any]:
    """Trains; returns losses, and this rank's rows by global node id."""
    trainer = make_trainer(comm, backbone, halo, kernel, dict(changes or {}), without)
    losses = [trainer.run_epoch() for _ in range(epochs)]
    before = comm.rows_sent["halo"]
    z = trainer.readouts()
    graph = trainer.graph
    return {
        "losses": losses,
        "ids": torch.cat([graph.user_ids, graph.item_ids + graph.num_users]),
        "rows": trainer.table.rows.clone(),
        "readouts": z,
        "dense": [p.detach().clone() for p in trainer.backbone.parameters()],
        "rows_per_layer": (comm.rows_sent["halo"] - before) // trainer.backbone.num_layers,
        "planned": int(graph.halo.send_counts.sum()),
    }


def whole(results: list[dict[str, Any]], name: str) -> torch.Tensor:
    """Rows of all ranks in order of global node id."""
    ids = torch.cat([r["ids"] for r in results])
    return torch.cat([r[name] for r in results])[torch.argsort(ids)]


def objective(**changes: Any) -> PublishedSettings:
    values: dict[str, Any] = {
        "seed": 1,
        "epochs": 10,
        "batch_size": 128,
        "learning_rate": 0.01,
        "request_share": 0.2,
        "forget_weight": 0.5,
        "preserve_weight": 0.01,
        "contrast_weight": 1e-3,
        "edge_drop": 0.05,
    }
    return PublishedSettings(**(values | changes))


def published(
    comm: Comm,
    changes: dict[str, Any],
    backbone: str = "lightgcn",
    training: dict[str, Any] | None = None,
    own_loss: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Trains a backbone and the published encoder; then forgets the first five interactions.

    own_loss: what L_M has otherwise than the training had.
    """
    trainer = make_trainer(comm, backbone, "pull", "torch", dict(training or {}), None)
    for _ in range(8):
        trainer.run_epoch()
    graph, e0 = trainer.graph, trainer.table.rows
    readout = trainer.readouts()
    encoder = PublishedEncoder(e0.shape[1])
    losses: list[float] = []
    own = dict(own_loss or {})
    trainer.backbone.contrast_weight = own.pop("contrast_weight", trainer.backbone.contrast_weight)
    train = replace(trainer.settings, **own)
    model = TrainedModel(trainer.backbone, e0, readout)
    h0, gate = pretrain_published(
        graph, model, encoder, objective(**changes), train, lambda _, loss: losses.append(loss)
    )
    users, items = (torch.from_numpy(x[:5].astype(np.int64)) for x in pairs())
    here = (graph.user_rows(users) >= 0) | (graph.item_rows(items) >= 0)
    trained = Published(encoder, h0, gate)
    rows, change = published_influence(graph, readout, trained, users[here], items[here])
    changed = e0.clone()
    changed[rows] += change
    return {
        "ids": torch.cat([graph.user_ids, graph.item_ids + graph.num_users]),
        "rows": changed,
        "before": e0.clone(),
        "h0": h0,
        "losses": losses,
        "fresh": trained.fresh_rows(rows)["h0"][rows],
    }


def scored_pairs(comm: Comm, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The scores of all interactions by made-up readouts, `most` at a time."""
    with unittest.mock.patch.object(ranking, "PAIRS_AT_A_TIME", most):
        graph = local_graph(comm)
        readouts = torch.cat([graph.user_ids, graph.item_ids + USERS])[:, None] * torch.arange(1.0, 5.0)
        users, items = (torch.from_numpy(x.astype(np.int64)) for x in pairs())
        return ranking.pair_scores(graph, readouts.sin(), users, items)
