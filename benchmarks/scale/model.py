"""The cost model of a step: the terms of the plan (`cluster/planning/speed.py`), each with a factor that is fitted.

    compute  = fixed + sum over the plan's terms of factor * bytes / (bytes a second of a copy)
    exchange = rounds * (round + message * (ranks - 1)) + bytes * byte, or bytes to other machines / their network's rate,
               whichever is longer
    step     = the longest compute of a rank + the longest exchange

All are seconds; factors are relative to the plan, which has 1 everywhere, no `fixed` and no exchange besides its copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from ...cluster.planning.sizes import PartSizes, Sizes
from ...cluster.planning.speed import step_work
from ...cluster.reporting.software import usable_cpus
from .points import Point
from .ranks import Found

COMPUTE = ("gathered", "tables", "exchanged", "pairs")
"""The plan's terms."""
SERIAL = ("pairs",)
"""Terms whose work is done by one thread of a worker, however many it has: sorting and numbering the pairs."""
FRAME = 1514 / 1448
"""Bytes on an Ethernet of frames of 1,500 bytes, for each byte of TCP's payload."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """The fitted factors. `compute`: of the plan's terms; `fixed`: seconds of a step; `round`, `message`, `byte`: seconds of
    an exchange, of each rank that takes part in it, and of each byte that a rank sends, by its CPU."""

    compute: Mapping[str, float]
    fixed: float
    round: float
    message: float
    byte: float

    def compute_seconds(self, terms: Mapping[str, float], copy: float, threads: float = 1) -> float:
        """The compute of a rank's step. copy: bytes a second of one of its threads."""
        parts = (self.compute[k] * x / copy / (1 if k in SERIAL else threads) for k, x in terms.items())
        return self.fixed + sum(parts)

    def exchange_seconds(
        self, rounds: float, ranks: int, sent: float, leaving: float = 0.0, rate: float | None = None
    ) -> float:
        """The exchange of a rank's step. sent: its bytes; leaving: bytes that leave its machine; rate: bits a second of the
        network of its machine, None where it is as fast as the machine."""
        if ranks == 1:
            return 0.0
        network = 0.0 if rate is None else 8 * FRAME * leaving / rate
        return rounds * (self.round + self.message * (ranks - 1)) + max(self.byte * sent, network)


def terms_of(point: Point, found: Sequence[Found]) -> list[dict[str, float]]:
    """The plan's terms of each rank, in bytes."""
    parts = [one.part for one in found]
    sizes = Sizes(point.users, point.items, sum(part.pairs for part in parts), parts, exact=True)
    return [part_terms(point, sizes, part) for part in parts]


def part_terms(point: Point, sizes: Sizes, part: PartSizes) -> dict[str, float]:
    work = step_work(point.config(), sizes, part)
    return {term: getattr(work, term) for term in COMPUTE}


def shares_cores(point: Point) -> bool:
    """Whether the ranks of a machine have less than a core each, so that only CPU seconds tell their work."""
    return point.partitions // (point.nodes if point.rate is None else 1) * point.threads > usable_cpus()


def measured_compute(point: Point, one: Found) -> float:
    """The compute of a rank: wall seconds, or CPU seconds where cores are shared."""
    return one.compute_cpu if shares_cores(point) else one.compute


def fit(runs: Sequence[tuple[Point, Sequence[Found]]]) -> Model:
    """The model that fits these runs best: least squares of relative errors, no factor below 0.

    Exchange is fitted where several ranks have a core each and no network is emulated; its cost for each further rank, which
    shows only with more ranks than two, where they share cores, by CPU seconds.
    """
    rows, seconds = [], []
    for point, found in runs:
        for terms, one in zip(terms_of(point, found), found, strict=True):
            scale = {k: one.copy * (1 if k in SERIAL else point.threads) for k in COMPUTE}
            rows.append([1.0, *(terms[k] / scale[k] for k in COMPUTE)])
            seconds.append(measured_compute(point, one))
    fixed, *factors = _solve(rows, seconds)
    shared = [(p, one) for p, found in runs for one in found if p.partitions > 1 and p.rate is None]
    crowded = [(p, one) for p, one in shared if shares_cores(p)]
    alone = [(p, one) for p, one in shared if not shares_cores(p)]
    # What an exchange costs at all is another number by wall and by CPU seconds; the rest is shared.
    rows = [[one.rounds, 0.0, one.rounds * (p.partitions - 1), _sent(one)] for p, one in alone]
    rows += [[0.0, one.rounds, one.rounds * (p.partitions - 1), _sent(one)] for p, one in crowded]
    seconds = [one.exchange for _, one in alone] + [one.exchange_cpu for _, one in crowded]
    round_, _, message, byte = _solve(rows, seconds) if rows else (0.0,) * 4
    return Model(dict(zip(COMPUTE, factors, strict=True)), fixed, round_, message, byte)


def _sent(one: Found) -> float:
    return float(sum(one.local_bytes.values()) + sum(one.remote_bytes.values()))


def _solve(rows: Sequence[Sequence[float]], seconds: Sequence[float]) -> tuple[float, ...]:
    """Factors >= 0 of the columns with the least squares of relative errors."""
    y = np.maximum(np.array(seconds, dtype=np.float64), 1e-9)
    weighted = np.array(rows, dtype=np.float64) / y[:, None]
    scale = np.where((largest := weighted.max(0)) > 0, largest, 1.0)
    return tuple(float(x) for x in nnls(weighted / scale, np.ones(len(y)))[0] / scale)


@dataclass(frozen=True)
class Compared:
    """A point as it was measured and as the model says, seconds: the longest compute and the longest exchange of a rank, and
    the whole step. Exchange and step are None where ranks share cores, since their wall times then say nothing."""

    compute: tuple[float, float]
    exchange: tuple[float, float] | None
    step: tuple[float, float] | None


def compare(model: Model, point: Point, found: Sequence[Found]) -> Compared:
    """The model's seconds beside those of a run."""
    terms = terms_of(point, found)
    copy = float(np.mean([one.copy for one in found]))
    compute = max(model.compute_seconds(one, copy, point.threads) for one in terms)
    measured = max(measured_compute(point, one) for one in found)
    if shares_cores(point):
        return Compared((measured, compute), None, None)
    a_node = point.partitions // point.nodes
    leaving = max(
        sum(sum(one.remote_bytes.values()) for one in found[k : k + a_node]) for k in range(0, len(found), a_node)
    )
    rounds, sent = max(one.rounds for one in found), max(_sent(one) for one in found)
    exchange = model.exchange_seconds(rounds, point.partitions, sent, leaving, point.rate)
    exchanged = max(one.exchange for one in found)
    both = (exchanged, exchange) if point.partitions > 1 else None
    return Compared((measured, compute), both, (max(one.step for one in found), compute + exchange))
