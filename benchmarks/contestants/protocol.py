"""What `bench peers` and a contestant say to each other: a line of JSON for each order, and one for each answer.

The orders: {"steps": n} trains n steps; {"epoch": s} trains to the end of the epoch, or until the first step after s
seconds, and the next order goes on from there; the answer has their seconds. {"embeddings": FILE} writes the readouts of
users and items (npz). Each answer has the peak memory of the process.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Task:
    """What is trained on: the interactions, sorted by user and then item, by dense ids; and the recipe's numbers."""

    users: Ids
    items: Ids
    num_users: int
    num_items: int
    batch_size: int
    threads: int
    seed: int
    recipe: dict[str, Any]

    @classmethod
    def read(cls, path: str) -> Task:
        """From the file that `bench peers` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return cls(file["users"], file["items"], **json.loads(str(file["about"])))

    def write(self, path: str) -> None:
        """Into such a file."""
        names = ("num_users", "num_items", "batch_size", "threads", "seed", "recipe")
        about = json.dumps({name: getattr(self, name) for name in names})
        np.savez(path, users=self.users, items=self.items, about=about)


class Contestant(Protocol):
    """A program under measurement."""

    def epoch(self) -> Iterator[None]:
        """Train one epoch; yields after each step."""

    def embeddings(self) -> tuple[Rows, Rows]:
        """The readouts of users [U, D] and of items [I, D], whose products are the scores."""


def serve(make: Callable[[Task], Contestant]) -> None:
    """Answer orders until there are no more. The file of the task is the one argument of the program."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what packages print goes to stderr
    begin = time.perf_counter()
    contestant = make(Task.read(sys.argv[1]))
    _answer(answers, {"seconds": time.perf_counter() - begin})
    steps: Iterator[None] = iter(())
    for line in sys.stdin:
        order = json.loads(line)
        begin = time.perf_counter()
        done = 0
        if "embeddings" in order:
            users, items = contestant.embeddings()
            np.savez(order["embeddings"], users=users, items=items)
        elif "epoch" in order:
            while time.perf_counter() - begin < order["epoch"]:
                if next(steps, steps) is not steps:
                    done += 1
                elif done:
                    break
                else:
                    steps = contestant.epoch()
        else:
            while done < order["steps"]:
                if next(steps, steps) is steps:
                    steps = contestant.epoch()
                else:
                    done += 1
        _answer(answers, {"seconds": time.perf_counter() - begin, "steps": done})


def _answer(to: Any, found: dict[str, Any]) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(found | {"peak": peak}), file=to, flush=True)
