"""The tables of `bench scaling`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...cluster.planning.memory import base_bytes, train_bytes
from ...cluster.planning.sizes import Sizes, estimated_sizes
from ...cluster.planning.speed import step_sent
from .. import results_file
from .figures import Series
from .model import Compared, Model, compare, measured_compute, shares_cores
from .points import Point
from .projection import INSTANCES, REACHED, STEPS, Projected
from .ranks import Found

Runs = Sequence[tuple[Point, Sequence[Found]]]

SCALING_NOTES = """Seconds are those of the slowest rank, medians of the rounds. `step`: wall time; empty where ranks share
cores, since there it says only how long they waited for each other's cores. `compute`: of a step that is split by barriers,
wall seconds, or CPU seconds where cores are shared; `mean`: over the ranks, so that `compute` / `mean` is the imbalance.
`wait`: for the slowest rank, wall. `exchange, CPU`: CPU seconds of a rank in its exchanges; this machine's own copying of
bytes between processes stands for a network. Rows and MB leave all ranks in a step. `/ plan`: rows counted over rows of
the plans of the exchange. `/ estimate`: over what `plan` says before anything is ingested (for `hash`; communities are
better than what it assumes of METIS). `lookup / estimate`: bytes that the loss looks up over the estimate. `memory`: by
which the process of a worker grew at its peak; `/ plan`: over what `plan` says of it without the process and Ray."""

MODEL_NOTES = """A factor of the compute says how many times longer the plan's bytes take than a copy of as many; 1 is what
`unlearnrec plan` assumes. The model is fitted on other points than those below, which differ from them in sizes, widths,
layers, partitions and network. Each cell: measured; by the model; the model's error. Where the network is held to a rate the
model is given that rate and nothing that was measured on such a network."""

PROJECTION_NOTES = f"""Projected, not measured. Graphs have the proportions of a million users, 300,000 items and 42 million
interactions; 64 columns, two layers, epochs of {STEPS} steps, partitions as good as `plan` assumes of METIS. A worker has a
whole machine. Assumed: a machine's copies reach {REACHED:.0%} of what its memory channels give; work on all threads
follows that bandwidth; sorting and numbering of pairs stays on one thread, as fast as here; the ranks are balanced; nothing
overlaps with the exchange; one thread of a process moves the bytes of its exchange, as gloo does, so that a network of 200
Gbit/s gains little. Dashes: does not fit by the plan of memory. Not projected: partitioning, and a network that others
use."""


def parts(runs: Runs, model: Model | None, projected: Sequence[Projected]) -> list[str]:
    """The parts of the results file."""
    text = [_head(runs)]
    for role, title in (
        ("strong", "Strong scaling: the graph stays"),
        ("weak", "Weak scaling: it grows with the partitions"),
    ):
        rows = [_scaling_row(point, found) for point, found in runs if point.role == role]
        if rows:
            text += [f"## {title}", results_file.table(rows)]
    text.append(SCALING_NOTES)
    if model is not None:
        text += ["## A model, and runs that it has not seen", results_file.table(_factors(model)), MODEL_NOTES]
        rows = [_held_out_row(point, compare(model, point, found)) for point, found in _unseen(runs)]
        text += [results_file.table(rows), _errors_line(errors(runs, model))]
    if projected:
        sources = "; ".join(f"{one.name}: {one.source}, {one.gigabits_a_second} Gbit/s" for one in INSTANCES)
        text += ["## Larger graphs on clusters", results_file.table(_projection_rows(projected))]
        text += [
            PROJECTION_NOTES,
            f"Machines: {sources}. Memory sizes and network rates were not checked against AWS's specifications. "
            "AWS holds a single connection to 5 Gbit/s, or 10 within a cluster placement group (EC2 User Guide, instance "
            "network bandwidth). The model knows nothing of that; with eight workers, each of which has a connection to "
            "each other, it is no limit of a 30 or 40 Gbit/s network in such a group.",
        ]
    return text


def _head(runs: Runs) -> str:
    first = max((point for point, _ in runs), key=lambda point: point.interactions)
    return (
        f"The graph: about {first.interactions:,} interactions of {first.users:,} users and {first.items:,} items, "
        f"generated as for `bench step`; {first.embedding_size} columns, {first.num_layers} layers, batches of "
        f"{first.batch_size:,}, a thread for each rank. `communities`: whole communities to a partition, as a good "
        "partitioner would; `hash`: by chance."
    )


def _sizes(point: Point, found: Sequence[Found]) -> Sizes:
    each = [one.part for one in found]
    return Sizes(point.users, point.items, sum(part.pairs for part in each), each, exact=True)


def _scaling_row(point: Point, found: Sequence[Found]) -> dict[str, Any]:
    sizes, config = _sizes(point, found), point.config()
    compute = [measured_compute(point, one) for one in found]
    halo, planned = sum(one.rows.get("halo", 0) for one in found), sum(one.planned_rows for one in found)
    estimated = estimated_sizes(point.users, point.items, sizes.interactions, point.partitions, point.strategy)
    looked_up = sum(_bytes(one, "lookup") for one in found)
    expected = sum(step_sent(config, sizes, part)[1] for part in sizes.parts)
    memory = max(one.memory for one in found)
    planned_memory = max(train_bytes(config, sizes, part) - base_bytes(sizes) for part in sizes.parts)
    before = 2 * point.num_layers * estimated.rows_per_layer
    several = point.partitions > 1
    return {
        "partitions": point.partitions,
        "machines": point.nodes,
        "cut": point.strategy if several else "",
        "halo": point.halo if several else "",
        "step, s": "" if shares_cores(point) else max(one.step for one in found),
        "compute, s": max(compute),
        "mean, s": float(np.mean(compute)),
        "wait, s": "" if shares_cores(point) else max(one.wait for one in found),
        "exchange, s": "" if shares_cores(point) else max(one.exchange for one in found),
        "exchange, CPU s": max(one.exchange_cpu for one in found),
        "halo rows": halo,
        "/ plan": f"{halo / planned:.3f}" if planned else "",
        "/ estimate": f"{halo / before:.2f}" if several and point.strategy == "hash" and point.halo == "pull" else "",
        "halo, MB": sum(_bytes(one, "halo") for one in found) / 1e6,
        "lookup, MB": looked_up / 1e6,
        "lookup / estimate": f"{looked_up / expected:.2f}" if expected else "",
        "memory, MB": round(memory / 1e6),
        "memory / plan": f"{memory / planned_memory:.2f}",
    }


def _bytes(one: Found, purpose: str) -> int:
    return one.local_bytes.get(purpose, 0) + one.remote_bytes.get(purpose, 0)


def strong_panels(runs: Runs) -> dict[str, Series]:
    """The compute of the slowest rank against partitions: a panel for strong and one for weak scaling."""
    panels: dict[str, Series] = {}
    for role in ("strong", "weak"):
        series: dict[str, list[tuple[float, float]]] = {}
        for point, found in runs:
            if point.role == role:
                value = (point.partitions, max(one.compute_cpu for one in found))
                names = [f"{point.strategy}, {point.halo}"]
                if point.partitions == 1 and role == "strong":  # where all of them begin
                    names = [f"{cut}, {halo}" for cut in ("communities", "hash") for halo in ("pull", "cover")]
                for name in names:
                    series.setdefault(name, []).append(value)
        if series:
            panels[f"{role} scaling"] = dict(series)
    return panels


def _factors(model: Model) -> list[dict[str, Any]]:
    named: dict[str, float | str] = {f"compute: {name}": factor for name, factor in model.compute.items()}
    named |= {
        "fixed, ms a step": 1e3 * model.fixed,
        "ms an exchange": 1e3 * model.round,
        "ms for each other rank": 1e3 * model.message,
        "exchange, GB/s of a process": 1e-9 / model.byte if model.byte else "",
    }
    return [named]


def _unseen(runs: Runs) -> Iterator[tuple[Point, Sequence[Found]]]:
    return ((point, found) for point, found in runs if point.role == "held out")


def _held_out_row(point: Point, found: Compared) -> dict[str, Any]:
    return {
        "partitions": point.partitions,
        "threads": point.threads,
        "cut": point.strategy if point.partitions > 1 else "",
        "interactions": point.interactions,
        "columns": point.embedding_size,
        "layers": point.num_layers,
        "batch": point.batch_size,
        "network": "this machine's" if point.rate is None else f"{point.rate / 1e6:.0f} Mbit/s",
        "compute, s": _cell(found.compute),
        "exchange, s": _cell(found.exchange),
        "step, s": _cell(found.step),
    }


def _cell(values: tuple[float, float] | None) -> str:
    if values is None:
        return ""
    measured, said = values
    return f"{measured:.3g}; {said:.3g}; {said / measured - 1:+.0%}"


def errors(runs: Runs, model: Model) -> dict[str, float]:
    """The medians and the largest of the relative errors on the runs that were held out."""
    found: dict[str, float] = {}
    compared = [compare(model, point, each) for point, each in _unseen(runs)]
    for name in ("compute", "exchange", "step"):
        values = [getattr(one, name) for one in compared if getattr(one, name) is not None]
        off = [abs(said / measured - 1) for measured, said in values]
        if off:
            found |= {f"{name}_median_error": float(np.median(off)), f"{name}_largest_error": max(off)}
    return found


def _errors_line(found: dict[str, float]) -> str:
    names = dict.fromkeys(key.split("_")[0] for key in found)
    said = (f"{name} {found[f'{name}_median_error']:.0%} ({found[f'{name}_largest_error']:.0%})" for name in names)
    return f"Relative errors on these runs, median (largest): {', '.join(said)}."


def _projection_rows(projected: Sequence[Projected]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for one in projected:
        if one.instance is INSTANCES[0]:
            rows.append({"interactions": one.interactions, "workers": one.workers, "GB a worker": one.memory / 1e9})
        seconds = f"{one.compute:.2g} + {one.exchange:.2g}" if one.fits else "—"
        rows[-1][f"{one.instance.name}: compute + exchange, s"] = seconds
    return rows
