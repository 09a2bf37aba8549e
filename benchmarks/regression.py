"""A small version of everything in three minutes on two cores: ratios within this run beside the committed ones.

Each ratio compares two things that are measured by turns, such as a training step and its bare sums, so that it depends
little on the machine. What is worse than allowed is measured once more; if it is so again, the exit code is 1. `--write`
makes the ratios of this machine the committed ones.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..cluster.reporting.software import commit
from ..partitioning.errors import InputError
from . import results_file
from .ratios.compare import WORSE, Compared, Measured, compare, read_baseline, write_baseline
from .ratios.measures import GROUPS, Group


def main(argv: Sequence[str] | None = None) -> None:
    """See `--help`."""
    parser = argparse.ArgumentParser(prog="unlearnrec bench regression", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[group.name for group in GROUPS], help="these groups of measures")
    parser.add_argument("--baseline", type=Path, default=results_file.FOLDER / "regression.json")
    parser.add_argument("--write", action="store_true", help="write the baseline instead of comparing with it")
    parser.add_argument("--scale", type=float, default=1.0, help="of sizes and repetitions; others are not comparable")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args(argv)
    groups = [group for group in GROUPS if arguments.only is None or group.name in arguments.only]
    committed: dict[str, float] = {}
    machine = results_file.machine()
    try:
        if not arguments.write:
            committed, other = read_baseline(arguments.baseline)
            if other != machine:
                print(
                    f"note: the committed ratios are of another machine: {other}; this one: {machine}", file=sys.stderr
                )
    except InputError as error:
        parser.error(str(error))
    begin = time.perf_counter()
    found: list[Compared] = []
    for group in groups:
        found += checked(group, arguments.scale, committed, _tell)
    print(results_file.table([one.row() for one in found]))
    worse = [one.measure.name for one in found if one.verdict == WORSE]
    if arguments.write:
        about = {"command": results_file.command(), "commit": commit(short=True) or "none", "machine": machine}
        write_baseline(arguments.baseline, about, {one.measure.name: one.now for one in found})
    print(f"\n{len(found)} measures in {time.perf_counter() - begin:.0f} s; {len(worse)} worse than allowed")
    if arguments.json:
        values = {one.measure.name: {"now": one.now.value, "committed": one.committed} for one in found}
        print(json.dumps({"worse": worse, "measures": values}))
    if worse:
        sys.exit(1)


def checked(group: Group, scale: float, committed: dict[str, float], tell: Callable[[str], None]) -> list[Compared]:
    """The measures of a group beside the committed ones. If one is worse than allowed, the group is measured once more, and
    the better of both counts."""
    begin = time.perf_counter()
    found = _taken(group, scale)
    compared = compare(group.measures, found, committed)
    if any(one.verdict == WORSE for one in compared):
        tell(f"{group.name}: worse than allowed; measured once more")
        again = _taken(group, scale)
        better = {one.name: one.better(found[one.name], again[one.name]) for one in group.measures if one.name in found}
        compared = compare(group.measures, better, committed)
    tell(f"{group.name}: {time.perf_counter() - begin:.0f} s")
    return compared


def _taken(group: Group, scale: float) -> dict[str, Measured]:
    with contextlib.redirect_stdout(sys.stderr):  # the table has the standard output for itself
        return {name: Measured.of(ratios) for name, ratios in group.take(scale).items()}


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
