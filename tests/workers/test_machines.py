"""Several machines, as network namespaces of this one: the whole path, and what becomes of it when one is lost, frozen or
cut off. Each result must be, bit for bit, that of one machine.

Runs with UNLEARNREC_TEST_NODES=1 only, as root and with the program `ip`.
"""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from machines import Machines, wait, why_not
from s3 import BUCKET
from trained_output import rows_by_partition, small_sample

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import Config, parse_config, to_yaml
from unlearnrec.cluster.output.session import Session
from unlearnrec.workers import WorkerGroup

ALL = os.environ.get("UNLEARNREC_TEST_NODES") == "1"
REASON = why_not() if ALL else "UNLEARNREC_TEST_NODES is not 1"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=str(REASON))]
USERS = "1,3"
LONG = {"epochs": 400, "checkpoint_every": 20}
FAILED_BEFORE = {"tests": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return small_sample(tmp_path_factory.mktemp("data"))


def make_config(data: dict[str, str], output: str, **sections: dict) -> Config:
    return parse_config(
        {
            "interactions": data["train"],
            "test_interactions": data["test"],
            "output": output,
            "backbone": {"embedding_size": 8, "num_layers": 2},
            **sections,
            "train": {"epochs": 3, "batch_size": 500, **sections.get("train", {})},
            "pretrain": {"epochs": 20, "counterfactuals": 2},  # with less, requests miss the gate
        }
    )


@pytest.fixture(scope="module")
def one_machine(data: dict[str, str], group: WorkerGroup, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one machine makes: the rows of the whole path with 3 epochs and its Recall, and the rows of the long training."""
    found: dict[str, Any] = {}
    for name, train in (("path", {}), ("long", LONG)):
        config = make_config(data, str(tmp_path_factory.mktemp(name) / "output"), train=train)
        pipeline.ingest(config)
        pipeline.train(config, group=group)
        if name == "path":
            pipeline.pretrain(config, group=group)
            pipeline.forget(config, users=USERS, group=group)
            found["recall@20"] = pipeline.evaluate(config, group=group)["recall@20"]
        found[name] = rows_of(config)
    return found


def rows_of(config: Config) -> list[np.ndarray]:
    session = Session(config)
    return rows_by_partition(session, session.version())


def same(found: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.fixture(scope="module")
def all_machines() -> Iterator[Machines]:
    """Three machines with a CPU each: one more than there are workers. A head that carries no worker is on the first."""
    with Machines(4) as machines:
        machines.start_ray(1, cpus=0)
        machines.start_ray(2, 3, 4)
        yield machines


@pytest.fixture
def machines(request: pytest.FixtureRequest, all_machines: Machines) -> Machines:
    """The machines, whole again after the test before."""
    all_machines.heal(all_of_them=request.session.testsfailed > FAILED_BEFORE["tests"])
    FAILED_BEFORE["tests"] = request.session.testsfailed
    return all_machines


def write(config: Config, folder: Path) -> str:
    file = folder / "run.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    return str(file)


def train_on(machines: Machines, data: dict[str, str], tmp_path: Path, **cluster: object):
    """(configuration, the long training under way, the machine that holds one of its workers)."""
    output, settings = str(tmp_path / "output"), {"address": machines.address, "spread": True, **cluster}
    pipeline.ingest(make_config(data, output))
    config = make_config(data, output, train=LONG, cluster=settings)
    file = write(config, tmp_path)
    training = machines.start(1, "train", "--config", file)
    checkpoints = tmp_path / "output" / "checkpoints"
    wait(lambda: training.process.poll() is not None or any(checkpoints.glob("*/*")), 90)
    assert training.process.poll() is None, training.text
    return config, training, max(machines.holding("ShardWorker"))


def test_the_whole_path_with_its_output_on_s3(machines, data, one_machine, tmp_path):
    moto = [sys.executable, "-m", "moto.server", "-H", "10.77.0.254", "-p", "5000"]
    machines.popen(0, *moto, log=tmp_path / "moto.log")
    endpoint = "http://10.77.0.254:5000"
    ask = f"import s3fs; s3 = s3fs.S3FileSystem(endpoint_url='{endpoint}'); "
    wait(lambda: "Running on" in (tmp_path / "moto.log").read_text(), 60)
    machines.python(1, ask + f"s3.mkdir('{BUCKET}')")
    config = make_config(
        data,
        f"s3://{BUCKET}/run",
        storage={"endpoint_url": endpoint, "region": "us-east-1"},
        cluster={"address": machines.address, "network_interface": "10.77.0.0/24", "spread": True},
    )
    file = write(config, tmp_path)
    for command in ("ingest", "train", "pretrain", f"forget --users {USERS}", "evaluate --json"):
        text = machines.run(1, *command.split(), "--config", file)
    assert json.loads(text.splitlines()[-1])["recall@20"] == one_machine["recall@20"]
    machines.python(1, ask + f"s3.get('{BUCKET}/run', '{tmp_path}/copy', recursive=True)")
    assert same(rows_of(config.model_copy(update={"output": str(tmp_path / "copy")})), one_machine["path"])


def test_a_machine_is_lost_in_a_training(machines, data, one_machine, tmp_path):
    config, training, victim = train_on(machines, data, tmp_path, collective_timeout_seconds=10.0)
    machines.power_off(victim)
    began = time.monotonic()
    wait(lambda: "Rebuild 1 of 3" in training.text, 60)
    wait(lambda: len(set(machines.holding("ShardWorker")) - {victim}) == 2, 60 - (time.monotonic() - began))
    text = training.end(200)
    assert "Rebuild 1 of 3" in text and "Rebuild 2" not in text
    assert same(rows_of(config), one_machine["long"])


def test_a_machine_is_frozen_in_a_training_and_comes_back(machines, data, one_machine, tmp_path):
    config, training, victim = train_on(machines, data, tmp_path, collective_timeout_seconds=10.0)
    machines.signal(victim, signal.SIGSTOP)
    wait(lambda: "Rebuild 1 of 3" in training.text, 60)
    time.sleep(20)  # Ray has given the machine up, and others do its work
    machines.signal(victim, signal.SIGCONT)
    training.end(200)
    assert same(rows_of(config), one_machine["long"])


def test_a_network_cut_of_ten_seconds_is_waited_out(machines, data, one_machine, tmp_path):
    config, training, victim = train_on(machines, data, tmp_path, collective_timeout_seconds=30.0)
    machines.cut(victim)
    time.sleep(10)
    assert training.process.poll() is None, training.text
    machines.mend(victim)
    assert "Rebuild" not in training.end(200)
    assert same(rows_of(config), one_machine["long"])


def test_after_a_longer_cut_others_do_the_work(machines, data, one_machine, tmp_path):
    config, training, victim = train_on(machines, data, tmp_path, collective_timeout_seconds=10.0)
    machines.cut(victim)
    wait(lambda: "Rebuild 1 of 3" in training.text, 60)
    time.sleep(20)
    machines.mend(victim)
    training.end(200)
    assert same(rows_of(config), one_machine["long"])


POST = """
import json, os, sys, time, urllib.error, urllib.request
hurry, *users = sys.argv[1:]
for user in users:
    while True:
        request = urllib.request.Request(
            f"http://127.0.0.1:8099/v1/requests/r-{user}",
            data=json.dumps({"users": [int(user)]}).encode(),
            headers={"content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                print("answered", user, json.load(answer)["status"], flush=True)
                break
        except (OSError, urllib.error.HTTPError) as error:
            print("again", user, error, flush=True)
            time.sleep(0.5)
    time.sleep(0.5 if os.path.exists(hurry) else 4)
"""
"""Posts a request for each user, one every four seconds until the file `hurry` is there; each until it is accepted."""


def test_the_coordinators_machine_and_a_workers_are_lost_while_requests_come(machines, data, tmp_path):
    output = str(tmp_path / "output")
    pipeline.ingest(make_config(data, output))
    config = make_config(
        data,
        output,
        cluster={"address": machines.address, "collective_timeout_seconds": 10.0, "spread": True},
        serve={"port": 8099, "poll_seconds": 0.2},
        forget={"max_share": 1.0},
    )
    file = write(config, tmp_path)
    for command in ("train", "pretrain", "serve --detached"):
        machines.run(1, *command.split(), "--config", file, seconds=150)
    wait(lambda: coordinator_is_away(machines), 120)
    known = pq.read_table(data["train"], columns=["user_id"])["user_id"].unique().to_pylist()
    log, hurry, users = tmp_path / "post.log", tmp_path / "hurry", [str(user) for user in known[:24]]
    posting = machines.popen(1, sys.executable, "-c", POST, str(hurry), *users, log=log)
    wait(lambda: log.read_text().count("answered") >= 3, 60)
    (home,) = machines.holding("Coordinator")
    victim = next(k for k in machines.holding("ShardWorker") if k != home)
    machines.kill(victim)
    committed = tickets_of(config)
    wait(lambda: tickets_of(config) > committed, 120)  # by other workers
    machines.start_again(victim)
    assert posting.poll() is None, "too few requests for what has to happen while they come"
    machines.power_off(home)
    hurry.touch()
    assert posting.wait(120) == 0, log.read_text()
    assert log.read_text().count("answered") == len(users)
    wait(lambda: tickets_of(config) == len(users), 120)
    machines.run(1, "status", "--verify", "--config", file)
    (after,) = machines.holding("Coordinator")
    assert after != home
    machines.run(1, "serve", "--stop", "--config", file)


def tickets_of(config: Config) -> int:
    """How many requests are committed."""
    return sum(ticket.describe()["status"] == "committed" for ticket in Session(config).ledger().tickets.values())


def coordinator_is_away(machines: Machines) -> bool:
    """Whether the coordinator is on another machine than the head. Ray chooses one at random, so it is sent away."""
    homes = machines.holding("Coordinator")
    for pid in homes.get(1, []):
        os.kill(pid, signal.SIGKILL)
        time.sleep(5)
    return bool(homes) and 1 not in homes


def test_a_wrong_interface_is_named_in_seconds(machines, data, tmp_path):
    config = make_config(data, str(tmp_path / "output"), cluster={"address": machines.address, "spread": True})
    file = write(config, tmp_path)
    machines.run(1, "ingest", "--config", file)
    assert "exchanged rows at 10.77.0." in machines.run(1, "doctor", "--cluster", "--config", file)
    both = r"worker 0 at 127\.0\.0\.1 \(node 10\.77\.0\.\d\) does not reach worker 1 at 127\.0\.0\.1 \(node 10\.77\.0\.\d\)"
    wrong = ("--config", file, "cluster.network_interface=lo")
    assert re.search(both, machines.run(1, "train", *wrong, code=2, seconds=60))
    assert re.search(both, machines.run(1, "doctor", "--cluster", *wrong, code=1))  # which checks more than this
    text = machines.run(1, "train", "--config", file, "cluster.network_interface=eth7", code=2, seconds=40)
    assert "'eth7', which the node 10.77.0." in text
    assert "is no node of it" in machines.run(0, "train", "--config", file, code=2, seconds=40)


def test_wrong_clocks_silent_name_servers_and_dead_addresses_are_named_in_seconds(machines, data, tmp_path):
    output = str(tmp_path / "output")
    pipeline.ingest(make_config(data, output))
    config = make_config(data, output, cluster={"address": machines.address, "spread": True})
    file = write(config, tmp_path)
    machines.kill(4)
    machines.start_again(4, clock=3600.0)
    machines.silence_name_servers()
    text = machines.run(1, "doctor", "--cluster", "--config", file, code=1, seconds=240)
    assert "by the clock of this machine 10.77.0.4 is 3600 s ahead" in text and "exchanged rows at 10.77.0." in text
    assert re.search(r"name servers \(DNS\) let the workers wait when they started: \d+ s on 10\.77\.0\.2, ", text)
    began = time.monotonic()
    machines.run(1, "train", "--config", file, "cluster.address=nowhere", code=2)  # refused as soon as it has started
    limit = max(20.0, 2 * (time.monotonic() - began))  # on a busy machine the start of Python alone takes 20 s
    for dead in ("10.77.0.9:6379", "head:6379"):  # of the second, the name server says nothing
        asked = time.monotonic()
        text = machines.run(1, "train", "--config", file, f"cluster.address={dead}", code=2)
        assert f"no Ray cluster answers at '{dead}'" in text and time.monotonic() - asked < limit
    machines.signal(1, signal.SIGSTOP)  # the head accepts connections, and answers nothing
    asked = time.monotonic()
    text = machines.run(2, "train", "--config", file, code=2)
    assert "no answer from a head of Ray at 10.77.0.1:6379" in text and time.monotonic() - asked < 10 + limit
    machines.signal(1, signal.SIGCONT)
