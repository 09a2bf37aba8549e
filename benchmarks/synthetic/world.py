"""A generated world: how active its users are, how popular its items, and which groups of items each user likes.

The chance of item i for user u is P(i | u) = P(g | u) w_i / (the sum of w over g), where g is the group of i. P(g | u) is
the softmax over the groups of taste <z_u, c_g> / sqrt(F) + b_g. The users' tastes z_u and the groups' kinds c_g lie around
common centres, so users have neighbours with a similar taste. A user meets items one after the other, each by P(i | u)
among those that are left.

Shape legend: U = users, V = items of the catalogue, G = groups, F = factors, B = users of a block, E = interactions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .profiles import Profile, quantiles

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FACTORS, CENTRES, SPREAD = 16, 48, 0.6
ITEMS_OF_A_GROUP, GROUPS = 80, (16, 1024)
CALIBRATIONS, PILOT_DRAWS, POPULARITY_CLASSES = 8, 400_000, 48
ROUNDS, LAST_CELLS = 40, 2_000_000
"""After so many rounds of drawing, or when the users who still lack items and the catalogue make so few cells, these users
draw from the whole catalogue at once."""
BLOCK_DRAWS, BLOCK_CELLS = 500_000, 8_000_000


@dataclass(frozen=True)
class World:
    """All that the draws are made from. Items are numbered by group.

    Shapes: activity_U int64, the number of interactions of each user. target_V, the expected degrees that the profile
    asks for. group_V int64. start_G1 int64 [G + 1], where each group begins. kinds_GF, bias_G: as in the formula above.
    centres_CF: those of the users' tastes. weight_V: w.
    """

    seed: int
    taste: float
    activity_U: Ints
    target_V: Floats
    group_V: Ints
    start_G1: Ints
    kinds_GF: Floats
    centres_CF: Floats
    bias_G: Floats
    weight_V: Floats

    def tastes(self, draw: np.random.Generator, count: int) -> Floats:
        """P(g | u) of `count` new users: [count, G]."""
        centres = self.centres_CF[draw.integers(len(self.centres_CF), size=count)]
        z_BF = centres + SPREAD * draw.normal(size=centres.shape)
        logits_BG = z_BF @ (self.taste / np.sqrt(FACTORS) * self.kinds_GF.T) + self.bias_G
        logits_BG -= logits_BG.max(axis=1, keepdims=True)
        np.exp(logits_BG, out=logits_BG)
        logits_BG /= logits_BG.sum(axis=1, keepdims=True)
        return logits_BG

    def shares(self) -> Floats:
        """P(i | g) of each item in its group: [V]."""
        return self.weight_V / np.add.reduceat(self.weight_V, self.start_G1[:-1])[self.group_V]

    def steps(self) -> Floats:
        """For each item its group plus the sum of the shares up to it, [V]: what `draw_items` searches in."""
        total = np.cumsum(self.shares())
        before = np.concatenate([[0.0], total])[self.start_G1[:-1]]
        return self.group_V + np.minimum(total - before[self.group_V], 1.0)

    def blocks(self) -> Iterator[tuple[int, int, np.random.Generator]]:
        """(first user, end, random numbers) of the blocks in which users are drawn. Memory is that of one block."""
        mean = max(1.0, float(self.activity_U.mean()))
        size = int(max(1, min(BLOCK_DRAWS / mean, BLOCK_CELLS / len(self.bias_G))))
        for block, first in enumerate(range(0, len(self.activity_U), size)):
            draw = np.random.default_rng([self.seed, 1, block])
            yield first, min(first + size, len(self.activity_U)), draw


def make_world(profile: Profile, users: int, items: int, interactions: int, seed: int) -> World:
    """The world of a profile at a size. Of its catalogue about `items` items will be met by somebody."""
    draw = np.random.default_rng([seed, 0])
    target_V = expected_degrees(profile, users, items, interactions)
    catalogue = len(target_V)
    activity_U = activity(profile, users, interactions, catalogue // 2, draw)
    groups = int(np.clip(catalogue // ITEMS_OF_A_GROUP, *GROUPS))
    # Every group has an item, and some groups are larger than others.
    sizes = draw.lognormal(sigma=0.5, size=groups)
    group_V = draw.permutation(np.r_[np.arange(groups), draw.choice(groups, catalogue - groups, p=sizes / sizes.sum())])
    order = np.lexsort((-target_V, group_V))
    target_V, group_V = target_V[order], group_V[order]
    centres_CF = draw.normal(size=(CENTRES, FACTORS))
    kinds_GF = centres_CF[draw.integers(CENTRES, size=groups)] + SPREAD * draw.normal(size=(groups, FACTORS))
    start_G1 = np.searchsorted(group_V, np.arange(groups + 1)).astype(np.int64)
    world = World(
        seed=seed,
        taste=profile.taste,
        activity_U=activity_U,
        target_V=target_V,
        group_V=group_V,
        start_G1=start_G1,
        kinds_GF=kinds_GF,
        centres_CF=centres_CF,
        bias_G=np.log(np.add.reduceat(target_V, start_G1[:-1])),
        weight_V=target_V.copy(),
    )
    _calibrate(world, draw)
    return world


def draw_items(world: World, steps_V: Floats, tastes_BG: Floats, count_B: Ints, draw: np.random.Generator) -> Ints:
    """The items of a block of users, `count_B` different ones each: int64 [E], the user's place in the block * V + the
    item, ascending.

    Each draw is one by P(i | u); what a user has already is drawn again. So items come as without replacement.
    """
    catalogue, groups = len(steps_V), tastes_BG.shape[1]
    ladder = np.cumsum(tastes_BG, axis=1)
    ladder /= ladder[:, -1:]
    ladder += np.arange(len(tastes_BG))[:, None]
    ladder = ladder.ravel()
    # Users who have all their items are done; the rounds go on with the others, who soon are few.
    done: list[Ints] = []
    taken, missing_B = np.empty(0, dtype=np.int64), count_B.astype(np.int64)
    for _ in range(ROUNDS):
        rows = np.repeat(np.arange(len(count_B)), missing_B)
        if not len(rows):
            break
        cell = np.searchsorted(ladder, rows + draw.random(len(rows)), side="right")
        group = np.minimum(cell, (rows + 1) * groups - 1) - rows * groups
        item = np.searchsorted(steps_V, group + draw.random(len(rows)), side="right")
        taken = np.concatenate([taken, rows * catalogue + np.minimum(item, world.start_G1[group + 1] - 1)])
        taken.sort()
        taken = taken[np.r_[True, taken[1:] != taken[:-1]]]
        row = taken // catalogue
        missing_B = np.where(missing_B > 0, count_B - np.bincount(row, minlength=len(count_B)), 0)
        lacks = missing_B[row] > 0
        done.append(taken[~lacks])
        taken = taken[lacks]
        if np.count_nonzero(missing_B) * catalogue <= LAST_CELLS:
            break
    done.append(taken)
    share_V = world.shares() if missing_B.any() else steps_V
    for b in np.flatnonzero(missing_B):
        with np.errstate(divide="ignore"):
            logits_V = np.log(tastes_BG[b][world.group_V] * share_V)
        logits_V[taken[taken // catalogue == b] - b * catalogue] = -np.inf
        # The n largest of logit + Gumbel noise are n draws without replacement.
        keys_V = logits_V + draw.gumbel(size=catalogue)
        done.append(b * catalogue + np.argpartition(-keys_V, missing_B[b] - 1)[: missing_B[b]])
    drawn = np.concatenate(done)
    drawn.sort()
    return drawn


def expected_degrees(profile: Profile, users: int, items: int, interactions: int) -> Floats:
    """The expected degrees of the items of a catalogue of which about `items` will be met."""
    catalogue = items
    for _ in range(20):
        met = float((1 - np.exp(-_scaled(profile, users, catalogue, interactions))).sum())
        if abs(met - items) <= 1e-4 * items:
            break
        # Beyond four times as many, most of a catalogue would be items that nobody meets.
        catalogue = int(np.clip(round(catalogue * items / met), items, 4 * items))
    return _scaled(profile, users, catalogue, interactions)


def _scaled(profile: Profile, users: int, catalogue: int, interactions: int) -> Floats:
    """The shape of the profile's popularity for so many items, with a sum of `interactions`.

    Where items have more interactions each than in the real data set, the most popular ones would be met by nearly
    everybody. So the largest share of the users is bent towards half as much again as in the real data set, or 20 times
    the mean share.
    """
    expected = quantiles(profile.popularity, catalogue, profile.items)
    head = max(1.5 * profile.popularity[-1][1] / profile.users, 20 * interactions / catalogue / users)
    largest = min(head, 0.8) * users
    shape, scale = expected, 1.0
    for _ in range(30):
        factor = interactions / expected.sum()
        scale *= factor
        expected = scale * shape
        expected /= np.sqrt(np.sqrt(1 + np.square(np.square(expected / largest))))
        if abs(factor - 1) < 1e-6:
            break
    return expected * (interactions / expected.sum())


def activity(profile: Profile, users: int, interactions: int, largest: int, draw: np.random.Generator) -> Ints:
    """The number of interactions of each user, in random order; their sum is `interactions`."""
    shape = quantiles(profile.activity, users, profile.users)
    low, high = 0.0, 1e3 * interactions / shape.sum()
    for _ in range(100):
        middle = (low + high) / 2
        enough = np.clip(np.rint(shape * middle), 1, largest).sum() >= interactions
        low, high = (low, middle) if enough else (middle, high)
    chosen_U = np.clip(np.rint(shape * low), 1, largest).astype(np.int64)
    short = interactions - int(chosen_U.sum())
    while short > 0:  # by rounding; the last few are given to users who may have one more
        free = np.flatnonzero(chosen_U < largest)
        chosen = draw.choice(free, min(short, len(free)), replace=False)
        chosen_U[chosen] += 1
        short -= len(chosen)
    return draw.permutation(chosen_U)


def _calibrate(world: World, draw: np.random.Generator) -> None:
    """Change weights and biases in place until a sample of users has the degrees that the profile asks for.

    Taste moves popularity between groups, and nobody meets a popular item twice; both are made up for: the first by the
    biases of the groups, the second by the weights of classes of items with a similar popularity.
    """
    count = int(np.clip(PILOT_DRAWS / max(1.0, world.activity_U.mean()), 200, len(world.activity_U)))
    count_B = np.sort(world.activity_U)[(np.arange(count) * len(world.activity_U)) // count]
    total = world.target_V.sum()
    by_popularity = np.argsort(-world.target_V, kind="stable")
    class_V = np.empty(len(by_popularity), dtype=np.int64)
    mass = np.cumsum(world.target_V[by_popularity]) / total
    class_V[by_popularity] = np.minimum((mass * POPULARITY_CLASSES).astype(np.int64), POPULARITY_CLASSES - 1)
    scale = count_B.sum() / total
    wanted_G = np.add.reduceat(world.target_V, world.start_G1[:-1]) * scale
    wanted_C = np.bincount(class_V, world.target_V, POPULARITY_CLASSES) * scale
    rows = max(1, BLOCK_CELLS // len(world.bias_G))
    for _ in range(CALIBRATIONS):
        steps_V, degree_V = world.steps(), np.zeros(len(world.target_V))
        for first in range(0, count, rows):
            part = count_B[first : first + rows]
            drawn = draw_items(world, steps_V, world.tastes(draw, len(part)), part, draw)
            degree_V += np.bincount(drawn % len(degree_V), minlength=len(degree_V))
        # The few draws of a small group say little, so they count less: 20 are added on both sides.
        drawn_G = np.add.reduceat(degree_V, world.start_G1[:-1])
        world.bias_G[:] += 0.8 * np.log((wanted_G + 20) / (drawn_G + 20))
        drawn_C = np.bincount(class_V, degree_V, POPULARITY_CLASSES)
        world.weight_V[:] *= ((wanted_C + 20) / (drawn_C + 20))[class_V]
