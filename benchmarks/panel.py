"""The pairs and users that a request is judged on, and what a model says of them.

P = forgotten pairs, H = held-out pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from ..distributed.encoder.influence import NodeRows
from ..distributed.graph.local_graph import LocalGraph
from ..distributed.measures import scores as measures
from ..distributed.measures.ranking import UserQuality, quality_by_user, rank
from . import attacks
from .lab import Ids, Model, Pairs
from .scenarios import Scenario

SAMPLE = 20_000
"""Held-out, kept and random pairs that scores are compared with, at most."""
UNTOUCHED = 2_000
"""Users without a part in the request whose top lists are compared, at most."""
K = 20
BLOCK = 1024
"""Users ranked at once."""

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """The pairs that a request is judged on: forgotten ones whose user and item are still there, held-out, kept, random
    ones. All drawn with a fixed seed."""

    request: Pairs
    forgotten: Pairs
    held_out: Pairs
    kept: Pairs
    random: Pairs
    test: Pairs
    """All held-out pairs of users who are left: what quality is measured on."""
    untouched: Ids
    """Users."""
    graph: LocalGraph
    """Without the request."""

    @classmethod
    def of(cls, scenario: Scenario) -> Panel:
        """Of a scenario's data and request."""
        data, request = scenario.lab.data, scenario.request
        draw = np.random.default_rng(0)
        gone = np.isin(data.codes((data.users, data.items)), data.codes(request))
        left = [
            np.bincount(side[~gone], minlength=total) > 0
            for side, total in ((data.users, data.num_users), (data.items, data.num_items))
        ]

        def sample(pairs: Pairs) -> Pairs:
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
        )


class Seen:
    """What a model says of a panel, each thing computed when it is first asked for."""

    def __init__(self, model: Model, panel: Panel) -> None:
        self.model, self.panel = model, panel

    @cached_property
    def forgotten(self) -> Scores:
        """Scores [P]."""
        return self.model.scores(self.panel.forgotten)

    @cached_property
    def held_out(self) -> Scores:
        """[H]."""
        return self.model.scores(self.panel.held_out)

    @cached_property
    def kept(self) -> Scores:
        """[kept pairs]."""
        return self.model.scores(self.panel.kept)

    @cached_property
    def random(self) -> Scores:
        """[random pairs]."""
        return self.model.scores(self.panel.random)

    @cached_property
    def attack(self) -> float:
        """AUC of forgotten against held-out."""
        return measures.auc(self.forgotten, self.held_out) if len(self.forgotten) else float("nan")

    @cached_property
    def quality(self) -> UserQuality:
        """At cut-off K, of the users who are left, with what the model's own graph knows left out of their lists."""
        test = self.model.tensors(self.panel.test)
        return quality_by_user(self.model.graph, self.model.readout, *test, (K,), BLOCK)

    @property
    def recall(self) -> float:
        """Mean over users."""
        return float(self.quality.recall.mean())

    @cached_property
    def top(self) -> Ids:
        """[untouched users, K]."""
        return self._lists(self.model.graph, self.panel.untouched)

    @cached_property
    def returned(self) -> npt.NDArray[np.bool_]:
        """Which forgotten pairs' items are among the K best that their user is not known to have after the request: also
        for a model from before it, whose scores are then ranked as if the request had only been taken off the lists."""
        users, places = np.unique(self.panel.forgotten[0], return_inverse=True)
        lists = self._lists(self.panel.graph, users)
        found: npt.NDArray[np.bool_] = (lists[places] == self.panel.forgotten[1][:, None]).any(1)
        return found

    @cached_property
    def trained_attack(self) -> tuple[Scores, Scores]:
        """Log odds of forgotten and of held-out pairs by a classifier on what a holder of the model and of the graph without
        the request can compute of a pair."""
        pairs = self.panel.forgotten, self.panel.held_out
        first, second = (self._features(p) for p in pairs)
        return attacks.cross_fitted_scores(first, second, groups=(pairs[0][0], pairs[1][0]))

    def _lists(self, graph: LocalGraph, users: Ids) -> Ids:
        asked = torch.from_numpy(users).to(self.model.e0.device)
        lists = [ranked.items for ranked in rank(graph, self.model.readout, asked, K, BLOCK)]
        return torch.cat(lists).cpu().numpy() if lists else np.empty((0, K), dtype=np.int64)

    def _features(self, pairs: Pairs) -> Scores:
        """[n, 9]: score, cosine, log degrees and lengths of both ends, products with the means of their neighbours."""
        graph, z = self.panel.graph, self.model.readout
        nodes, offset = NodeRows(self.model.e0, z, graph.neighbour_means(z), graph.degrees), graph.num_users
        own, other = (nodes.select(x) for x in self.model.tensors((pairs[0], pairs[1] + offset)))
        score = (own.readout * other.readout).sum(1)
        lengths = [x.readout.norm(dim=1) for x in (own, other)]
        columns = [
            score,
            score / (lengths[0] * lengths[1]).clamp(min=1e-12),
            own.degree.double().log1p(),
            other.degree.double().log1p(),
            *lengths,
            (other.readout * own.mean).sum(1),
            (own.readout * other.mean).sum(1),
            (own.e0 * other.e0).sum(1),
        ]
        return torch.stack([c.double() for c in columns], dim=1).cpu().numpy()
