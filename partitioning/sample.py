"""Makes interactions that look like those of a real catalogue, for the quickstart, the tests and the benchmarks.

They have what a recommender learns from: users belong to communities with tastes of their own, items have very different
popularity, and the activity of users is lognormal. The choices of each user are noisy, so that a model learns a part of each
user's history by heart. Forgetting has to undo that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TASTE = 1.3
"""How strongly taste decides, compared with popularity and chance."""
TEST_SHARE = 0.2
"""The share of each user's interactions that is held out for the test."""


def make_sample(
    folder: str | Path,
    *,
    users: int = 3000,
    items: int = 1500,
    seed: int = 0,
    mean_interactions: float = 40.0,
    communities: int = 24,
    factors: int = 12,
) -> dict[str, Any]:
    """Write `train.parquet` and `test.parquet` (user_id, item_id: int64), with the same bytes for the same arguments.

    Args:
        folder: where they are written; made if it is missing.
        users, items: the numbers of users and items. Every user has at least 8 interactions; some items may have none.
        seed: the seed of all random draws.
        mean_interactions: about the mean number of interactions of a user. Nobody has more than half of the items.
        communities: the number of groups of users, and of items, with a common taste.
        factors: the number of dimensions in which taste is described.

    Returns:
        The paths `train` and `test`, and the numbers `users`, `items`, `train_interactions` and `test_interactions`.
    """
    draw = np.random.default_rng(seed)
    # Ids are not 0 .. n - 1: code that takes an external id for a dense id then does not work by chance.
    user_ids_U = np.sort(draw.choice(users * 10, users, replace=False)).astype(np.int64)
    item_ids_I = np.sort(draw.choice(items * 10, items, replace=False)).astype(np.int64)

    centres_CF = draw.normal(size=(communities, factors))
    user_taste_UF = centres_CF[draw.integers(communities, size=users)] + 0.6 * draw.normal(size=(users, factors))
    item_kind_IF = centres_CF[draw.integers(communities, size=items)] + 0.6 * draw.normal(size=(items, factors))
    popularity_I = -0.8 * np.log(1 + draw.permutation(items))  # Zipf with exponent 0.8

    activity_U = draw.lognormal(mean=np.log(mean_interactions) - 0.32, sigma=0.8, size=users)
    activity_U = np.clip(activity_U, 8, items // 2).astype(np.int64)

    user_parts, item_parts = [], []
    for start in range(0, users, 1024):  # bounded memory: 1,024 users x all items at a time
        block = slice(start, min(start + 1024, users))
        fit_BI = user_taste_UF[block] @ item_kind_IF.T / np.sqrt(factors)
        # The n largest of logit + Gumbel noise are n draws without replacement from the softmax of the logits.
        keys_BI = TASTE * fit_BI + popularity_I + draw.gumbel(size=fit_BI.shape)
        ranked_BI = np.argsort(-keys_BI, axis=1, kind="stable")
        taken_BI = np.arange(items) < activity_U[block, None]
        rows, _ = np.nonzero(taken_BI)
        user_parts.append(rows + start)
        item_parts.append(ranked_BI[taken_BI])
    user_E, item_E = np.concatenate(user_parts), np.concatenate(item_parts)

    # The test interactions of a user are chosen at random and not by rank, because the rank says how well an item fits.
    order_E = np.lexsort((draw.random(user_E.size), user_E))
    user_E, item_E = user_E[order_E], item_E[order_E]
    first_U = np.concatenate(([0], np.cumsum(activity_U)[:-1]))
    place_E = np.arange(user_E.size) - first_U[user_E]
    is_test_E = place_E < np.floor(TEST_SHARE * activity_U).astype(np.int64)[user_E]

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, chosen_E in (("train", ~is_test_E), ("test", is_test_E)):
        user_S, item_S = user_E[chosen_E], item_E[chosen_E]
        order_S = np.lexsort((item_S, user_S))
        table = pa.table({"user_id": user_ids_U[user_S[order_S]], "item_id": item_ids_I[item_S[order_S]]})
        pq.write_table(table, target / f"{name}.parquet")
    return {
        "train": str(target / "train.parquet"),
        "test": str(target / "test.parquet"),
        "users": users,
        "items": items,
        "train_interactions": int((~is_test_E).sum()),
        "test_interactions": int(is_test_E.sum()),
    }
