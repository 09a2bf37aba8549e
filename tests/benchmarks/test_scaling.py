"""Scaling is measured on several machines as on one, and the cost model finds the constants of a made-up machine."""

import importlib.util
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from unlearnrec.benchmarks import scaling
from unlearnrec.benchmarks.scale import model as models
from unlearnrec.benchmarks.scale import ranks
from unlearnrec.benchmarks.scale.figures import projection_panels
from unlearnrec.benchmarks.scale.machines import load, save
from unlearnrec.benchmarks.scale.model import COMPUTE, FRAME, Model, compare, fit, terms_of
from unlearnrec.benchmarks.scale.points import Point, draw, for_fit, held_out, over_network
from unlearnrec.benchmarks.scale.points import scaling as every
from unlearnrec.benchmarks.scale.projection import INSTANCES, REACHED, graph_of, project
from unlearnrec.benchmarks.scale.ranks import Found
from unlearnrec.cluster.planning.sizes import PartSizes, estimated_sizes
from unlearnrec.distributed.processes import Nodes
from unlearnrec.partitioning.halo import rows_per_layer
from unlearnrec.partitioning.shard import build_shards

COPY = 8e9
TRUE = Model(dict(zip(COMPUTE, (0.7, 1.3, 2.0, 0.5), strict=True)), 0.003, 2e-4, 5e-5, 1e-9)
BASE = Point("", 20_000, 6_000, 400_000, 1, batch_size=8_000)


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "usable_cpus", lambda: 2)


def made_up(point: Point, true: Model = TRUE) -> list[Found]:
    """What ranks of a machine would find that takes exactly as long as the model says."""
    sizes = estimated_sizes(point.users, point.items, point.interactions, point.partitions, point.strategy)
    rows = 2 * point.num_layers * sizes.parts[0].received
    sent = {"halo": 4 * point.embedding_size * rows, "lookup": 1000 * point.partitions}
    away = point.nodes > 1
    blank = Found(
        part=sizes.parts[0],
        step=0.0,
        compute=0.0,
        compute_cpu=0.0,
        wait=0.0,
        exchange=0.0,
        exchange_cpu=0.0,
        copy=COPY,
        rounds=2 * point.num_layers + 7 if point.partitions > 1 else 0,
        rows={"halo": rows},
        local_bytes={} if away else sent,
        remote_bytes=sent if away else {},
        planned_rows=rows,
        memory=10**8,
    )
    compute = true.compute_seconds(terms_of(point, [blank] * point.partitions)[0], COPY, point.threads)
    leaving = sum(blank.remote_bytes.values())
    exchange = true.exchange_seconds(blank.rounds, point.partitions, sum(sent.values()), leaving, point.rate)
    seconds = {"compute": compute, "compute_cpu": compute, "exchange": exchange, "exchange_cpu": exchange}
    return [replace(blank, step=compute + exchange, **seconds)] * point.partitions


def test_the_constants_of_a_made_up_machine_are_found():
    found = fit([(point, made_up(point)) for point in for_fit(BASE)])
    assert found.compute == pytest.approx(TRUE.compute, rel=1e-3)
    constants = (found.fixed, found.round, found.message, found.byte)
    assert constants == pytest.approx((TRUE.fixed, TRUE.round, TRUE.message, TRUE.byte), rel=1e-2)
    for point in [*held_out(BASE), *over_network(BASE, [1e8])]:
        compared = compare(found, point, made_up(point))
        for pair in (compared.compute, compared.exchange, compared.step):
            assert pair is None or pair[1] == pytest.approx(pair[0], rel=1e-2)


def test_shared_cores_and_slow_networks_are_told_apart():
    eight = replace(BASE, partitions=8)
    compared = compare(TRUE, eight, made_up(eight))
    assert compared.exchange is None and compared.step is None  # wall times say nothing there
    fast, slow = (next(iter(over_network(BASE, [rate]))) for rate in (1e12, 1e7))
    leaving = sum(made_up(slow)[0].remote_bytes.values())
    assert compare(TRUE, fast, made_up(fast)).exchange == pytest.approx((made_up(fast)[0].exchange,) * 2)
    expected = 11 * (TRUE.round + TRUE.message) + 8 * FRAME * leaving / 1e7
    assert compare(TRUE, slow, made_up(slow)).exchange[1] == pytest.approx(expected)


def test_larger_clusters_are_projected_until_memory_or_network_end_it():
    found = list(project(TRUE, COPY, [10_000_000, 1_000_000_000], [8, 512]))
    by = {(one.interactions, one.workers, one.instance.name): one for one in found}
    assert len(by) == len(found) == 4 * len(INSTANCES)
    name = INSTANCES[0].name
    few, many = by[1_000_000_000, 8, name], by[1_000_000_000, 512, name]
    assert few.compute > 20 * many.compute and few.memory > 5 * many.memory
    assert not few.fits or few.memory < 0.9 * INSTANCES[0].gib * 2**30
    point = graph_of(10_000_000)
    part = estimated_sizes(point.users, point.items, 10_000_000, 8, "metis").parts[0]
    machine = min(INSTANCES[0].cores * COPY, REACHED * 1e9 * INSTANCES[0].gigabytes_a_second)
    gathered = 4 * part.entries * 256 * TRUE.compute["gathered"] / machine
    assert by[10_000_000, 8, name].compute > gathered
    panels = projection_panels(found)
    assert set(panels) == {one.instance.name for one in found if one.fits}
    assert all(min(point) > 0 for panel in panels.values() for points in panel.values() for point in points)


def test_a_report_is_made_of_runs_that_were_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn = importlib.util.find_spec("matplotlib") is not None
    if not drawn:  # the extra bench is not installed: all but the figures is looked at
        monkeypatch.setattr(scaling, "check_matplotlib", lambda: None)
        monkeypatch.setattr(scaling, "draw_series", lambda *_: None)
    counts = [1, 2, 8]
    points = [*for_fit(BASE), *held_out(BASE), *every(BASE, counts), *over_network(BASE, [1e8])]
    runs = [(point, made_up(point)) for point in points]
    save(tmp_path / "raw.json", runs)
    assert load(tmp_path / "raw.json") == runs
    sizes = ["--users", "20000", "--items", "6000", "--interactions", "400000", "--batch", "8000", "--rates", "100"]
    files = ["--raw", str(tmp_path / "raw.json"), "--output", str(tmp_path / "out" / "scaling.md")]
    monkeypatch.setattr(scaling, "measure", None)  # all of it is there
    scaling.main([*sizes, *files, "--partitions", *map(str, counts)])
    text = (tmp_path / "out" / "scaling.md").read_text(encoding="utf-8")
    assert "| 8 | 1 | hash | pull |  |" in text  # no wall time of ranks that share cores
    assert "100 Mbit/s" in text and "median (largest): compute 0% (0%), exchange 0% (0%), step 0% (0%)" in text
    for name in ("scaling.svg", "scaling-projection.svg"):
        assert f"({name})" in text and (not drawn or (tmp_path / "out" / name).stat().st_size > 1000)


def test_two_machines_measure_one_point_together():
    point = Point("strong", 300, 90, 3000, 2, embedding_size=8, batch_size=1000, nodes=2, strategy="hash")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found: dict[int, list[Found]] = {}

    def machine(k: int) -> None:
        found[k] = ranks.measure(point, 1, Nodes(2, k, "127.0.0.1", port))

    threads = [threading.Thread(target=machine, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] and len(found[0]) == 2  # each knows what all found
    drawn = draw(point)
    shards = build_shards(drawn.users, drawn.items, [1] * len(drawn.users), drawn.owners)
    planned = 4 * rows_per_layer(shards, drawn.owners, "pull")
    assert sum(one.rows["halo"] for one in found[0]) == sum(one.planned_rows for one in found[0]) == planned
    assert sum(one.remote_bytes["halo"] for one in found[0]) == planned * 8 * 4
    assert all(not one.local_bytes and one.rounds == 11 for one in found[0])
    assert all(one.compute > 0 < one.exchange and one.memory >= 0 and one.copy > 0 for one in found[0])
    assert [one.part for one in found[0]] == [
        PartSizes(
            len(shard.user_ids) + len(shard.item_ids),
            len(shard.item_ids),
            int(shard.degrees().sum()),
            len(shard.interactions()[0]),
            one.part.received,
        )
        for shard, one in zip(shards, found[0], strict=True)
    ]
