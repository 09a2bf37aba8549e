"""Canaries: examples that runs are trained with or without, to attack each by itself.

Random interactions tell what an average person may expect. The worst case is what one person may meet: interactions of
users who have few, of items that few have, and users with all that they have.

Shape legend: n = canaries, m = pairs of all canaries, R = rivals of a pair, K = runs, F = statistics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .likelihood import Floats, Mask
from .people import People
from .view import Pairs, View

Ids = npt.NDArray[np.int64]

RANDOM, QUIET, RARE, WHOLE = "random", "users with few", "rare items", "whole users"
KINDS = (RANDOM, QUIET, RARE, WHOLE)
RIVALS = 5
"""For the margin of a pair: its score minus the mean score of this many items that the user never met."""
LEFT = 2
"""The number of interactions that both ends of a canary of one pair keep at least."""
FEW_SHARE = 0.2
"""The share of users (or items) with the fewest interactions from which the worst case is drawn."""
PAIRS_OF_WHOLE = 5
"""There are so many times fewer whole users than canaries of another kind, since each is many interactions."""
WHOLE_LIMITS = (3, 30)
"""The least and the largest number of interactions of a user who is a canary as a whole."""


@dataclass(frozen=True, eq=False)
class Canaries:
    """The pool. A canary is one pair, or all pairs of one user."""

    pairs: Pairs
    """The pairs of all canaries, [m], sorted by canary."""
    owner: Ids
    """The canary of each pair, [m], ascending."""
    kind: npt.NDArray[np.int64]
    """The place in KINDS of each canary, [n]."""
    rivals: npt.NDArray[np.int64]
    """Items that the user of each pair never met, [m, R]."""

    def __len__(self) -> int:
        return len(self.kind)

    def pairs_of(self, chosen: Mask) -> Pairs:
        """The pairs of the canaries in a mask [n]."""
        there = chosen[self.owner]
        return self.pairs[0][there], self.pairs[1][there]

    def asked(self) -> tuple[Ids, Ids]:
        """The users and the items whose rows `statistics` needs, ascending. Users who are canaries as a whole have no row
        any more."""
        single = self.kind[self.owner] != KINDS.index(WHOLE)
        return np.unique(self.pairs[0][single]), np.union1d(self.pairs[1], self.rivals[single].reshape(-1))

    def statistics(self, view: View) -> tuple[Floats, Floats]:
        """(statistics [n, F], margins [n]) of each canary in a model.

        Of one pair: those of `View.statistics`, and its margin. Of a whole user, who has no row any more: how close the
        user's items are to each other, since items that were trained with a common user are closer. This is the mean over
        two of the items of the product of their readouts, of that of their rows of E0, of the cosine of their readouts, and
        of the product of one's readout with the mean of the other's users (`People.features`). The margin is the first.
        """
        single = self.kind[self.owner] != KINDS.index(WHOLE)
        statistics, margins = np.zeros((len(self), 4)), np.zeros(len(self))
        users, items = self.pairs[0][single], self.pairs[1][single]
        of_pairs = view.statistics((users, items))
        rivals = view.scores((np.repeat(users, RIVALS), self.rivals[single].reshape(-1)))
        statistics[self.owner[single]] = of_pairs
        margins[self.owner[single]] = of_pairs[:, 0] - rivals.reshape(-1, RIVALS).mean(1)
        whole = np.flatnonzero(self.kind == KINDS.index(WHOLE))
        theirs = ~single
        people = People(whole, self.pairs[1][theirs], np.searchsorted(whole, self.owner[theirs]))
        statistics[whole] = people.features(view)[:, [0, 2, 1, 4]]
        margins[whole] = statistics[whole, 0]
        return statistics, margins


def draw_canaries(users: Ids, items: Ids, num_items: int, each: int, seed: int) -> Canaries:
    """Draw a pool from the interactions users, items [E]: `each` canaries of each kind of
    one pair and a PAIRS_OF_WHOLE-th of whole users, or as many as there are.

    Every node of a pair keeps at least LEFT interactions if all canaries are left out, except users who are canaries as a
    whole. No canary shares a user or, of the worst case, an item with another one of its kind.
    """
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(users))
    user_degree, item_degree = np.bincount(users), np.bincount(items, minlength=num_items)
    taken_users, lost_items = np.zeros(len(user_degree), dtype=bool), np.zeros(num_items, dtype=np.int64)
    parts: list[tuple[Ids, int]] = []

    def take_pairs(kind: str, allowed: Mask) -> None:
        count = 0
        for place in order[allowed[order]]:
            user, item = users[place], items[place]
            if count == each:
                break
            enough = user_degree[user] > LEFT and item_degree[item] - lost_items[item] > LEFT
            if not enough or taken_users[user] or (kind == RARE and lost_items[item]):
                continue
            taken_users[user] = True
            lost_items[item] += 1
            parts.append((np.array([place]), KINDS.index(kind)))
            count += 1

    low, high = WHOLE_LIMITS
    starts = np.searchsorted(users, np.arange(len(user_degree) + 1))  # the interactions are sorted by user
    whole = np.flatnonzero((user_degree >= low) & (user_degree <= high))
    count = 0
    for user in draw.permutation(whole):
        own = np.arange(starts[user], starts[user + 1])
        if count == each // PAIRS_OF_WHOLE:
            break
        if taken_users[user] or (item_degree[items[own]] - lost_items[items[own]] <= LEFT).any():
            continue
        taken_users[user] = True
        lost_items[items[own]] += 1
        parts.append((own, KINDS.index(WHOLE)))
        count += 1
    few = np.quantile(user_degree[user_degree > LEFT], FEW_SHARE) if (user_degree > LEFT).any() else 0
    rare = np.quantile(item_degree[item_degree > LEFT], FEW_SHARE) if (item_degree > LEFT).any() else 0
    take_pairs(RARE, item_degree[items] <= rare)
    take_pairs(QUIET, user_degree[users] <= few)
    take_pairs(RANDOM, np.ones(len(users), dtype=bool))
    places = np.concatenate([places for places, _ in parts]) if parts else np.empty(0, dtype=np.int64)
    owner = np.repeat(np.arange(len(parts)), [len(places) for places, _ in parts])
    pairs = users[places], items[places]
    known = users * num_items + items  # ascending
    rivals = never_met(pairs[0], known, num_items, RIVALS, draw)
    return Canaries(pairs, owner, np.array([kind for _, kind in parts], dtype=np.int64), rivals)


def never_met(
    users: Ids, known: Ids, num_items: int, count: int, draw: np.random.Generator, like: Ids | None = None
) -> npt.NDArray[np.int64]:
    """Items that each of these users [m] has no interaction with, [m, count].

    known: user * num_items + item of all interactions, ascending. like: items to draw from, such as those of all
    interactions, so that an item comes as often as it is popular; None: every item is as likely as any other.
    """
    found = np.full((len(users), count), -1, dtype=np.int64)
    for _ in range(100):
        row, column = np.nonzero(found < 0)
        if not len(row):
            return found
        drawn = draw.integers(num_items, size=len(row)) if like is None else draw.choice(like, len(row))
        codes = users[row] * num_items + drawn
        places = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        new = known[places] != codes
        found[row[new], column[new]] = drawn[new]
    return np.where(found < 0, draw.integers(num_items, size=found.shape), found)  # users who met nearly everything
