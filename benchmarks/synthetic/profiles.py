"""How active users are and how popular items are in real data sets, as tables of quantiles.

A table lists (share of the users or items, degree), ascending: that share of them has at most this many interactions.
Between two lines the logarithm of the degree is linear in -log(1 - share), so that long tails come out long.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Quantiles = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Profile:
    """The size of a data set, and the shapes of the degrees of its users and items. Other sizes keep the shapes.

    `popularity` gives the expected degrees of the items of a catalogue, to which chance is added. Items that nobody meets
    belong to the catalogue, but not to the table. `published` has what is known of the real data set, from its source.
    """

    users: int
    items: int
    interactions: int
    activity: Quantiles
    popularity: Quantiles
    taste: float
    """How strongly taste decides, compared with popularity and chance. It is chosen, not measured."""
    source: str
    published: dict[str, float]


PROFILES = {
    "gowalla": Profile(
        users=29_858,
        items=40_981,
        interactions=1_027_370,
        activity=(
            (0, 9),
            (0.1, 11),
            (0.25, 14),
            (0.5, 20),
            (0.75, 37),
            (0.9, 67),
            (0.99, 228),
            (0.999, 542),
            (1, 1014),
        ),
        popularity=((0, 9), (0.1, 9.5), (0.5, 15), (0.75, 24), (0.9, 43), (0.99, 173), (0.999, 532), (1, 2310)),
        taste=2.2,
        source="check-ins of Gowalla, the split of the NGCF and LightGCN papers, train and test together",
        published={
            "user mean": 34.41,
            "user median": 20,
            "user p90": 67,
            "user largest": 1014,
            "item mean": 25.07,
            "item median": 15,
            "item p90": 43,
            "item gini": 0.435,
            "item top 1%": 0.1325,
        },
    ),
    "movielens": Profile(
        users=6_040,
        items=3_695,
        interactions=920_193,
        activity=(
            (0, 13),
            (0.05, 21),
            (0.25, 41),
            (0.5, 88),
            (0.75, 191),
            (0.9, 367),
            (0.99, 830),
            (0.999, 1242),
            (1, 2131),
        ),
        popularity=(
            (0, 1),
            (0.05, 2),
            (0.1, 7),
            (0.25, 31),
            (0.5, 115),
            (0.75, 323),
            (0.9, 672),
            (0.99, 1643),
            (1, 3141),
        ),
        taste=1.5,
        source="MovieLens-1M, the split of the RecEraser paper, train and test together",
        published={
            "user mean": 152.35,
            "user median": 88,
            "user p90": 367,
            "user largest": 2131,
            "item mean": 249.0,
            "item median": 115,
            "item p90": 672,
            "item gini": 0.632,
            "item top 1%": 0.0874,
        },
    ),
    # The quantiles of the items were fitted to the published numbers: expected degrees, to which chance is added, that
    # give 29% of the items that are seen one event, the median 3, the Gini coefficient and the share of the top .24%.
    "taobao": Profile(
        users=987_994,
        items=4_162_024,
        interactions=100_150_807,
        activity=(
            (0, 5),
            (0.1, 22),
            (0.25, 42),
            (0.5, 75),
            (0.75, 137),
            (0.9, 218),
            (0.99, 430),
            (0.9999, 700),
            (1, 848),
        ),
        popularity=(
            (0, 0.53),
            (0.15, 0.654),
            (0.3, 0.847),
            (0.5, 1.43),
            (0.7, 4.43),
            (0.9, 36.3),
            (0.98, 160),
            (0.998, 910),
            (0.9998, 3250),
            (1, 30200),
        ),
        taste=1.6,
        source="UserBehavior of Taobao, 25 November to 3 December 2017, all kinds of events",
        published={
            "user mean": 101,
            "user median": 75,
            "user p90": 218,
            "user largest": 848,
            "item mean": 24,
            "item median": 3,
            "item once": 0.29,
            "item gini": 0.83,
            "item top 0.24%": 0.188,
        },
    ),
}


def quantiles(table: Quantiles, count: int, real: int) -> npt.NDArray[np.float64]:
    """The degrees [count] of `count` nodes, ascending, at the middles of as many equal shares.

    real: the number of nodes of the real data set, of which the last line of the table is the single largest.
    """
    shares, degrees = np.array(table, dtype=np.float64).T
    known = -np.log1p(-np.minimum(shares, 1 - 0.5 / real))
    wanted = -np.log1p(-(np.arange(count) + 0.5) / count)
    return np.exp(np.interp(wanted, known, np.log(degrees)))


def describe(degrees: npt.NDArray[np.integer]) -> dict[str, float]:
    """What the profiles say of the degrees of the users or items that have any: mean, quantiles, the share with degree 1
    ("once"), the Gini coefficient, and the shares of the interactions that the top 1% and the top .24% have."""
    ascending = np.sort(degrees[degrees > 0]).astype(np.float64)
    count, total = len(ascending), ascending.sum()
    rank = 2 * np.arange(1, count + 1) - count - 1
    return {
        "mean": float(total / count),
        "median": float(np.median(ascending)),
        "p90": float(np.quantile(ascending, 0.9)),
        "largest": float(ascending[-1]),
        "once": float(np.mean(ascending == 1)),
        "gini": float(rank @ ascending / (count * total)),
        "top 1%": float(ascending[-max(1, round(count * 0.01)) :].sum() / total),
        "top 0.24%": float(ascending[-max(1, round(count * 0.0024)) :].sum() / total),
    }
