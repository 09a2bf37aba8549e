"""What an attacker can see of a model: rows of nodes, and what follows from them for pairs.

Shape legend: n = pairs, v = nodes, d = embedding size, D = readout size, F = features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..graph.local_graph import LocalGraph
from ..measures.scores import Ids, Scores

Floats = npt.NDArray[np.float64]
Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


class Nodes(NamedTuple):
    """Rows of some users or of some items. The graph is the one without what was forgotten."""

    ids: npt.NDArray[np.int64]
    """Dense ids [v], ascending."""
    e0: Scores
    """Rows of E0, [v, d]."""
    readout: Scores
    """[v, D]."""
    mean: Scores
    """The means of the neighbours' readouts, [v, D]."""
    degree: Scores
    """[v]."""
    nearby: Scores
    """The mean, over a node's neighbours, of their confidence (`confidence`), [v]."""

    def at(self, ids: Ids) -> Nodes:
        """The rows of these ids [n], each of which must be there."""
        places = np.searchsorted(self.ids, ids)
        return Nodes(np.asarray(ids), *(x[places].astype(np.float64) for x in self[1:]))

    @property
    def confidence(self) -> Floats:
        """The mean score of the node's own pairs, [v]."""
        found: Floats = (self.readout.astype(np.float64) * self.mean).sum(1)
        return found


@torch.no_grad()
def node_columns(graph: LocalGraph, e0: Tensor, readout: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The columns of `Nodes` but the ids, of the local rows [N]. All ranks call it.

    graph: what the attacker knows, the graph without what was forgotten. e0 [N, d], readout [N, D]: of the model.
    """
    means = graph.neighbour_means(readout)
    confidence = (readout * means).sum(1, keepdim=True)
    return e0, readout, means, graph.degrees, graph.neighbour_means(confidence)[:, 0]


@dataclass(frozen=True, eq=False)
class View:
    """A model as far as an attacker needs it: the rows of the nodes of the pairs that are asked about."""

    users: Nodes
    items: Nodes

    def scores(self, pairs: Pairs) -> Floats:
        """The scores of pairs, [n]."""
        own, other = self.users.at(pairs[0]), self.items.at(pairs[1])
        found: Floats = (own.readout * other.readout).sum(1)
        return found

    def features(self, pairs: Pairs) -> Floats:
        """The features of pairs, [n, 9], for somebody who has the model and the graph.

        They are the score, the cosine, the log degrees and the lengths of both readouts, the products of each readout with
        the mean of the other end's neighbours, and the product of the rows of E0."""
        own, other = self.users.at(pairs[0]), self.items.at(pairs[1])
        score = (own.readout * other.readout).sum(1)
        lengths = [np.linalg.norm(x.readout, axis=1) for x in (own, other)]
        columns = [
            score,
            score / np.maximum(lengths[0] * lengths[1], 1e-12),
            np.log1p(own.degree),
            np.log1p(other.degree),
            *lengths,
            (other.readout * own.mean).sum(1),
            (own.readout * other.mean).sum(1),
            (own.e0 * other.e0).sum(1),
        ]
        return np.stack(columns, axis=1)

    def trend(self, pairs: Pairs) -> Floats:
        """The features of pairs, [n, 8], for somebody who sees scores and the graph.

        They are the score, the log degrees, the confidence at both ends, by how much it is below that of the neighbours, and
        how far the score is from both confidences. These are the trend features of TrendAttack (Zhang et al., WSDM
        2026), where the confidence of a node is that of its class. A node of a recommender has none; its place has the mean
        score of its pairs."""
        own, other = self.users.at(pairs[0]), self.items.at(pairs[1])
        score = (own.readout * other.readout).sum(1)
        first, second = own.confidence, other.confidence
        columns = [
            score,
            np.log1p(own.degree),
            np.log1p(other.degree),
            first,
            second,
            first - own.nearby,
            second - other.nearby,
            score - (first + second) / 2,
        ]
        return np.stack(columns, axis=1)

    def statistics(self, pairs: Pairs) -> Floats:
        """The statistics [n, 4] of pairs for an attack on each pair by itself: the score, the product of the rows of E0, and
        the products of each readout with the mean of the other end's neighbours."""
        return self.features(pairs)[:, [0, 8, 6, 7]]
