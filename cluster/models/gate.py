"""The quality gate: it measures a new version before its commit, and compares the measures with the configured bounds.

No deletion depends on it. A version that misses a bound is committed too, and its manifest and answers say that it missed
(docs/forgetting.md, "The gate").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from ...distributed.partition.partition import Partition
from ...distributed.partition.results import ForgottenStanding, RecallAndStanding
from ...partitioning.errors import InputError
from ...workers import WorkerGroup, calling
from ..config.request_sections import Forget
from ..output.manifest import Manifest
from ..output.session import Session
from .gate_measures import (
    GAPS,
    ROWS,
    STAND_INS,
    Baseline,
    Pairs,
    gap_closed,
    missed_measures,
    pooled,
    recall_loss,
    verdict,
)
from .held_out import held_out_samples

Ids = npt.NDArray[np.int64]
NO_PAIRS: Pairs = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))

MAX_FORGOTTEN_PAIRS, HELD_OUT_PAIRS, STAND_IN_PAIRS = 500, 1000, 10_000
"""The largest number of forgotten pairs that the gate looks at, and the approximate numbers of held-out pairs: of those that
are judged by their user's row, and of those with a stand-in, whose gap is smaller and needs more of them."""
CHANGED_BY_FINE_TUNING = frozenset({*GAPS, "recall_loss"})
"""Measures that fine-tuning the touched rows can change."""

_baselines: WeakKeyDictionary[Session, tuple[str, Baseline]] = WeakKeyDictionary()
"""The last baseline of each session, with the fingerprint of the version that it was measured on."""


def active_bounds(settings: Forget) -> dict[str, float]:
    """The bounds that the configuration sets, by measure."""
    bounds = {
        **dict.fromkeys(GAPS, settings.gate_gap_closed),
        "recall_loss": settings.gate_recall_loss,
        "largest_change": settings.gate_change,
    }
    return {name: bound for name, bound in bounds.items() if bound is not None}


def measured_baseline(
    session: Session, group: WorkerGroup, version: Manifest, gone: Pairs = NO_PAIRS
) -> Baseline | str:
    """The baseline of a version, which the workers load first if they hold another one; or a text that says why it has none.

    The baseline is measured once for a version. It is measured again for a batch that deletes users or items of the
    held-out pairs, because their pairs cannot be scored in the new version.

    gone: (users, items) that the batch deletes, by dense id.
    """
    if not active_bounds(session.config.forget).keys() & CHANGED_BY_FINE_TUNING:
        return "off"
    if session.config.test_interactions is None:
        return "test_interactions is not set: no held-out pairs"
    try:
        samples = held_out_samples(session, version, HELD_OUT_PAIRS, STAND_IN_PAIRS)
    except (InputError, OSError) as error:
        return f"test_interactions cannot be read ({type(error).__name__})"
    stay = [~np.isin(users, gone[0]) & ~np.isin(items, gone[1]) for users, items in samples]
    key = session.fingerprint(version)
    known = _baselines.get(session)
    if known is None or known[0] != key or not all(x.all() for x in stay):
        config = session.config
        held_out, larger = ((users[x], items[x]) for x, (users, items) in zip(stay, samples, strict=True))
        settings = config.evaluate
        call = calling(Partition.baseline, held_out, larger, config.seed, settings.k[0], settings.batch_users)
        found = Baseline(held_out, session.call(group, version, call))
        known = _baselines[session] = key, found
    return known[1]


class Gate:
    """The gate of one batch of requests.

    It is made while the workers hold the version before, measures that version, and later judges the new one.
    """

    def __init__(self, session: Session, group: WorkerGroup, version: Manifest, pairs: Pairs, gone: Pairs) -> None:
        """Measure the version before.

        pairs: (users, items) of the interactions that the batch removes. gone: (users, items) that it deletes. All are
        dense ids.
        """
        self._session, self._group, self._version = session, group, version
        self.bounds = active_bounds(session.config.forget)
        self._base = measured_baseline(session, group, version, gone)
        draw = np.random.default_rng(session.config.seed)
        items_stay, users_stay = ~np.isin(pairs[1], gone[1]), ~np.isin(pairs[0], gone[0])
        chosen = np.sort(draw.permutation(np.flatnonzero(items_stay & users_stay))[:MAX_FORGOTTEN_PAIRS])
        self._kept = (pairs[0][chosen], pairs[1][chosen])
        self._deleted = _lists(pairs, np.flatnonzero(items_stay & ~users_stay), draw)
        self._before: list[ForgottenStanding] = []
        if not isinstance(self._base, str) and (len(self._kept[0]) or len(self._deleted[0])):
            self._before = session.call(group, version, calling(Partition.standing, *self._compared_pairs(self._base)))

    def judge(self, candidate: Manifest, largest_change: float) -> dict[str, Any]:
        """Measure a version that is not committed yet, and compare it with the bounds.

        largest_change: the L2 norm of the largest change of a row that stays. The measure of this name is its quotient
        by the largest change that any counterfactual needed in pre-training.

        Returns:
            {"status": the verdict, "measures" by name, "bounds" by name, "missed": names of the missed measures}.
        """
        assert candidate.model.encoder is not None
        seen = candidate.model.encoder.largest_shift
        bounds, base = self.bounds, self._base
        measures: dict[str, dict[str, Any]] = {
            "largest_change": {"value": largest_change / seen} if seen else {"left_out": "pre-training did not say"}
        }
        if isinstance(base, str):
            measures |= {name: {"left_out": base} for name in CHANGED_BY_FINE_TUNING}
            measures |= {name: {"left_out": base} | pooled(_earlier(self._version, name), None) for name in GAPS}
        else:
            settings = self._session.config.evaluate
            compared, before = self._compared_pairs(base), self._before or None
            call = calling(Partition.recall_and_standing, *compared, before, settings.k[0], settings.batch_users)
            after = self._session.call(self._group, candidate, call)
            measures |= self._gaps(base, after)
            measures["recall_loss"] = recall_loss(
                *([part["recall"] for part in parts] for parts in (base.parts, after))
            )
        return {
            "status": verdict(measures, bounds),
            "measures": {name: measures[name] for name in bounds if name in measures},
            "bounds": {name: bound for name, bound in bounds.items() if name in measures},
            "missed": missed_measures(measures, bounds),
        }

    def _gaps(self, base: Baseline, after: Sequence[RecallAndStanding]) -> dict[str, dict[str, Any]]:
        """The measures of the forgotten pairs. There is none of a kind that neither this batch nor an earlier one has."""
        found = {}
        kept = ([part["kept"] for part in parts] for parts in (self._before, after))
        deleted = ([part["deleted"] for part in parts] for parts in (self._before, after))
        users = len(np.unique(self._deleted[0]))
        kinds = ((self._kept, kept, ROWS, None), (self._deleted, deleted, STAND_INS, users))
        for name, (pairs, (before, now), groups, of_users) in zip(GAPS, kinds, strict=True):
            earlier = _earlier(self._version, name)
            if len(pairs[0]):
                found[name] = gap_closed(base, before, now, len(pairs[0]), groups, earlier, of_users)
            elif earlier:
                found[name] = pooled(earlier, None)
        return found or {name: {"left_out": "no forgotten pair has an item that stays"} for name in GAPS}

    def _compared_pairs(self, base: Baseline) -> tuple[Pairs, Pairs, Pairs, int]:
        """The first arguments of `Partition.standing`: forgotten pairs, held-out pairs and the seed. They are the same
        before and after, so that both measure the same pairs."""
        return self._kept, self._deleted, base.held_out, self._session.config.seed


def _lists(pairs: Pairs, places: Ids, draw: np.random.Generator) -> Pairs:
    """The lists of interactions of some of the deleted users, sorted by user, then item: about MAX_FORGOTTEN_PAIRS of the
    pairs at `places`. A list is whole, but for a user with more than that many."""
    users = draw.permutation(np.unique(pairs[0][places]))
    chosen: list[Ids] = []
    left = MAX_FORGOTTEN_PAIRS
    for user in users[:MAX_FORGOTTEN_PAIRS]:
        own = draw.permutation(places[pairs[0][places] == user])[:MAX_FORGOTTEN_PAIRS]
        chosen.append(own)
        left -= len(own)
        if left <= 0:
            break
    at = np.concatenate(chosen) if chosen else places[:0]
    at = at[np.lexsort((pairs[1][at], pairs[0][at]))]
    return pairs[0][at], pairs[1][at]


def _earlier(version: Manifest, name: str) -> dict[str, Any] | None:
    """What the requests that led to this version pooled of a measure, as its answers say; None if nothing.

    A version that `train` or `pretrain` made has no answers, so a pool begins anew with a model and with an encoder.
    """
    for answer in version.answers.values():
        found = answer.get("gate", {}).get("measures", {}).get(name, {})
        if "pooled" in found:
            return dict(found["pooled"])
    return None
