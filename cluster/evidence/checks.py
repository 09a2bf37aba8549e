"""Check a committed request against the files of its version, and score its forgotten pairs with the new model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...distributed.graph.removal import Removal
from ...distributed.measures import scores as measures
from ...distributed.partition.partition import Partition
from ...partitioning.mapped import contains, marks
from ...partitioning.shard import distinct
from ...workers import WorkerFailure, WorkerGroup, calling
from ..output.id_maps import SIDES
from ..output.manifest import Manifest
from ..output.session import Session
from ..requests.matching import Effect
from .change import NONE, Change, files_of_partition

Ids = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]

SAMPLE = 10_000
"""The largest number of removed interactions, of deleted nodes, and of pairs of each kind that are looked up or scored."""

REFERENCES = 100
"""The least number of pairs in each reference distribution, so that even the score of a single forgotten pair can be
compared."""

MOST_PARTITIONS = 16
"""The largest number of partitions from which pairs for comparison are drawn."""

UNKNOWN = "its content or files of the version before were purged, so what it removed is not known any more"
UNKNOWN_BATCH = "the content of a request of this version, or files of the version before, were purged"
FILES_GONE = "files of this version were removed by a purge before this report was written"

ALWAYS = (
    "files of the version",
    "untouched partitions",
    "rows of others",
    "rows of partitions",
    "removed interactions",
)
"""The names of the checks that every report has."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""The quantiles of scores that a report states."""


def version_checks(change: Change, touched: tuple[Ids, Ids] | None) -> list[dict[str, Any]]:
    """The checks that are the same for all requests of a version; empty if files of it were purged.

    touched: the users and items that all requests of the version touched; None if that is not known any more.
    """
    if not change.has_after:
        return []
    return [_files_check(change), _untouched_check(change), _others_check(change, touched), _rows_check(change)]


def checks_of(
    change: Change, shared: Sequence[Mapping[str, Any]], pairs: tuple[Ids, Ids] | None, told: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The checks of a committed request, on a sample where there is much to check.

    Args:
        shared: those of its version (`version_checks`).
        pairs: the interactions that the request removed; None if that is not known any more.
        told: the request's answer, whose counts are compared with what the files say.

    Returns:
        {"name", "ok", "checked", "of", "detail"} for each check. `ok` is None for a check that was left out.
    """
    if not change.has_after:
        return [_not_checked(name, FILES_GONE) for name in ALWAYS]
    checks = [dict(check) for check in shared]
    if pairs is None:
        return [*checks, _not_checked("removed interactions", UNKNOWN, told.get("removed_interactions"))]
    deleted = [told[name] for name in ("deleted_users", "deleted_items") if name in told]
    return [
        *checks,
        _pairs_check(change, pairs, told.get("removed_interactions")),
        _nodes_check(change, pairs, sum(deleted) if deleted else None),
    ]


def _pairs_check(change: Change, pairs: tuple[Ids, Ids], told: int | None) -> dict[str, Any]:
    """No removed interaction is in a row of any shard, and their number is the one of the answer."""
    users, items = (x[_sample(len(pairs[0]))] for x in pairs)
    there = change.stands("user", users, items) | change.stands("item", users, items)
    agrees = told is None or told == len(pairs[0])
    detail = f"{int(there.sum())} of them stand in rows of users or items of the new version"
    if not agrees:
        detail += f"; the answer says {told} were removed, the files of the version before give {len(pairs[0])}"
    return _check("removed interactions", not there.any() and agrees, len(users), len(pairs[0]), detail)


def events_check(change: Change, effect: Effect, told: int | None) -> dict[str, Any]:
    """Interactions that lost some of their events have only the events that should be left: their counts are not larger in
    the rows of users or of items, and no other times of events are there.

    told: the number of removed events in the answer.
    """
    users, items, counts, times = effect.thinned
    by_user = users * change.after.graph.items + items
    left = set(zip(np.repeat(by_user, counts).tolist(), times.tolist(), strict=True))
    chosen = _sample(len(users))
    wrong = 0
    for shard in change.shards_of(users[chosen], items[chosen]):
        for side in ("user", "item"):
            wrong += int((shard.counts(side, users[chosen], items[chosen]) > counts[chosen]).sum())
        asked = np.unique(users[chosen])
        found = Removal().find(shard.rows(asked, NONE), asked)
        mine = np.isin(found.event_codes, by_user[chosen])
        events = zip(found.event_codes[mine].tolist(), found.times[mine].tolist(), strict=True)
        wrong += sum(event not in left for event in events)
    agrees = told is None or told == effect.events
    detail = f"interactions that lost some of their events; {wrong} have others than should be left"
    if not agrees:
        detail += f"; the answer says {told} events were removed, the files of the version before give {effect.events}"
    return _check("removed events", not wrong and agrees, len(chosen), len(users), detail)


def _nodes_check(change: Change, pairs: tuple[Ids, Ids], told: int | None) -> dict[str, Any]:
    """A user or item that lost its last interaction has no row and no external id any more, and stands in no row of what it
    was connected with."""
    gone = found = checked = 0
    for n, (side, other) in enumerate((("user", "item"), ("item", "user"))):
        ends = distinct(pairs[n])
        of_side = (ends, NONE) if side == "user" else (NONE, ends)
        shards = change.shards_of(*of_side)
        degrees = sum((shard.degrees(side, ends) for shard in shards), np.zeros(len(ends), dtype=np.int64))
        lost = ends[degrees == 0]
        chosen = lost[_sample(len(lost))]
        there = change.lives[n][chosen]
        for shard in shards:
            there |= shard.has_rows(side, chosen)
        mine = np.flatnonzero(contains(chosen, pairs[n]))
        mine = mine[_sample(len(mine))]
        still = change.stands(other, pairs[0][mine], pairs[1][mine])
        there |= contains(np.sort(pairs[n][mine[still]]), chosen)
        gone, checked, found = gone + len(lost), checked + len(chosen), found + int(there.sum())
    detail = f"users and items that lost their last interaction; {found} of them have a row or an external id"
    agrees = told is None or told == gone
    if not agrees:
        detail += f"; the answer says {told} were deleted"
    return _check("deleted nodes", not found and agrees, checked, gone, detail)


def _rows_check(change: Change) -> dict[str, Any]:
    """Each partition that changed has as many rows of E0 as nodes. So a node that is in no shard has no row."""
    shards = {k: change.new[k] for k in change.affected}
    nodes = {k: len(shard.user_ids) + len(shard.item_ids) for k, shard in shards.items()}
    wrong = [k for k, count in nodes.items() if change.rows[1][k] != count]
    detail = (
        f"rows of E0 as many as nodes of the shard; otherwise in partitions {wrong}"
        if wrong
        else (f"{sum(nodes.values())} rows of E0 for as many nodes in the partitions that changed")
    )
    return _check("rows of partitions", not wrong, len(nodes), len(change.new), detail)


def _files_check(change: Change) -> dict[str, Any]:
    """The files that the version changed have the SHA-256 and the size that the manifest names, and those that it shares
    with the version before have the size."""
    found = {name: there for name, there in change.found.items() if name in change.after.files}
    wrong = [name for name, there in found.items() if not _as_committed(change.after, name, there)]
    read = sum("sha256" in (there or {}) for there in found.values())
    detail = (
        f"not as committed: {', '.join(wrong)}"
        if wrong
        else f"SHA-256 and size as committed; of {len(found) - read} more, which the version before has too, the size"
    )
    return _check("files of the version", not wrong, read, len(change.after.files), detail)


def _untouched_check(change: Change) -> dict[str, Any]:
    """Partitions that no answer of the version names have the same files as before, by name, by the SHA-256 in the
    manifests and by their size in the store. With `influence.around` every partition may change, so none is checked."""
    kinds, wrong, count = ("shard", "embeddings"), [], 0
    named = {k for answer in change.after.answers.values() for k in answer["affected_partitions"]}
    untouched = [k for k in range(len(change.new)) if k not in named and not change.around]
    for k in untouched:
        names = files_of_partition(change.after, k)
        for name in (name for kind in kinds for name in names[kind]):
            count += 1
            same = _entry(change.before, name) == _entry(change.after, name)
            if not same or not _as_committed(change.after, name, change.found[name]):
                wrong.append(name)
    detail = f"{len(untouched)} partitions; " + (
        f"changed: {', '.join(wrong)}" if wrong else "the same files as before"
    )
    return _check("untouched partitions", not wrong, count, count, detail)


def _others_check(change: Change, touched: tuple[Ids, Ids] | None) -> dict[str, Any]:
    """In changed partitions, nodes that no request of the version touched have the same bits in their rows as before."""
    name = "rows of others"
    if change.around:
        return _not_checked(name, "influence.around changes rows around those that a request touches")
    if touched is None:
        return _not_checked(name, UNKNOWN_BATCH)
    graph = change.after.graph
    ends = [marks(nodes, graph.nodes(side)) for nodes, side in zip(touched, SIDES, strict=True)]
    compared, moved = (
        sum(int((~of_side[nodes]).sum()) for nodes, of_side in zip(parts, ends, strict=True))
        for parts in (change.compared, change.moved)
    )
    detail = f"nodes of changed partitions that no request of the version touched; the rows of {moved} differ"
    return _check(name, not moved, compared, compared, detail)


def scores_of(
    session: Session,
    change: Change,
    requests: Mapping[str, tuple[Ids, Ids] | None],
    group: WorkerGroup | None,
) -> dict[str, dict[str, Any]]:
    """Scores of each request's forgotten pairs in the new version, and for comparison those of pairs that it was trained on
    and of random pairs that are no interactions.

    requests: as `pairs` of `checks_of`, by request id. All pairs are scored in one call of the workers, and the requests
    share the pairs for comparison. group: the workers; None: nothing is scored.

    Returns:
        By request id: {"groups": [{"pairs", "n", "mean", "q05", ..., "q95"}], "auc": {...}, "of": the number of forgotten
        pairs whose user and item are still there}, or {"left_out": the reason}.
    """
    if group is None:
        return _left_out(requests, "no workers were running when this report was written")
    if session.version().version != change.after.version:
        return _left_out(requests, "a later version is current, and the workers hold that one")
    answers: dict[str, dict[str, Any]] = {}
    whole, chosen = {}, {}
    for request_id, pairs in requests.items():
        if pairs is None:
            answers[request_id] = {"left_out": UNKNOWN}
            continue
        both = change.lives[0][pairs[0]] & change.lives[1][pairs[1]]
        places = np.flatnonzero(both)
        if len(places):
            places = places[_sample(len(places))]
            whole[request_id], chosen[request_id] = int(both.sum()), (pairs[0][places], pairs[1][places])
        else:
            lost = "every forgotten pair lost an end, and has no score any more"
            none = "no interaction lost all of its events, so no pair was forgotten"
            answers[request_id] = {"left_out": lost if len(pairs[0]) else none}
    if not chosen:
        return answers
    draw = np.random.default_rng(change.after.version)
    count = max(REFERENCES, *(len(users) for users, _ in chosen.values()))
    forgotten = [pairs for pairs in requests.values() if pairs is not None]
    asked = _drawn_from(change, draw)
    groups = [*chosen.values(), _trained(change, asked, count, draw)]
    groups.append(_random(change, asked, forgotten, count, draw))
    ends = [np.concatenate([pairs[side] for pairs in groups]) for side in (0, 1)]
    scores = np.full(len(ends[0]), np.nan)
    try:
        for positions, values in session.call(group, change.after, calling(Partition.scores, *ends)):
            scores[positions] = values
    except WorkerFailure as error:
        return answers | _left_out(chosen, f"the workers failed ({type(error).__name__})")
    parts = np.split(scores, np.cumsum([len(pairs[0]) for pairs in groups])[:-1])
    for request_id, own in zip(chosen, parts, strict=False):
        size = max(len(own), REFERENCES)
        summary = _summary({"forgotten": own, "trained": parts[-2][:size], "random": parts[-1][:size]})
        answers[request_id] = summary | {"of": whole[request_id]}
    return answers


def _left_out(requests: Iterable[str], why: str) -> dict[str, dict[str, Any]]:
    return {request_id: {"left_out": why} for request_id in requests}


def _summary(groups: Mapping[str, Scores]) -> dict[str, Any]:
    """Mean and quantiles of each group of scores, and the AUC between each two groups. NaN scores are left out."""
    scores = {name: values[~np.isnan(values)] for name, values in groups.items()}
    lines: list[dict[str, Any]] = []
    for name, values in scores.items():
        line: dict[str, Any] = {"pairs": name, "n": len(values), "mean": float(values.mean()) if len(values) else None}
        for q in QUANTILES:
            line[f"q{round(100 * q):02d}"] = float(np.quantile(values, q)) if len(values) else None
        lines.append(line)
    auc = {
        f"{one} above {other}": measures.auc(scores[one], scores[other])
        for one, other in (("forgotten", "trained"), ("forgotten", "random"), ("trained", "random"))
        if len(scores[one]) and len(scores[other])
    }
    return {"groups": lines, "auc": auc}


def _drawn_from(change: Change, draw: np.random.Generator) -> list[int]:
    """The partitions from which pairs for comparison are drawn, ascending: all, or some by chance of more than
    MOST_PARTITIONS, since the shard of each is opened."""
    return np.sort(draw.permutation(len(change.new))[:MOST_PARTITIONS]).tolist()


def _trained(change: Change, asked: Sequence[int], count: int, draw: np.random.Generator) -> tuple[Ids, Ids]:
    """At most `count` random interactions of the new version, (users, items) by dense id, of users of these partitions."""
    shards = [change.new[k] for k in asked]
    ends = np.cumsum([shard.drawn_from for shard in shards])
    # More than are needed: some of the places are of interactions that were removed since the base was written.
    places = np.unique(draw.integers(0, ends[-1], min(2 * count, int(ends[-1])))) if ends[-1] else NONE
    pairs = [(NONE, NONE)]
    for shard, first, end in zip(shards, [0, *ends], ends, strict=False):
        pairs.append(shard.at(places[(places >= first) & (places < end)] - first))
    users, items = (np.concatenate(part) for part in zip(*pairs, strict=True))
    chosen = draw.permutation(len(users))[:count]
    return users[chosen], items[chosen]


def _random(
    change: Change, asked: Sequence[int], forgotten: Sequence[tuple[Ids, Ids]], count: int, draw: np.random.Generator
) -> tuple[Ids, Ids]:
    """`count` random pairs of a live user of these partitions and a live item that are neither interactions nor forgotten;
    fewer if the graph is so dense that 20 draws do not find enough."""
    num_items = change.after.graph.items
    removed = np.sort(np.concatenate([users * num_items + items for users, items in forgotten]))
    live_users, live_items = change.live
    if len(asked) < len(change.new) and change.owners is not None:
        live_users = live_users[marks(np.array(asked), len(change.new))[change.owners.owner_of_user[live_users]]]
    found = np.empty(0, dtype=np.int64)
    for _ in range(20):
        users, items = draw.choice(live_users, 2 * count), draw.choice(live_items, 2 * count)
        free = ~change.stands("user", users, items)
        codes = (users * num_items + items)[free]
        found = np.unique(np.concatenate([found, codes[~contains(removed, codes)]]))
        if len(found) >= count:
            break
    chosen = draw.permutation(found)[:count]
    return chosen // num_items, chosen % num_items


def _check(name: str, ok: bool, checked: int, of: int, detail: str) -> dict[str, Any]:
    return {"name": name, "ok": bool(ok), "checked": checked, "of": of, "detail": detail}


def _not_checked(name: str, why: str, of: int | None = None) -> dict[str, Any]:
    return {"name": name, "ok": None, "checked": 0, "of": of, "detail": f"left out: {why}"}


def _entry(version: Manifest, name: str) -> dict[str, Any] | None:
    entry = version.files.get(name)
    return None if entry is None else {"sha256": entry.sha256, "bytes": entry.bytes}


def _as_committed(version: Manifest, name: str, there: Mapping[str, Any] | None) -> bool:
    """Whether what was seen of a file, its size and perhaps its SHA-256, is what the version says."""
    entry = _entry(version, name)
    return entry is not None and there is not None and entry.items() >= there.items()


def _sample(total: int) -> Ids:
    """The positions of a random sample of at most SAMPLE among `total` things, ascending. The same total gives the same
    sample."""
    if total <= SAMPLE:
        return np.arange(total)
    return np.sort(np.random.default_rng(total).choice(total, SAMPLE, replace=False))
