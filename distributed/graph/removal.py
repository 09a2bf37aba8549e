"""Which interactions a training run leaves out or a request removes. Each partition finds them in its own rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ...partitioning.assignment import Assignment
from ...partitioning.shard import GraphShard, Pairs, entries_of, places_of, spans
from .keyed import REQUEST, REQUEST_RATE, REQUEST_USER, keyed_uniform

Ids = npt.NDArray[np.int64]


def _no_ids() -> Ids:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Simulated:
    """A simulated request. Keyed draws choose its interactions, so that they are the same for any number of partitions.

    There are three independent reasons why an interaction is removed: chance, its user, or its item.
    """

    seed: int
    number: int
    share: float = 0.0
    """Share of all interactions that is removed by chance."""
    users: float = 0.0
    """Share of the users who lose a part of their interactions."""
    most_of_users: float = 0.0
    """The largest such part. Each of these users has a part of their own, drawn evenly from 0 to this one."""
    items: tuple[int, ...] = ()
    """Items that lose a part of their interactions, by global dense id."""
    most_of_items: float = 0.0
    """As `most_of_users`, of these items."""

    def removes(self, users: Ids, items: Ids, num_items: int) -> npt.NDArray[np.bool_]:
        """Whether each of the interactions users, items int64 [n] is removed: bool [n]."""
        stays = torch.full((len(users),), 1 - self.share)
        if self.users:
            ids = torch.from_numpy(users)
            chosen = keyed_uniform(self.seed, REQUEST_USER, self.number, ids) < self.users
            stays[chosen] *= 1 - self.most_of_users * self._rate(0, ids[chosen])
        if self.items:
            chosen = torch.from_numpy(np.isin(items, self.items))
            stays[chosen] *= 1 - self.most_of_items * self._rate(1, torch.from_numpy(items)[chosen])
        pairs = torch.from_numpy(users * num_items + items)
        goes: npt.NDArray[np.bool_] = (keyed_uniform(self.seed, REQUEST, self.number, pairs) < 1 - stays).numpy()
        return goes

    def _rate(self, side: int, ids: torch.Tensor) -> torch.Tensor:
        """Of each of these nodes of a side [n], a number from 0 to 1 [n]."""
        return keyed_uniform(self.seed, REQUEST_RATE, self.number, side, ids)


@dataclass(frozen=True, eq=False)
class Removal:
    """What is removed, by global dense id: all interactions of `users` and of `items`, the interactions `pair_users`,
    `pair_items`, and what simulated requests choose."""

    users: Ids = field(default_factory=_no_ids)
    items: Ids = field(default_factory=_no_ids)
    pair_users: Ids = field(default_factory=_no_ids)
    pair_items: Ids = field(default_factory=_no_ids)
    simulated: Sequence[Simulated] = ()

    def __bool__(self) -> bool:
        return bool(len(self.users) or len(self.items) or len(self.pair_users) or self.simulated)

    def pairs(self, shard: GraphShard) -> Pairs:
        """The interactions (users [n], items [n]) of a shard that are removed, each once, sorted by (user, item)."""
        of_users, of_items = (np.flatnonzero(mark) for mark in self._marked(shard))
        found = np.unique(np.concatenate([_codes_of_users(shard, of_users), _codes_of_items(shard, of_items)]))
        return found // shard.num_items, found % shard.num_items

    def find(self, shard: GraphShard, timed: Ids) -> "Found":
        """The interactions that are removed, and in addition all interactions of the users `timed` int64 [t], with the times
        of their events, as far as this shard is the one to ask: it is for the users and the pairs of users that it owns, and
        for the items that it owns. The search costs what it finds; only for simulated requests all entries are looked at.
        """
        if self.simulated:
            of_users, of_items = (np.flatnonzero(mark) for mark in self._marked(shard))
        else:
            places = [entries_of(shard.user_ids, shard.user_indptr, self.users)]
            pairs = (self.pair_users, self.pair_items)
            places.append(places_of(shard.user_ids, shard.user_indptr, shard.user_neighbours, *pairs))
            of_users = np.concatenate(places)
            of_items = entries_of(shard.item_ids, shard.item_indptr, self.items)
        codes = [_codes_of_users(shard, of_users), _codes_of_items(shard, of_items)]
        counts = [shard.user_counts[of_users], shard.item_counts[of_items]]
        entries = entries_of(shard.user_ids, shard.user_indptr, np.unique(timed))
        events = np.repeat(_codes_of_users(shard, entries), shard.user_counts[entries])
        times = _no_ids()
        if shard.user_times is not None and len(entries):
            ends = np.cumsum(shard.user_counts, dtype=np.int64)[entries]
            times = shard.user_times[spans(ends - shard.user_counts[entries], ends)]
        part = Found(np.concatenate(codes), np.concatenate(counts).astype(np.int64), events[: len(times)], times)
        return merged([part])

    def _marked(self, shard: GraphShard) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Which entries of the rows of users, bool [eu], and of items, bool [ei], go."""
        num_items = shard.num_items
        all_of_user, all_of_item = _marks(self.users, shard.num_users), _marks(self.items, num_items)
        named = self.pair_users * num_items + self.pair_items

        def goes(users: Ids, items: Ids) -> npt.NDArray[np.bool_]:
            hit = all_of_user[users] | all_of_item[items]
            if len(named):
                hit |= np.isin(users * num_items + items, named)
            for request in self.simulated:
                hit |= request.removes(users, items, num_items)
            return hit

        return shard.marked(goes)


@dataclass(frozen=True, eq=False)
class Found:
    """Interactions that a request may remove. Each is given by its code, user * number of items + item, of global dense
    ids.

    Shapes: codes, counts [n]: interactions, ascending, each once, and the events of each. event_codes, times [m]: the
    events whose times were asked for, sorted by (code, time); the interactions among `codes` that have none stand there
    for other reasons.
    """

    codes: Ids
    counts: Ids
    event_codes: Ids
    times: Ids


def merged(parts: Sequence[Found]) -> Found:
    """Merge what several partitions found; each interaction is then there once. Only the partition of its user gives
    the events of an interaction."""
    event_codes = np.concatenate([_no_ids(), *(part.event_codes for part in parts)])
    times = np.concatenate([_no_ids(), *(part.times for part in parts)])
    order = np.lexsort((times, event_codes))
    event_codes, times = event_codes[order], times[order]
    timed, events = np.unique(event_codes, return_counts=True)
    codes = np.concatenate([timed, *(part.codes for part in parts)])
    counts = np.concatenate([events, *(part.counts for part in parts)])
    codes, first = np.unique(codes, return_index=True)
    return Found(codes, counts[first], event_codes, times)


def _codes_of_users(shard: GraphShard, places: Ids) -> Ids:
    """The codes, user * items + item, of entries in the rows of users."""
    users = shard.user_ids[np.searchsorted(shard.user_indptr, places, side="right") - 1]
    return users * shard.num_items + shard.user_neighbours[places]


def _codes_of_items(shard: GraphShard, places: Ids) -> Ids:
    """The codes, user * items + item, of entries in the rows of items."""
    items = shard.item_ids[np.searchsorted(shard.item_indptr, places, side="right") - 1]
    return shard.item_neighbours[places].astype(np.int64) * shard.num_items + items


def _marks(ids: Ids, total: int) -> npt.NDArray[np.bool_]:
    marks = np.zeros(total, dtype=bool)
    marks[ids] = True
    return marks


def restricted_to(shard: GraphShard, users: Ids, items: Ids) -> GraphShard:
    """The shard with the same rows, of which only the interactions users, items int64 [n] are kept."""
    wanted = users * shard.num_items + items
    return shard.with_entries(*shard.marked(lambda u, i: np.isin(u * shard.num_items + i, wanted)))


def with_empty_rows(shard: GraphShard, assignment: Assignment) -> GraphShard:
    """The shard with an empty row for every deleted node that its partition owned.

    Training needs these rows: ids are never used again, and a draw may choose any id that ever existed.
    """
    arrays: dict[str, Any] = {}
    for side, owners in (("user", assignment.owner_of_user), ("item", assignment.owner_of_item)):
        owned = np.flatnonzero(owners == shard.partition)
        ids, indptr = getattr(shard, f"{side}_ids"), getattr(shard, f"{side}_indptr")
        degrees = np.zeros(len(owned), dtype=np.int64)
        degrees[np.searchsorted(owned, ids)] = np.diff(indptr)
        arrays |= {f"{side}_ids": owned, f"{side}_indptr": np.concatenate([[0], np.cumsum(degrees)])}
    return replace(shard, **arrays)


def empty_nodes(shard: GraphShard) -> tuple[Ids, Ids]:
    """(users, items): the nodes of this shard that have no interaction."""
    return shard.user_ids[np.diff(shard.user_indptr) == 0], shard.item_ids[np.diff(shard.item_indptr) == 0]
