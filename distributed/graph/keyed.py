"""Keyed random numbers: every draw is a function of a seed and ids, never of ranks, order or batch size.

So a run has the same result for any number of partitions, and leaving out some interactions changes no other draw.
"""

import math

import torch
from torch import Tensor

Key = Tensor | int

# Distinct streams of draws under one seed.
INIT, BATCH, NEGATIVE, SHARED_NEGATIVE, REQUEST, EDGE_DROP, PAIRS, VIEW_EDGE, NOISE, NOISE_POOL, ANCHOR = range(1, 12)
REQUEST_USER, MEMBERSHIP = 12, 13
SAMPLE_USER, VALIDATION = 14, 15
EXAMPLE, EXAMPLE_CHUNK, LAST_LAYER = 16, 17, 18
REQUEST_RATE, KEPT_PAIRS = 19, 20

CHUNK = 2**14
"""Draws that are made at a time where they are many, so that what comes up on the way stays in the cache. They are too few
for torch to start its threads on, which would wait for each other in every operation where others use the cores."""

_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as int64
_M1 = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
_M2 = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB


def _finish(x: Tensor) -> Tensor:
    """The finisher of splitmix64 (Steele et al. 2014) on int64, which wraps around as uint64 does."""
    for shift, mask, factor in ((30, 0x3FFFFFFFF, _M1), (27, 0x1FFFFFFFFF, _M2)):
        x = ((x >> shift).bitwise_and_(mask)).bitwise_xor_(x).mul_(factor)
    return (x >> 31).bitwise_and_(0x1FFFFFFFF).bitwise_xor_(x)


def keyed(*keys: Key) -> Tensor:
    """A hash of integer keys: int64 from 0 to 2^63 - 1. The keys broadcast against each other; at least one is a
    tensor."""
    state: Tensor | None = None
    for key in keys:
        part = key.to(torch.int64) if isinstance(key, Tensor) else torch.tensor(_wrap(key))
        state = _finish((part if state is None else state ^ part) + _GOLDEN)
    assert state is not None
    return state & 0x7FFFFFFFFFFFFFFF


def keyed_below(limit: int, *keys: Key) -> Tensor:
    """A draw from 0 to limit - 1 (int64). It is a remainder, whose bias is below limit / 2^63."""
    return keyed(*keys) % limit


def keyed_uniform(*keys: Key) -> Tensor:
    """A uniform float32 draw from [0, 1), with 24 random bits."""
    return (keyed(*keys) >> 39).to(torch.float32) * 2.0**-24


def initial_rows(seed: int, side: int, ids: Tensor, size: int, deviation: float) -> Tensor:
    """Initial embeddings float32 [n, size] of the nodes ids [n] of a side (0 user, 1 item): uniform around 0, with this
    standard deviation."""
    columns = torch.arange(size, device=ids.device)
    width = 2 * math.sqrt(3.0) * deviation
    rows = torch.empty(len(ids), size, device=ids.device)
    count = max(1, CHUNK // size)
    for part, some in zip(rows.split(count), ids.split(count), strict=True):
        torch.mul(keyed_uniform(seed, INIT, side, some[:, None], columns) - 0.5, width, out=part)
    return rows


def _wrap(key: int) -> int:
    """The int64 with the same lowest 64 bits as an integer."""
    return (key + 2**63) % 2**64 - 2**63
