"""The outcome of an audit: as the command's answer, as Markdown and as a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...distributed.attacks.attacks import ATTACKS, Attack
from ...distributed.attacks.likelihood import LEAST_BEYOND
from ...distributed.attacks.runs import ATTACKS_ON_CANARIES, RATES, SAME_SEED, ToldOfRuns
from ...distributed.attacks.told import FOUND, Told
from ..reporting.html import Head, Section, State, Tile, render_report

ALL_ATTACKS: Mapping[str, Attack] = {**ATTACKS, **ATTACKS_ON_CANARIES}

PASSED, NOT_TOLD = "passed", "not told"
"""Verdicts of an audit, beside FOUND. PASSED: every attack that could be asked finds no more than in a retrain."""


@dataclass
class Outcome:
    """What the attacks of one audit told, and what could not be told."""

    told: dict[str, Told] = field(default_factory=dict)
    """By attack; of an attack on canaries as "NAME, GROUP"."""
    rates: dict[str, dict[float, tuple[float, float, float] | None]] = field(default_factory=dict)
    """By attack on canaries: as `ToldOfRuns.rates`."""
    counts: dict[str, int] = field(default_factory=dict)
    """By attack on canaries: the number of canaries."""
    untold: dict[str, str] = field(default_factory=dict)
    """By attack: why it could not be asked."""
    own_seeds: bool = False
    """Whether the runs on canaries have seeds of their own."""

    def assumption(self, name: str) -> str:
        """What the attack of this name takes for granted."""
        text = ALL_ATTACKS[name].assumption
        return text.replace(SAME_SEED, "with seeds of its own") if self.own_seeds else text

    def add_runs(self, found: Mapping[str, Mapping[str, ToldOfRuns]]) -> None:
        """Add what attacks on canaries told, by attack and group."""
        for name, groups in found.items():
            for group, one in groups.items():
                key = f"{name}, {group}"
                self.told[key], self.rates[key], self.counts[key] = one.told, one.rates, one.canaries
                for rate, value in one.rates.items():
                    if value is None:
                        needed = f"{LEAST_BEYOND / rate:,.0f} are needed: more --canaries or --retrains"
                        self.untold[f"{key}: TPR at {rate:.1%} FPR"] = f"{one.false_cases:,} false cases; {needed}"

    @property
    def verdict(self) -> str:
        """FOUND if one attack found more than in a retrain, NOT_TOLD if none could be asked, otherwise PASSED."""
        if any(one.verdict == FOUND for one in self.told.values()):
            return FOUND
        return PASSED if self.told else NOT_TOLD

    def document(self) -> dict[str, dict[str, Any]]:
        """The attacks as JSON, by name. What does not apply is null."""
        found = {}
        for name, told in self.told.items():
            about = ALL_ATTACKS[name.partition(", ")[0]]
            found[name] = {
                "auc": _number(told.value),
                "retrained": _number(told.retrained),
                "floor": _number(told.floor),
                "advantage": _number(told.advantage),
                "ci": [_number(x) for x in told.interval],
                "before": _number(told.before),
                "share": None if math.isnan(told.share[0]) else [_number(x) for x in told.share],
                "verdict": told.verdict,
                "question": about.title,
                "source": about.source,
                "assumption": self.assumption(name.partition(", ")[0]),
            }
            if name in self.counts:
                found[name]["canaries"] = self.counts[name]
            for rate in self.rates.get(name, {}):
                value = self.rates[name][rate]
                found[name][f"tpr@{rate:g}"] = None if value is None else [_number(x) for x in value]
        return found

    def rows(self) -> list[dict[str, str]]:
        """A row for each attack, for people."""
        rows = []
        for name, told in self.told.items():
            row = {
                "attack": name,
                "verdict": told.verdict,
                "value": f"{told.value:.3f}",
                "retrained": f"{told.retrained:.3f}",
                "difference [95%]": f"{told.advantage:+.3f} [{told.interval[0]:+.3f}, {told.interval[1]:+.3f}]",
                "another seed": "-" if math.isnan(told.floor) else f"{told.floor:.3f}",
                "before": "-" if math.isnan(told.before) else f"{told.before:.3f}",
                "gap closed": "-" if math.isnan(told.share[0]) else f"{told.share[0]:.2f}",
            }
            for rate in RATES:
                value = self.rates.get(name, {}).get(rate)
                row[f"TPR at {rate:.1%}"] = "-" if value is None else f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"
            rows.append(row)
        return rows

    def explained(self) -> list[dict[str, str]]:
        """What each attack asks, and what it takes for granted."""
        names = dict.fromkeys(name.partition(", ")[0] for name in self.told)
        return [
            {
                "attack": name,
                "asks": ALL_ATTACKS[name].title,
                "source": ALL_ATTACKS[name].source,
                "assumption": self.assumption(name),
            }
            for name in names
        ]


def page(outcome: Outcome, about: Mapping[str, Any]) -> str:
    """The page of an audit (HTML). about: what the answer says beside the attacks."""
    rows = [{"what": key.replace("_", " "), "value": _shown(value)} for key, value in about.items()]
    sections = [Section("What was audited", table=rows)]
    if outcome.told:
        sections.append(Section("Attacks", CAPTION, table=outcome.rows()))
        sections.append(Section("What each attack asks", table=outcome.explained()))
    if outcome.untold:
        rows = [{"attack": name, "why": why} for name, why in outcome.untold.items()]
        sections.append(Section("What could not be told", table=rows))
    return render_report("Audit: can anybody tell what was forgotten?", sections, _head(outcome))


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _head(outcome: Outcome) -> Head:
    colours: dict[str, State] = {PASSED: "good", FOUND: "bad"}
    state = colours.get(outcome.verdict, "unknown")
    found = [name for name, one in outcome.told.items() if one.verdict == FOUND]
    kinds = dict.fromkeys(name.partition(", ")[0] for name in found)  # without the groups of canaries
    tiles = [
        Tile("verdict", outcome.verdict, "", state),
        Tile("attacks asked", str(len(outcome.told)), f"{len(outcome.untold)} more could not be told"),
        Tile("attacks that found something", str(len(found)), ", ".join(kinds), "bad" if found else ""),
    ]
    return Head(f"Verdict: {outcome.verdict}. {READING}", state, tiles)


def markdown(outcome: Outcome) -> str:
    """The table of attacks as Markdown."""
    return _table(outcome.rows()) if outcome.told else "No attack could be asked."


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    keys = list(rows[0])
    lines = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    return "\n".join([*lines, *("| " + " | ".join(row[key] for key in keys) + " |" for row in rows)])


CAPTION = (
    "AUC of each attack on this model and on a model that was trained without the request; of `returns to top` it is a "
    "share, and of `klom` nats. `another seed` is how far a retrain with another seed is from the retrain: what "
    "lies within it is noise of training. TPR: true-positive rate at a false-positive rate, where there are enough "
    "canaries to tell."
)
READING = (
    "An attack finds something if its value differs from that on a retrained model by more than chance (95% interval) and "
    "by more than another seed does. Passing says that these attacks, with these assumptions and this many examples, found "
    "nothing. It is no proof that none can, and no guarantee of differential privacy."
)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
