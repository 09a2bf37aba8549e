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
from .memory import TABLE_COPIES, readout_columns
from .sizes import Sizes

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
PAIR_PASSES = {"bpr": 60, "softmax": 30}
"""How often a step reads or writes a row of pairs: gathers, which are far slower than copies, count several times."""
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


def step_seconds(config: Config, sizes: Sizes, speed: Speed) -> float:
    """The seconds of a training step, all workers on one machine of this speed."""
    backbone, size = config.backbone, 4.0 * config.backbone.embedding_size
    table = size * sizes.nodes
    directions = 2 * backbone.num_layers * PASSES[backbone.planned_as]
    gathered = 2 * sizes.interactions * size
    exchanged = 6 * sizes.rows_per_layer * size
    layers = directions * (gathered + TABLE_PASSES[backbone.planned_as] * table + exchanged)
    batch = min(config.train.batch_size, sizes.interactions)
    row = 4.0 * readout_columns(backbone)
    pairs = PAIR_PASSES[config.train.loss] * batch * row
    seconds = (layers + (STEP_PASSES + TABLE_COPIES) * table + pairs) / speed.bytes_a_second
    if config.train.loss == "softmax":
        negatives = config.train.softmax_negatives / 1000
        seconds += batch * negatives * speed.softmax_seconds
    return seconds


def evaluate_seconds(config: Config, sizes: Sizes, speed: Speed) -> float:
    """The seconds to rank all items for every user, who are at most those with test interactions."""
    users = config.evaluate.users
    ranked = sizes.users if users is None else sizes.users * users if users < 1 else min(users, sizes.users)
    return ranked * sizes.items / 1000 * speed.ranking_seconds
