"""The peers train on the same data by turns, and one that cannot run is left out with its error."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lanes import LONG

from unlearnrec.benchmarks import peers
from unlearnrec.benchmarks.contestants.ours import Ours
from unlearnrec.benchmarks.contestants.plain import Plain
from unlearnrec.benchmarks.contestants.protocol import Task
from unlearnrec.benchmarks.unlearning import read_data
from unlearnrec.distributed.measures.quality import evaluate
from unlearnrec.partitioning.sample import make_sample


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_sample(tmp_path_factory.mktemp("data"), users=200, items=80, mean_interactions=15)


@pytest.mark.parametrize("program", [Plain, Ours])
def test_a_program_learns(program, files):
    data = read_data(files["train"], files["test"])
    recipe = peers.SHARED | {"size": 16, "learning_rate": 0.01}
    task = Task(data.users, data.items, data.num_users, data.num_items, 256, 1, 0, recipe)
    before = torch.get_num_threads()
    try:
        running = program(task)
        graph, test = peers._graph(data), (torch.from_numpy(data.test_users), torch.from_numpy(data.test_items))

        def recall() -> float:
            users, items = running.embeddings()
            assert users.shape == (data.num_users, 16) and items.shape == (data.num_items, 16)
            return evaluate(graph, torch.from_numpy(np.concatenate([users, items])), *test, (20,), 1024)["recall@20"]

        first = recall()
        steps = [sum(1 for _ in running.epoch()) for _ in range(15)]
        assert set(steps) == {-(-len(data.users) // 256)}
        assert recall() > max(0.42, 1.2 * first)
    finally:
        torch.set_num_threads(before)


def test_the_plain_programs_negatives_are_no_interactions(files):
    data = read_data(files["train"], files["test"])
    task = Task(data.users, data.items, data.num_users, data.num_items, 256, torch.get_num_threads(), 0, peers.SHARED)
    users, positives, negatives = Plain(task)._triples()
    known = set(zip(data.users.tolist(), data.items.tolist(), strict=True))
    assert len(users) == len(known)
    assert all(pair in known for pair in zip(users.tolist(), positives.tolist(), strict=True))
    assert all(pair not in known for pair in zip(users.tolist(), negatives.tolist(), strict=True))


@LONG
def test_peers_take_turns_and_missing_ones_are_told(files, tmp_path, capsys):
    output = tmp_path / "peers.md"
    sizes = ["--batches", "256", "--steps", "2", "--rounds", "1", "--until", "0.05", "--limit", "5", "--threads", "1"]
    places = ["--train", files["train"], "--test", files["test"], "--output", str(output)]
    peers.main([*places, *sizes, "--only", "ours", "plain", "pyg", "--python", str(tmp_path / "nowhere" / "python")])
    text = output.read_text(encoding="utf-8")
    steps, until = (part.split("\n\n")[0] for part in text.split("| program |")[1:])
    for table in (steps, until):
        assert (
            "| unlearnrec |" in table and "| LightGCN-PyTorch's recipe, plain torch |" in table and "PyG" not in table
        )
    assert "Left out: PyG: " in text and "nowhere/python" in text


def test_a_task_travels_whole(tmp_path: Path):
    pairs = np.array(list(itertools.product(range(3), range(2))))
    task = Task(pairs[:, 0], pairs[:, 1], 3, 2, 4, 1, 7, {"size": 8, "train": {"loss": "bpr"}})
    task.write(str(tmp_path / "task.npz"))
    again = Task.read(str(tmp_path / "task.npz"))
    assert json.dumps(again.recipe) == json.dumps(task.recipe) and again.num_users == 3 and again.seed == 7
    assert np.array_equal(again.users, task.users) and np.array_equal(again.items, task.items)
