"""What the terms of a page mean, in a sentence each. A page shows those of the terms that stand in it, where they stand."""

from __future__ import annotations

import re
from collections.abc import Iterable

_AT_K = re.compile(r"(recall|ndcg|hit[_ ]rate|mrr|coverage)@([0-9]+)")
_OF_RANKINGS = {
    "recall": "the share of a user's held-out items that are among the {} best recommendations, as a mean over users",
    "ndcg": "as Recall, but a hit among the {} best counts more the higher it stands; 1 is a perfect order",
    "hit rate": "the share of users with a held-out item among the {} best recommendations",
    "mrr": "one divided by the place of the first held-out item among the {} best, 0 without one, as a mean over users",
    "coverage": "the share of items that are among the {} best of some user",
}
TERMS = {
    "attack AUC": (
        "how well an attacker who sees scores tells forgotten interactions from ones that no model ever saw: 0.5 is "
        "guessing, 1 always. The target is the AUC of the retrained model, not 0.5, because users like what they "
        "forgot"
    ),
    "TPR at 1% FPR": (
        "the share of forgotten interactions that the attacker finds while wrong about 1% of those never seen"
    ),
    "mean score": "the mean score of the forgotten pairs; a score is the inner product of a user's and an item's embedding",
    "gap closed": (
        "how much of the way from the attack AUC before the request to that of the retrained model was covered: 0% "
        "is nothing, 100% all of it, and more is too far. The interval holds it with 95% confidence over the draw "
        "of pairs"
    ),
    "shift R2": (
        "how much of the change of each forgotten pair's score in the retrained model the unlearned model made too, "
        "as R2: 1 is all of it, 0 no more than changing nothing, below 0 is worse than that"
    ),
    "shift slope": "the change made per change needed, over the forgotten pairs: 1 is right, below 1 too little",
    "MI-BF": (
        "membership inference before and after (UnlearnRec, SIGIR 2025): the mean sigmoid of the forgotten pairs' scores "
        "before the request, divided by that after it. Above 1: they score lower now. The retrained model's is the target"
    ),
    "MI-NG": (
        "membership inference against pairs that are no interactions (the same paper): the mean sigmoid of random pairs' "
        "scores, divided by that of the forgotten pairs. The retrained model's is the target"
    ),
    "edge cut": "the share of interactions whose user and item lie in different partitions",
    "balance": "the interactions of the largest partition, divided by the mean: 1 is even",
    "rows per layer": "the rows of embeddings that partitions send each other in one layer of the model",
    "loss": (
        "what training makes small: with `train.loss=bpr` how often a random item ranks above one of the user's, "
        "and how far"
    ),
    "gate": (
        "what is checked before a request is committed, with no retrained model at hand: passed, missed (a retrain "
        "is due), or not checked, where there were too few pairs to tell"
    ),
    "gap_closed": (
        "pairs that were trained on stand higher among comparable items than held-out pairs do; this is the share "
        "of that difference that the forgotten pairs lost. 1 is expected of a retrain, 0 is nothing done"
    ),
    "user_gap_closed": "the same for the pairs of deleted users, whose place is taken by the sum of their other items",
    "recall_loss": "the share of Recall that the request cost, on test interactions; below 0 is a gain",
    "largest_change": (
        "the largest change of a row of embeddings, divided by the largest that pre-training needed; far above 1 "
        "the encoder guesses"
    ),
    "drift": "the share of interactions forgotten since the encoder's pre-training; far above its budget, pre-train again",
}
"""By the name that stands in a table or a tile."""


def meaning(name: str) -> str | None:
    """What a term means; None if it is none of TERMS and no measure of rankings such as "recall@20"."""
    if found := _AT_K.fullmatch(name.lower()):
        return _OF_RANKINGS[found[1].replace("_", " ")].format(found[2])
    return TERMS.get(name)


def terms_in(names: Iterable[str]) -> dict[str, str]:
    """The terms among these names with their meanings, in the order of the names."""
    found = {name: meaning(name) for name in dict.fromkeys(names)}
    return {name: about for name, about in found.items() if about is not None}
