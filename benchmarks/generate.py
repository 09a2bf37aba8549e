"""Generate a table of interactions of any size: `train.parquet`, `test.parquet` and `about.json`.

Users and items are as active and as popular as in a real data set (`--profile`): sizes may be others, the shapes stay. Each
user has a taste, from which the interactions are drawn, so the best Recall that is possible is known: `about.json` has it,
with its definition. Memory grows with users and items, not with interactions. The same arguments give the same rows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..partitioning.errors import InputError
from .synthetic.ideal import DEFINITION, Ideal
from .synthetic.profiles import PROFILES, describe
from .synthetic.world import Ints, World, draw_items, make_world

FIRST_DAY = 1_704_067_200
"""1 January 2024, in seconds since the epoch: the first day of the times."""


def main(argv: Sequence[str] | None = None) -> None:
    """See `--help`."""
    parser = argparse.ArgumentParser(prog="unlearnrec bench generate", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the folder; made if it is missing")
    parser.add_argument("--profile", choices=PROFILES, default="gowalla", help="sizes and shapes")
    parser.add_argument("--users", type=int, help="that of the profile by default, as for the next two")
    parser.add_argument("--items", type=int, help="about so many, since chance decides which are met")
    parser.add_argument("--interactions", type=int, help="train and test together, each a different pair")
    parser.add_argument("--test-share", type=float, default=0.2, help="of a user's interactions, held out at random")
    parser.add_argument(
        "--test-users", type=float, default=1.0, help="the share of the users with held-out interactions"
    )
    parser.add_argument("--days", type=int, default=0, help="add a column `time`: at random in so many days")
    parser.add_argument("--text", action="store_true", help="ids are texts, not integers")
    parser.add_argument("--ideal-users", type=int, default=4000, help="the sample for the best possible Recall")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    try:
        about = generate(
            arguments.output,
            sizes(arguments.profile, arguments.users, arguments.items, arguments.interactions),
            Layout(arguments.test_share, arguments.test_users, arguments.days, arguments.text, arguments.ideal_users),
            seed=arguments.seed,
            progress=sys.stderr.isatty(),
        )
    except InputError as error:
        parser.error(str(error))
    print(json.dumps(about, indent=1))


@dataclass(frozen=True)
class Sizes:
    """The profile of a table, and how many users, items and interactions it is to have."""

    profile: str
    users: int
    items: int
    interactions: int


@dataclass(frozen=True)
class Layout:
    """How a table is written: the share of a user's interactions that are for the test, the share of the users with a
    test part, the days that the times cover (0: no times), whether ids are texts, and how many users the best possible
    Recall is measured on."""

    test_share: float = 0.2
    test_users: float = 1.0
    days: int = 0
    text: bool = False
    ideal_users: int = 4000


def sizes(profile: str, users: int | None = None, items: int | None = None, interactions: int | None = None) -> Sizes:
    """The sizes of a profile, or those that are given.

    Raises:
        InputError: a size is too small, or the users cannot have so many interactions.
    """
    real = PROFILES[profile]
    users, items = real.users if users is None else users, real.items if items is None else items
    if interactions is None:
        interactions = round(real.interactions * users / real.users)
    if users < 1 or items < 40:
        raise InputError(f"--users {users} --items {items}: at least 1 user and 40 items are wanted")
    if not users <= interactions <= users * (items // 2):
        raise InputError(
            f"--interactions {interactions}: with {users} users and {items} items it must be from {users} to "
            f"{users * (items // 2)}, since every user has one at least, and half of the items at most"
        )
    return Sizes(profile, users, items, interactions)


def generate(folder: Path, size: Sizes, layout: Layout, *, seed: int, progress: bool = False) -> dict[str, Any]:
    """Write the tables; returns what `about.json` says of them.

    Raises:
        InputError: a share is not from 0 to 1.
    """
    for name, share in (("--test-share", layout.test_share), ("--test-users", layout.test_users)):
        if not 0 <= share <= 1:
            raise InputError(f"{name} {share}: it must be from 0 to 1")
    begin = time.perf_counter()
    world = make_world(PROFILES[size.profile], size.users, size.items, size.interactions, seed)
    catalogue = len(world.target_V)
    names = np.random.default_rng([seed, 2])
    ideal, steps_V = Ideal(world), world.steps()
    degree_V = np.zeros(catalogue, dtype=np.int64)
    sampled = layout.ideal_users / max(1.0, size.users * layout.test_users)
    folder.mkdir(parents=True, exist_ok=True)
    rows = 0
    with (
        _Table(folder / "train.parquet", world, names, layout) as train,
        train.beside(folder / "test.parquet") as test,
    ):
        for first, end, draw in world.blocks():
            count_B = world.activity_U[first:end]
            tastes_BG = world.tastes(draw, len(count_B))
            drawn = draw_items(world, steps_V, tastes_BG, count_B, draw)
            row, item = drawn // catalogue, drawn % catalogue
            degree_V += np.bincount(item, minlength=catalogue)
            held_B = np.floor(layout.test_share * count_B) * (draw.random(len(count_B)) < layout.test_users)
            is_test = _held_out(row, count_B, held_B.astype(np.int64), draw)
            for b in np.flatnonzero((draw.random(len(count_B)) < sampled) & (held_B > 0)):
                here = slice(*np.searchsorted(row, [b, b + 1]))
                ideal.add(tastes_BG[b], item[here][~is_test[here]], item[here][is_test[here]])
            # In the order of the draws, a reader would find each user's rows together, and ascending.
            order = draw.permutation(len(row))
            for table, chosen in ((train, ~is_test[order]), (test, is_test[order])):
                table.write(first + row[order][chosen], item[order][chosen], draw)
            rows += len(row)
            if progress:
                print(f"\r{rows:,} of {size.interactions:,} interactions", end="", file=sys.stderr)
    about = {
        "profile": size.profile,
        "source of the profile": PROFILES[size.profile].source,
        "seed": seed,
        "test_share": layout.test_share,
        "users": size.users,
        "items": int((degree_V > 0).sum()),
        "catalogue": catalogue,
        "interactions": rows,
        "train_interactions": train.rows,
        "test_interactions": test.rows,
        "degrees": {"user": describe(world.activity_U), "item": describe(degree_V)},
        **ideal.result(),
        "definition": DEFINITION,
        "seconds": round(time.perf_counter() - begin, 1),
    }
    (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return about


def _held_out(row: Ints, count_B: Ints, held_B: Ints, draw: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which interactions are for the test, bool [E]: `held_B` of each user, at random. row [E]: ascending."""
    order = np.argsort((row << 32) | draw.integers(1 << 32, size=len(row)))
    place = np.arange(len(row)) - np.repeat(np.cumsum(count_B) - count_B, count_B)
    chosen = np.zeros(len(row), dtype=bool)
    chosen[order] = place < held_B[row]
    return chosen


class _Table:
    """A Parquet file that is written block by block."""

    def __init__(self, path: Path, world: World, names: np.random.Generator | None, layout: Layout) -> None:
        """names: draws the ids of users and items; None where they come from `beside`."""
        self.path, self.world, self.layout, self.rows = path, world, layout, 0
        kind = pa.string() if layout.text else pa.int64()
        fields = [("user_id", kind), ("item_id", kind)] + ([("time", pa.timestamp("ms"))] if layout.days else [])
        self.schema = pa.schema(fields)
        if names is not None:
            # Ids are not 0 .. n - 1 and in no order: code that takes an external id for a dense id then does not work by
            # chance, and neither does code that relies on ascending ids.
            self.user_ids, self.item_ids = (
                names.permutation(count) * 10 + names.integers(10, size=count)
                for count in (len(world.activity_U), len(world.target_V))
            )

    def beside(self, path: Path) -> _Table:
        """Another table with the same ids."""
        other = _Table(path, self.world, None, self.layout)
        other.user_ids, other.item_ids = self.user_ids, self.item_ids
        return other

    def __enter__(self) -> _Table:
        self.writer = pq.ParquetWriter(self.path, self.schema, compression="zstd", use_dictionary=False)
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def write(self, users: Ints, items: Ints, draw: np.random.Generator) -> None:
        """Write the rows of some interactions, in their order."""
        columns = [pa.array(self.user_ids[users]), pa.array(self.item_ids[items])]
        if self.layout.text:
            columns = [
                pc.binary_join_element_wise(pa.scalar(letter), column.cast(pa.string()), "-")
                for letter, column in zip(("user", "item"), columns, strict=True)
            ]
        if self.layout.days:
            seconds = FIRST_DAY + draw.integers(self.layout.days * 86_400, size=len(users))
            columns.append(pa.array(seconds).cast(pa.timestamp("s")).cast(pa.timestamp("ms")))
        self.rows += len(users)
        if len(users):
            self.writer.write_batch(pa.record_batch(columns, schema=self.schema))


if __name__ == "__main__":
    main()
