"""The page of an audit."""

import pytest

from unlearnrec.cluster.audit.outcome import FOUND, PASSED, Outcome, page
from unlearnrec.distributed.attacks.attacks import ATTACKS
from unlearnrec.distributed.attacks.told import Told

NAME = next(iter(ATTACKS))


def told(value: float) -> Told:
    """An attack with an AUC of .5 on the retrained model, and with another seed .01 from it."""
    advantage = value - 0.5
    return Told(value, 0.5, advantage, (advantage - 0.02, advantage + 0.02), 0.01, 0.8, (1.0, 0.9, 1.1))


@pytest.mark.parametrize(("value", "verdict", "state"), [(0.7, FOUND, "bad"), (0.5, PASSED, "good")])
def test_the_verdict_stands_above(value: float, verdict: str, state: str) -> None:
    html = page(Outcome({NAME: told(value)}, untold={"an <attack>": "why"}), {"version": 3})
    assert f'<p class="lead {state}">Verdict: {verdict}.' in html and f'<span class="big">{verdict}</span>' in html
    assert "an &lt;attack&gt;" in html and "<attack>" not in html and ATTACKS[NAME].source[:20] in html


def test_nothing_told_is_no_pass() -> None:
    html = page(Outcome(untold={NAME: "too few pairs"}), {})
    assert '<p class="lead unknown">Verdict: not told.' in html


def test_the_page_is_for_people() -> None:
    """A group of canaries has a comma in its name, so the attack is named once; and the verdict does not hide at the end."""
    found = {f"u-lira, {group}": told(0.9) for group in ("pairs", "rare items")}
    outcome = Outcome({NAME: told(0.7), **found})
    html = page(outcome, {"retrain_seconds": 554.8995, "removed_interactions": 7018})
    assert f"{NAME}, u-lira<" in html and "7,018" in html and ">555<" in html and "retrain seconds" in html
    assert list(outcome.rows()[0])[:2] == ["attack", "verdict"]
