"""The attacks on an unlearned model: for each, what it asks, who asked it first, and what it takes for granted.

Each attack gives a `Measure` of one model. The same attack is put to a model that was trained without the request, and to
one with another seed: their values are what an attack finds where nothing was left behind.

Shape legend: P = forgotten pairs, H = held-out pairs, C = candidates of a forgotten pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..measures import gap
from ..measures.gap import Measure
from ..measures.scores import Scores
from .classifier import cross_fitted_scores
from .view import Pairs, View

MIN_TRAINED = 200
"""The least number of pairs of a class with which a classifier is trained."""
MIN_PAIRS = 20
"""The least number of pairs of a class for any attack."""
CANDIDATES = 4
"""For the reconstruction: the number of items that the user never met beside each forgotten pair."""


@dataclass(frozen=True)
class Attack:
    """What a reader needs to know of an attack."""

    title: str
    source: str
    assumption: str
    chance: float | None = 0.5
    """Its value where nothing can be found; None where no fixed value says so."""
    of_two_versions: bool = False
    """Whether it sets the model against the version before the request."""


ATTACKS: Mapping[str, Attack] = {
    "score": Attack(
        "forgotten against held-out pairs, by their scores",
        "population attack of Hayes et al., SaTML 2025, after Yeom et al., CSF 2018",
        "The attacker sees scores, and the two kinds of pairs would score alike had neither been trained.",
    ),
    "trained": Attack(
        "forgotten against held-out pairs, by a classifier on nine features",
        "attack classifiers of Shokri et al., S&P 2017; features are our own",
        "The attacker has the model's rows and the remaining graph, and knows of four fifths of the pairs what they are.",
    ),
    "two versions": Attack(
        "forgotten against kept pairs, by a classifier on the features of two versions and their difference",
        "Chen et al., When machine unlearning jeopardizes privacy, CCS 2021",
        "The attacker kept the version from before the request, and knows of four fifths of the pairs what they are.",
        of_two_versions=True,
    ),
    "score change": Attack(
        "forgotten against kept pairs, by the change of their scores",
        "Chen et al., CCS 2021",
        "The attacker saw scores of both versions; nothing is trained.",
        of_two_versions=True,
    ),
    "reconstruction": Attack(
        "forgotten pairs against items that the same users never met, by confidence near them",
        "TrendAttack, Zhang et al., WSDM 2026, carried over to bipartite graphs",
        "The attacker sees scores and the remaining graph, knows which users deleted something, and has solved four fifths.",
    ),
    "those who stay": Attack(
        "kept pairs of the same users and items against held-out pairs, by a classifier on nine features",
        "privacy onion effect, Carlini et al., NeurIPS 2022",
        "As `trained`, aimed at people who asked for nothing.",
    ),
    "returns to top": Attack(
        "share of forgotten items among the 20 best of their user",
        "our own",
        "The attacker sees the recommendations of a user who deleted an interaction.",
        None,
    ),
    "touched rows": Attack(
        "nodes that the request touches against other nodes, by how far their rows of E0 moved between two versions",
        "our own; delta files as in Salem et al., Updates-Leak, USENIX Security 2020",
        "The attacker holds the files of both versions.",
        of_two_versions=True,
    ),
}


@dataclass(frozen=True, eq=False)
class AttackedPairs:
    """The pairs that attacks look at. All nodes are left without the request."""

    forgotten: Pairs
    """Interactions of the request, [P]."""
    held_out: Pairs
    """Interactions that no model was trained with, [H]; empty if none are known."""
    kept: Pairs
    """A sample of the interactions that stay."""
    never: Pairs
    """Of each forgotten pair, its user with CANDIDATES items that this user never met, [P C]."""

    @cached_property
    def near(self) -> npt.NDArray[np.bool_]:
        """Which kept pairs have a user and an item of the request."""
        return np.isin(self.kept[0], self.forgotten[0]) & np.isin(self.kept[1], self.forgotten[1])

    def asked(self) -> Pairs:
        """All of them together, [n]."""
        every = (self.forgotten, self.held_out, self.kept, self.never)
        users, items = (np.concatenate([pairs[side] for pairs in every]) for side in (0, 1))
        return users, items


def attack(
    pairs: AttackedPairs, view: View, before: View | None, returned: npt.NDArray[np.bool_] | None
) -> dict[str, Measure]:
    """The measure of each attack on a model, by its name in ATTACKS. What cannot be asked is not there (`untold`).

    Args:
        before: the version before the request, with the graph without it; None if the attacker has none.
        returned: whether the item of each forgotten pair is among the 20 best of its user, [P].
    """
    found: dict[str, Measure] = {}
    count, held_out = len(pairs.forgotten[0]), len(pairs.held_out[0])
    if count < MIN_PAIRS:
        return found
    groups = pairs.forgotten[0]
    if held_out >= MIN_PAIRS:
        found["score"] = gap.auc(view.scores(pairs.forgotten), view.scores(pairs.held_out))
    if min(count, held_out) >= MIN_TRAINED:
        theirs = view.features(pairs.held_out)
        found["trained"] = _classified(view.features(pairs.forgotten), theirs, groups, pairs.held_out[0])
        near = pairs.kept[0][pairs.near], pairs.kept[1][pairs.near]
        if len(near[0]) >= MIN_TRAINED:
            found["those who stay"] = _classified(view.features(near), theirs, near[0], pairs.held_out[0])
    if count >= MIN_TRAINED:
        found["reconstruction"] = _classified(
            view.trend(pairs.forgotten), view.trend(pairs.never), groups, pairs.never[0]
        )
    if before is not None and len(pairs.kept[0]) >= MIN_PAIRS:
        changes = [view.scores(p) - before.scores(p) for p in (pairs.forgotten, pairs.kept)]
        found["score change"] = gap.difference_attack(*changes)
        if min(count, len(pairs.kept[0])) >= MIN_TRAINED:
            gone, stayed = (_of_both(view, before, p) for p in (pairs.forgotten, pairs.kept))
            found["two versions"] = _classified(gone, stayed, groups, pairs.kept[0])
        if rows := _touched_rows(pairs, view, before):
            found["touched rows"] = rows
    if returned is not None:
        found["returns to top"] = gap.mean(returned)
    return found


def untold(pairs: AttackedPairs, before: View | None) -> dict[str, str]:
    """Of the attacks that `attack` leaves out: why."""
    count, held_out = len(pairs.forgotten[0]), len(pairs.held_out[0])
    if count < MIN_PAIRS:
        return dict.fromkeys(ATTACKS, f"{count} forgotten pairs have both ends left; at least {MIN_PAIRS} are needed")
    why: dict[str, str] = {}
    if held_out < MIN_PAIRS:
        why |= dict.fromkeys(("score", "trained", "those who stay"), "no test interactions: set test_interactions")
    elif min(count, held_out) < MIN_TRAINED:
        few = f"{count} forgotten and {held_out} held-out pairs; at least {MIN_TRAINED} of each are needed"
        why |= dict.fromkeys(("trained", "those who stay"), few)
    elif pairs.near.sum() < MIN_TRAINED:
        why["those who stay"] = f"{pairs.near.sum()} kept pairs near the request; at least {MIN_TRAINED} are needed"
    if count < MIN_TRAINED:
        few = f"{count} forgotten pairs; at least {MIN_TRAINED} are needed"
        why |= dict.fromkeys(("reconstruction", "two versions"), few)
    if before is None:
        gone = "no version from before the request is there any more"
        why |= dict.fromkeys(("two versions", "score change", "touched rows"), gone)
    elif len(_untouched(pairs)[0]) + len(_untouched(pairs)[1]) < MIN_PAIRS:
        why["touched rows"] = "the request touches nearly every node that was looked at"
    return why


def _classified(ours: Scores, theirs: Scores, users: npt.NDArray[np.int64], others: npt.NDArray[np.int64]) -> Measure:
    return gap.auc(*cross_fitted_scores(ours, theirs, groups=(users, others)))


def _of_both(view: View, before: View, pairs: Pairs) -> Scores:
    """The features of pairs in this version, and by how much they differ from those before, [n, 16].

    Degrees are those of the same graph in both and stand once."""
    now, then = view.features(pairs), before.features(pairs)
    return np.concatenate([now, np.delete(now - then, (2, 3), axis=1)], axis=1)


def _untouched(pairs: AttackedPairs) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(users, items) of the pairs that are looked at, without those of the request."""
    users, items = pairs.asked()
    return np.setdiff1d(users, pairs.forgotten[0]), np.setdiff1d(items, pairs.forgotten[1])


def _touched_rows(pairs: AttackedPairs, view: View, before: View) -> Measure | None:
    def moved(ids: npt.NDArray[np.int64], side: str) -> Scores:
        now, then = (getattr(v, side).at(ids).e0 for v in (view, before))
        # Relative, since rows of heavy nodes are long; a row that did not move at all is 0.
        length: Scores = np.linalg.norm(now - then, axis=1) / np.maximum(np.linalg.norm(then, axis=1), 1e-12)
        return length

    others = _untouched(pairs)
    if len(others[0]) + len(others[1]) < MIN_PAIRS:
        return None
    touched = [np.unique(ends) for ends in pairs.forgotten]
    first, second = (
        np.concatenate([moved(ids, side) for ids, side in zip(nodes, ("users", "items"), strict=True)])
        for nodes in (touched, others)
    )
    return gap.auc(first, second)
