"""The requests of the benchmark: from one interaction in a thousand to whole users, and a stream of small requests.

Every draw has a seed. No request is one that a method learns from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from .lab import NOTHING, Lab, Pairs

SEED = 1_000
"""The seed of the draws. It is above the numbers of the requests that encoders learn from."""

POPULAR_SHARE = 0.01
"""The share of the items, the most popular ones, of which the scenario `popular` forgets interactions."""
TOPIC = 5
"""The number of items that a user of the scenario `sensitive` forgets: one item, and those most similar to it."""
STREAM = (1, 10, 100, 1_000)
"""The numbers of requests after which a stream is measured. The last one is the length of the stream."""
STREAM_SHARE = 0.05
"""The share of the interactions that all requests of a stream remove together."""

STRANGERS = 1_000
"""The largest number of users that no model of the scenarios `whole users` and `user stream` is trained with. Attackers set
deleted users against them. With 1,000 a true-positive rate at 1% can be told."""
LEAVERS = (100, 300, 1_000)
"""The numbers of users who are deleted, one after the other, after which `user stream` is measured."""
AT_ONCE = 300
"""The number of users whom `whole users` deletes together: the first ones of the stream."""
ALONE = 100
"""The number of these who are also deleted each alone, from the original."""


@dataclass(frozen=True)
class Scenario:
    """A request on the data of a lab."""

    lab: Lab
    request: Pairs
    """All interactions to forget."""
    requests: tuple[Pairs, ...] = ()
    """For a stream: the same interactions, as the requests in which they come."""
    marks: tuple[int, ...] = ()
    """For a stream: the numbers of requests after which it is measured."""
    strangers: Pairs = NOTHING
    """The interactions of users who are not in the lab's data. Where there are any, the request is of whole users."""
    unknown: Pairs = NOTHING
    """What an attacker's own models are trained without: the request, or more."""
    alone: tuple[Pairs, ...] = ()
    """Parts of the request that are also forgotten each alone, from the original."""


def _interactions(share: float) -> Callable[[Lab], Scenario]:
    """A scenario with this random share of the interactions."""
    return lambda lab: Scenario(lab, lab.simulated(SEED, share))


def _users(lab: Lab) -> Scenario:
    """1% of the users, with all of their interactions."""
    draw = np.random.default_rng(SEED)
    users = draw.choice(lab.data.num_users, max(1, lab.data.num_users // 100), replace=False)
    return Scenario(lab, _where(lab, np.isin(lab.data.users, users)))


def _popular(lab: Lab) -> Scenario:
    """A random tenth of the interactions with the most popular items."""
    popularity = np.bincount(lab.data.items, minlength=lab.data.num_items)
    top = np.argsort(-popularity, kind="stable")[: max(1, int(lab.data.num_items * POPULAR_SHARE))]
    draw = np.random.default_rng(SEED).random(len(lab.data.users))
    return Scenario(lab, _where(lab, np.isin(lab.data.items, top) & (draw < 0.1)))


def _sensitive(lab: Lab) -> Scenario:
    """1% of the users who have at least 4 * TOPIC items. Each forgets one random item and the most similar items of its
    history, by the cosine of the sets of users who have them; TOPIC items in all."""
    data = lab.data
    draw = np.random.default_rng(SEED)
    degrees = np.bincount(data.users, minlength=data.num_users)
    able = np.flatnonzero(degrees >= 4 * TOPIC)
    chosen = np.sort(draw.choice(able, max(1, len(able) // 100), replace=False))
    starts = np.concatenate([[0], np.cumsum(degrees)])
    by_item = lab.graph().shard
    users, items = [], []
    for user in chosen:
        history = data.items[starts[user] : starts[user + 1]]
        audience = [by_item.item_neighbours[by_item.item_indptr[i] : by_item.item_indptr[i + 1]] for i in history]
        first = draw.integers(len(history))
        likeness = [
            len(np.intersect1d(audience[first], a, assume_unique=True)) / (len(a) * len(audience[first])) ** 0.5
            for a in audience
        ]
        topic = np.argsort(-np.array(likeness), kind="stable")[:TOPIC]
        users.append(np.full(TOPIC, user, dtype=np.int64))
        items.append(np.sort(history[topic]))
    return Scenario(lab, (np.concatenate(users), np.concatenate(items)))


def _adversarial(lab: Lab) -> Scenario:
    """The adversarial scenario of the paper: false interactions are added to the data, and then exactly these are forgotten.

    They are each user's item and each item's user with the lowest score in a model that was trained on the clean data.
    """
    clean = lab.train()
    num_users = lab.data.num_users
    users, items = clean.readout[:num_users], clean.readout[num_users:]
    worst_items = torch.cat([(block @ items.T).argmin(1) for block in users.split(1024)]).cpu().numpy()
    worst_users = torch.cat([(block @ users.T).argmin(1) for block in items.split(1024)]).cpu().numpy()
    added = (
        np.concatenate([np.arange(num_users), worst_users]),
        np.concatenate([worst_items, np.arange(lab.data.num_items)]),
    )
    codes = np.setdiff1d(lab.data.codes(added), lab.data.codes((lab.data.users, lab.data.items)))
    request = lab.data.pairs(codes)
    return Scenario(lab.with_data(lab.data.with_pairs(request)), request)


def _stream(lab: Lab) -> Scenario:
    """A stream of STREAM[-1] requests of equal size, which together remove STREAM_SHARE of the interactions."""
    users, items = lab.simulated(SEED, STREAM_SHARE)
    order = np.random.default_rng(SEED).permutation(len(users))
    parts = np.array_split(order, STREAM[-1])
    requests = tuple((users[np.sort(p)], items[np.sort(p)]) for p in parts)
    return Scenario(lab, (users, items), requests, STREAM)


def _leavers(lab: Lab) -> tuple[Lab, Pairs, tuple[Pairs, ...]]:
    """(a lab without the strangers, their interactions, those of each user who will be deleted, in order). Both are drawn
    from all users at random, so an exact retrain leaves nothing that tells one from the other."""
    data = lab.data
    order = np.random.default_rng(SEED).permutation(np.unique(data.users))
    most = len(order) // 6
    strangers = np.isin(data.users, order[: min(STRANGERS, most)])
    starts = np.searchsorted(data.users, np.arange(data.num_users + 1))
    leaving = order[min(STRANGERS, most) :][: min(LEAVERS[-1], most)]
    requests = tuple(
        (data.users[a:b], data.items[a:b]) for a, b in zip(starts[leaving], starts[leaving + 1], strict=True)
    )
    rest = replace(data, users=data.users[~strangers], items=data.items[~strangers])
    return lab.with_data(rest), _where(lab, strangers), requests


def _whole_users(lab: Lab) -> Scenario:
    """The first AT_ONCE users of `user stream` together; and ALONE of them each alone."""
    without, strangers, requests = _leavers(lab)
    few = requests[: min(AT_ONCE, len(requests))]
    return Scenario(
        without, joined(few), strangers=strangers, unknown=joined(requests), alone=few[: min(ALONE, len(few))]
    )


def _user_stream(lab: Lab) -> Scenario:
    """LEAVERS[-1] whole users, one after the other, or a sixth of all users."""
    without, strangers, requests = _leavers(lab)
    whole = joined(requests)
    marks = (*(mark for mark in LEAVERS if mark < len(requests)), len(requests))
    return Scenario(without, whole, requests, marks, strangers, whole)


def joined(requests: tuple[Pairs, ...]) -> Pairs:
    """The interactions of all these requests, sorted by user and then item."""
    users, items = (np.concatenate([r[side] for r in requests]) for side in (0, 1))
    order = np.lexsort((items, users))
    return users[order], items[order]


def _where(lab: Lab, mask: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Pairs:
    """The interactions of the lab's data in this mask."""
    return (lab.data.users[mask], lab.data.items[mask]) if mask.any() else NOTHING


SCENARIOS: dict[str, Callable[[Lab], Scenario]] = {
    "interactions 0.1%": _interactions(0.001),
    "interactions 0.5%": _interactions(0.005),
    "interactions 5%": _interactions(0.05),
    "users": _users,
    "popular": _popular,
    "sensitive": _sensitive,
    "adversarial": _adversarial,
    "stream": _stream,
    "whole users": _whole_users,
    "user stream": _user_stream,
}
