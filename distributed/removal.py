"""Which interactions a run leaves out or a request removes, found by each partition in its own rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..partitioning.assignment import Assignment
from ..partitioning.shard import GraphShard, Pairs
from .keyed import REQUEST, REQUEST_USER, keyed_uniform

Ids = npt.NDArray[np.int64]


def _none() -> Ids:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Simulated:
    """A simulated request, drawn by key: the same interactions wherever they lie.

    An interaction goes for one of three reasons, which are independent: chance, its user, its item.
    """

    seed: int
    number: int
    share: float = 0.0
    """Of all interactions."""
    users: float = 0.0
    """Share of the users, chosen by key."""
    of_users: float = 0.0
    """Share of their interactions that goes."""
    items: tuple[int, ...] = ()
    """Some items, by global dense id."""
    of_items: float = 0.0
    """Share of their interactions that goes."""

    def hit(self, users: Ids, items: Ids, num_items: int) -> npt.NDArray[np.bool_]:
        """Which of these interactions [n] go."""
        stays = torch.full((len(users),), 1 - self.share)
        if self.users:
            chosen = keyed_uniform(self.seed, REQUEST_USER, self.number, torch.from_numpy(users)) < self.users
            stays[chosen] *= 1 - self.of_users
        if self.items:
            stays[torch.from_numpy(np.isin(items, self.items))] *= 1 - self.of_items
        pairs = torch.from_numpy(users * num_items + items)
        goes: npt.NDArray[np.bool_] = (keyed_uniform(self.seed, REQUEST, self.number, pairs) < 1 - stays).numpy()
        return goes


@dataclass(frozen=True, eq=False)
class Removal:
    """All interactions of some users and items, and some interactions, all by global dense id; and simulated requests."""

    users: Ids = field(default_factory=_none)
    items: Ids = field(default_factory=_none)
    pair_users: Ids = field(default_factory=_none)
    pair_items: Ids = field(default_factory=_none)
    simulated: Sequence[Simulated] = ()

    def __bool__(self) -> bool:
        return bool(len(self.users) or len(self.items) or len(self.pair_users) or self.simulated)

    def pairs(self, shard: GraphShard) -> Pairs:
        """The interactions (users [n], items [n]) of this shard that it removes, each once, sorted by (user, item)."""
        num_items = shard.num_items
        wanted = self.pair_users * num_items + self.pair_items
        codes = []
        for users, items in shard.entries():
            pair = users * num_items + items
            hit = np.zeros(len(pair), dtype=bool)
            if len(self.users):
                hit |= _marks(self.users, shard.num_users)[users]
            if len(self.items):
                hit |= _marks(self.items, num_items)[items]
            if len(wanted):
                hit |= np.isin(pair, wanted)
            for request in self.simulated:
                hit |= request.hit(users, items, num_items)
            codes.append(pair[hit])
        found = np.unique(np.concatenate(codes))
        return found // num_items, found % num_items


def _marks(ids: Ids, total: int) -> npt.NDArray[np.bool_]:
    marks = np.zeros(total, dtype=bool)
    marks[ids] = True
    return marks


def only(shard: GraphShard, users: Ids, items: Ids) -> GraphShard:
    """The same rows with nothing but these interactions, as far as they stand here."""
    wanted = users * shard.num_items + items
    return shard.with_entries(*(np.isin(u * shard.num_items + i, wanted) for u, i in shard.entries()))


def with_empty_rows(shard: GraphShard, assignment: Assignment) -> GraphShard:
    """The shard with an empty row for every node that it owns but that was deleted.

    Training needs them: ids are never reused, and a draw may name any id that ever was.
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
    """(users, items) of this shard without interactions."""
    return shard.user_ids[np.diff(shard.user_indptr) == 0], shard.item_ids[np.diff(shard.item_indptr) == 0]
