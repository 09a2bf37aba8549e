"""What became of each row of a request: in counts for the answer, and row by row for the file of `--results`.

Rows are counted in the version before the request was carried out. A row is known to be gone already as long as the
suppression list says so, or the contents of earlier requests that are not purged (docs/forgetting.md).
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
    """What became of each entry [k] of a request.

    results: one of RESULTS for each entry. interactions, events: int64 [k], how many of each the entry removes by itself.
    reasons: why it removed nothing; None where it removed something.
    """

    results: list[str]
    interactions: Ids
    events: Ids
    reasons: list[str | None]
    known: bool = False
    """Whether there is a valid entry of which the graph knows all ids."""

    @property
    def matched(self) -> bool:
        """Whether any entry names something that is there, or that an earlier request removed. If none does, the ids may be
        mistyped."""
        return self.known or DELETED in self.results or ALREADY_GONE in self.results

    def counts(self, tally: Tally) -> dict[str, int]:
        """The number of rows by result. tally: how many rows each entry was written with, and how many rows were invalid."""
        counts = dict.fromkeys(RESULTS, 0)
        for result, n in Counter(self.results).items():
            counts[result] = n
        for position, rows in tally.repeats.items():
            counts[self.results[position]] += rows - 1
        counts[INVALID] += tally.invalid
        return counts

    @property
    def removed(self) -> list[int]:
        """The positions of the entries that removed something."""
        return [position for position, result in enumerate(self.results) if result == DELETED]

    @property
    def not_removed(self) -> dict[str, list[int]]:
        """The positions of the entries that removed nothing, by result."""
        found: dict[str, list[int]] = {}
        for position, result in enumerate(self.results):
            if result != DELETED:
                found.setdefault(result, []).append(position)
        return found


def outcome_of(found: Found, named: Resolved, num_items: int, gone: Collection[int] = ()) -> Outcome:
    """What becomes of the entries in the version that `found` comes from.

    found: what that version has of all that is named. num_items: of its graph. gone: the positions of entries that an
    earlier request removed, as far as that is known; it counts only for those of which the version has nothing.
    """
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
    """Why an entry found nothing."""
    unknown = [side for side in ("user", "item") if getattr(named, side)[position] == UNKNOWN]
    if unknown:
        spaces = "; there is one without the spaces around the id, which is another" if named.padded[position] else ""
        return f"the graph has no such {' and no such '.join(unknown)}{spaces}"
    if named.ranged[position]:
        return "no event in this range"
    return "the graph has no such interaction" if ANY not in (named.user[position], named.item[position]) else "empty"
