"""What runs on a GPU comes to what it comes to on a CPU, up to the order in which sums are added. One GPU, one partition.

A machine with a GPU but without Ray runs these by `pytest --noconftest tests/distributed/test_cuda.py`; the last test
needs Ray installed, but starts none.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import spmd
import torch

from unlearnrec.benchmarks import unlearning
from unlearnrec.benchmarks.lab import Lab
from unlearnrec.benchmarks.methods import METHODS
from unlearnrec.benchmarks.panel import Panel, Seen
from unlearnrec.benchmarks.scenarios import SCENARIOS, Scenario
from unlearnrec.cluster.config.schema import parse_config
from unlearnrec.distributed.backbones import BACKBONES
from unlearnrec.distributed.comm import Comm
from unlearnrec.distributed.measures.quality import evaluate
from unlearnrec.distributed.training.checkpoint import Checkpoints
from unlearnrec.distributed.training.run import TrainRun, run_training
from unlearnrec.partitioning.sample import make_sample
from unlearnrec.partitioning.storage import Store

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

TOLERANCE = 2e-4
"""Of a parameter after a few epochs, against tables whose entries begin with a deviation of 0.1."""


def on(device: str, backbone: str, **changes: object) -> dict:
    found = spmd.train(Comm(device=device), backbone, "pull", "torch", 3, dict(changes))
    assert found["rows"].device.type == device
    return found


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_training_is_that_of_a_cpu(backbone: str, loss: str) -> None:
    gpu, cpu = on("cuda", backbone, loss=loss), on("cpu", backbone, loss=loss)
    assert np.allclose(gpu["losses"], cpu["losses"], rtol=1e-5)
    for name in ("rows", "readouts"):
        assert (gpu[name].cpu() - cpu[name]).abs().max() < TOLERANCE
    for mine, other in zip(gpu["dense"], cpu["dense"], strict=True):
        assert (mine.cpu() - other).abs().max() < TOLERANCE


def test_the_same_run_has_the_same_bits() -> None:
    first, second = (on("cuda", "lightgcn", loss="bpr") for _ in range(2))
    assert torch.equal(first["rows"], second["rows"]) and torch.equal(first["readouts"], second["readouts"])


@pytest.mark.parametrize("backbone", ["lightgcn", "ngcf"])
def test_a_run_goes_on_from_a_checkpoint(backbone: str, tmp_path: Path) -> None:
    spec = {"name": backbone, "embedding_size": 16, "num_layers": 2}

    def run(epochs: int, folder: str) -> torch.Tensor:
        checkpoints = Checkpoints(Store(str(tmp_path)), folder)
        run = TrainRun(spmd.settings(), spec, epochs, folder, checkpoint_every=2)
        trainer, _ = run_training(spmd.local_graph(Comm(device="cuda")), run, checkpoints, lambda **_: None)
        return trainer.table.rows.cpu()

    run(3, "cut")  # leaves its checkpoint of epoch 2
    assert torch.equal(run(4, "cut"), run(4, "whole"))


def test_evaluation_is_that_of_a_cpu() -> None:
    found = []
    for device in ("cpu", "cuda"):
        graph = spmd.local_graph(Comm(device=device))
        z = torch.randn(graph.num_rows, 16, generator=torch.Generator().manual_seed(1)).to(device)
        users, items = (torch.from_numpy(x.astype(np.int64)).to(device) for x in spmd.pairs(seed=9))
        found.append(evaluate(graph, z, users, items, (5, 20), 32))
    assert found[0] == pytest.approx(found[1])


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Lab]:
    """Of one data set and recipe, on either device, in one store."""
    files = make_sample(tmp_path_factory.mktemp("sample"), users=120, items=80, mean_interactions=20)
    data, store = unlearning.read_data(files["train"], files["test"]), Store(str(tmp_path_factory.mktemp("work")))
    keys = {"backbone.embedding_size": 8, "backbone.num_layers": 1, "train.batch_size": 256}
    return {device: Lab(store, data, unlearning.recipe_of(6, keys), 0, device) for device in ("cpu", "cuda")}


@pytest.mark.parametrize("method", [name for name in METHODS if name != "sharded"])
def test_every_method_forgets_as_on_a_cpu(method: str, labs: dict[str, Lab]) -> None:
    scores = {}
    for device, lab in labs.items():
        scenario: Scenario = SCENARIOS["interactions 5%"](lab)
        original, forget = lab.train(), METHODS[method]()
        assert original.e0.device.type == device
        forget.prepare(lab, original)
        model = forget.forget(lab, forget.start(lab, original), scenario.request)
        seen = Seen(model, Panel.of(scenario))
        scores[device] = seen.forgotten, seen.quality.recall.mean().item()
        assert len(seen.top) and len(seen.returned) == len(seen.trained_attack[0]) == len(seen.forgotten)
    error = np.abs(scores["cuda"][0] - scores["cpu"][0])
    assert error.max() < 0.02 * np.abs(scores["cpu"][0]).max()
    assert scores["cuda"][1] == pytest.approx(scores["cpu"][1], abs=0.01)


@pytest.mark.parametrize("backbone", ["lightgcn", "ngcf"])
@pytest.mark.parametrize("objective", ["counterfactual", "published"])
def test_the_commands_forget_on_a_gpu(backbone: str, objective: str, tmp_path: Path) -> None:
    """`ingest`, `train`, `pretrain`, `forget` with its gate, on the worker's own object."""
    pytest.importorskip("ray")
    from fake_workers import OneWorker

    from unlearnrec.cluster import pipeline

    files = make_sample(tmp_path / "data", users=120, items=80, mean_interactions=20)
    config = parse_config(
        {
            "interactions": files["train"],
            "test_interactions": files["test"],
            "output": str(tmp_path / "output"),
            "cluster": {"partitions": 1},
            "backbone": {"name": backbone, "embedding_size": 8, "num_layers": 2},
            "train": {"epochs": 3, "batch_size": 256},
            "pretrain": {"epochs": 2, "counterfactuals": 2, "objective": objective},
        }
    )
    group = OneWorker()
    pipeline.ingest(config)
    pipeline.train(config, group=group)
    pipeline.pretrain(config, group=group)
    users = pq.read_table(files["train"])["user_id"].to_pylist()[:2]
    answer = pipeline.forget(config, users=",".join(map(str, users)), group=group)
    assert answer["removed_interactions"] > 0
    assert pipeline.verify(config)["ok"]
    assert group.loaded.e0.device.type == "cuda"
