"""Which finished counterfactual runs stay after an encoder was committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from manifests import made_manifest

from unlearnrec.cluster.config.schema import parse_config
from unlearnrec.cluster.layout import PRETRAIN
from unlearnrec.cluster.models.counterfactual_runs import Cost, place_of_run
from unlearnrec.cluster.models.pretraining import clear_runs_of_others, folder_of_runs
from unlearnrec.cluster.output.ingests import graph_key
from unlearnrec.cluster.output.leases import Lease
from unlearnrec.cluster.output.session import Session
from unlearnrec.distributed.graph.removal import Removal, Simulated


def test_runs_of_other_models_on_the_graph_go_unless_a_command_has_a_lease_on_them(tmp_path: Path) -> None:
    values: dict[str, Any] = {"interactions": "-", "output": str(tmp_path)}
    session, version = Session(parse_config(values)), made_manifest(1)
    removal = Removal(simulated=(Simulated(0, 0, share=0.1),))
    own = f"{place_of_run(folder_of_runs(session.config, version), removal)}/done.json"
    graph = graph_key(version.graph)
    other, held = f"{PRETRAIN}/{graph}-0123/0/done.json", f"{PRETRAIN}/{graph}-4567/0/done.json"
    elsewhere = f"{PRETRAIN}/89ab-0123/0/done.json"
    for name in (own, other, held, elsewhere):
        session.store.write(name, b"{}")

    with Lease(session, 2, [f"{PRETRAIN}/{graph}-4567*"]):
        clear_runs_of_others(session, version)
    assert set(session.store.list(PRETRAIN)) == {own, held, elsewhere}

    clear_runs_of_others(session, version)
    assert set(session.store.list(PRETRAIN)) == {own, elsewhere}


def test_the_cost_is_told_in_trainings_also_where_the_runs_were_found() -> None:
    told = Cost([40.0, 60.0], 2.0, made_now=110.0).told(elapsed=125.0)
    assert told == {"run_seconds": 100.0, "fit_seconds": 15.0, "retrains": pytest.approx(115 / 50)}
    # Nothing was made now: the same cost as for who had made them.
    assert Cost([40.0, 60.0], 2.0).told(elapsed=15.0) == told
    # Forks after half of the training are half a training each.
    assert Cost([40.0, 60.0], 1.0).told(elapsed=15.0)["retrains"] == pytest.approx(told["retrains"] / 2)
    # Runs whose time nobody wrote down say nothing.
    assert Cost([40.0, None], 2.0, made_now=110.0).told(elapsed=125.0) == {}
