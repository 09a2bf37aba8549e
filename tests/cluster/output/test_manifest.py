"""What an earlier state of this release wrote is read, and its digests, which name folders and ingests, stay the same.

`manifests-of-7a468d8.json` holds the manifests of an output that the code of that commit made with `ingest`, `train`,
`pretrain` and `forget`, and what it computed from them.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from manifests import made_manifest, manifest_document
from pydantic import ValidationError

from unlearnrec.cluster.config.schema import parse_config
from unlearnrec.cluster.log.records import Record
from unlearnrec.cluster.models.counterfactual_runs import place_of_run
from unlearnrec.cluster.models.pretraining import folder_of_runs
from unlearnrec.cluster.models.training import make_run
from unlearnrec.cluster.output.ingests import digest, graph_key
from unlearnrec.cluster.output.manifest import manifest_of, needed_files, read_manifest
from unlearnrec.distributed.graph.removal import Removal, Simulated
from unlearnrec.distributed.partition.state import fingerprint
from unlearnrec.partitioning.errors import InputError
from unlearnrec.partitioning.manifest import MANIFEST, load_manifest
from unlearnrec.partitioning.storage import Store

OLD: dict[str, Any] = json.loads(Path(__file__).with_name("manifests-of-7a468d8.json").read_text())
CONFIG = {
    "interactions": "data/train.parquet",
    "output": "output",
    "backbone": {"embedding_size": 8, "num_layers": 2},
    "train": {"epochs": 1, "batch_size": 500},
    "pretrain": {"epochs": 1, "counterfactuals": 1},
}


def test_a_graph_is_written_again_as_it_was(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write(MANIFEST, json.dumps(OLD["graph"]).encode())
    graph = load_manifest(store)
    assert json.dumps(graph.document()) == json.dumps(OLD["graph"])  # also in the order of its keys
    assert digest(graph) == OLD["digest"]


def test_the_runs_of_pretrain_are_named_after_what_they_depend_on() -> None:
    version = read_manifest(OLD["versions"][0]["manifest"], "here")
    removal = Removal(simulated=(Simulated(0, 0, share=0.05),))

    def place(removal: Removal = removal, **changes: dict[str, Any]) -> str:
        return place_of_run(folder_of_runs(parse_config(CONFIG | changes), version), removal)

    # Settings of the fit, the number of runs, and what has nothing to do with them leave a finished run where it is.
    fit = {"epochs": 9, "batch_size": 7, "learning_rate": 0.5, "examples": 10, "counterfactuals": 2, "fork": 0.25}
    assert place() == place(serve={"port": 9000}) == place(pretrain=fit) == place(influence={"mlp_layers": 3})
    other = Removal(simulated=(Simulated(0, 0, share=0.01),))
    assert len({place(), place(other), place(Removal()), place(partitioning={"halo": "cover"})}) == 4
    retrained = version.replaced(model=version.model.replaced(seed=1))
    assert place_of_run(folder_of_runs(parse_config(CONFIG), retrained), removal) != place()


@pytest.mark.parametrize("number", range(3))
def test_a_version_is_written_again_as_it_was(number: int) -> None:
    old = OLD["versions"][number]
    version = read_manifest(old["manifest"], "here")
    assert version.document() == old["manifest"]
    assert json.dumps(version.graph.document()) == json.dumps(old["manifest"]["graph"])
    assert graph_key(version.graph) == old["graph_key"]
    for held in (version, version.loaded()):
        assert fingerprint(held, "pull", "torch") == old["fingerprint"]
    config = parse_config(CONFIG)
    assert make_run(config, version.graph, Removal()).folder == old["training_folder"]
    assert set(needed_files(version.graph, version.model)) == version.files.keys()


def test_keys_of_other_releases_are_kept_and_missing_ones_are_not_added() -> None:
    document = copy.deepcopy(OLD["versions"][2]["manifest"])
    document["later"] = document["graph"]["later"] = {"a": [1]}
    for key in ("around", "largest_shift", "format"):
        del document["model"]["encoder"][key]
    version = read_manifest(document, "here")
    assert version.document() == document and not version.model.encoder.readable
    changed = version.replaced(version=7, needs_retrain=True)
    assert changed.document() == document | {"version": 7, "needs_retrain": True}
    assert changed.graph.replaced(users=3).document() == document["graph"] | {"users": 3}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 3}, r"log/7, record 7 has format 3, .* reads format 1 and 2"),
        ({"format": None}, r"has format None"),
        (
            {"files": {"a": {"sha256": "x", "bytes": "3"}}},
            r'files\.a\.bytes: got a text \("3"\), expected a valid integer',
        ),
        ({"graph": []}, r"graph: got a list, expected an object"),
        ({"model": {}}, r"model\.backbone is missing; model\.seed is missing"),
        (
            {"graph": {"shard_files": [1]}},
            r"graph\.users is missing.*graph\.shard_files\[0\]: got an integer \(1\)",
        ),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], words: str) -> None:
    record = Record(7, "committed", "", {"manifest": manifest_document() | changes}, "", "log/7")
    with pytest.raises(InputError, match=words):
        manifest_of(record)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", r"graph/manifest\.json is not JSON .* Run `unlearnrec ingest` again"),
        (b"[]", r"graph/manifest\.json: got a list where the manifest of a graph should be, an object"),
        (b'{"format": 1}', r"graph/manifest\.json is not the manifest of a graph: users is missing"),
    ],
)
def test_what_is_wrong_with_a_graph_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write(MANIFEST, content)
    with pytest.raises(InputError, match=words):
        load_manifest(store)


def test_a_record_is_read_once() -> None:
    body = {"manifest": manifest_document()}
    record = Record(1, "committed", "", body, "")
    assert manifest_of(record) is manifest_of(record) is manifest_of(Record(1, "committed", "", body, ""))
    other = Record(1, "committed", "", {"manifest": manifest_document(2)}, "")
    assert manifest_of(other).version == 2


def test_a_manifest_does_not_change() -> None:
    version = made_manifest()
    with pytest.raises(ValidationError):
        version.reason = "forget"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        version.replaced(version="2")
