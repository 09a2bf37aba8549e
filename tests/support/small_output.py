"""An output as ingest, train and forget leave it, made in a moment and without workers."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.numpy import load, save

from unlearnrec.cluster.commands.ingest import ingest
from unlearnrec.cluster.config.schema import Config, parse_config
from unlearnrec.cluster.lifecycle import acceptance
from unlearnrec.cluster.models.reduced_graph import merged_gone, new_graph
from unlearnrec.cluster.output.ingests import lake_graph
from unlearnrec.cluster.output.manifest import Manifest
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.requests.matching import resolve
from unlearnrec.cluster.requests.request import parse_request
from unlearnrec.distributed.encoder.changes import shrink
from unlearnrec.distributed.encoder.influence import FORMATS
from unlearnrec.distributed.partition.files import read_rows
from unlearnrec.distributed.partition.version import Encoder, Model
from unlearnrec.partitioning.ingest import load_ids, load_shard
from unlearnrec.partitioning.manifest import File, IngestedGraph
from unlearnrec.partitioning.shard import GraphShard
from unlearnrec.partitioning.storage import Store

SIZE = 8


def user_name(n: int) -> str:
    return f"ann-{n:03d}@example"


def item_name(n: int) -> str:
    return f"item-{n:03d}x"


def write_interactions(path: Path, users: int = 12, items: int = 8) -> str:
    """Every user with every second item; string ids."""
    pairs = [(user_name(u), item_name(i)) for u in range(users) for i in range(items) if (u + i) % 2]
    names, things = zip(*pairs, strict=True)
    pq.write_table(pa.table({"user_id": names, "item_id": things}), path)
    return str(path)


def small_config(interactions: str, output: str, **more: Any) -> Config:
    return parse_config(
        {
            "interactions": interactions,
            "output": output,
            "cluster": {"partitions": 2},
            "partitioning": {"strategy": "hash"},
            **more,
        }
    )


def commit_train(config: Config, seed: int = 0, without: str | None = None) -> Manifest:
    """A version with random rows on the lake's graph; `without` a user it is a counterfactual."""
    session = Session(config)
    head, graph = session.log.head(), lake_graph(session)
    manifest = random_rows(session, graph, seed)
    if without is not None:
        manifest = without_request(session, manifest, session.versions.next_number(), without)
    return session.versions.commit(manifest, after=head)


def scored_output(folder: Path) -> Config:
    """12 users and 8 items, each user with every second item, in one partition, with random rows. The test interactions are
    the same table: whoever ranks finds nothing left of it."""
    table = write_interactions(folder / "t.parquet")
    config = small_config(table, str(folder / "output"), cluster={"partitions": 1}, test_interactions=table)
    ingest(config)
    commit_train(config)
    return config


def random_rows(session: Session, graph: IngestedGraph, seed: int) -> Manifest:
    """The manifest of a version to be on this graph, its files written."""
    number, draw = session.versions.next_number(), np.random.default_rng(seed)
    files, names = dict(graph.files), []
    for k in range(graph.partitions):
        shard = load_shard(session.store, graph, k)
        rows = draw.normal(size=(len(shard.user_ids) + len(shard.item_ids), SIZE)).astype(np.float32)
        names.append(session.versions.new_name(number, f"embeddings-{k:03d}", "safetensors"))
        files[names[-1]] = session.versions.put(names[-1], save({"e0": rows}))
    config = session.config
    model = Model(
        backbone=config.backbone.model_dump(),
        seed=config.seed,
        embeddings=tuple(names),
        dense=None,
        encoder=None,
        train=config.train.model_dump(),
        trained_on=graph.shard_files,
    )
    return Manifest(format=1, reason="train", version=number, graph=graph, lake_graph=graph, model=model, files=files)


def commit_encoder(config: Config, **more: Any) -> None:
    """A version like the current one, with an encoder as of `empty_encoder`. more: of its entry."""
    session = Session(config)
    version, head = session.version(), session.log.head()
    encoder, files = empty_encoder(session, version)
    model = version.model.replaced(encoder=encoder.replaced(**more))
    session.versions.commit(version.replaced(reason="pretrain", model=model, files=version.files | files), head)


def empty_encoder(session: Session, version: Manifest) -> tuple[Encoder, dict[str, File]]:
    """(the entry, the file) of one that nobody can read: enough for `fake_workers`."""
    name = session.versions.new_name(session.versions.next_number(), "encoder", "safetensors")
    files = {name: session.versions.put(name, save({"x": np.zeros(1, dtype=np.float32)}))}
    objective = "counterfactual"
    encoder = Encoder(
        file=name,
        tables=None,
        objective=objective,
        format=FORMATS[objective],
        shape={},
        interactions=version.graph.interactions,
    )
    return encoder, files


def without_request(session: Session, version: Manifest, number: int, users: str) -> Manifest:
    """The manifest of a version minus all interactions of these users, its files written."""
    graph, maps = version.graph, []
    for side in ("user", "item"):
        maps.append(load_ids(session.store, graph, side))
    found = resolve(parse_request(users, None, None, None, None, session.options), *maps)
    removal = found.removal
    files, shards, results, names = dict(version.files), {}, [], []
    for k in range(graph.partitions):
        shard = load_shard(session.store, graph, k)
        e0 = torch.from_numpy(read_rows(session.store, version, k))
        smaller, rows = shrink(shard, e0, *removal.pairs(shard))
        name = session.versions.new_name(number, f"shard-{k:03d}", "safetensors")
        shards[k] = (name,), {name: session.versions.put(name, smaller.to_bytes())}
        names.append(session.versions.new_name(number, f"embeddings-{k:03d}", "safetensors"))
        for before in version.model.embedding_chain(k):
            del files[before]
        moved = with_moved_ends(smaller, rows.numpy(), *removal.pairs(shard))
        files[names[-1]] = session.versions.put(names[-1], save({"e0": moved}))
        pairs = {side: (getattr(shard, f"{side}_ids"), getattr(smaller, f"{side}_ids")) for side in ("user", "item")}
        results.append({f"gone_{side}s": np.setdiff1d(*ids) for side, ids in pairs.items()})
    changed = new_graph(session, graph, number, shards, merged_gone(results), 1, 1)
    for name in graph.files:
        files.pop(name)
    files |= changed.files
    model = version.model.replaced(embeddings=tuple(names), embedding_deltas=None)
    return version.replaced(graph=changed, model=model, files=files, follows=None)


def with_moved_ends(shard: GraphShard, rows: np.ndarray, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Rows [N, d] of a shard's nodes, with 1 added to those of ends of these pairs: as if the encoder had touched them."""
    ends = np.concatenate([np.isin(shard.user_ids, users), np.isin(shard.item_ids, items)])
    return rows + ends[:, None].astype(rows.dtype)


def copied(config: Config, folder: Path) -> Config:
    """The configuration of a copy of this output, at folder/output."""
    output = shutil.copytree(config.output, folder / "output")
    return config.model_copy(update={"output": str(output)})


def accept(config: Config, users: str, request_id: str) -> None:
    session = Session(config)
    acceptance.accept(session, parse_request(users, None, None, None, request_id, session.options))


def commit_forget(config: Config, users: str, request_id: str, **answered: Any) -> Manifest:
    """As `forget --users` does it, with other numbers. answered: more of its answer."""
    accept(config, users, request_id)
    session = Session(config)
    head, version, number = session.log.head(), session.version(), session.versions.next_number()
    manifest = without_request(session, version, number, users)
    answer = {"request_id": request_id, "status": "committed", "version": number, "affected_partitions": [0, 1]}
    answer |= answered
    made = {"reason": "forget", "lake_graph": manifest.graph, "answers": {request_id: answer}}
    return session.versions.commit(manifest.replaced(**made), after=head)


# ---- looking for what was deleted -----------------------------------------------------------------------------------


def places_of(store: Store, wanted: bytes) -> list[str]:
    """The files whose bytes hold it, as they lie or decoded: every value of a Parquet column, every tensor."""
    return [name for name in store.details() if wanted in _opened(name, store.read(name))]


def _opened(name: str, data: bytes) -> bytes:
    parts = [name.encode(), data]
    if name.endswith(".parquet"):
        for column in pq.read_table(io.BytesIO(data)).columns:
            parts += [str(value).encode() for value in column.to_pylist()]
    if name.endswith(".safetensors"):
        parts += [tensor.tobytes() for tensor in load(data).values()]
    return b"\n".join(parts)


def row_of(store: Store, version: Manifest, side: str, name: str) -> bytes:
    """The row of E0 of a user or an item in the files of a version, as its bytes."""
    ids, node, owner = load_ids(store, version.graph, side)
    place = ids.to_pylist().index(name)
    k = int(owner[place])
    shard = load_shard(store, version.graph, k)
    local = int(np.flatnonzero(getattr(shard, f"{side}_ids") == node[place])[0])
    rows = read_rows(store, version, k)
    return rows[local + (len(shard.user_ids) if side == "item" else 0)].tobytes()
