"""Train LightGCN next to its peers: seconds of a step, peak memory, and seconds to a Recall, by turns in one run.

The peers: the recipe of LightGCN-PyTorch as a plain torch program, RecBole's LightGCN and PyG's. Each runs in a process of
its own, and only one works at a time. RecBole and PyG are not installed with this package; make an environment for them and
name its Python with `--python`:

    python3.11 -m venv peers
    peers/bin/pip install recbole torch_geometric "numpy<2" "pandas<2.3" "scipy<1.13" torch==VERSION

VERSION is that of torch here. RecBole 1.2.1 does not run with newer versions of the other three.

A peer that cannot run is left out, and the results say with which error.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..distributed.comm import Comm
from ..distributed.graph.local_graph import LocalGraph
from ..distributed.measures.quality import evaluate
from ..partitioning.assignment import Assignment
from ..partitioning.errors import InputError
from ..partitioning.shard import build_shards
from . import results_file
from .contestants.protocol import Rows, Task
from .forgetting import RECIPE
from .lab import Data
from .unlearning import read_data

SHARED: dict[str, Any] = {"size": 64, "layers": 3, "decay": 1e-4, "learning_rate": 0.001}
"""The recipe of LightGCN's paper, which all have for the seconds of a step."""
FAST = SHARED | {
    "train": {key: x for key, x in RECIPE["train"].items() if key != "batch_size"},
    "backbone": {key: RECIPE["backbone"][key] for key in ("num_layers", "length_power")},
}
"""Ours for the seconds to a Recall: that of `bench forgetting`. Peers keep their own, SHARED."""
FAST_BATCH, PEER_BATCH = RECIPE["train"]["batch_size"], 2048
"""Batches for the seconds to a Recall; the peers' is that of the paper."""
K = 20
LOOK_EVERY, LOOK_SHARE = 2.0, 0.1
"""How long one trains before its Recall is looked at: seconds, and the share of its seconds so far if that is longer."""

NOTES = """Seconds of a step: the median over rounds of a few steps each, by turns, without what is done once an epoch. All
have the same model and loss there: three layers of 64 columns, BPR, uniform negatives, Adam. Peak: the largest resident
memory of the process, all of Python and torch included. `times`: the seconds of the peer over ours."""
UNTIL_NOTES = """Seconds of training, with the draws of its epochs, until a Recall@20 is reached. It is looked at every two
seconds, later after each further tenth, outside of the clock, for all by the same full ranking without training items. The
peers' batches and recipe are those of the paper; ours is the recipe of `bench forgetting`. `>`: not reached within the
limit."""


@dataclass(frozen=True)
class Peer:
    """A contestant: its title, its module, whether it needs the other environment, and its share in a table of times."""

    title: str
    module: str
    foreign: bool


OURS = Peer("unlearnrec", "unlearnrec.benchmarks.contestants.ours", False)
PEERS = {
    "ours": OURS,
    "plain": Peer("LightGCN-PyTorch's recipe, plain torch", "contestants.plain", False),
    "recbole": Peer("RecBole", "contestants.recbole_lightgcn", True),
    "pyg": Peer("PyG", "contestants.pyg_lightgcn", True),
}


def main(argv: Sequence[str] | None = None) -> None:
    """See `--help`."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="unlearnrec bench peers", description=__doc__, formatter_class=formatter)
    parser.add_argument("--train", required=True, help="Parquet with user_id and item_id, such as Gowalla's")
    parser.add_argument("--test", required=True)
    parser.add_argument("--name", default="gowalla", help="of the data set, for the results file")
    parser.add_argument("--python", default=sys.executable, help="the Python that has RecBole and PyG")
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--batches", type=int, nargs="+", default=[2048, 16_384])
    parser.add_argument("--steps", type=int, default=5, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--until", type=float, nargs="*", default=[0.12, 0.16], help="Recall@20; without any, only steps"
    )
    parser.add_argument("--limit", type=float, default=3600, help="seconds of training for each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="benchmarks/results/peers-NAME.md by default")
    arguments = parser.parse_args(argv)
    path = arguments.output or results_file.FOLDER / f"peers-{arguments.name}.md"
    data = read_data(arguments.train, arguments.test)
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "contestants"
        shutil.copytree(Path(__file__).parent / "contestants", copied, ignore=shutil.ignore_patterns("__pycache__"))
        steps = _step_rows(arguments, data, Path(folder), left_out)
        until = _until_rows(arguments, data, Path(folder), left_out) if arguments.until else []
    sizes = f"{len(data.users):,} interactions of {data.num_users:,} users and {data.num_items:,} items"
    parts = [f"{sizes}; {arguments.threads} threads, seed {arguments.seed}.", results_file.table(steps), NOTES]
    if until:
        parts += ["## Seconds to a Recall", results_file.table(until), UNTIL_NOTES]
    parts += [f"Left out: {PEERS[name].title}: {error}" for name, error in left_out.items()]
    results_file.write(path, f"Next to its peers: {arguments.name}", parts)
    print(path.read_text(encoding="utf-8"))


class Running:
    """A contestant's process, which works only while it is asked."""

    def __init__(self, name: str, task: Task, python: str, folder: Path) -> None:
        """Start it and wait until it has the data.

        Raises:
            InputError: it ended. The message is the last line of its own.
        """
        peer = PEERS[name]
        file = folder / f"{name}-{task.batch_size}.npz"
        task.write(str(file))
        self._readouts = folder / f"{name}-readouts.npz"
        self._errors = open(folder / f"{name}.log", "w+", encoding="utf-8")  # noqa: SIM115 - closed with the process
        place = None if peer is OURS else folder
        command = [python if peer.foreign else sys.executable, "-m", peer.module, str(file)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        self._process = subprocess.Popen(command, text=True, cwd=place, **pipes)
        self.name, self.peak = name, 0
        self.prepared: float = self._answer()["seconds"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines()
            raise InputError(f"it ended with exit code {self._process.returncode}: {said[-1] if said else ''}")
        found: dict[str, Any] = json.loads(line)
        self.peak = found["peak"]
        return found

    def ask(self, **order: Any) -> dict[str, Any]:
        """Give an order and wait for its answer.

        Raises:
            InputError: as the constructor.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def readouts(self) -> tuple[Rows, Rows]:
        """The readouts of users and of items."""
        self.ask(embeddings=str(self._readouts))
        with np.load(self._readouts) as file:
            return file["users"], file["items"]

    def end(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._errors.close()


def _started(
    names: Sequence[str], arguments: argparse.Namespace, tasks: dict[str, Task], folder: Path, left_out: dict[str, str]
) -> list[Running]:
    """The contestants that run."""
    running = []
    for name in names:
        try:
            running.append(Running(name, tasks[name], arguments.python, folder))
        except (InputError, OSError) as error:
            left_out[name] = str(error)
    return running


def _task(arguments: argparse.Namespace, data: Data, batch_size: int, recipe: dict[str, Any]) -> Task:
    sizes = (data.num_users, data.num_items, batch_size, arguments.threads, arguments.seed)
    return Task(data.users, data.items, *sizes, recipe)


def _step_rows(
    arguments: argparse.Namespace, data: Data, folder: Path, left_out: dict[str, str]
) -> list[dict[str, Any]]:
    """Seconds of a step and peak memory of each, for each batch."""
    rows = []
    for batch in arguments.batches:
        tasks = dict.fromkeys(PEERS, _task(arguments, data, batch, SHARED))
        running = _started(
            [name for name in arguments.only if name not in left_out], arguments, tasks, folder, left_out
        )
        seconds: dict[str, list[float]] = {one.name: [] for one in running}
        for number in range(-1, arguments.rounds):
            for one in list(running):
                try:
                    took = one.ask(steps=1 if number < 0 else arguments.steps)["seconds"]
                except InputError as error:
                    left_out[one.name] = str(error)
                    running.remove(one)
                    continue
                if number >= 0:
                    seconds[one.name].append(took / arguments.steps)
        medians = {one.name: float(np.median(seconds[one.name])) for one in running}
        for one in running:
            rows.append(
                {
                    "program": PEERS[one.name].title,
                    "batch": batch,
                    "step, s": medians[one.name],
                    "times": medians[one.name] / medians["ours"] if "ours" in medians else "",
                    "peak, MB": round(one.peak / 1e6),
                    "made ready in, s": one.prepared,
                }
            )
            print(rows[-1], file=sys.stderr, flush=True)
            one.end()
    return rows


def _until_rows(
    arguments: argparse.Namespace, data: Data, folder: Path, left_out: dict[str, str]
) -> list[dict[str, Any]]:
    """Seconds to each Recall, by turns: each trains a while, the one with the least seconds so far first."""
    graph, test = _graph(data), (torch.from_numpy(data.test_users), torch.from_numpy(data.test_items))
    tasks = dict.fromkeys(PEERS, _task(arguments, data, PEER_BATCH, SHARED))
    tasks["ours"] = _task(arguments, data, FAST_BATCH, FAST)
    running = _started([name for name in arguments.only if name not in left_out], arguments, tasks, folder, left_out)
    spent = {one.name: 0.0 for one in running}
    reached: dict[str, dict[float, float]] = {one.name: {} for one in running}
    best = dict.fromkeys(spent, 0.0)
    steps = dict.fromkeys(spent, 0)
    while open_ := [
        one for one in running if spent[one.name] < arguments.limit and len(reached[one.name]) < len(arguments.until)
    ]:
        one = min(open_, key=lambda x: spent[x.name])
        try:
            until = max(LOOK_EVERY, LOOK_SHARE * spent[one.name])
            answer = one.ask(epoch=min(until, arguments.limit - spent[one.name]))
            spent[one.name] += answer["seconds"]
            steps[one.name] += answer["steps"]
            rows = torch.from_numpy(np.concatenate(one.readouts()))
        except InputError as error:
            left_out[one.name] = str(error)
            running.remove(one)
            continue
        recall = evaluate(graph, rows, *test, (K,), 1024)[f"recall@{K}"]
        best[one.name] = max(best[one.name], recall)
        for wanted in arguments.until:
            if recall >= wanted:
                reached[one.name].setdefault(wanted, spent[one.name])
        told = f"{PEERS[one.name].title}: {steps[one.name]} steps, {spent[one.name]:.0f} s, Recall@{K} {recall:.4f}"
        print(f"{time.strftime('%H:%M:%S')} {told}", file=sys.stderr, flush=True)
    rows_: list[dict[str, Any]] = []
    for one in running:
        row: dict[str, Any] = {"program": PEERS[one.name].title}
        for wanted in arguments.until:
            seconds, ours = reached[one.name].get(wanted), reached.get("ours", {}).get(wanted)
            row[f"to {wanted:g}, s"] = f"> {spent[one.name]:.0f}" if seconds is None else f"{seconds:.1f}"
            least = spent[one.name] if seconds is None else seconds
            row[f"times, {wanted:g}"] = "" if ours is None else f"{'> ' if seconds is None else ''}{least / ours:.1f}"
        rows_.append(row | {"best Recall@20": best[one.name], "steps": steps[one.name], "seconds": spent[one.name]})
        one.end()
    return rows_


def _graph(data: Data) -> LocalGraph:
    owners = Assignment(np.zeros(data.num_users, np.int16), np.zeros(data.num_items, np.int16), 1)
    pairs = data.users.astype(np.int32), data.items.astype(np.int32)
    [shard] = build_shards(*pairs, np.ones(len(data.users), dtype=np.int32), owners)
    return LocalGraph(shard, owners, Comm())


if __name__ == "__main__":
    main()
