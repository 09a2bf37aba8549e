"""What the model says of machines and graphs that were not measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...cluster.planning.memory import train_bytes
from ...cluster.planning.sizes import estimated_sizes
from ...cluster.planning.speed import step_rounds, step_sent
from .model import Model, part_terms
from .points import Point

REACHED = 0.75
"""Of the bandwidth that a memory has by its channels, the share that copies reach. Assumed."""
STEPS = 50
"""Steps of an epoch."""


@dataclass(frozen=True)
class Instance:
    """A machine to rent: cores, memory, its bandwidth by its channels, the network's rate for TCP, and the source."""

    name: str
    cores: int
    gib: int
    gigabytes_a_second: float
    gigabits_a_second: float
    source: str


INSTANCES = (
    Instance("c7g.16xlarge", 64, 128, 300, 30, "Graviton3, 64 cores, 300 GB/s a chip"),
    Instance("c7gn.16xlarge", 64, 128, 300, 200, "Graviton3E, memory as that of Graviton3"),
    Instance("r8g.24xlarge", 96, 768, 537, 40, "Graviton4, 96 cores, 12 channels of DDR5-5600"),
)
"""One worker has a whole machine. No prices: they change by region and day. Memory sizes and network rates are those of
AWS's specifications of instance types."""


@dataclass(frozen=True)
class Projected:
    """A step of so many workers, one a machine, seconds, and the bytes that the plan of memory says of each."""

    instance: Instance
    interactions: int
    workers: int
    compute: float
    exchange: float
    memory: float

    @property
    def step(self) -> float:
        """The seconds of a step."""
        return self.compute + self.exchange

    @property
    def fits(self) -> bool:
        """Whether the worker's memory is there, with a tenth left for the system."""
        return self.memory < 0.9 * self.instance.gib * 2**30


def graph_of(interactions: int) -> Point:
    """A graph with the proportions of one of a million users, 300,000 items and 42 million interactions, 50 steps an epoch,
    64 columns, two layers."""
    users = round(interactions / 42)
    return Point("projected", users, round(0.3 * users), interactions, 1, batch_size=interactions // STEPS)


def project(
    model: Model, copy: float, interactions: Sequence[int], workers: Sequence[int], strategy: str = "metis"
) -> Iterator[Projected]:
    """Each graph on so many workers of each instance.

    copy: bytes a second of a core of the machine that the model was fitted on. A machine has as many times that as cores,
    and no more than REACHED of what its channels give; what one thread does, it does as fast as the machine of the fit. The
    rows that are exchanged are those that a plan estimates before anything is ingested.
    """
    for size in interactions:
        point = graph_of(size)
        config = point.config()
        for count in workers:
            sizes = estimated_sizes(point.users, point.items, size, count, strategy)
            part = sizes.parts[0]
            terms = part_terms(point, sizes, part)
            sent = sum(step_sent(config, sizes, part))
            memory = train_bytes(config, sizes, part)
            for instance in INSTANCES:
                machine = min(instance.cores * copy, REACHED * 1e9 * instance.gigabytes_a_second)
                compute = model.compute_seconds(terms, copy, threads=machine / copy)
                rate = 1e9 * instance.gigabits_a_second
                # A machine is one rank, and one thread of it moves the exchange's bytes.
                exchange = model.exchange_seconds(step_rounds(config), count, sent, sent, rate)
                yield Projected(instance, size, count, compute, exchange, memory)
