"""Recommendations and scores of one version, from its readouts in memory.

Shape legend: B = users of a block, I = items of the version, D = columns of the readout, k = items a user, n = pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...partitioning.errors import InputError
from ..requests.request import Id
from ..serving.readouts import Readouts

Unknown = Literal["empty", "error"]
Places = npt.NDArray[np.int64]
Rows = npt.NDArray[np.float32]

CELLS = 1 << 22
"""Scores that are held at once, 16 MiB; of one user all are."""


@dataclass(frozen=True, eq=False)
class Scoring:
    """What `Session.recommend`, `recommend_table` and `scores` compute from."""

    readouts: Readouts

    @cached_property
    def items(self) -> dict[Id, int]:
        """External id -> position."""
        return {name: place for place, name in enumerate(self.readouts.items)}

    @cached_property
    def user_ids(self) -> pa.Array:
        """External ids by position."""
        names: list[Id | None] = [None] * len(self.readouts.user_rows)
        for name, place in self.readouts.users.items():
            names[place] = name
        return pa.array(names)

    def scores(self, users: Sequence[Id], items: Sequence[Id]) -> Rows:
        """Float32 [n]: the score of each pair (users[i], items[i]), whether they interacted or not.

        Raises:
            InputError: an id is not in the version.
        """
        of_users = self.places("scores", "user", users, "error")
        of_items = self.places("scores", "item", items, "error")
        return np.einsum("nd,nd->n", self.readouts.user_rows[of_users], self.readouts.item_rows[of_items])

    def places(self, method: str, side: str, ids: Sequence[Id], unknown: Unknown) -> Places:
        """Int64 [n]: the position of each id's row; -1 if the version does not have it.

        Raises:
            InputError: with unknown="error", if there is such an id. The message says how many and where, and not which: a
                message may be written down where a forgotten id must not be.
        """
        known: Mapping[Id, int] = self.readouts.users if side == "user" else self.items
        found = np.fromiter((_place(known, name) for name in ids), np.int64, len(ids))
        missing = np.flatnonzero(found < 0)
        if unknown == "error" and len(missing):
            first = ", ".join(map(str, missing[:5].tolist())) + (", ..." if len(missing) > 5 else "")
            raise InputError(
                f"{method}: {len(missing)} of {len(ids)} {side}s are not in version {self.readouts.version} (at positions "
                f"{first}, counted from 0): the table did not have them, or they were forgotten"
            )
        return found

    def best(self, users: Places, k: int, exclude_seen: bool) -> Iterator[tuple[Places, Rows, Places]]:
        """The k best items of users, best first, in blocks: (positions of items [B, k'], scores [B, k'], how many of them
        count [B]). k' is k, or the number of items if that is less."""
        rows = self.readouts
        k = min(k, len(rows.items))
        for block in np.array_split(users, max(1, -(-len(users) * len(rows.items) // CELLS))):
            scores = rows.user_rows[block] @ rows.item_rows.T
            scores[:, ~rows.item_there] = -np.inf
            if exclude_seen:
                for line, user in enumerate(block.tolist()):
                    scores[line, rows.seen[rows.seen_indptr[user] : rows.seen_indptr[user + 1]]] = -np.inf
            if k < scores.shape[1]:
                places = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            else:
                places = np.broadcast_to(np.arange(k), scores.shape)
            chosen = np.take_along_axis(scores, places, axis=1)
            order = np.lexsort((places, -chosen), axis=1)
            chosen = np.take_along_axis(chosen, order, axis=1)
            yield np.take_along_axis(places, order, axis=1), chosen, (chosen > -np.inf).sum(axis=1)

    def recommend(
        self, users: Sequence[Id], k: int, exclude_seen: bool, unknown: Unknown
    ) -> list[list[tuple[Id, float]]]:
        """As `Session.recommend`."""
        places = self.places("recommend", "user", users, unknown)
        there = np.flatnonzero(places >= 0)
        found: list[list[tuple[Id, float]]] = [[] for _ in users]
        lines = iter(there.tolist())
        for items, scores, counts in self.best(places[there], k, exclude_seen):
            for item, score, count in zip(items.tolist(), scores.tolist(), counts.tolist(), strict=True):
                names = (self.readouts.items[place] for place in item[:count])
                found[next(lines)] = list(zip(names, score[:count], strict=True))
        return found

    def table(self, users: Sequence[Id] | None, k: int, exclude_seen: bool, unknown: Unknown) -> pa.Table:
        """As `Session.recommend_table`."""
        if users is None:
            places = np.arange(len(self.user_ids))
        else:
            places = self.places("recommend_table", "user", users, unknown)
            places = places[places >= 0]
        item_ids, parts, begin = pa.array(list(self.readouts.items)), [], 0
        for best, scores, counts in self.best(places, k, exclude_seen):
            n, width = best.shape
            counted = np.arange(width) < counts[:, None]
            ranks = np.broadcast_to(np.arange(1, width + 1, dtype=np.int32), best.shape)
            columns = {
                "user_id": self.user_ids.take(pa.array(np.repeat(places[begin : begin + n], counts))),
                "item_id": item_ids.take(pa.array(best[counted])),
                "score": pa.array(scores[counted], pa.float32()),
                "rank": pa.array(ranks[counted]),
            }
            parts.append(pa.table(columns))
            begin += n
        return pa.concat_tables(parts)


def _place(known: Mapping[Id, int], name: Id) -> int:
    """The position of an id, whether the table has it as an integer or as a text; -1 if it does not have it."""
    place = known.get(name)
    if place is None:
        other: Id | None = str(name) if isinstance(name, int) else None
        if isinstance(name, str) and name.removeprefix("-").isdecimal() and str(int(name)) == name:
            other = int(name)
        place = None if other is None else known.get(other)
    return -1 if place is None else place
