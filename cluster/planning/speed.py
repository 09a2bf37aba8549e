"""How long work will take: a short calibration of this machine, and the bytes and operations that a step must move.

A step of full-graph propagation is bound by memory: rows are gathered and summed, tables are read and written. So its
seconds are its bytes over the bandwidth of a copy, measured here with as many threads as the workers of a machine have
together. A sampled softmax and a ranking are matrix products, which are timed in small.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...distributed.measures.top_items import TopItems
from ...distributed.training.losses import sampled_softmax
from ..config.schema import Config
from .memory import TABLE_COPIES, different, readout_columns
from .sizes import PartSizes, Sizes

COPY_BYTES = 2**26
"""Bytes of the array that is copied to measure the bandwidth: more than caches hold."""
RANKED_ITEMS = 20_000
"""Items of the ranking that is timed."""
PASSES = {"lightgcn": 1, "sgl": 3, "simgcl": 3, "ngcf": 1}
"""Propagations of a step, each forward and backward: the readouts, and two views."""
TABLE_PASSES = {"lightgcn": 9, "sgl": 9, "simgcl": 14, "ngcf": 40}
"""How often a layer, in one direction, reads or writes a table besides its sum."""
STEP_PASSES = 16
"""How often a step reads or writes a table besides its layers: the gradient, Adam, the mean of layers."""
EXCHANGE_PASSES = 6
"""How often a row that a partition receives in a layer is read or written, on both sides and on the way."""
PAIR_PASSES = {"bpr": 60, "softmax": 30}
"""How often a step reads or writes a row of pairs: gathers, which are far slower than copies, count several times."""
LOOKUP_ROUNDS = {"bpr": 7, "softmax": 6}
"""Exchanges of a step besides those of its layers."""
OFF_BY = 2.0
"""The factor that lines tell people. One training was compared: 1.96 s planned, beside the run itself; 1.25 s measured."""


@dataclass(frozen=True)
class Speed:
    """What a machine does with the threads of its workers together: bytes a second that are read or written, and seconds for
    the softmax of a pair and the ranking of a user, each per thousand items."""

    bytes_a_second: float
    softmax_seconds: float
    ranking_seconds: float


@functools.cache
def calibrate(threads: int, size: int, columns: int) -> Speed:
    """Measure this machine for about a third of a second, once in a process. size: columns of a readout; columns: of a
    ranking's k."""
    before, threads = torch.get_num_threads(), max(1, threads)
    torch.set_num_threads(threads)
    try:
        source = torch.ones(COPY_BYTES // 4)
        target = torch.empty_like(source)
        copy = _seconds(lambda: target.copy_(source))
        # Products grow with the threads. On one they are timed truly even while others use the machine.
        torch.set_num_threads(1)
        users, items = torch.randn(512, size), torch.randn(RANKED_ITEMS, size)
        softmax = _seconds(lambda: sampled_softmax(users, users, items[:1000], 0.2, 1.0))
        best, nothing = TopItems(items, min(columns, RANKED_ITEMS), 64), torch.empty(0, dtype=torch.int64)
        ranking = _seconds(lambda: best.of(users[:64], nothing, nothing))
    finally:
        torch.set_num_threads(before)
    return Speed(2 * COPY_BYTES / copy, softmax / 512 / threads, ranking / 64 / (RANKED_ITEMS / 1000) / threads)


def _seconds(action: Callable[[], object]) -> float:
    """The shortest of several runs, after one that does not count, within a tenth of a second."""
    action()
    best, deadline = float("inf"), time.perf_counter() + 0.1
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - start)
    return best


@dataclass(frozen=True)
class StepWork:
    """The bytes that a training step reads and writes, as if all of them were copied: `gathered`, the rows of neighbours
    that its layers sum; `tables`, passes over tables; `exchanged`, rows that are packed, sent and taken over; `pairs`, rows
    of its pairs."""

    gathered: float
    tables: float
    exchanged: float
    pairs: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.gathered + self.tables + self.exchanged + self.pairs


def step_work(config: Config, sizes: Sizes, part: PartSizes | None = None) -> StepWork:
    """The work of a step of all workers, or of the one with this partition."""
    backbone, size = config.backbone, 4.0 * config.backbone.embedding_size
    directions = 2 * backbone.num_layers * PASSES[backbone.planned_as]
    nodes = sizes.nodes if part is None else part.nodes
    entries = 2 * sizes.interactions if part is None else part.entries
    received = sizes.rows_per_layer if part is None else part.received
    share = 1.0 if part is None else part.pairs / max(1, sizes.interactions)
    pairs = PAIR_PASSES[config.train.loss] * share * _batch(config, sizes) * 4.0 * readout_columns(backbone)
    passes = directions * TABLE_PASSES[backbone.planned_as] + STEP_PASSES + TABLE_COPIES
    exchanged = EXCHANGE_PASSES * directions * received
    return StepWork(directions * entries * size, passes * nodes * size, exchanged * size, pairs)


def step_seconds(config: Config, sizes: Sizes, speed: Speed) -> float:
    """The seconds of a training step, all workers on one machine of this speed."""
    seconds = step_work(config, sizes).total / speed.bytes_a_second
    if config.train.loss == "softmax":
        seconds += _batch(config, sizes) * config.train.softmax_negatives / 1000 * speed.softmax_seconds
    return seconds


def step_rounds(config: Config) -> int:
    """How often all workers exchange something in a step of lightgcn: rows in each layer and direction, and what the loss
    looks up."""
    return 2 * config.backbone.num_layers + LOOKUP_ROUNDS[config.train.loss]


def step_sent(config: Config, sizes: Sizes, part: PartSizes) -> tuple[float, float]:
    """(bytes of the layers' rows, bytes of what the loss looks up) that the worker with this partition sends in a step of
    lightgcn, if it sends as many rows as it receives, and owners are spread by chance over the items of its pairs."""
    count = len(sizes.parts)
    row = 4.0 * readout_columns(config.backbone)
    halo = 8.0 * config.backbone.num_layers * part.received * config.backbone.embedding_size
    if count == 1:
        return 0.0, 0.0
    elsewhere = 1 - 1 / count
    pairs = _batch(config, sizes) * part.pairs / max(1, sizes.interactions)
    if config.train.loss == "softmax":  # ids and keys, rows, gradients; and the negatives of all, which are summed
        return halo, elsewhere * pairs * (16 + 2 * row) + 4 * elsewhere * row * config.train.softmax_negatives
    # A pair has two items. Their different rows come; told are the item, the key, the user's place and the weight of a pair;
    # and the row of a user goes to each owner of its items.
    items = elsewhere * different(2 * pairs, sizes.items) * (8 + row)
    told = elsewhere * 2 * pairs * (24 + 4)
    users = different(pairs, part.nodes - part.items)
    owners = (count - 1) * (1 - (1 - 1 / count) ** (2 * pairs / max(1.0, users)))
    return halo, items + told + users * owners * row


def _batch(config: Config, sizes: Sizes) -> int:
    return min(config.train.batch_size, sizes.interactions)


def evaluate_seconds(config: Config, sizes: Sizes, speed: Speed) -> float:
    """The seconds to rank all items for every user, who are at most those with test interactions."""
    users = config.evaluate.users
    ranked = sizes.users if users is None else sizes.users * users if users < 1 else min(users, sizes.users)
    return ranked * sizes.items / 1000 * speed.ranking_seconds
