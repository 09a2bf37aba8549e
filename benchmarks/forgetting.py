"""Train a model on a data set and carry out two requests: measure quality against seconds, and forgetting against a retrain.

One request is for 100 users, the other for 100 single interactions. Each is compared with a model from whose graph the edges
were only cut, and with the counterfactual retrain, which is the same keyed run without the request's data. The number of
epochs is set beforehand; nothing is chosen on the test interactions. The results file is written again after every stage, so
an interrupted run leaves the results that it has.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..cluster import pipeline
from ..cluster.config.schema import Config, parse_config
from ..cluster.models.comparison import Probe, compare, copy_output, measure
from ..cluster.models.held_out import held_out_pairs
from ..cluster.output.ingests import lake_graph
from ..cluster.output.session import Session
from ..cluster.reporting.screen import open_progress
from ..distributed.training.run import Probe as TrainProbe
from ..partitioning.graph import dense_ids
from ..partitioning.ingest import load_ids
from ..workers import WorkerGroup
from . import results_file

RANDOM_PAIRS = 20_000
REQUESTED = 100
"""The number of users, and of single interactions, that are requested to be forgotten."""


def main() -> None:
    """See `--help`."""
    parser = argparse.ArgumentParser(prog="unlearnrec bench forgetting", description=__doc__)
    parser.add_argument("--train", required=True, help="Parquet with user_id and item_id")
    parser.add_argument("--test", required=True)
    parser.add_argument("--name", required=True, help="of the data set, for the results file")
    parser.add_argument("--partitions", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--probe-every", type=int, default=1)
    parser.add_argument("--work", help="folder for the runs; a temporary one by default")
    parser.add_argument("--results", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE", help="of the training recipe")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        _run(arguments, Path(arguments.work or temporary))


RECIPE: dict[str, Any] = {
    "backbone": {"name": "lightgcn", "embedding_size": 64, "num_layers": 2, "length_power": 0.4},
    "train": {
        "loss": "softmax",
        "batch_size": 4096,
        "learning_rate": 0.001,
        "initial_deviation": 0.01,
        "l2": 1e-5,
        "softmax_temperature": 0.1,
        "softmax_negatives": 1024,
    },
    "pretrain": {"epochs": 30, "learning_rate": 0.003},
}


def _config(arguments: argparse.Namespace, output: Path) -> Config:
    values = {section: dict(keys) for section, keys in RECIPE.items()}
    values["train"]["epochs"] = arguments.epochs
    for override in arguments.overrides:
        path, _, value = override.partition("=")
        section, key = path.split(".")
        values.setdefault(section, {})[key] = _number(value)
    return parse_config(
        {
            "interactions": arguments.train,
            "test_interactions": arguments.test,
            "output": str(output),
            "cluster": {"partitions": arguments.partitions},
            **values,
        }
    )


def _number(text: str) -> Any:
    """The text as a whole number or a number if it is one, otherwise the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _run(arguments: argparse.Namespace, folder: Path) -> None:
    """Run all stages in this folder, and write the results file."""
    progress = open_progress()
    config = _config(arguments, folder / "run")
    results = arguments.results or results_file.FOLDER / f"forgetting-{arguments.name}.md"
    parts: list[str] = []

    def say(part: str) -> None:
        parts.append(part)
        results_file.write(results, f"Forgetting on {arguments.name}", parts)

    ingested = pipeline.ingest(config, progress=progress)
    requests = _requests(arguments.train, folder)
    copy_output(config.output, folder / "ingested")
    session = Session(config)
    recipe = config.model_dump(mode="json")
    say(
        f"{ingested['users']:,} users, {ingested['items']:,} items, {ingested['interactions']:,} interactions in "
        f"{ingested['partitions']} partitions (edge cut {ingested['edge_cut']:.3f}, {ingested['rows_per_layer']:,} rows "
        f"exchanged a layer). Recipe: backbone {recipe['backbone']}, train {recipe['train']}."
    )
    with session.workers() as group:
        users, items, _ = held_out_pairs(session, lake_graph(session))
        watch = TrainProbe(arguments.probe_every, users, items, config.evaluate.k, config.evaluate.batch_users)
        trained = pipeline.train(config, progress=progress, probe=watch, group=group)
        say("## Training\n\n" + _curve(trained["curve"]))
        pretrained = pipeline.pretrain(config, progress=progress, group=group)
        retrains = pretrained["seconds"] / trained["seconds"]
        say(
            f"## Pre-training\n\n{config.pretrain.counterfactuals} counterfactual runs and the encoder: "
            f"{pretrained['seconds']:.0f} s, as long as {retrains:.1f} retrains (the number of requests after which it "
            f"has paid). Share of the needed row shifts explained, on simulated requests it was not fitted on: users "
            f"{pretrained['user_r2_held_out']:.3f}, items {pretrained['item_r2_held_out']:.3f}."
        )
        for title, file in requests.items():
            say(_request(arguments, folder, title, file, (users, items), group))


def _requests(train: str, folder: Path) -> dict[str, Path]:
    """Write the two requests, for REQUESTED users and for as many interactions of other users, as files for
    `forget --requests`; returns the files by title."""
    table = pq.read_table(train)
    draw = np.random.default_rng(7)
    users = draw.choice(np.unique(table["user_id"].to_numpy()), REQUESTED, replace=False)
    others = np.flatnonzero(~np.isin(table["user_id"].to_numpy(), users))
    chosen = np.sort(draw.choice(others, REQUESTED, replace=False))
    folder.mkdir(parents=True, exist_ok=True)
    files = {"100 single interactions": folder / "interactions.parquet", "100 users": folder / "users.parquet"}
    pq.write_table(table.take(pa.array(chosen)), files["100 single interactions"])
    pq.write_table(pa.table({"user_id": np.sort(users)}), files["100 users"])
    return files


def _request(
    arguments: argparse.Namespace,
    folder: Path,
    title: str,
    file: Path,
    test: tuple[Any, Any],
    group: WorkerGroup,
) -> str:
    """Carry out one request in all ways that are compared; returns its part of the results file."""
    progress = open_progress()
    place = folder / file.stem
    configs = {name: _config(arguments, place / name) for name in ("cut", "unlearned", "retrained")}
    original = _config(arguments, folder / "run")
    for name in ("cut", "unlearned"):
        copy_output(original.output, configs[name].output)
    copy_output(folder / "ingested", configs["retrained"].output)
    probe = _probe(Session(original), file, test)
    models = {"original": measure(original, group, probe)}
    pipeline.forget(configs["cut"], requests=str(file), group=group, progress=progress, cut_only=True)
    models["edges cut"] = measure(configs["cut"], group, probe)
    forgotten = pipeline.forget(configs["unlearned"], requests=str(file), group=group, progress=progress)
    models["unlearned"] = measure(configs["unlearned"], group, probe)
    start = time.perf_counter()
    pipeline.train(configs["retrained"], without=[str(file)], progress=progress, group=group)
    seconds = time.perf_counter() - start
    models["retrained"] = measure(configs["retrained"], group, probe)
    phases = ", ".join(f"{name} {value:.3f}" for name, value in forgotten["phases"].items())
    text = (
        f"## Request: {title}\n\n{forgotten['removed_interactions']:,} interactions, {forgotten['deleted_users']} users and "
        f"{forgotten['deleted_items']} items deleted, {forgotten['touched_nodes']:,} nodes touched, partitions "
        f"{forgotten['affected_partitions']}. {forgotten['seconds']:.2f} s from request to refreshed readouts ({phases}), "
        f"a retrain {seconds:.0f} s: {seconds / forgotten['seconds']:.0f} times as long.\n\n"
    )
    if title == "100 users":
        rows = [
            {"model": name, "recall@20": m.metrics["recall@20"], "ndcg@20": m.metrics["ndcg@20"]}
            for name, m in models.items()
        ]
        return (
            text
            + results_file.table(rows)
            + "\n\nThe users are gone from all but the original, and with them their pairs' scores: there is nothing left "
            "to attack by score. Quality is that of the remaining users (the original's: of all)."
        )
    return text + results_file.table(compare(models, "original", "retrained"))


def _probe(session: Session, file: Path, test: tuple[Any, Any]) -> Probe:
    """The pairs whose scores are compared. A request for users has no forgotten pair that could still be scored."""
    graph = lake_graph(session)
    table = pq.read_table(file)
    draw = np.random.default_rng(11)
    random = (draw.integers(graph.users, size=RANDOM_PAIRS), draw.integers(graph.items, size=RANDOM_PAIRS))
    if "item_id" not in table.column_names:
        empty = np.empty(0, dtype=np.int64)
        return Probe((empty, empty), test, random)
    maps = {side: load_ids(session.store, graph, side) for side in ("user", "item")}
    users, items = (dense_ids(maps[side][0], maps[side][1], table[f"{side}_id"]) for side in ("user", "item"))
    return Probe((users, items), test, random)


def _curve(curve: list[dict[str, float]]) -> str:
    rows = [
        {
            "epoch": int(entry["epoch"]),
            "seconds": round(entry["seconds"], 1),
            "loss": entry["loss"],
            "Recall@20": entry["recall@20"],
            "NDCG@20": entry["ndcg@20"],
        }
        for entry in curve
        if "recall@20" in entry
    ]
    return results_file.table(rows)


if __name__ == "__main__":
    main()
