"""Measure how long a deletion request takes from its acknowledgement to its commit, workers warm, and what takes the time.

The graph is drawn with long tails on both sides, or read from --table. The time of a request depends on the sizes of the
graph and of the tables, not on what their rows hold. So the model is not trained: its rows are drawn at random, and the
encoder has its first weights. All else is as in `serve`: the gate measures each version before its commit, the files are
made durable, and the evidence is written after the commit. With --one-by-one and --at-once a service is put under load, and
--retrain measures a whole training with the same code.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch

from ..cluster import pipeline
from ..cluster.config.schema import Config, parse_config
from ..cluster.evidence.report import add_evidence
from ..cluster.lifecycle.acceptance import accept
from ..cluster.models.carry_out import carry_out
from ..cluster.models.training import make_run, trained_version
from ..cluster.output.ingests import lake_graph
from ..cluster.output.manifest import FORMAT, Manifest, needed_files
from ..cluster.output.session import Session
from ..cluster.reporting.progress import SILENT
from ..cluster.requests.request import parse_request
from ..distributed.backbones.registry import make_backbone
from ..distributed.encoder.influence import FORMATS, InfluenceEncoder
from ..distributed.graph.removal import Removal
from ..distributed.partition.version import Encoder, Model
from ..distributed.training.checkpoint import to_bytes
from ..partitioning.ingest import load_ids, load_shard
from ..workers import WorkerGroup
from . import results_file, under_load
from .traffic import copy_bandwidth, least_seconds

Ids = npt.NDArray[np.int64]

TEST_PAIRS = 20_000
"""The number of drawn pairs that serve as test interactions, of which the gate takes a sample."""


PARTS = {
    "find": ("begin", "route", "find"),
    "means": ("means",),
    "encoder": ("encoder",),
    "write": ("unlearn", "write"),
    "edges": ("edges",),
    "readouts": ("refresh",),
    "gate": ("gate",),
    "commit": ("commit",),
    "next: baseline": ("prepare",),
    "evidence": ("evidence",),
}
"""The columns of the table, and the measured phases that each adds up."""

QUANTILES = (50, 95, 99)
"""In percent."""

NOTES = """Seconds are the driver's, quantiles of each part over the requests of a size (those of the parts do not add up to
those of the whole). Find: from the acknowledgement until what a request names is known. Means: of the readouts of what the
touched nodes are connected with, which the encoder reads; where these are half of the graph, of all nodes. Encoder: the
changes of the touched rows; both in the slowest partition. Write: the rest of the call that makes and writes the files, and
the manifest. Edges: the
removed interactions taken out of the graph in memory, in the slowest partition; readouts: the rest of the refresh. The gate
measures the version before and the new one on samples. Next: after the commit, and so in the way of the next request only:
the gate's next baseline. Evidence: looked up in the
files and written; a service does that while no request waits.

Least: the bytes that a part cannot help moving, over the copy bandwidth of its threads. Commit moves none to speak of: it
waits for the disk."""


def main(argv: Sequence[str] | None = None) -> None:
    """See `--help`."""
    parser = argparse.ArgumentParser(prog="unlearnrec bench latency", description=__doc__)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for table and output; used again if it is there"
    )
    parser.add_argument("--table", type=Path, help="a Parquet table of interactions; without it one is drawn")
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=30_000)
    parser.add_argument("--interactions", type=int, default=4_000_000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 10, 1000, 10_000], help="users of a request")
    parser.add_argument("--repeat", type=int, nargs="+", default=[30, 30, 5, 3], help="requests of each size")
    parser.add_argument("--partitions", type=int, default=2)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2, help="steps of a training to be measured; 0 measures none")
    parser.add_argument(
        "--retrain",
        type=int,
        default=0,
        metavar="EPOCHS",
        help="train so many epochs of --steps steps, in place of one",
    )
    parser.add_argument(
        "--one-by-one", type=int, default=0, help="requests of one user each, one after the other, through a service"
    )
    parser.add_argument(
        "--at-once", type=int, nargs="*", default=[], help="requests of one user each, all at once, through a service"
    )
    parser.add_argument("--threads", type=int, help="of each worker; one by default")
    parser.add_argument(
        "--evidence", type=int, default=2, help="requests of each size whose evidence is written and timed"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=results_file.FOLDER / "latency.md")
    arguments = parser.parse_args(argv)
    if not ray.is_initialized():
        ray.init(address="local", num_cpus=arguments.partitions, include_dashboard=False, log_to_driver=False)
    config = prepared(arguments)
    session = Session(config)
    started = time.perf_counter()
    with session.workers() as group:
        group.form()
        formed = time.perf_counter()
        session.ensure_loaded(group, session.version())
        loaded = time.perf_counter()
        bandwidth = copy_bandwidth()
        graph = session.version().graph
        recorder, rows, splits, least = Recorder(group), [], [], []
        for size, repeat in zip(arguments.sizes, arguments.repeat, strict=True):
            found = [measured(session, group, recorder, size, n, arguments) for n in range(repeat)]
            rows.append(_row(size, found))
            splits += [_split(size, q, found) for q in QUANTILES]
            limits = least_seconds(session, bandwidth, _median(found, ("removed",)), _median(found, ("touched",)))
            least.append({"users": size} | {name: limits.get(name, "") for name in PARTS if name != "evidence"})
            print(*map(results_file.table, (rows[-1:], splits[-3:], least[-1:])), sep="\n", flush=True)
        # What was left out above: a service would write it among the requests that it is measured with.
        ledger = session.ledger()
        add_evidence(session, [ledger.tickets[request_id].describe() for request_id in ledger.unreported])
        loads = []
        if arguments.one_by_one:
            loads.append([under_load.one_after_the_other(session, group, arguments.one_by_one, arguments.seed)])
        if arguments.at_once:
            loads.append([under_load.at_once(session, group, count, arguments.seed) for count in arguments.at_once])
        print(*map(results_file.table, loads), sep="\n", flush=True)
        training = step_seconds(session, group, arguments.steps, arguments.retrain or 1) if arguments.steps else None
    nodes = f"{graph.users:,} users, {graph.items:,} items, {graph.interactions:,} interactions"
    head = (
        f"{nodes}; LightGCN, d = {config.backbone.embedding_size}, {arguments.layers} layers; {arguments.partitions} "
        f"worker{'s' * (arguments.partitions > 1)}, {arguments.threads or 1} thread(s) each. The workers were there after "
        f"{formed - started:.1f} s, and held the version after {loaded - formed:.1f} s more; neither is in the tables. "
        f"Copying memory: {bandwidth / 1e9:.1f} GB/s on one core."
    )
    parts = [head, "Seconds from the acknowledgement of a request to its commit:", results_file.table(rows)]
    parts += ["Where they go, and what comes after the commit:", results_file.table(splits)]
    parts += ["The least seconds, by memory traffic:", results_file.table(least), NOTES]
    if loads:
        parts += ["A service under load:", *map(results_file.table, loads), under_load.NOTES]
    if training is not None:
        parts.append(_retrain_line(config, graph.ingested_interactions, arguments.retrain, *training))
    results_file.write(arguments.output, "From acknowledged to committed", parts)
    print(arguments.output.read_text(encoding="utf-8"))


class Recorder:
    """Records the results of the calls of a worker group since they were last looked at, by method."""

    def __init__(self, group: WorkerGroup) -> None:
        self.results: dict[str, list[Any]] = {}
        unrecorded = group.call

        def record(call: Any, **keywords: Any) -> list[Any]:
            results = unrecorded(call, **keywords)
            self.results.setdefault(call.method, []).extend(results)
            return results

        group.call = record  # type: ignore[method-assign]


def _row(size: int, found: Sequence[dict[str, float]]) -> dict[str, Any]:
    seconds = [one["committed"] for one in found]
    cycle = _median(found, ("committed",)) + _median(found, ("prepare",))
    quantiles = {f"p{q}": float(np.quantile(seconds, q / 100)) for q in QUANTILES}
    return {
        "users": size,
        "requests": len(found),
        "interactions": int(statistics.median(one["removed"] for one in found)),
        **quantiles,
        "one after the other, a minute": 60 / cycle,
    }


def _split(size: int, q: int, found: Sequence[dict[str, float]]) -> dict[str, Any]:
    """A row with a quantile, in percent, of each part."""
    row: dict[str, Any] = {"users": size, "quantile": f"p{q}"}
    for name, phases in PARTS.items():
        seconds = [sum(one.get(phase, 0.0) for phase in phases) for one in found if phases[0] in one or len(phases) > 1]
        row[name] = float(np.quantile(seconds, q / 100)) if seconds else 0.0
    return row


def _median(found: Sequence[dict[str, float]], phases: Sequence[str]) -> float:
    return sum(statistics.median([one[phase] for one in found if phase in one] or [0.0]) for phase in phases)


def step_seconds(session: Session, group: WorkerGroup, steps: int, epochs: int = 1) -> tuple[float, int]:
    """(seconds of a training step, pairs of a step), measured over epochs of so many steps; nothing is committed."""
    graph = session.version().lake_graph
    train = session.config.train.model_copy(
        update={"epochs": epochs, "batch_size": -(-graph.ingested_interactions // steps)}
    )
    config = session.config.model_copy(update={"train": train})
    _, curve = trained_version(Session(config), group, graph, make_run(config, graph, Removal()), SILENT)
    # The seconds of the curve go on from epoch to epoch.
    return curve[-1]["seconds"] / (steps * epochs), train.batch_size


def _retrain_line(config: Config, interactions: int, measured_epochs: int, seconds: float, pairs: int) -> str:
    epochs = config.train.epochs
    if measured_epochs:
        whole = measured_epochs * seconds * -(-interactions // pairs)
        return (
            f"A retrain of {measured_epochs} epochs with the same code, in steps of {pairs:,} pairs, took {whole:.0f} s, "
            "its start and loading apart."
        )
    whole = epochs * seconds * interactions / pairs
    return (
        f"A training step of {pairs:,} pairs with the same code takes {seconds:.1f} s, so a retrain of {epochs} epochs "
        f"takes at least {whole / 60:.0f} minutes with steps of this size, and more with smaller ones."
    )


def prepared(arguments: argparse.Namespace) -> Config:
    """The configuration of an output that has a version with an encoder; both are made unless they are there."""
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    table, test = arguments.table or work / "events.parquet", work / "test.parquet"
    if not table.exists():
        draw_table(table, arguments.users, arguments.items, arguments.interactions, arguments.seed)
    if not test.exists():
        draw_test(table, test, arguments.seed)
    config = parse_config(
        {
            "interactions": str(table),
            "test_interactions": str(test),
            "output": str(work / f"run-{arguments.partitions}"),
            "seed": arguments.seed,
            "cluster": {"partitions": arguments.partitions, "threads_per_worker": arguments.threads},
            "partitioning": {"strategy": "hash"},
            "backbone": {"embedding_size": 64, "num_layers": arguments.layers},
            "serve": {"max_open_requests": 100_000},
        }
    )
    session = Session(config)
    if session.versions.current() is None:
        pipeline.ingest(config)
        make_version(session)
    return config


def draw_table(path: Path, users: int, items: int, interactions: int, seed: int) -> None:
    """Write a table with about so many distinct interactions. Activity and popularity have log-normal tails."""
    draw = np.random.default_rng(seed)
    activity = np.cumsum(draw.lognormal(0, 0.9, users))
    popularity = np.cumsum(draw.lognormal(0, 1.8, items))
    pairs = np.empty(0, dtype=np.int64)
    while len(pairs) < interactions:
        more = int(1.1 * (interactions - len(pairs))) + 1000
        user = np.searchsorted(activity, draw.random(more) * activity[-1])
        item = np.searchsorted(popularity, draw.random(more) * popularity[-1])
        pairs = np.union1d(pairs, user * items + item)
    pairs = np.sort(draw.permutation(pairs)[:interactions])
    pq.write_table(pa.table({"user_id": pairs // items, "item_id": pairs % items + 10**9}), path)


def draw_test(table: Path, path: Path, seed: int) -> None:
    """Write pairs of a user and an item that the table has, drawn by chance. They stand for held-out interactions."""
    draw = np.random.default_rng(seed + 1)
    known = pq.read_table(table, columns=["user_id", "item_id"])
    columns = {name: known[name].take(draw.integers(known.num_rows, size=TEST_PAIRS)) for name in known.column_names}
    pq.write_table(pa.table(columns), path)


def make_version(session: Session) -> None:
    """Commit a version of the ingested graph with rows drawn at random and an encoder with its first weights."""
    config, graph, number = session.config, lake_graph(session), session.versions.next_number()
    head = session.ledger().seen
    backbone = config.backbone.model_dump()
    files, embeddings = dict(graph.files), []
    for k in range(graph.partitions):
        shard = load_shard(session.store, graph, k)
        generator = torch.Generator().manual_seed(config.seed + k)
        size = (len(shard.user_ids) + len(shard.item_ids), config.backbone.embedding_size)
        embeddings.append(session.versions.new_name(number, f"embeddings-{k:03d}", "safetensors"))
        data = to_bytes({"e0": 0.1 * torch.randn(size, generator=generator)})
        files[embeddings[-1]] = session.versions.put(embeddings[-1], data)
    blocks = make_backbone(backbone, 0).readout_size // config.backbone.embedding_size
    shape = {"blocks": blocks, "mlp_layers": config.influence.mlp_layers, "seed": config.seed}
    shape["size"] = config.backbone.embedding_size
    encoder = InfluenceEncoder(**shape)
    encoder.gain *= 0.01
    name = session.versions.new_name(number, "encoder", "safetensors")
    files[name] = session.versions.put(name, to_bytes(encoder.state_dict()))
    model = Model(
        backbone=backbone,
        seed=config.seed,
        embeddings=tuple(embeddings),
        dense=None,
        encoder=Encoder(
            file=name, format=FORMATS["counterfactual"], shape=shape, largest_shift=1.0, interactions=graph.interactions
        ),
        train=config.train.model_dump(mode="json"),
        trained_on=graph.shard_files,
    )
    manifest = Manifest(
        format=FORMAT,
        reason="train",
        version=number,
        graph=graph,
        lake_graph=graph,
        model=model,
        files={name: files[name] for name in needed_files(graph, model)},
    )
    session.versions.commit(manifest, after=head)


def measured(
    session: Session, group: WorkerGroup, recorder: Recorder, size: int, number: int, arguments: argparse.Namespace
) -> dict[str, float]:
    """Forget `size` users that are still there, chosen by chance; returns the seconds of the phases."""
    graph = session.version().graph
    ids, _, _ = load_ids(session.store, graph, "user")
    draw = np.random.default_rng([arguments.seed, size, number])
    users = ids.take(pa.array(draw.choice(len(ids), size, replace=False))).to_pylist()
    file = Path(session.config.output).parent / "request.parquet"
    pq.write_table(pa.table({"user_id": users}), file)
    request_id = f"{size}-{number}-{time.time_ns()}"
    request = parse_request(str(file), None, None, None, request_id, session.options)
    accept(session, request)
    recorder.results.clear()
    acknowledged = time.perf_counter()
    answers = carry_out(session, [request], group, SILENT)
    done = time.perf_counter() - acknowledged
    answer = answers[request_id]
    phases = dict(answer["phases"])
    # What came before the watch began: the log was read, and the workers were asked what they hold.
    phases["begin"] = done - sum(phases.values())
    encoder = max(result["encoder_seconds"] for result in recorder.results["forget"])
    edges = max(result.get("edges", 0.0) for result in recorder.results.get("load", [{}]))
    means = max(recorder.results.get("complete", [0.0]))
    phases |= {"means": means, "encoder": encoder, "unlearn": phases["unlearn"] - encoder - means}
    phases |= {"edges": edges, "refresh": phases.get("refresh", 0.0) - edges}
    phases |= {"committed": done - phases["prepare"], "removed": answer["removed_interactions"]}
    phases["touched"] = answer["touched_nodes"]
    if number < arguments.evidence:
        started = time.perf_counter()
        add_evidence(session, list(answers.values()), group, SILENT)
        phases["evidence"] = time.perf_counter() - started
    print(size, {name: round(value, 3) for name, value in phases.items()}, flush=True)
    return phases


if __name__ == "__main__":
    main()
