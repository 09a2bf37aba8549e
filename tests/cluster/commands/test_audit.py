"""`audit` on a small output, in this process: what it asks, what it cannot tell, and that it goes on after a kill."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from in_process import InProcess

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.audit import looking
from unlearnrec.cluster.audit.outcome import Outcome, markdown, page
from unlearnrec.cluster.config.schema import Config, parse_config
from unlearnrec.cluster.layout import AUDIT
from unlearnrec.cluster.output.leftovers import leftovers
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.reporting.progress import Progress
from unlearnrec.distributed.attacks.attacks import ATTACKS
from unlearnrec.distributed.attacks.runs import ATTACKS_ON_CANARIES
from unlearnrec.distributed.attacks.told import FOUND, Told
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.sample import make_sample

CANARIES = 40


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, InProcess]:
    """300 users, 120 items, three epochs."""
    folder = tmp_path_factory.mktemp("audited")
    sample = make_sample(folder / "data", users=300, items=120, mean_interactions=14, communities=4, factors=4)
    config = parse_config(
        {
            "interactions": sample["train"],
            "test_interactions": sample["test"],
            "output": str(folder / "output"),
            "cluster": {"partitions": 1},
            "backbone": {"embedding_size": 8, "num_layers": 2},
            "train": {"epochs": 3, "batch_size": 1000},
            "pretrain": {"epochs": 2, "counterfactuals": 1},
        }
    )
    group: Any = InProcess()
    pipeline.ingest(config)
    pipeline.train(config, group=group)
    pipeline.pretrain(config, group=group)
    return config, group


def runs_of(config: Config) -> list[str]:
    return sorted(name.rpartition("/")[2] for name in Session(config).store.list(AUDIT))


def test_an_audit_asks_everything_and_goes_on_where_it_was_killed(world, monkeypatch):
    config, group = world
    made = looking.run_training
    left = 3

    def dies(*arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return made(*arguments)

    monkeypatch.setattr(looking, "run_training", dies)
    with pytest.raises(KeyboardInterrupt):
        pipeline.audit(config, retrains=6, canaries=CANARIES, group=group)
    assert runs_of(config) == ["another-seed.npz", "retrained.npz"]
    monkeypatch.undo()
    group.called.clear()
    progress, notes = Progress(), list[str]()
    monkeypatch.setattr(progress, "note", notes.append)
    answer = pipeline.audit(config, retrains=6, canaries=CANARIES, group=group, progress=progress)
    assert "audit: 6 such trainings, of which 2 are there already" in notes
    assert group.called.count("train") == 4, "the two finished runs are found"
    assert answer["retrains"] == 6 and len(runs_of(config)) == 6
    assert set(answer["attacks"]) | set(answer["untold"]) >= set(ATTACKS)
    for name in ATTACKS_ON_CANARIES:
        assert f"{name}, pairs" in answer["attacks"], name
    for name, one in answer["attacks"].items():
        assert one["source"] and one["assumption"] and one["verdict"], name
        assert one["ci"][0] <= one["ci"][1] and one["advantage"] == pytest.approx(one["auc"] - one["retrained"])
        assert one["floor"] is not None, name
    assert answer["verdict"] in ("passed", FOUND) and answer["passed"] == (answer["verdict"] != FOUND)
    few = answer["untold"]["u-lira, pairs: TPR at 0.1% FPR"]
    assert few.endswith("false cases; 10,000 are needed: more --canaries or --retrains")
    written = json.loads(Path(answer["report"]).with_suffix(".json").read_text())
    assert written["attacks"] == answer["attacks"]
    shown = Path(answer["report"]).read_text()
    assert "u-lira" in shown and "no proof" in shown
    assert Session(config).version().reason == "pretrain", "no version was made"
    # The same audit again costs nothing, and says the same.
    group.called.clear()
    again = pipeline.audit(config, retrains=6, canaries=CANARIES, group=group)
    assert "train" not in group.called and again["attacks"] == answer["attacks"]


def test_runs_may_have_seeds_of_their_own(world):
    """The encoder gets the axes of each run, and keeps those of the version."""
    config, group = world
    same = pipeline.audit(config, retrains=2, canaries=CANARIES, group=group)
    group.called.clear()
    answer = pipeline.audit(config, retrains=6, canaries=CANARIES, own_seeds=True, group=group)
    assert group.called.count("train") == 4 and answer["seeds_of_runs"] == "their own"
    assert {f"own-seed-{k:03d}.npz" for k in range(4)} < set(runs_of(config))
    assert answer["report"] != same["report"] and Path(answer["report"]).exists()
    attacks = answer["attacks"]
    assert "with seeds of its own" in attacks["u-lira, pairs"]["assumption"]
    again = pipeline.audit(config, retrains=2, canaries=CANARIES, group=group)
    assert again["attacks"] == same["attacks"]


def test_a_request_is_audited_before_and_after_it_is_carried_out(world, tmp_path):
    config, group = world
    table = pq.read_table(config.interactions, columns=["user_id", "item_id"])
    chosen = np.sort(np.random.default_rng(0).permutation(table.num_rows)[:300])
    pq.write_table(table.take(pa.array(chosen)), tmp_path / "request.parquet")
    named = {"interactions": str(tmp_path / "request.parquet"), "retrains": 2, "group": group}
    rehearsed = pipeline.audit(config, **named)
    assert "in memory" in rehearsed["request"] and rehearsed["removed_interactions"] > 250
    assert set(ATTACKS_ON_CANARIES) <= set(rehearsed["untold"])
    kept = runs_of(config)
    pipeline.forget(config, interactions=named["interactions"], group=group)
    done = pipeline.audit(config, **named)
    assert done["request"] == "forgotten before"
    for name, one in rehearsed["attacks"].items():
        # What was forgotten in memory is what `forget` commits. Draws of held-out and kept pairs are the same, too.
        assert done["attacks"][name]["auc"] == pytest.approx(one["auc"], abs=0.03), name
        assert (
            done["attacks"][name]["before"] == pytest.approx(one["before"], abs=0.03, nan_ok=True)
            or one["before"] is None
        )
    assert done["attacks"]["score"]["retrained"] == pytest.approx(rehearsed["attacks"]["score"]["retrained"], abs=0.01)
    # What attackers saw of runs with the forgotten data is removed by a purge, like those runs themselves.
    session = Session(config)
    found = {one.place for one in leftovers(session)}
    there = session.store.list(AUDIT)
    assert kept and sum(name in found for name in there) >= len(kept)


def test_what_an_audit_needs_is_said(world, tmp_path):
    config, group = world
    with pytest.raises(InputError, match="--retrains 1"):
        pipeline.audit(config, retrains=1, group=group)
    with pytest.raises(InputError, match="--canaries 0"):
        pipeline.audit(config, canaries=0, group=group)
    with pytest.raises(InputError, match="nothing of what is named"):
        pipeline.audit(config, users="nobody-has-this-id", group=group)


def test_a_page_without_attacks_says_what_is_missing():
    nothing = Outcome(untold={"score": "no test interactions <here>"})
    assert nothing.verdict == "not told" and markdown(nothing) == "No attack could be asked."
    assert "no test interactions &lt;here&gt;" in page(nothing, {"version": 3})
    told = Told(0.7, 0.5, 0.2, (0.1, 0.3), float("nan"), float("nan"), (float("nan"),) * 3)
    one = Outcome(told={"score": told})
    assert one.verdict == FOUND and one.document()["score"]["floor"] is None
    assert Outcome(told={"score": replace(told, floor=0.25)}).verdict == "passed"
    assert "| score | found | 0.700 | 0.500 | +0.200 [+0.100, +0.300] | - |" in markdown(one)
