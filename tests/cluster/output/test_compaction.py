"""A version with deltas, and the same in whole files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_workers import FakeWorkers
from small_output import (
    accept,
    commit_encoder,
    commit_train,
    places_of,
    small_config,
    user_name,
    write_interactions,
)

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import Config
from unlearnrec.cluster.lifecycle.acceptance import read_accepted
from unlearnrec.cluster.log.log import LogConflict
from unlearnrec.cluster.models import reduced_graph
from unlearnrec.cluster.models.carry_out import carry_out
from unlearnrec.cluster.output.compaction import COMPACT, compact, covered_files
from unlearnrec.cluster.output.manifest import FORMAT, FORMAT_WITH_DELTAS, Manifest
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.output.versions import Versions
from unlearnrec.cluster.reporting.progress import Progress
from unlearnrec.distributed.partition.files import read_rows
from unlearnrec.partitioning.ingest import load_ids, load_shard


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A version from which two requests have removed something."""
    monkeypatch.setattr(reduced_graph, "SMALL_MAP_BYTES", 0)
    off = {"gate_gap_closed": None, "gate_recall_loss": None, "gate_change": None, "max_share": 1.0}
    config = small_config(write_interactions(tmp_path / "t.parquet"), str(tmp_path / "output"), forget=off)
    pipeline.ingest(config)
    commit_train(config)
    commit_encoder(config)
    for name in ("a", "b"):
        forget(config, name)
    return config


def forget(config: Config, request_id: str) -> None:
    accept(config, user_name(3 + len(Session(config).ledger().tickets)), request_id)
    session = Session(config)
    request = read_accepted(session, session.ledger().tickets[request_id])
    carry_out(session, [request], FakeWorkers(session.store), Progress())  # type: ignore[arg-type]


def held(session: Session, version: Manifest) -> list[np.ndarray]:
    """All that a version says of its graph and rows."""
    found = []
    for k in range(version.graph.partitions):
        shard = load_shard(session.store, version.graph, k)
        names = (
            "user_ids",
            "user_indptr",
            "user_neighbours",
            "user_counts",
            "item_ids",
            "item_indptr",
            "item_neighbours",
        )
        found += [*(getattr(shard, name) for name in names), read_rows(session.store, version, k)]
    for side in ("user", "item"):
        ids, node, owner = load_ids(session.store, version.graph, side)
        found += [np.array(ids.to_pylist()), node, owner]
    return found


def test_the_same_graph_and_rows_in_whole_files(config: Config) -> None:
    session = Session(config)
    before = session.version()
    assert before.has_deltas and before.format == FORMAT_WITH_DELTAS
    assert before.graph.gone_file and any(before.graph.shard_deltas or ()) and any(before.model.embedding_deltas or ())
    covered = covered_files(before)
    assert {before.graph.user_file, before.graph.gone_file, *before.graph.shard_chain(0)} <= set(covered)

    after = compact(session)

    assert after is not None and (after.reason, after.format, after.has_deltas) == (COMPACT, FORMAT, False)
    assert after.answers == {} and after.base == before.version and covered_files(after) == []
    for one, other in zip(held(session, before), held(session, after), strict=True):
        np.testing.assert_array_equal(one, other)
    assert after.follows is not None and after.follows.fingerprint == session.fingerprint(before)
    assert not after.files.keys() & set(covered) and session.missing_file(after) is None
    assert after.graph.interactions == before.graph.interactions and after.model.encoder == before.model.encoder
    assert compact(session) is None and session.version() == after


def test_a_request_beside_a_compaction_is_compacted_too(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    session, commit, requests = Session(config), Versions.commit, ["c"]

    def late(self: Versions, manifest: Manifest, after: int, lease: str | None = None) -> Manifest:
        if manifest.reason == COMPACT and requests:
            forget(config, requests.pop())
            with pytest.raises(LogConflict):
                commit(self, manifest, after, lease)
            raise LogConflict("as it was")
        return commit(self, manifest, after, lease)

    monkeypatch.setattr(Versions, "commit", late)
    after = compact(session)
    assert after is not None and not after.has_deltas
    assert session.ledger().tickets["c"].state.value == "committed"
    assert user_name(5) not in load_ids(session.store, after.graph, "user")[0].to_pylist()


def test_what_deltas_take_away_is_gone_after_a_purge(config: Config) -> None:
    session = Session(config)
    names = [user_name(3).encode(), user_name(4).encode()]
    listed = {one["place"] for one in pipeline.residue(config)["residues"] if one["kind"] == "file under deltas"}
    assert listed == set(covered_files(session.version()))
    assert all(any(place in listed for place in places_of(session.store, name)) for name in names)
    pipeline.purge(config, now=True)
    assert all(places_of(session.store, name) == [] for name in names)
    assert pipeline.residue(config)["residues"] == [] and not session.version().has_deltas
