"""The pairs and users on which a request is judged, and what a model says of them.

Shape legend: P = forgotten pairs, H = held-out pairs, K = length of a list.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from ..distributed.attacks.classifier import cross_fitted_scores
from ..distributed.attacks.view import Floats, View
from ..distributed.graph.local_graph import LocalGraph
from ..distributed.measures import scores as measures
from ..distributed.measures.quality import UserQuality, quality_by_user
from ..distributed.measures.ranking import rank
from .lab import Ids, Model, Pairs
from .people import Crowd
from .scenarios import Scenario
from .view import view_of

SAMPLE = 20_000
"""The largest number of held-out, of kept and of random pairs that are scored for comparison."""
UNTOUCHED = 2_000
"""The largest number of users without an interaction in the request whose top lists are compared."""
K = 20
"""The length of top lists, and the K of Recall@K and NDCG@K."""
BLOCK = 1024
"""The number of users that are ranked at once."""

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """The pairs and users on which a request is judged. A fixed seed draws them, so they are the same for all methods."""

    request: Pairs
    forgotten: Pairs
    """The request's pairs whose user and item are still there without it."""
    held_out: Pairs
    """A sample of the test interactions."""
    kept: Pairs
    """A sample of the interactions that the request leaves."""
    random: Pairs
    """Random pairs that are no interactions."""
    test: Pairs
    """All test interactions of users who are left, on which quality is measured."""
    untouched: Ids
    """A sample of the users without an interaction in the request."""
    graph: LocalGraph
    """The graph without the request."""
    people: Crowd | None = None
    """For a request of whole users, where there are strangers to set against them."""

    @classmethod
    def of(cls, scenario: Scenario) -> Panel:
        """The panel for the data and the request of a scenario."""
        data, request = scenario.lab.data, scenario.request
        draw = np.random.default_rng(0)
        gone = np.isin(data.codes((data.users, data.items)), data.codes(request))
        left = [
            np.bincount(side[~gone], minlength=total) > 0
            for side, total in ((data.users, data.num_users), (data.items, data.num_items))
        ]

        def sample(pairs: Pairs) -> Pairs:
            """At most SAMPLE of these pairs, whose user and item are left without the request."""
            there = np.flatnonzero(left[0][pairs[0]] & left[1][pairs[1]])
            chosen = np.sort(draw.permutation(there)[:SAMPLE])
            return pairs[0][chosen], pairs[1][chosen]

        known = np.union1d(data.codes((data.users, data.items)), data.codes((data.test_users, data.test_items)))
        random = draw.integers(data.num_users, size=SAMPLE) * data.num_items + draw.integers(
            data.num_items, size=SAMPLE
        )
        still = left[0][request[0]] & left[1][request[1]]
        tested = left[0][data.test_users]
        untouched = np.setdiff1d(np.flatnonzero(left[0]), request[0])
        return cls(
            request,
            (request[0][still], request[1][still]),
            sample((data.test_users, data.test_items)),
            sample((data.users[~gone], data.items[~gone])),
            sample(data.pairs(np.setdiff1d(random, known))),
            (data.test_users[tested], data.test_items[tested]),
            np.sort(draw.permutation(untouched)[:UNTOUCHED]),
            scenario.lab.graph(request),
            Crowd.of(request, scenario.strangers, (data.users[~gone], data.items[~gone]), left[1])
            if len(scenario.strangers[0])
            else None,
        )


class Seen:
    """What a model says of a panel. Each value is computed when it is needed for the first time."""

    def __init__(self, model: Model, panel: Panel) -> None:
        self.model, self.panel = model, panel

    @cached_property
    def forgotten(self) -> Scores:
        """The scores of the forgotten pairs, [P]."""
        return self.model.scores(self.panel.forgotten)

    @cached_property
    def held_out(self) -> Scores:
        """The scores of the held-out pairs, [H]."""
        return self.model.scores(self.panel.held_out)

    @cached_property
    def kept(self) -> Scores:
        """The scores of the kept pairs, [kept pairs]."""
        return self.model.scores(self.panel.kept)

    @cached_property
    def random(self) -> Scores:
        """The scores of the random pairs, [random pairs]."""
        return self.model.scores(self.panel.random)

    @cached_property
    def attack(self) -> float:
        """The AUC of the attack that tells forgotten from held-out pairs by their scores; NaN without forgotten pairs."""
        return measures.auc(self.forgotten, self.held_out) if len(self.forgotten) else float("nan")

    @cached_property
    def quality(self) -> UserQuality:
        """The quality at cut-off K for the users who are left. Their lists do not contain interactions of the model's
        graph."""
        test = self.model.tensors(self.panel.test)
        return quality_by_user(self.model.graph, self.model.readout, *test, (K,), BLOCK)

    @property
    def recall(self) -> float:
        """The mean Recall@K over users."""
        return float(self.quality.recall.mean())

    @cached_property
    def top(self) -> Ids:
        """The top lists of the untouched users, [untouched users, K]."""
        return self._lists(self.model.graph, self.panel.untouched)

    @cached_property
    def returned(self) -> npt.NDArray[np.bool_]:
        """Which forgotten pairs' items are in the top lists of their users, [P].

        The lists leave out only the interactions that remain after the request. So the lists of a model from before the
        request may contain forgotten items too, and can be compared.
        """
        users, places = np.unique(self.panel.forgotten[0], return_inverse=True)
        lists = self._lists(self.panel.graph, users)
        found: npt.NDArray[np.bool_] = (lists[places] == self.panel.forgotten[1][:, None]).any(1)
        return found

    @cached_property
    def trained_attack(self) -> tuple[Scores, Scores]:
        """(log odds of the forgotten pairs [P], of the held-out pairs [H]) by a classifier. Its features are those that
        somebody can compute who has the model and the graph without the request."""
        pairs = self.panel.forgotten, self.panel.held_out
        first, second = (self.view.features(p) for p in pairs)
        return cross_fitted_scores(first, second, groups=(pairs[0][0], pairs[1][0]))

    @cached_property
    def people(self) -> tuple[Floats, Floats, Floats]:
        """What an attacker sees of the people of the request, of strangers, and of those who stay."""
        assert self.panel.people is not None
        return self.panel.people.features(self.view)

    @cached_property
    def view(self) -> View:
        """What an attacker sees of the model, with the graph without the request."""
        return view_of(self.model, self.panel.graph)

    def _lists(self, graph: LocalGraph, users: Ids) -> Ids:
        """The top lists of these users, [users, K], without their interactions in `graph`."""
        asked = torch.from_numpy(users).to(self.model.e0.device)
        lists = [ranked.items for ranked in rank(graph, self.model.readout, asked, K, BLOCK)]
        return torch.cat(lists).cpu().numpy() if lists else np.empty((0, K), dtype=np.int64)
