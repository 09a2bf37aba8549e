"""The whole path over two Ray nodes with a CPU each, of which the second comes only when it is waited for: three workers
with half a CPU each give the same bits as on one node.

Runs with UNLEARNREC_TEST_NODES=1 only."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import two_nodes
from trained_output import rows_by_partition, small_sample

import unlearnrec
from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import Config, parse_config, to_yaml
from unlearnrec.cluster.output.session import Session
from unlearnrec.workers import WorkerGroup, WorkerSettings

pytestmark = pytest.mark.skipif(os.environ.get("UNLEARNREC_TEST_NODES") != "1", reason="UNLEARNREC_TEST_NODES is not 1")


def config_of(data: dict[str, str], output: Path) -> Config:
    return parse_config(
        {
            "interactions": data["train"],
            "test_interactions": data["test"],
            "output": str(output),
            "cluster": {"partitions": 3, "cpus_per_worker": 0.5, "start_seconds": 90.0},
            "backbone": {"embedding_size": 8, "num_layers": 2},
            "train": {"epochs": 3, "batch_size": 500},
            "pretrain": {"epochs": 1, "counterfactuals": 1},
        }
    )


def rows_of(config: Config) -> list[np.ndarray]:
    session = Session(config)
    return rows_by_partition(session, session.version())


@pytest.mark.usefixtures("ray_session")
def test_the_whole_path_over_two_nodes_is_that_over_one(tmp_path: Path):
    data = small_sample(tmp_path)
    over_two, over_one = (config_of(data, tmp_path / name) for name in ("two", "one"))
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(over_two), encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    paths = [str(Path(unlearnrec.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = kept | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, two_nodes.__file__, str(file)]
    program = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        pipeline.ingest(over_one)
        with WorkerGroup.start(WorkerSettings(3, cpus_per_worker=0.5, threads_per_worker=1)) as group:
            pipeline.train(over_one, group=group)
            pipeline.pretrain(over_one, group=group)
            pipeline.forget(over_one, users="1,3", group=group)
            recall = pipeline.evaluate(over_one, group=group)["recall@20"]
        out, err = program.communicate(timeout=240)
    finally:
        program.terminate()  # it ends its Rays
    assert program.returncode == 0, err
    assert json.loads(out.splitlines()[-1]) == {"nodes": 2, "status": "committed", "recall@20": recall}
    assert all(np.array_equal(a, b) for a, b in zip(rows_of(over_two), rows_of(over_one), strict=True))
