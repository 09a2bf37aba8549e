"""What a request means in a graph, and what it removes from it. Pure functions of arrays, without files or workers.

Everything is counted in the version before any of the requests is carried out. What two entries name is therefore counted in
both, and neither the order of requests nor their division into batches matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...distributed.graph.removal import Found, Removal
from ...distributed.partition.version import Version
from ...partitioning.assignment import Assignment
from ...partitioning.graph import dense_ids
from ...partitioning.manifest import EventTimes, Graph
from ...partitioning.shard import distinct, spans
from .request import Request
from .rows import ITEMS, RANGES, USERS
from .times import in_unit

Ids = npt.NDArray[np.int64]
Marks = npt.NDArray[np.bool_]
IdMap = tuple[pa.Array, Ids, npt.NDArray[np.int16]]
"""The id map of one side, (external ids, dense ids, owners), as `partitioning.ingest.load_ids` gives it."""

NONE: Ids = np.empty(0, dtype=np.int64)

UNKNOWN, ANY = -1, -2
"""These stand in the place of a dense id. UNKNOWN: the graph does not know the id. ANY: the entry names no such id."""

NO_TIMES = "the graph has no times of events: map columns.time and ingest again"


@dataclass(frozen=True, eq=False)
class Resolved:
    """The entries [k] of a request in the terms of one graph.

    user, item: int64 [k], dense ids, or UNKNOWN or ANY. ranged: bool [k], whether the entry has a time range. since, until:
    int64 [k], the range [since, until) in the unit of the graph's times. invalid: the positions of entries that mean nothing
    in this graph, each with the reason.
    """

    user: Ids
    item: Ids
    ranged: Marks
    since: Ids
    until: Ids
    invalid: Mapping[int, str]
    padded: Marks
    """bool [k]: the graph does not know an id of the entry, but it knows the id without the spaces around it, which is that
    of another user or item."""

    @property
    def known(self) -> Marks:
        """bool [k]: entries that may remove something, because they are valid and the graph knows all their ids."""
        known = (self.user != UNKNOWN) & (self.item != UNKNOWN)
        known[list(self.invalid)] = False
        return known

    @property
    def unknown(self) -> int:
        """The number of entries with an id that the graph does not know."""
        return int(((self.user == UNKNOWN) | (self.item == UNKNOWN)).sum())

    @property
    def removal(self) -> Removal:
        """What the known entries without a time range name."""
        plain = self.known & ~self.ranged
        users, items = plain & (self.item == ANY), plain & (self.user == ANY)
        pairs = plain & ~users & ~items
        return Removal(self.user[users], self.item[items], self.user[pairs], self.item[pairs])

    @property
    def timed(self) -> Marks:
        """bool [k]: the known entries with a time range."""
        return self.known & self.ranged


@dataclass(frozen=True, eq=False)
class Effect:
    """What some entries remove from a graph.

    users, items: int64 [n], the interactions that are removed. thinned: those that lose only some of their events,
    as `GraphShard.thinned` takes them: users [m], items [m], numbers of events that are left [m], and the times of these.
    Both are sorted by (user, item). events: the number of events that are removed in all.
    """

    users: Ids
    items: Ids
    thinned: tuple[Ids, Ids, Ids, Ids]
    events: int

    @property
    def touched(self) -> tuple[Ids, Ids]:
        """(users, items) [n + m] of all interactions that are removed or lose events."""
        return np.concatenate([self.users, self.thinned[0]]), np.concatenate([self.items, self.thinned[1]])

    def share(self, graph: Graph) -> float:
        """The share of the graph's interactions that is removed, or of its events, whichever is larger; from 0 to 1."""
        return max(len(self.users) / max(1, graph.interactions), self.events / max(1, graph.events))

    @property
    def partial(self) -> bool:
        """Whether an interaction loses some of its events only."""
        return bool(len(self.thinned[0]))


def resolve(request: Request, user_map: IdMap, item_map: IdMap, time: EventTimes | None = None) -> Resolved:
    """What a request means in a graph.

    user_map, item_map: the id maps of the graph. time: as in the graph's manifest; None where it has no times, and all
    entries with a time range are then invalid.
    """
    return resolve_all([request], user_map, item_map, time)[0]


def resolve_all(
    requests: Sequence[Request], user_map: IdMap, item_map: IdMap, time: EventTimes | None = None
) -> list[Resolved]:
    """As `resolve`, for each of these requests. The ids of all are looked up together, since that is a pass over the id
    maps: it takes no longer than for one of them."""
    each = [list(request.entries()) for request in requests]
    entries = list(chain.from_iterable(each))
    ranged = np.array([kind == RANGES for kind, _ in entries], dtype=bool)
    users = [None if kind == ITEMS else value if kind == USERS else value[0] for kind, value in entries]
    items = [None if kind == USERS else value if kind == ITEMS else value[1] for kind, value in entries]
    since, until = np.zeros((2, len(entries)), dtype=np.int64)
    invalid = {}
    for position in np.flatnonzero(ranged).tolist():
        low, high = entries[position][1][2:]
        try:
            if time is None:
                raise ValueError(NO_TIMES)
            since[position], until[position] = in_unit(low, high, time.unit)
        except ValueError as error:
            invalid[position] = str(error)
    user, item = _dense(users, user_map), _dense(items, item_map)
    padded = _padded(users, user, user_map) | _padded(items, item, item_map)
    resolved, end = [], 0
    for own in each:
        first, end = end, end + len(own)
        part = slice(first, end)
        wrong = {position - first: invalid[position] for position in range(first, end) if position in invalid}
        ids, ends = (user[part], item[part]), (since[part], until[part])
        resolved.append(Resolved(*ids, ranged[part], *ends, wrong, padded[part]))
    return resolved


def _dense(texts: Sequence[Any], id_map: IdMap) -> Ids:
    """The dense ids [k] of external ids; UNKNOWN where the map lacks one, ANY for None."""
    found = np.full(len(texts), ANY, dtype=np.int64)
    named = [position for position, text in enumerate(texts) if text is not None]
    found[named] = dense_ids(id_map[0], id_map[1], [str(texts[position]) for position in named])
    return found


def _padded(texts: Sequence[Any], found: Ids, id_map: IdMap) -> Marks:
    """bool [k]: the ids that are unknown as they are written and known without the spaces around them."""
    padded = np.zeros(len(texts), dtype=bool)
    spaced = [p for p in np.flatnonzero(found == UNKNOWN).tolist() if str(texts[p]) != str(texts[p]).strip()]
    padded[spaced] = _dense([str(texts[p]).strip() for p in spaced], id_map) != UNKNOWN
    return padded


def union(parts: Iterable[Resolved]) -> tuple[Removal, Ids]:
    """All that some requests name together: (what they name without time ranges, the users [n] of their time ranges).

    The times of the events of these users are needed to tell what the ranges remove.
    """
    removals, timed = [Removal()], [NONE]
    for part in parts:
        removals.append(part.removal)
        timed.append(part.user[part.timed])
    names = ("users", "items", "pair_users", "pair_items")
    users, items, pair_users, pair_items = (np.concatenate([getattr(x, name) for x in removals]) for name in names)
    return Removal(users, items, pair_users, pair_items), np.unique(np.concatenate(timed))


def partitions_to_ask(owners: Assignment, removal: Removal, timed: Ids) -> list[int]:
    """The partitions to ask what requests remove, ascending: those that own something that is named.

    An interaction is found at the owner of its user. The owner of an item is asked only where the whole item is named.
    """
    users = np.concatenate([removal.users, removal.pair_users, timed])
    named = (*owners.owner_of_user[users], *owners.owner_of_item[removal.items])
    return sorted({int(k) for k in named})


def owners_of(owners: Assignment, pairs: tuple[Ids, Ids]) -> list[int]:
    """The partitions that own the user or the item of one of these pairs, ascending."""
    return sorted({int(k) for k in (*owners.owner_of_user[pairs[0]], *owners.owner_of_item[pairs[1]])})


def changed_partitions(version: Version, owners: Assignment, whole: Effect, cut_only: bool = False) -> list[int]:
    """The partitions whose files change when `whole` is removed, ascending.

    These are the owners of the users and items of what is removed. They are all partitions where interactions are removed
    and the encoder changes the rows around them too, unless `cut_only`: then only the graph is cut.
    """
    encoder = version.model.encoder  # a dry run may have a version without one
    if encoder is not None and encoder.around and len(whole.users) and not cut_only:
        return list(range(version.graph.partitions))
    return owners_of(owners, whole.touched)


def effect(found: Found, named: Sequence[Resolved], num_items: int) -> Effect:
    """What these requests remove together.

    found: what the graph has of all that they name, and perhaps more. num_items: of the graph.
    """
    users, items = found.codes // num_items, found.codes % num_items
    removal, timed = union(named)
    whole = np.isin(users, removal.users) | np.isin(items, removal.items)
    whole |= np.isin(found.codes, removal.pair_users * num_items + removal.pair_items)
    hit = np.zeros(len(found.times), dtype=bool)
    for one in named if len(timed) else ():
        for position, low, high in _segments(found, one, num_items):
            hit[low:high] |= _in_range(found.times[low:high], one, position)
    place = np.searchsorted(found.codes, found.event_codes)
    hits = np.bincount(place[hit], minlength=len(users))
    gone = whole | ((hits > 0) & (hits == found.counts))
    fewer = (hits > 0) & ~gone
    left = found.times[~hit & fewer[place]]
    thinned = (users[fewer], items[fewer], found.counts[fewer] - hits[fewer], left)
    return Effect(users[gone], items[gone], thinned, int(found.counts[gone].sum() + hits[fewer].sum()))


def effects(found: Found, named: Mapping[str, Resolved], num_items: int) -> dict[str, Effect]:
    """What each of these requests removes by itself, by its id. found, num_items: as `effect`.

    Each request is compared with its own part of `found` only, so that the cost grows with the number of requests, and not
    with its square.
    """
    items = found.codes % num_items
    by_item = np.argsort(items, kind="stable")
    ends = found.codes // num_items, items[by_item]
    answers = {}
    for request_id, one in named.items():
        removal, timed = union([one])
        whole_users = np.concatenate([removal.users, timed])
        own = [
            spans(*(np.searchsorted(ends[0], whole_users, side) for side in ("left", "right"))),
            by_item[spans(*(np.searchsorted(ends[1], removal.items, side) for side in ("left", "right")))],
            _places(found.codes, removal.pair_users * num_items + removal.pair_items),
        ]
        answers[request_id] = effect(_part(found, distinct(np.concatenate(own))), [one], num_items)
    return answers


def _part(found: Found, places: Ids) -> Found:
    """Of what was found, only the interactions at these places, ascending, with their events."""
    codes = found.codes[places]
    events = spans(*(np.searchsorted(found.event_codes, codes, side) for side in ("left", "right")))
    return Found(codes, found.counts[places], found.event_codes[events], found.times[events])


def _places(codes: Ids, wanted: Ids) -> Ids:
    """The places, in the ascending `codes`, of those of `wanted` that are there."""
    place = np.searchsorted(codes, wanted)
    there = place < len(codes)
    there[there] = codes[place[there]] == wanted[there]
    return place[there]


def by_entry(found: Found, named: Resolved, num_items: int) -> tuple[Ids, Ids]:
    """(interactions, events), int64 [k]: how many of each an entry removes by itself. found, num_items: as `effect`."""
    users, items = found.codes // num_items, found.codes % num_items
    interactions, events = np.zeros((2, len(named.user)), dtype=np.int64)
    plain = named.known & ~named.ranged
    of_users, of_items = plain & (named.item == ANY), plain & (named.user == ANY)
    by_item = np.argsort(items, kind="stable") if of_items.any() else np.arange(len(items))
    # For each kind of entry: its entries, the sorted keys of what was found, their events, and the keys that are named.
    whole = (
        (of_users, users, found.counts, named.user),
        (of_items, items[by_item], found.counts[by_item], named.item),
        (plain & ~of_users & ~of_items, found.codes, found.counts, named.user * num_items + named.item),
    )
    for mask, keys, counts, wanted in whole:
        low, high = (np.searchsorted(keys, wanted[mask], side) for side in ("left", "right"))
        sums = np.concatenate([[0], np.cumsum(counts)])
        interactions[mask], events[mask] = high - low, sums[high] - sums[low]
    place = np.searchsorted(found.codes, found.event_codes)
    for position, low, high in _segments(found, named, num_items):
        pairs, hits = np.unique(place[low:high][_in_range(found.times[low:high], named, position)], return_counts=True)
        interactions[position], events[position] = (hits == found.counts[pairs]).sum(), hits.sum()
    return interactions, events


def _segments(found: Found, named: Resolved, num_items: int) -> Iterable[tuple[int, int, int]]:
    """(position, low, high) of each entry with a time range: events low to high - 1 of `found` are those of its user, or of
    its pair."""
    positions = np.flatnonzero(named.timed)
    user, item = named.user[positions], named.item[positions]
    low = user * num_items + np.where(item == ANY, 0, item)
    high = np.where(item == ANY, (user + 1) * num_items, low + 1)
    ends = (np.searchsorted(found.event_codes, bound) for bound in (low, high))
    return zip(positions.tolist(), *(end.tolist() for end in ends), strict=True)


def _in_range(times: Ids, named: Resolved, position: int) -> Marks:
    """Which of these times lie in the range of the entry at `position`."""
    return (times >= named.since[position]) & (times < named.until[position])
