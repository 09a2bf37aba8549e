"""What rows of a request remove, against a plain model: a list of events, of which each row names some."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearnrec.cluster.requests.matching import (
    NO_TIMES,
    effect,
    effects,
    owners_of,
    partitions_to_ask,
    resolve,
    resolve_all,
    union,
)
from unlearnrec.cluster.requests.outcome import ALREADY_GONE, DELETED, INVALID, NOT_FOUND, outcome_of
from unlearnrec.cluster.requests.request import Tally, make_request
from unlearnrec.cluster.requests.rows import parse_row
from unlearnrec.distributed.graph.removal import merged
from unlearnrec.partitioning.assignment import Assignment
from unlearnrec.partitioning.manifest import EventTimes
from unlearnrec.partitioning.shard import GraphShard, build_shards

USERS, ITEMS, TIMES = 5, 4, 6
MAPS = tuple((pa.array(range(10, 10 + n)), np.arange(n), np.zeros(n, dtype=np.int16)) for n in (USERS, ITEMS))
"""External ids are 10 more than dense ones; 10 + USERS and so on are unknown."""

Event = tuple[int, int, int]

events = st.lists(
    st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1), st.integers(0, TIMES - 1)), min_size=1
)
user = st.none() | st.integers(10, 10 + USERS)
item = st.none() | st.integers(10, 10 + ITEMS)
bound = st.none() | st.integers(-1, TIMES)
rows_of_file = st.lists(st.tuples(user, item, bound, bound), min_size=1, max_size=8)


def shards_of(table: list[Event], parts: int, seed: int = 0, times: bool = True) -> tuple[list[GraphShard], Assignment]:
    rng = np.random.default_rng(seed)
    owners = Assignment(*(rng.integers(0, parts, n).astype(np.int16) for n in (USERS, ITEMS)), parts)
    pairs = sorted(Counter((u, i) for u, i, _ in table).items())
    users, items = np.array([pair for pair, _ in pairs], dtype=np.int32).reshape(-1, 2).T
    counts = np.array([n for _, n in pairs], dtype=np.int32)
    stored = np.array([t for _, _, t in sorted(table)], dtype=np.int64) if times else None
    return build_shards(users, items, counts, owners, stored), owners


def events_of(shards: list[GraphShard]) -> Counter[Event]:
    """All events, from the rows of users; those of items must have the same counts."""
    found: Counter[Event] = Counter()
    by_item: Counter[tuple[int, int]] = Counter()
    for shard in shards:
        users, items, counts = shard.interactions()
        assert shard.user_times is not None and len(shard.user_times) == counts.sum()
        found.update(
            zip(np.repeat(users, counts).tolist(), np.repeat(items, counts).tolist(), shard.user_times, strict=True)
        )
        owned = np.repeat(shard.item_ids, np.diff(shard.item_indptr))
        for u, i, n in zip(shard.item_neighbours.tolist(), owned.tolist(), shard.item_counts.tolist(), strict=True):
            by_item[u, i] += n
    assert by_item == Counter((u, i) for u, i, _ in found.elements())
    return found


def named_by(row: tuple[int | None, int | None, int | None, int | None], table: list[Event]) -> Counter[Event] | None:
    """The model: the events that a row names; None for a row that means nothing."""
    user, item, since, until = row
    ranged = since is not None or until is not None
    if (user is None and (item is None or ranged)) or (since is not None and until is not None and since >= until):
        return None
    return Counter(
        (u, i, t)
        for u, i, t in table
        if user in (None, u + 10)
        and item in (None, i + 10)
        and (since is None or since <= t)
        and (until is None or t < until)
    )


def pairs_lost(table: list[Event], gone: Counter[Event]) -> int:
    return len({e[:2] for e in table}) - len({e[:2] for e in (Counter(table) - gone).elements()})


@settings(max_examples=300, deadline=None)
@given(events, rows_of_file, st.sampled_from([1, 2, 3]), st.integers(0, 5))
def test_rows_agree_with_a_set_of_events(table, rows, parts, seed):
    shards, owners = shards_of(table, parts, seed)
    parsed = [parse_row(*row) for row in rows]
    kinds = {kind: [p[1] for p in parsed if not isinstance(p, str) and p[0] == kind] for kind in ("users", "items")}
    pairs, ranges = ([p[1] for p in parsed if p[0] == kind] for kind in ("interactions", "ranges"))
    request = make_request(kinds["users"], kinds["items"], pairs, None, b"", ranges, tuple(parsed))
    named = resolve(request, *MAPS, EventTimes(unit=None))
    removal, timed = union([named])
    asked = partitions_to_ask(owners, removal, timed)
    found = merged([removal.find(shards[k], timed) for k in asked])

    outcome = outcome_of(found, named, ITEMS)
    places = {entry: place for place, entry in enumerate(request.entries())}
    gone: Counter[Event] = Counter()
    results = []
    for row, entry in zip(rows, parsed, strict=True):
        mine = named_by(row, table)
        assert (mine is None) == isinstance(entry, str)
        if mine is None:
            results.append(INVALID)
            continue
        gone |= mine
        place = places[entry]
        assert outcome.events[place] == mine.total() and outcome.interactions[place] == pairs_lost(table, mine)
        results.append(DELETED if mine else NOT_FOUND)
        assert outcome.results[place] == results[-1]
    assert outcome.counts(request.tally) == {**dict.fromkeys((ALREADY_GONE,), 0)} | {
        name: results.count(name) for name in (DELETED, NOT_FOUND, INVALID)
    }
    assert Tally.read(request.tally.document()) == request.tally

    whole = effect(found, [named], ITEMS)
    assert whole.events == gone.total() and len(whole.users) == pairs_lost(table, gone)
    left = [s.thinned(*whole.thinned).without(whole.users, whole.items) for s in shards]
    assert events_of(left) == Counter(table) - gone
    touched = owners_of(owners, whole.touched)
    for k, (before, after) in enumerate(zip(shards, left, strict=True)):
        assert k in touched or before.to_bytes() == after.to_bytes()
        assert GraphShard.from_bytes(after.to_bytes()).to_bytes() == after.to_bytes()


@settings(max_examples=100, deadline=None)
@given(events, st.lists(rows_of_file, min_size=1, max_size=4))
def test_many_requests_are_looked_up_together_and_each_has_its_own(table, files):
    (shard,), _ = shards_of(table, 1)
    requests = []
    for rows in files:
        parsed = [parse_row(*row) for row in rows]
        users, items, pairs, ranges = (
            [p[1] for p in parsed if not isinstance(p, str) and p[0] == kind]
            for kind in ("users", "items", "interactions", "ranges")
        )
        requests.append(make_request(users, items, pairs, None, b"", ranges, tuple(parsed)))
    time = EventTimes(unit=None)
    named = resolve_all(requests, *MAPS, time)
    for one, request in zip(named, requests, strict=True):
        alone = resolve(request, *MAPS, time)
        assert one.invalid == alone.invalid and one.unknown == alone.unknown
        for name in ("user", "item", "ranged", "since", "until", "padded", "known"):
            np.testing.assert_array_equal(getattr(one, name), getattr(alone, name))
    removal, timed = union(named)
    found = merged([removal.find(shard, timed)])
    each = effects(found, dict(zip("abcd", named, strict=False)), ITEMS)
    for request_id, one in zip("abcd", named, strict=False):
        own, alone = each[request_id], effect(found, [one], ITEMS)
        assert own.events == alone.events
        for mine, theirs in zip(
            (own.users, own.items, *own.thinned), (alone.users, alone.items, *alone.thinned), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)
    assert resolve_all([], *MAPS, time) == [] and effects(found, {}, ITEMS) == {}
    assert effect(found, [], ITEMS).events == 0


def test_two_requests_that_take_a_pair_together():
    """Half of its events each: the batch removes it, neither request does."""
    shards, _ = shards_of([(0, 0, 1), (0, 0, 4), (0, 1, 1)], 1)
    halves = [make_request([], [], [], None, b"", [("10", "10", a, b)]) for a, b in ((None, 3), (3, None))]
    named = [resolve(half, *MAPS, EventTimes(unit=None)) for half in halves]
    removal, timed = union(named)
    found = removal.find(shards[0], timed)
    for one in named:
        alone = effect(found, [one], ITEMS)
        assert alone.events == 1 and not len(alone.users) and alone.thinned[2].tolist() == [1]
    both = effect(found, named, ITEMS)
    assert (both.users.tolist(), both.items.tolist(), both.events) == ([0], [0], 2) and not len(both.thinned[0])


def test_a_graph_without_times_refuses_ranges_and_nothing_else():
    shards, _ = shards_of([(0, 0, 1), (0, 0, 4)], 1, times=False)
    request = make_request(["10"], [], [], None, b"", [("10", None, 1, None), ("99", None, 1, None)])
    named = resolve(request, *MAPS, None)
    removal, timed = union([named])
    outcome = outcome_of(removal.find(shards[0], timed), named, ITEMS)
    assert outcome.results == [DELETED, INVALID, INVALID] and outcome.events.tolist() == [2, 0, 0]
    assert outcome.reasons == [None, NO_TIMES, NO_TIMES]


def test_times_take_eight_bytes_an_event_and_nothing_else_changes():
    table = [(u, i, t) for u in range(USERS) for i in range(ITEMS) for t in range(3)]
    for with_times, without in zip(*(shards_of(table, 2, times=x)[0] for x in (True, False)), strict=True):
        assert without.user_times is None
        for name, value in vars(without).items():
            assert name == "user_times" or np.array_equal(value, getattr(with_times, name)), name
        extra = len(with_times.to_bytes()) - len(without.to_bytes())
        assert 0 <= extra - 8 * int(with_times.user_counts.sum()) < 200
