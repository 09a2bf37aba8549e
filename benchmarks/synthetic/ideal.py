"""The best Recall that any recommender can have on a generated table, and that of ranking by popularity."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .world import Floats, Ints, World

DEFINITION = (
    "best_possible: Recall@k and NDCG@k of the ranking by the true P(i | u), from which the table was drawn, over all "
    "items of the catalogue that are not in the user's training part; means over a sample of the users with a test part. "
    "Recall is hits / number of test items; the ideal DCG is that of min(k, number of test items) hits. The test part is "
    "a random part of what the user met, so given the truth no ranking has a higher expected Recall. popularity: the same "
    "for the ranking by expected popularity, the same for all users."
)


@dataclass
class Ideal:
    """Collects the quality of both rankings, user after user."""

    world: World
    k: int = 20
    found: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        share_V = self.world.shares()
        # In each group the most likely item comes first.
        self.order_V = np.lexsort((-share_V, self.world.group_V))
        self.share_V = share_V[self.order_V]
        self.head_G = self.share_V[self.world.start_G1[:-1]]
        self.popular_V = np.argsort(-self.world.target_V, kind="stable")
        places = np.arange(2, self.k + 2)
        self.discounts = 1 / np.log2(places)

    def add(self, taste_G: Floats, seen: Ints, test: Ints) -> None:
        """A user, by P(g | u) [G], with the items of the training part and those of the test part."""
        self._count("best_possible", self.best(taste_G, seen), test)
        first = self.popular_V[: self.k + len(seen)]
        self._count("popularity", first[~np.isin(first, seen)][: self.k], test)

    def best(self, taste_G: Floats, seen: Ints) -> Ints:
        """The k items with the highest P(i | u), best first, without those in `seen`."""
        wanted = self.k + len(seen)
        heads = taste_G * self.head_G
        # The first items of the `wanted` groups with the best first items are as many items, so what is below the least of
        # them cannot be among the best.
        groups = np.arange(len(heads))
        least = 0.0
        if wanted < len(heads):
            groups = np.argpartition(-heads, wanted - 1)[:wanted]
            least = heads[groups].min()
        items, scores = [], []
        for g in groups:
            begin, end = self.world.start_G1[g], self.world.start_G1[g + 1]
            chance = taste_G[g] * self.share_V[begin:end]
            above = min(int(np.searchsorted(-chance, -least, side="right")), wanted)
            items.append(self.order_V[begin : begin + above])
            scores.append(chance[:above])
        item, score = np.concatenate(items), np.concatenate(scores)
        free = ~np.isin(item, seen)
        item, score = item[free], score[free]
        return item[np.argsort(-score, kind="stable")[: self.k]]

    def result(self) -> dict[str, dict[str, float]]:
        """For both rankings: the means over the users, the standard error of Recall, and the number of users."""
        result = {}
        for name in ("best_possible", "popularity"):
            recall, ndcg = (np.array(self.found.get(f"{name} {measure}", [])) for measure in ("recall", "ndcg"))
            if len(recall):
                result[name] = {
                    f"recall@{self.k}": float(recall.mean()),
                    "standard_error": float(recall.std() / np.sqrt(len(recall))),
                    f"ndcg@{self.k}": float(ndcg.mean()),
                    "users": len(recall),
                }
        return result

    def _count(self, name: str, ranked: Ints, test: Ints) -> None:
        hits = np.isin(ranked, test)
        self.found.setdefault(f"{name} recall", []).append(float(hits.sum() / len(test)))
        gain = float(hits @ self.discounts[: len(hits)]) / float(self.discounts[: len(test)].sum())
        self.found.setdefault(f"{name} ndcg", []).append(gain)
