"""What an audit looks at: the request, the pairs that it is attacked with, and the canaries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt

from ...distributed.attacks.attacks import CANDIDATES, AttackedPairs
from ...distributed.attacks.canaries import Canaries, draw_canaries, never_met
from ...partitioning.ingest import load_shard
from ...partitioning.manifest import Graph
from ...partitioning.storage import Store

Ids = npt.NDArray[np.int64]
Pairs = tuple[Ids, Ids]

SAMPLE = 5_000
"""The largest number of pairs of each class that are attacked."""
POOL_SHARE = 0.01
"""About so large a share of the interactions is in the pool of canaries, where the user names no number."""
PAIRS_OF_A_CANARY = 7
"""About so many interactions a canary of each kind brings with it: three kinds of one, and a fifth of a whole user."""
LEAST_EACH, MOST_EACH = 8, 500
"""Canaries of each kind of one interaction, where the user names no number."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """All interactions of a graph by dense id, sorted by user, then item."""

    users: Ids
    items: Ids
    num_items: int

    @classmethod
    def read(cls, store: Store, graph: Graph) -> Interactions:
        """Those of a stored graph. One shard is in memory at a time, and in the end 16 bytes an interaction."""
        parts, num_items = [], graph.items
        for k in range(graph.partitions):
            users, items, _ = load_shard(store, graph, k).interactions()
            parts.append(users.astype(np.int64) * num_items + items)
        codes = np.sort(np.concatenate(parts))
        return cls(codes // num_items, codes % num_items, num_items)

    @property
    def codes(self) -> Ids:
        """user * num_items + item, ascending, [E]."""
        codes: Ids = self.users * self.num_items + self.items
        return codes

    def without(self, pairs: Pairs) -> Interactions:
        """The interactions that are none of these."""
        stay = ~np.isin(self.codes, pairs[0] * self.num_items + pairs[1])
        return Interactions(self.users[stay], self.items[stay], self.num_items)


def pool(interactions: Interactions, each: int | None, seed: int) -> Canaries:
    """The canaries. each: of each kind of one interaction; None chooses by the size of the graph."""
    if each is None:
        wanted = int(POOL_SHARE * len(interactions.users) / PAIRS_OF_A_CANARY)
        each = min(max(wanted, LEAST_EACH), MOST_EACH)
    return draw_canaries(interactions.users, interactions.items, interactions.num_items, each, seed)


def attacked_pairs(rest: Interactions, forgotten: Pairs, test: Pairs | None, seed: int) -> AttackedPairs:
    """The pairs that attacks look at, each class at most SAMPLE, with both ends left.

    rest: the interactions that stay. forgotten: those of the request. test: interactions that no model was trained with;
    None if there are none.
    """
    draw = np.random.default_rng(seed)
    users, items = np.unique(rest.users), np.unique(rest.items)

    def sample(pairs: Pairs) -> Pairs:
        there = np.flatnonzero(np.isin(pairs[0], users) & np.isin(pairs[1], items))
        chosen = np.sort(draw.permutation(there)[:SAMPLE])
        return pairs[0][chosen], pairs[1][chosen]

    mine = sample(forgotten)
    known = np.union1d(rest.codes, forgotten[0] * rest.num_items + forgotten[1])
    never = never_met(mine[0], known, rest.num_items, CANDIDATES, draw, like=rest.items)
    empty = np.empty(0, dtype=np.int64)
    return AttackedPairs(
        mine,
        (empty, empty) if test is None else sample(test),
        sample((rest.users, rest.items)),
        (np.repeat(mine[0], CANDIDATES), never.reshape(-1)),
    )


def asked_nodes(*parts: tuple[Ids, Ids]) -> tuple[Ids, Ids]:
    """(users, items), ascending, of these pairs or ids together."""
    join: Callable[[Ids, Ids], Ids] = np.union1d
    empty = np.empty(0, dtype=np.int64)
    users, items = (reduce(join, (part[side] for part in parts), empty) for side in (0, 1))
    return users, items
