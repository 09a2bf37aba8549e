"""What `bench scaling` measures: points, each a graph, how it is cut, a model, and where it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ...cluster.config.schema import Config, parse_config
from ...partitioning.assignment import Assignment, hash_owner
from ..step import COMMUNITIES, generate

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Point:
    """One measurement. `role` says what it is for: "fit" and "held out" are for the model, "strong" and "weak" for the
    tables of scaling. `rate`: bits a second to which the network between machines is held, if it is emulated."""

    role: str
    users: int
    items: int
    interactions: int
    partitions: int
    strategy: str = "communities"
    halo: str = "pull"
    embedding_size: int = 64
    num_layers: int = 2
    batch_size: int = 50_000
    threads: int = 1
    nodes: int = 1
    rate: float | None = None

    def config(self) -> Config:
        """The configuration of such a training, for the plan."""
        return parse_config(
            {
                "interactions": "generated.parquet",
                "output": "output",
                "cluster": {"partitions": self.partitions, "threads_per_worker": self.threads},
                "backbone": {"embedding_size": self.embedding_size, "num_layers": self.num_layers},
                "train": {"batch_size": self.batch_size},
            }
        )

    def times(self, factor: float) -> Point:
        """A graph so many times as large, with batches that are so, too."""
        sizes = {k: round(factor * getattr(self, k)) for k in ("users", "items", "interactions", "batch_size")}
        return replace(self, **sizes)


@dataclass(frozen=True)
class Drawn:
    """A graph: the distinct interactions, sorted, and the owners of its nodes."""

    users: Ids
    items: Ids
    owners: Assignment


@lru_cache(maxsize=2)
def _graph(users: int, items: int, interactions: int) -> tuple[Ids, Ids, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    return generate(users, items, interactions, 0)


def draw(point: Point) -> Drawn:
    """The graph of a point, the same on every machine. `communities` gives whole communities to a partition, as a good
    partitioner does; `hash` deals the nodes out by chance."""
    users, items, of_user, of_item = _graph(point.users, point.items, point.interactions)
    count = point.partitions
    if point.strategy == "hash":
        sides = (("user", point.users), ("item", point.items))
        return Drawn(users, items, Assignment(*(hash_owner(np.arange(n), side, count, 0) for side, n in sides), count))
    owners = [(community * count // COMMUNITIES).astype(np.int16) for community in (of_user, of_item)]
    return Drawn(users, items, Assignment(owners[0], owners[1], count))


def scaling(base: Point, partitions: Sequence[int]) -> Iterator[Point]:
    """Strong scaling, where the graph stays, and weak scaling, where it grows with the partitions."""
    for count in partitions:
        for strategy in ("communities", "hash") if count > 1 else ("communities",):
            for halo in ("pull", "cover") if count > 1 else ("pull",):
                yield replace(base, role="strong", partitions=count, strategy=strategy, halo=halo)
    for count in partitions:
        yield replace(base.times(count / max(partitions)), role="weak", partitions=count)


def for_fit(base: Point) -> Iterator[Point]:
    """Points whose terms differ: rows' width, batches, interactions for each node, layers, one and two partitions."""
    thin = replace(base, role="fit", users=base.users // 2, items=base.items // 2, interactions=base.interactions // 2)
    for count in (1, 2):
        for changed in (
            thin,
            replace(thin, embedding_size=32),
            replace(thin, batch_size=base.batch_size * 4),
            replace(thin, interactions=thin.interactions // 4),
            replace(thin, num_layers=3, strategy="hash"),
            replace(thin, strategy="hash", batch_size=1000),
            replace(thin, users=2000, items=1000, interactions=20_000, batch_size=1000),
        ):
            yield replace(changed, partitions=count)
    for count in (4, 8):  # for what each further rank costs an exchange
        yield replace(thin, strategy="hash", batch_size=1000, partitions=count)


def held_out(base: Point) -> Iterator[Point]:
    """Points that the model has not seen: larger graphs, other widths, layers and batches, more partitions than the fit."""
    point = replace(base, role="held out")
    yield replace(point, partitions=1)
    yield replace(point, partitions=2, num_layers=3)
    yield replace(point, partitions=2, strategy="hash", embedding_size=128, batch_size=base.batch_size // 2)
    yield replace(point, partitions=2, interactions=base.interactions // 3, batch_size=base.batch_size * 3)
    yield replace(point, partitions=1, threads=2)
    yield replace(point, partitions=4, strategy="hash")
    yield replace(point, partitions=8)


def over_network(base: Point, rates: Sequence[float]) -> Iterator[Point]:
    """Points on two machines, at each rate of the network."""
    for rate in rates:
        for strategy in ("communities", "hash"):
            yield replace(base, role="held out", partitions=2, nodes=2, strategy=strategy, rate=rate)
