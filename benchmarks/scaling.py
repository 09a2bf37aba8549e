"""Measure strong and weak scaling over partitions and machines, and what a cluster would do.

A step of LightGCN with BPR is split into compute, exchange and wait. Rows and bytes are compared with the plan of the
exchange. A model is fitted on some runs, compared with others that it has not seen, and projects larger graphs and clusters.
It needs torch only, no Ray.

On a cluster run the same command on every machine, with `--nodes`, `--node`, `--head` and `--address`; machine 0 writes the
results. On one machine the network between two is emulated if it can be (root, `ip`, `tc`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..distributed.processes import ONE_NODE, Nodes
from . import results_file
from .scale.figures import check_matplotlib, draw_series, projection_panels
from .scale.machines import load, measure_on_two, save, why_not
from .scale.model import Model, fit
from .scale.points import Point, for_fit, held_out, over_network, scaling
from .scale.projection import project
from .scale.ranks import Found, measure
from .scale.report import errors, parts, strong_panels

Runs = list[tuple[Point, list[Found]]]
INTERACTIONS = (10_000_000, 100_000_000, 1_000_000_000)
WORKERS = (8, 16, 32, 64, 128, 256, 512)


def main(argv: Sequence[str] | None = None) -> None:
    """See `--help`."""
    parser = argparse.ArgumentParser(prog="unlearnrec bench scaling", description=__doc__)
    parser.add_argument("--users", type=int, default=200_000, help="of the largest graph")
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--interactions", type=int, default=4_000_000)
    parser.add_argument("--batch", type=int, default=80_000)
    parser.add_argument("--partitions", type=int, nargs="+", default=[1, 2, 4, 8], help="on a cluster: on each machine")
    parser.add_argument(
        "--rates", type=float, nargs="*", default=[1000, 300, 100], help="of the emulated network, Mbit/s"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--nodes", type=int, default=1, help="machines of the cluster")
    parser.add_argument("--node", type=int, default=0, help="the number of this one")
    parser.add_argument(
        "--head", default="127.0.0.1:0", help="address:port of machine 0; 50 ports from this on are used"
    )
    parser.add_argument("--address", default="127.0.0.1", help="at which the others reach this one")
    parser.add_argument(
        "--raw", type=Path, help="a file that keeps what was measured; what it has is not measured again"
    )
    parser.add_argument("--points", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=results_file.FOLDER / "scaling.md")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args(argv)
    nodes = _nodes(arguments)
    if arguments.points:
        given = [Point(**one) for one in json.loads(arguments.points.read_text(encoding="utf-8"))]
        measure_all(given, arguments.rounds, nodes, Kept(arguments.raw))
        return
    if not nodes.node:
        check_matplotlib()
    notes: list[str] = []
    kept = Kept(arguments.raw)
    runs = measured(arguments, nodes, kept, notes)
    if nodes.node:
        return
    report(arguments.output, runs, notes)
    print(arguments.output.read_text(encoding="utf-8"))
    if arguments.json:
        print(json.dumps(summary(runs)))


def _nodes(arguments: argparse.Namespace) -> Nodes:
    if arguments.nodes == 1:
        return ONE_NODE
    host, _, port = arguments.head.rpartition(":")
    return Nodes(arguments.nodes, arguments.node, host, int(port), arguments.address)


class Kept:
    """What was measured, point by point, in a file if there is one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._found: dict[Point, list[Found]] = dict(load(path)) if path and path.exists() else {}

    def of(self, point: Point) -> list[Found] | None:
        """What was found for a point; None if it was not measured."""
        return self._found.get(point)

    def keep(self, point: Point, found: list[Found]) -> None:
        """Keep what was found for a point."""
        self._found[point] = found
        if self._path:
            save(self._path, list(self._found.items()))


def measured(arguments: argparse.Namespace, nodes: Nodes, kept: Kept, notes: list[str]) -> Runs:
    """All points."""
    base = Point("", arguments.users, arguments.items, arguments.interactions, 1, batch_size=arguments.batch)
    if nodes.count > 1:
        wanted = [count * nodes.count for count in arguments.partitions]
        cluster = [replace(point, nodes=nodes.count) for point in scaling(base, wanted)]
        return measure_all(cluster, arguments.rounds, nodes, kept)
    runs = measure_all(
        [*for_fit(base), *held_out(base), *scaling(base, arguments.partitions)], arguments.rounds, nodes, kept
    )
    slow = list(over_network(base, [1e6 * rate for rate in arguments.rates]))
    missing = [point for point in slow if kept.of(point) is None]
    if missing and (reason := why_not()):
        notes.append(f"No network was emulated: {reason}.")
        return runs
    for point, found in measure_on_two(missing, arguments.rounds):
        kept.keep(point, found)
        _tell(f"{point}: step {max(one.step for one in found):.3f} s")
    return runs + [(point, known) for point in slow if (known := kept.of(point))]


def measure_all(points: Sequence[Point], rounds: int, nodes: Nodes, kept: Kept) -> Runs:
    """What the ranks found, point by point. On a cluster nothing is taken from what was kept, since all machines must
    measure the same."""
    runs: Runs = []
    for number, point in enumerate(points):
        # A machine that is ahead must not find the store of the point before.
        own = nodes if nodes.count == 1 else replace(nodes, port=nodes.port + number % 50)
        found = kept.of(point) if nodes.count == 1 else None
        if found is None:
            found = measure(point, rounds, own)
            kept.keep(point, found)
            _tell(f"{number + 1} of {len(points)}: {point}: step {max(one.step for one in found):.3f} s")
        runs.append((point, found))
    return runs


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def report(path: Path, runs: Runs, notes: Sequence[str] = ()) -> None:
    """Write the results file and its figures."""
    panels = strong_panels(runs)
    if panels:
        draw_series(path.with_suffix(".svg"), panels, "partitions", "CPU seconds of the slowest rank's compute")
    model = fitted(runs)
    if model is None:
        results_file.write(path, "Scaling", [*parts(runs, None, []), *notes])
        return
    copy = sorted(one.copy for point, found in runs if point.partitions == 1 for one in found)
    usual = copy[len(copy) // 2]
    projected = list(project(model, usual, INTERACTIONS, WORKERS))
    figure = path.with_name(f"{path.stem}-projection.svg")
    draw_series(figure, projection_panels(projected), "machines, one worker each", "seconds of a step")
    images = f"![Compute against partitions]({path.stem}.svg)\n\n![Projected steps]({figure.name})"
    results_file.write(path, "Scaling", [*parts(runs, model, projected), images, *notes])


def fitted(runs: Runs) -> Model | None:
    """The model of the runs that are for it; None where there are none, as on a cluster."""
    chosen = [(point, found) for point, found in runs if point.role == "fit"]
    return fit(chosen) if chosen else None


def summary(runs: Runs) -> dict[str, Any]:
    """The keys of `--json`: how far the model is off on runs that it has not seen, medians of relative errors."""
    model = fitted(runs)
    return {"points": len(runs)} | ({} if model is None else errors(runs, model))


if __name__ == "__main__":
    main()
