"""Attacks on a person as a whole: was somebody with these items in the data? A deleted user has no row any more, so it is
told from what the person left in the rows of the items, and of other people.

Items that were trained with a common user are closer to each other. So the attacker, who knows the person's items, looks how
close they are, and sets this against people who were never there. How close items are also has other causes, above all
taste; a model of the attacker's own that knows neither tells how close they would be anyhow.

Shape legend: n = people, m = items of all of them, F = features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..measures.scores import Scores
from .classifier import cross_fitted_scores
from .view import Floats, Ids, Pairs, View

LEAST_ITEMS = 2
"""Somebody with one item leaves nothing that could be set against it."""
NEAREST = 10
"""The number of people most like somebody whose rows are looked at."""
TRACES = 6
"""The number of features, the first ones, in which a person may leave a trace. The others say what the items are like."""
MIN_TRAINED = 100
"""The least number of people of a class with which a classifier is trained."""


@dataclass(frozen=True, eq=False)
class People:
    """What an attacker knows of some people: the items of each."""

    ids: npt.NDArray[np.int64]
    """The dense ids of the people, [n], ascending."""
    items: npt.NDArray[np.int64]
    """[m], sorted by person."""
    owner: npt.NDArray[np.int64]
    """The place of each item's person in `ids`, [m], ascending."""

    @classmethod
    def of(cls, pairs: Pairs, left: npt.NDArray[np.bool_]) -> People:
        """The users of these interactions. left [items]: the items that are still there; others tell nothing, and somebody
        with fewer than LEAST_ITEMS of them is left out."""
        order = np.lexsort((pairs[1], pairs[0]))
        users, items = (side[order] for side in pairs)
        users, items = users[left[items]], items[left[items]]
        ids, owner, count = np.unique(users, return_inverse=True, return_counts=True)
        enough = count >= LEAST_ITEMS
        place = np.cumsum(enough) - 1
        return cls(ids[enough], items[enough[owner]], place[owner[enough[owner]]])

    def __len__(self) -> int:
        return len(self.ids)

    def some(self, places: Ids) -> People:
        """Those at these places, ascending."""
        chosen = np.isin(self.owner, places)
        return People(self.ids[places], self.items[chosen], np.searchsorted(places, self.owner[chosen]))

    def features(self, view: View) -> Floats:
        """The features of each person, [n, 9], for somebody who has the model and the graph without them.

        TRACES of them are means over two different items of the person: the product of their readouts, their cosine, the
        same of their rows of E0, the product of one's readout with the mean of the other's remaining users; and how like
        this person the NEAREST of the people who stay are. Then log numbers: of items, of users of an item; and the length
        of an item's readout."""
        if not len(self):
            return np.empty((0, TRACES + 3))
        rows = view.items.at(self.items)
        starts = np.searchsorted(self.owner, np.arange(len(self)))
        size = np.diff(np.append(starts, len(self.owner))).astype(np.float64)

        def mean(values: Scores) -> Floats:
            found: Floats = np.add.reduceat(values, starts) / size
            return found

        def close(one: Scores, other: Scores) -> Floats:
            """The mean product of a row of `one` with a row of `other`, of two different items of a person."""
            sums = (np.add.reduceat(one, starts), np.add.reduceat(other, starts))
            own = np.add.reduceat((one * other).sum(1), starts)
            found: Floats = ((sums[0] * sums[1]).sum(1) - own) / (size * (size - 1))
            return found

        readout, e0 = rows.readout, rows.e0
        stand_in = np.add.reduceat(readout / np.sqrt(np.maximum(rows.degree, 1))[:, None], starts)
        columns = [
            close(readout, readout),
            close(_unit(readout), _unit(readout)),
            close(e0, e0),
            close(_unit(e0), _unit(e0)),
            close(readout, rows.mean),
            _nearest(stand_in, view.users.readout[view.users.degree > 0]),
            np.log1p(size),
            mean(np.log1p(rows.degree)),
            mean(np.linalg.norm(readout, axis=1)),
        ]
        return np.stack(columns, axis=1)


def _unit(rows: Scores) -> Floats:
    length: Floats = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows / length


def _nearest(rows: Scores, others: Scores) -> Floats:
    """The mean cosine of each row with the NEAREST of the others."""
    if not len(others):
        return np.zeros(len(rows))
    products = _unit(rows) @ _unit(others.astype(np.float64)).T
    first = max(len(others) - NEAREST, 0)
    best: Floats = np.partition(products, first, axis=1)[:, first:]
    return best.mean(1)


Two = tuple[Floats, Floats]
"""Of people who were in the data, and of strangers, who never were."""


def attack_people(features: Two, reference: Two) -> dict[str, Two]:
    """The attackers' scores of both kinds of people, by the name of the attack; larger for those who look like members.

    "user attack" is how close a person's items are (after Yeom et al., CSF 2018). "calibrated user attack" is how much
    closer than in the attacker's own models (Watson et al., On the importance of difficulty calibration in membership
    inference attacks, ICLR 2022). "trained user attack" is a classifier on the differences of all TRACES from the attacker's
    own models, beside what the items are like (Shokri et al., S&P 2017; features are our own); it is not there with fewer
    than MIN_TRAINED people of a class.

    Args:
        features: `People.features` in the attacked model, [n, F] each.
        reference: their means over models that were trained with neither.
    """
    changed = features[0] - reference[0], features[1] - reference[1]
    found = {
        "user attack": (features[0][:, 0], features[1][:, 0]),
        "calibrated user attack": (changed[0][:, 0], changed[1][:, 0]),
    }
    if min(map(len, features)) >= MIN_TRAINED:
        first, second = (
            np.concatenate([now[:, :TRACES], of[:, TRACES : TRACES + 2]], axis=1)
            for now, of in zip(changed, features, strict=True)
        )
        found["trained user attack"] = cross_fitted_scores(first, second)
    return found
