"""The quality gate: it measures a new version before its commit, and compares the measures with the configured bounds.

No deletion depends on it. A version that misses a bound is committed too, and its manifest and answers say that it missed
(docs/forgetting.md, "The gate").
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ...distributed.measures.standing import Standing
from ...distributed.partition.partition import Partition
from ...partitioning.errors import InputError
from ...workers import WorkerGroup, calling
from ..config.request_sections import Forget
from ..output.manifest import Manifest
from ..output.session import Session
from .gate_measures import MIN_FORGOTTEN_PAIRS, Baseline, Pairs, gap_closed, missed_measures, recall_loss, verdict
from .held_out import held_out_sample

NO_PAIRS: Pairs = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))

MAX_FORGOTTEN_PAIRS, HELD_OUT_PAIRS = 500, 1000
"""The largest number of forgotten pairs that the gate looks at, and the approximate number of held-out pairs."""
CHANGED_BY_FINE_TUNING = frozenset({"gap_closed", "recall_loss"})
"""Measures that fine-tuning the touched rows can change."""

_baselines: WeakKeyDictionary[Session, tuple[str, Baseline]] = WeakKeyDictionary()
"""The last baseline of each session, with the fingerprint of the version that it was measured on."""


def active_bounds(settings: Forget) -> dict[str, float]:
    """The bounds that the configuration sets, by measure."""
    bounds = {
        "gap_closed": settings.gate_gap_closed,
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
        users, items = held_out_sample(session, version, HELD_OUT_PAIRS)
    except (InputError, OSError) as error:
        return f"test_interactions cannot be read ({type(error).__name__})"
    stay = ~np.isin(users, gone[0]) & ~np.isin(items, gone[1])
    key = session.fingerprint(version)
    known = _baselines.get(session)
    if known is None or known[0] != key or not stay.all():
        config = session.config
        held_out = (users[stay], items[stay])
        call = calling(Partition.baseline, held_out, config.seed, config.evaluate.k[0], config.evaluate.batch_users)
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
        self._session, self._group = session, group
        self.bounds = active_bounds(session.config.forget)
        self._base = measured_baseline(session, group, version, gone)
        draw = np.random.default_rng(session.config.seed)
        stay = np.flatnonzero(~np.isin(pairs[0], gone[0]) & ~np.isin(pairs[1], gone[1]))
        chosen = np.sort(draw.permutation(stay)[:MAX_FORGOTTEN_PAIRS])
        self._forgotten = (pairs[0][chosen], pairs[1][chosen])
        self._before: list[Standing] = []
        if not isinstance(self._base, str) and len(chosen) >= MIN_FORGOTTEN_PAIRS:
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
        else:
            settings = self._session.config.evaluate
            compared, before = self._compared_pairs(base), self._before or None
            call = calling(Partition.recall_and_standing, *compared, before, settings.k[0], settings.batch_users)
            after = self._session.call(self._group, candidate, call)
            standings = [part["standing"] for part in after]
            measures["gap_closed"] = gap_closed(base, self._before, standings, len(self._forgotten[0]))
            measures["recall_loss"] = recall_loss(
                *([part["recall"] for part in parts] for parts in (base.parts, after))
            )
        return {
            "status": verdict(measures, bounds),
            "measures": {name: measures[name] for name in bounds},
            "bounds": bounds,
            "missed": missed_measures(measures, bounds),
        }

    def _compared_pairs(self, base: Baseline) -> tuple[Pairs, Pairs, int]:
        """The first arguments of `Partition.standing`: forgotten pairs, held-out pairs and the seed. They are the same
        before and after, so that both measure the same pairs."""
        return self._forgotten, base.held_out, self._session.config.seed
