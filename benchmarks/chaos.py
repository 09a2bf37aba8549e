"""Run a service under a stream of requests while everything around it fails, then check what happened (docs/protocol.md).

Clients post requests over HTTP: for users, items and interactions; repeated, conflicting, cancelled and late ones. A fault
injector kills and freezes the service and its workers, fills the disk, loses answers of writes, purges, retrains the model,
and starts a second service on the same output. A reader checks that the current version is whole. At the end a checker
replays the history.
"""

from __future__ import annotations

import argparse
import queue
import random
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import requests

from ..cluster import pipeline
from ..cluster.config.schema import Config, parse_config, to_yaml
from ..cluster.log.records import COMMITTED, Record
from ..cluster.output.manifest import manifest_of
from ..cluster.output.session import Session
from ..cluster.output.tickets import Ticket
from ..partitioning.errors import InputError
from ..partitioning.sample import make_sample
from . import results_file
from .chaos_checker import Body, Follower, History, Model, Pair, check, pairs_of
from .chaos_faults import Injector, Server

CLIENTS = 4
GRACE_SECONDS = 2.0
"""The grace window of each request."""
DRAIN_SECONDS = 600.0
"""How long to wait at the end until every request has its answer and its evidence."""


def main() -> None:
    """Run the benchmark; see `--help`. The exit code is 1 if there is a violation."""
    parser = argparse.ArgumentParser(prog="unlearnrec bench chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of data, requests and faults; not of their timing")
    parser.add_argument("--users", type=int, default=12_000)
    parser.add_argument("--pause", type=float, default=8.0, help="seconds between two faults, on average")
    parser.add_argument("--timeout", type=float, default=20.0, help="cluster.collective_timeout_seconds of the service")
    parser.add_argument("--work", type=Path, help="folder for the output; a temporary one by default")
    parser.add_argument("--results", type=Path, default=results_file.FOLDER / "chaos.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        violations = _run(arguments, arguments.work or Path(temporary))
    sys.exit(1 if violations else 0)


def _prepare(folder: Path, users: int, seed: int, timeout: float) -> tuple[Config, Path]:
    """Make an output with a trained model and an encoder; returns (its configuration, the file of the configuration)."""
    sample = make_sample(folder / "data", users=users, items=max(40, users // 4), seed=seed, mean_interactions=12.0)
    config = parse_config(
        {
            "interactions": sample["train"],
            "output": str(folder / "output"),
            "seed": seed,
            "cluster": {"partitions": 2, "threads_per_worker": 1},
            "backbone": {"embedding_size": 8, "num_layers": 2},
            "train": {"epochs": 2},
            "pretrain": {"epochs": 1, "counterfactuals": 1, "drift_budget": 1.0},
            "forget": {"grace_seconds": GRACE_SECONDS},
            "serve": {"max_batch": 200, "poll_seconds": 0.5},
        }
    )
    pipeline.ingest(config)
    pipeline.train(config)
    pipeline.pretrain(config)
    # The service shall notice a frozen worker soon, so it gets a shorter timeout than the training.
    cluster = config.cluster.model_copy(update={"collective_timeout_seconds": timeout})
    config = config.model_copy(update={"cluster": cluster})
    file = folder / "chaos.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    return config, file


def _run(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """Run everything, check the history and write the results file; returns the violations."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(arguments.seed)
    config, file = _prepare(folder, arguments.users, arguments.seed, arguments.timeout)
    session = Session(config)
    start = pairs_of(session.store, session.version().graph)
    follower = Follower(Session(config).log)
    history, plan = History(), _plan(arguments.requests, start, draw)
    server, second = Server(file, folder, "first"), Server(file, folder, "second")
    server.start()
    began = time.monotonic()
    stop = threading.Event()
    work: queue.Queue[tuple[str, Body]] = queue.Queue()
    clients = [
        threading.Thread(target=_client, args=(server, second, work, history, random.Random(draw.random()), stop))
        for _ in range(CLIENTS)
    ]
    reader = threading.Thread(target=_reader, args=(config, history, follower, stop))
    for thread in (*clients, reader):
        thread.start()
    try:
        faults = random.Random(draw.random())
        with Injector(server, second, file, faults, arguments.pause, follower.look) as injector:
            for number, step in enumerate(plan):
                due = began + 60 * arguments.minutes * number / len(plan)
                time.sleep(max(0.0, due - time.monotonic()))
                work.put(step)
        # The faults are over. The service must now answer everything that was acknowledged.
        if server.process is None or server.process.poll() is not None:
            server.start()
        _drain(session, work, history)
    finally:
        stop.set()
        for thread in (*clients, reader):
            thread.join()
        if server.process is not None and server.process.poll() is None and server.stop() != 0:
            history.add_violation("the service did not stop as it should")
        server.kill()
    seconds = time.monotonic() - began
    follower.look()
    tickets, records = session.ledger().tickets, follower.records
    check(history, records, tickets, start, pairs_of(session.store, session.version().graph))
    verified = pipeline.verify(config)
    history.violations += [f"verify: {c['name']}: {c['detail']}" for c in verified["checks"] if not c["ok"]]
    _write(arguments, history, injector, server, records, tickets, seconds)
    return history.violations


# ---- requests --------------------------------------------------------------------------------------------------------


def _plan(count: int, pairs: set[Pair], draw: random.Random) -> list[tuple[str, Body]]:
    """(id, content) of each request: 30% name a user, 2% a rare item, 2% an unknown user, and the others one to three
    interactions."""
    model, listed = Model(pairs), sorted(pairs)
    items: dict[int, int] = {}
    for _, item in model.pairs:
        items[item] = items.get(item, 0) + 1
    rare = sorted(items, key=lambda item: (items[item], item))[: len(items) // 2]
    users = sorted({user for user, _ in pairs})
    draw.shuffle(users)
    steps: list[tuple[str, Body]] = []
    for number in range(count):
        kind = draw.random()
        if kind < 0.3:
            body: Body = {"users": [users[number % len(users)]]}
        elif kind < 0.32:
            body = {"items": [draw.choice(rare)]}
        elif kind < 0.34:
            body = {"users": [-number - 1]}  # nobody has this id
        else:
            body = {"interactions": draw.sample(listed, draw.randint(1, 3))}
        steps.append((f"r{number:06d}", body))
    return steps


def _client(
    server: Server,
    second: Server,
    work: queue.Queue[tuple[str, Body]],
    history: History,
    draw: random.Random,
    stop: threading.Event,
) -> None:
    """A client: take requests from the queue and post each until it is acknowledged. Between them, repeat earlier requests,
    cancel some, post another content under a known id, and ask for states."""
    known: list[tuple[str, Body]] = []
    while not stop.is_set():
        try:
            request_id, body = work.get(timeout=0.2)
        except queue.Empty:
            continue
        history.bodies[request_id] = body
        while not stop.is_set():
            answer = _post(draw.choice([server, second]) if second.url else server, request_id, body, history)
            if answer is not None:
                break
            time.sleep(0.3)
        known.append((request_id, body))
        kind = draw.random()
        if kind < 0.05:
            _cancel(server, request_id, history)
        elif kind < 0.15:
            _post(server, *draw.choice(known), history)
        elif kind < 0.20:
            _conflict(server, draw.choice(known)[0], history)
        elif kind < 0.45:
            _look(server, *draw.choice(known), history)
        work.task_done()


def _call(server: Server, method: str, path: str, history: History, json: Any = None) -> requests.Response | None:
    """Call the service. None: it did not answer, or refused the call, so nothing is known about the request."""
    if server.url is None:
        return None
    headers = {"Authorization": f"Bearer {server.token}"}
    try:
        answer = requests.request(method, server.url + path, json=json, headers=headers, timeout=30)
    except requests.RequestException:
        history.count("calls without an answer")
        return None
    if answer.status_code == 500:
        history.add_violation(f"{method} {path.rpartition('/')[0]}: 500")
    if answer.status_code >= 429:
        history.count(f"calls refused with {answer.status_code}")
        return None
    return answer


def _post(server: Server, request_id: str, body: Body, history: History) -> requests.Response | None:
    """Post a request with its own content, which must never be refused. None: as `_call`."""
    answer = _call(server, "POST", f"/v1/requests/{request_id}", history, body)
    if answer is None:
        return None
    history.count("posts answered")
    if answer.status_code == 202:
        history.take_answer(request_id, answer.json())
    else:
        history.add_violation(f"{request_id}: its own content got {answer.status_code}")
    return answer


def _conflict(server: Server, request_id: str, history: History) -> None:
    """Post another content under a known id. It must be refused, or, after a purge, get the answer of the first content."""
    answer = _call(server, "POST", f"/v1/requests/{request_id}", history, {"users": [f"not-{request_id}"]})
    if answer is not None:
        history.count("conflicting posts answered")
        if answer.status_code == 202:
            history.take_answer(request_id, answer.json())
            if answer.json()["phase"] == "accepted":
                history.add_violation(f"{request_id}: another content was acknowledged under its id")


def _cancel(server: Server, request_id: str, history: History) -> None:
    """Cancel a request. If the service says that it is cancelled, it must stay so."""
    answer = _call(server, "DELETE", f"/v1/requests/{request_id}", history)
    if answer is not None and answer.status_code == 200:
        history.count("cancellations answered")
        history.cancelled.add(request_id)
        history.take_answer(request_id, answer.json())


def _look(server: Server, request_id: str, body: Body, history: History) -> None:
    """Ask for the state of a request. If it is committed, its users must get no recommendations from that version or a later
    one."""
    answer = _call(server, "GET", f"/v1/requests/{request_id}", history)
    if answer is None:
        return
    if answer.status_code != 200:
        history.add_violation(f"{request_id}: acknowledged, and status says {answer.status_code}")
        return
    state = answer.json()
    history.take_answer(request_id, state)
    for user in body.get("users", ()):
        if state["phase"] == "committed":
            served = _call(server, "GET", f"/v1/recommendations/{user}", history)
            if served is not None:
                history.count("recommendations asked for a forgotten user")
                if served.status_code == 200 and served.json()["version"] >= state["version"]:
                    history.add_violation(f"{request_id}: its user is served from version {served.json()['version']}")


def _reader(config: Config, history: History, follower: Follower, stop: threading.Event) -> None:
    """Read the log and the files of the current version every few seconds. The version must be whole, unless another one has
    replaced it meanwhile."""
    session = Session(config)
    while not stop.wait(5.0):
        try:
            follower.look()
            version = session.version()
            for name, entry in version.files.items():
                if session.store.sha256(session.store.read(name)) != entry.sha256:
                    history.add_violation(f"{name} of version {version.version} is not as committed")
            pairs_of(session.store, version.graph)
            history.count("versions read whole")
        except (FileNotFoundError, AssertionError) as error:
            if session.version().version == version.version:
                history.add_violation(f"version {version.version} is not whole: {error}")
        except InputError as error:
            history.add_violation(f"the log: {error}")


def _drain(session: Session, work: queue.Queue[tuple[str, Body]], history: History) -> None:
    """Wait until every request has its final state and its evidence; a violation is noted after DRAIN_SECONDS."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < deadline:
        ledger = session.ledger()
        if not work.unfinished_tasks and not ledger.open and not ledger.unreported:
            return
        time.sleep(1.0)
    history.add_violation(f"not everything has an answer and its evidence {DRAIN_SECONDS:g} s after the last fault")


# ---- the report ------------------------------------------------------------------------------------------------------


def _write(
    arguments: argparse.Namespace,
    history: History,
    injector: Injector,
    server: Server,
    records: list[Record],
    tickets: Mapping[str, Ticket],
    seconds: float,
) -> None:
    """Write the results file, and print it."""
    commits = [record for record in records if record.kind == COMMITTED and manifest_of(record).answers]
    retrains = [m for r in records if r.kind == COMMITTED and (m := manifest_of(r)).replayed is not None]
    replayed = sum(len(one.replayed or ()) for one in retrains)
    waits = [
        datetime.fromisoformat(record.time).timestamp() - tickets[request_id].waits_from
        for record in commits
        for request_id in manifest_of(record).answers
    ]
    states: dict[str, int] = {}
    for ticket in tickets.values():
        states[ticket.state.value] = states.get(ticket.state.value, 0) + 1
    run: list[dict[str, Any]] = [
        {"what": "seed", "value": str(arguments.seed)},
        {"what": "minutes", "value": round(seconds / 60, 1)},
        {"what": "requests acknowledged", "value": len(history.acknowledged)},
        *({"what": f"requests {state}", "value": number} for state, number in sorted(states.items())),
        {"what": "versions committed by requests", "value": len(commits)},
        {"what": "requests a version, mean", "value": round(len(waits) / max(1, len(commits)), 1)},
        {"what": "versions committed by retrains", "value": len(retrains)},
        {"what": "requests carried out on a retrain's result before its commit", "value": replayed},
        {"what": "records of the log", "value": records[-1].number},
        {
            "what": "records that `purge --truncate-log` removed before the checker saw them",
            "value": records[-1].number - len(records),
        },
        {"what": "starts of the service", "value": server.starts},
        *({"what": what, "value": number} for what, number in sorted(history.counts.items())),
        *(
            {
                "what": f"accepted to committed, {name} (s; {GRACE_SECONDS:g} s of grace)",
                "value": round(float(value), 1),
            }
            for name, value in zip(
                ("median", "95%", "longest"), np.quantile(waits or [0.0], (0.5, 0.95, 1)), strict=True
            )
        ),
        {"what": "VIOLATIONS", "value": len(history.violations)},
    ]
    faults = [{"fault": name, "times": number} for name, number in sorted(injector.counts.items())]
    parts = [results_file.table(run), results_file.table(faults) if faults else "No faults."]
    if injector.errors:
        parts.append("Commands and restarts that failed while faults were injected:\n\n" + _list(injector.errors))
    parts.append("No violations." if not history.violations else "Violations:\n\n" + _list(history.violations))
    results_file.write(arguments.results, "Chaos: requests while everything breaks", parts)
    print("\n\n".join(parts))


def _list(lines: list[str]) -> str:
    return "\n".join(f"- {' '.join(line.split())[:300]}" for line in lines[:50])


if __name__ == "__main__":
    main()
