"""What became of each row of a request: in counts for the answer, and row by row for the file of `--results`.

Rows are counted against the version before. That something is gone already is known as long as something tells it: the
suppression list, or contents of earlier requests that are not purged (docs/forgetting.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from ...distributed.graph.removal import Found
from .matching import ANY, UNKNOWN, Ids, Resolved, by_entry
from .request import Tally

DELETED, NOT_FOUND, ALREADY_GONE, INVALID = RESULTS = ("deleted", "not_found", "already_gone", "invalid")


@dataclass(frozen=True, eq=False)
class Outcome:
    """Of each of a request's entries [k]: result, interactions and events that it removes by itself, and a reason."""

    results: list[str]
    interactions: Ids
    events: Ids
    reasons: list[str | None]
    known: bool = False
    """Whether the graph knows all ids of one entry, or more."""

    @property
    def matched(self) -> bool:
        """Whether any entry names something that is there, or that an earlier request removed. Else ids may be mistyped."""
        return self.known or DELETED in self.results or ALREADY_GONE in self.results

    def counts(self, tally: Tally) -> dict[str, int]:
        """Rows by result."""
        counts = dict.fromkeys(RESULTS, 0)
        for result, n in Counter(self.results).items():
            counts[result] = n
        for position, rows in tally.repeats.items():
            counts[self.results[position]] += rows - 1
        counts[INVALID] += tally.invalid
        return counts

    @property
    def removed(self) -> list[int]:
        """Positions of entries that removed something."""
        return [position for position, result in enumerate(self.results) if result == DELETED]

    @property
    def not_removed(self) -> dict[str, list[int]]:
        """The other positions, by result."""
        found: dict[str, list[int]] = {}
        for position, result in enumerate(self.results):
            if result != DELETED:
                found.setdefault(result, []).append(position)
        return found


def outcome_of(found: Found, named: Resolved, num_items: int, gone: Collection[int] = ()) -> Outcome:
    """What the entries do to the version that `found` comes from. gone: those that are known to be gone already, if nothing
    of them is there."""
    interactions, events = by_entry(found, named, num_items)
    results, reasons = [], list[str | None]()
    for position, count in enumerate(events.tolist()):
        if position in named.invalid:
            result, reason = INVALID, str(named.invalid[position])
        elif count:
            result, reason = DELETED, None
        elif position in gone:
            result, reason = ALREADY_GONE, "an earlier request removed it"
        else:
            result, reason = NOT_FOUND, _why(named, position)
        results.append(result)
        reasons.append(reason)
    return Outcome(results, interactions, events, reasons, bool(named.known.any()))


def _why(named: Resolved, position: int) -> str:
    unknown = [side for side in ("user", "item") if getattr(named, side)[position] == UNKNOWN]
    if unknown:
        spaces = "; there is one without the spaces around the id, which is another" if named.padded[position] else ""
        return f"the graph has no such {' and no such '.join(unknown)}{spaces}"
    if named.ranged[position]:
        return "no event in this range"
    return "the graph has no such interaction" if ANY not in (named.user[position], named.item[position]) else "empty"
