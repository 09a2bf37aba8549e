"""Whole users who were deleted, beside strangers, whom no model was trained with, and what attackers say of both.

Both are drawn from all users at random. So an exact retrain leaves nothing that tells one from the other, and every attack
has .5 on it, but for the draw; a request for pairs has no such yardstick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..distributed.attacks.likelihood import LEAST_BEYOND
from ..distributed.attacks.people import People, Two, attack_people
from ..distributed.attacks.view import Floats, View
from ..distributed.measures import gap
from ..distributed.measures.gap import Measure
from .lab import Lab, Model, Pairs
from .methods import Method
from .view import view_of

REFERENCES = 2
"""The number of the attacker's own models."""
FIRST_REFERENCE = 200
"""Added to the seed, so that no other run has it."""
STAYING = 1_000
"""The largest number of users who stay that deleted ones are set against where two versions are compared."""
RATE = 0.01
"""The false-positive rate of true-positive rates, which are told if at least LEAST_BEYOND strangers are beyond it."""

OfPeople = tuple[Floats, Floats, Floats]
"""The features of those who leave, of strangers, and of those who stay."""
Three = tuple[Measure, Measure, Measure]
"""A measure of the model before the request, of the one that forgot, and of the retrained one."""


@dataclass(frozen=True, eq=False)
class Crowd:
    """The people of a request of whole users."""

    leaving: People
    strangers: People
    staying: People
    """A sample of the users without an interaction in the request."""

    @classmethod
    def of(cls, request: Pairs, strangers: Pairs, rest: Pairs, left: npt.NDArray[np.bool_]) -> Crowd:
        """rest: the interactions that stay. left [items]: the items that are left."""
        draw = np.random.default_rng(0)
        staying = np.sort(draw.permutation(np.unique(rest[0]))[:STAYING])
        there = np.isin(rest[0], staying)
        return cls(*(People.of(p, left) for p in (request, strangers, (rest[0][there], rest[1][there]))))

    def features(self, view: View) -> OfPeople:
        """`People.features` of each."""
        return self.leaving.features(view), self.strangers.features(view), self.staying.features(view)


@dataclass(frozen=True, eq=False)
class Alone:
    """What attackers see where users are forgotten each alone: of the user, and of some of the strangers, in the model that
    forgot this user."""

    places: npt.NDArray[np.int64]
    """Of these users in `Crowd.leaving`."""
    features: Two
    strangers: npt.NDArray[np.int64]
    """The places of the strangers, whose rows are in the order of `features`."""
    seconds: float
    """The mean time of a request."""


def alone(method: Method, lab: Lab, original: Model, crowd: Crowd | None, parts: Sequence[Pairs]) -> Alone | None:
    """Forget each of these users alone, from the original. Strangers are looked at in turn, each in one of the models."""
    if crowd is None or not parts:
        return None
    mine, theirs, places, strangers, seconds = [], [], [], [], []
    for number, part in enumerate(parts):
        _ = original.nodes  # computed before the clock starts, as a service has it before a request
        before = lab.clock()
        model = method.forget(lab, original, part)
        _ = model.readout
        seconds.append(lab.clock() - before)
        view = view_of(model, model.graph)
        place = np.flatnonzero(np.isin(crowd.leaving.ids, part[0]))
        others = np.arange(number, len(crowd.strangers), len(parts))
        mine.append(crowd.leaving.some(place).features(view))
        theirs.append(crowd.strangers.some(others).features(view))
        places.append(place)
        strangers.append(others)
    features = np.concatenate(mine), np.concatenate(theirs)
    return Alone(np.concatenate(places), features, np.concatenate(strangers), float(np.mean(seconds)))


def told_of_people(
    features: Sequence[OfPeople], references: Sequence[OfPeople], apart: Alone | None = None
) -> dict[str, Three]:
    """Every measure by name.

    features: in the model before, in the one that forgot, and in the retrained one. references: in the attacker's own. Where
    users were forgotten each alone, the other two models are still those of the whole request: a retrain without each
    of them would be a training for each.
    """
    reference = tuple(np.mean([r[side] for r in references], axis=0) for side in (0, 1))
    found = _attacks([f[:2] for f in features], (reference[0], reference[1]))
    before, _, target = features
    closeness = [f[0][:, 0] - before[0][:, 0] for f in features]
    for name, measure in (("R2", gap.explained), ("slope", gap.slope)):
        found[f"closeness {name}"] = _three([measure(closeness[2], change) for change in closeness])
    stayed = [f[2][:, 0] - before[2][:, 0] for f in features]
    moved = [gap.difference_attack(*two) for two in zip(closeness, stayed, strict=True)]
    found["user difference attack auc"] = _three(moved)
    if apart is not None:
        at = apart.places, apart.strangers
        now = [(f[0][at[0]], f[1][at[1]]) for f in (before, target)]
        of_these = _attacks([now[0], apart.features, now[1]], (reference[0][at[0]], reference[1][at[1]]))
        found |= {f"{name}, each alone": one for name, one in of_these.items() if name.endswith("auc")}
    return found


def _attacks(models: Sequence[Two], reference: Two) -> dict[str, Three]:
    told = [attack_people(features, reference) for features in models]
    found = {}
    for name in told[0]:
        found[f"{name} auc"] = _three([gap.auc(*one[name]) for one in told])
        if len(reference[1]) * RATE >= LEAST_BEYOND:
            found[f"{name} tpr"] = _three([gap.true_positives_at(*one[name], RATE) for one in told])
    return found


def columns(told: Mapping[str, Three]) -> dict[str, float]:
    """The columns of a row along a stream of users."""
    row = {}
    for name, (before, after, target) in told.items():
        row[name] = after.value
        if name.endswith("auc"):
            row |= {f"{name} before": before.value, f"{name} retrained": target.value}
    return row


def _three(measures: Sequence[Measure]) -> Three:
    before, after, target = measures
    return before, after, target
