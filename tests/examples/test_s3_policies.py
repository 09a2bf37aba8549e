"""The policies for S3 allow each call that the commands make, and nothing that none of them makes."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from in_process import InProcess
from lanes import LONG
from s3 import CREDENTIALS
from s3_calls import Call, allowed, call_of, watched_server
from trained_output import small_sample

import unlearnrec
from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import parse_config
from unlearnrec.cluster.output.session import Session
from unlearnrec.cluster.serving.start import check_servable
from unlearnrec.partitioning.storage import Store

FOLDER = Path(unlearnrec.__file__).parent / "examples" / "deployment" / "s3"
POLICIES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.json")}
TRAINING = ["lake-read", "output"]


class Group(InProcess):
    """An in-process group with what plans ask of one besides."""

    num_partitions, formed, planned = 1, True, None

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes: dict[int, int] = {}


def policies(names: list[str]) -> list[dict[str, Any]]:
    return [POLICIES[name] for name in names]


@pytest.mark.parametrize(
    ("method", "target", "names"),
    [
        ("GET", "/my-lake?list-type=2&prefix=interactions/", TRAINING),
        ("GET", "/my-lake/interactions/part-0.parquet", TRAINING),
        ("PUT", "/my-models/recommender/log/000000001.json", TRAINING),
        ("POST", "/my-models/recommender/graph/shard-0?uploads", TRAINING),
        ("DELETE", "/my-models/recommender/leases/000001-a.json", [*TRAINING, "purge"]),
        ("DELETE", "/my-models/recommender/versions/000001/embeddings-000", ["purge"]),
        ("GET", "/my-lake?versions&prefix=interactions", ["residue"]),
        ("GET", "/my-lake/part-0.parquet?versionId=1", ["residue"]),
        ("PUT", "/my-lake/drop/codes.zip", ["drop-answers"]),
    ],
)
def test_a_policy_allows_what_it_is_for_and_no_other_does(method: str, target: str, names: list[str]):
    call = call_of(method, target)
    assert allowed(call, policies(names))
    assert not allowed(call, policies([name for name in POLICIES if name not in names]))


@pytest.mark.parametrize(
    "target",
    [
        "PUT /my-lake/interactions/a",
        "DELETE /my-lake/interactions/a",
        "PUT /my-models/other/a",
        "GET /my-models/other/a",
    ],
)
def test_nothing_writes_to_the_lake_or_touches_another_output(target: str):
    assert not allowed(call_of(*target.split()), policies(list(POLICIES)))


@LONG
def test_each_command_stays_within_its_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All commands on a server like S3, whose calls are held against the policies; workers are in this process."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("UNLEARNREC_SUPPRESSION_KEY", "a-key-of-enough-letters")
    sample = small_sample(tmp_path)["train"]
    user = str(pq.read_table(sample)["user_id"][0].as_py())
    with watched_server(tmp_path, "my-lake", "my-models") as (options, calls):
        Store("s3://my-lake", options).write("interactions/part-0.parquet", Path(sample).read_bytes())
        config = parse_config(
            {
                "interactions": "s3://my-lake/interactions",
                "output": "s3://my-models/recommender",
                "storage": {"endpoint_url": options.endpoint_url, "region": options.region},
                "cluster": {"partitions": 1},
                "backbone": {"embedding_size": 8, "num_layers": 2},
                "train": {"epochs": 2, "batch_size": 500, "checkpoint_every": 1},
                "pretrain": {"epochs": 1, "counterfactuals": 1},
            }
        )
        calls()
        made: dict[str, list[Call]] = {}

        def done(names: list[str], what: str) -> None:
            found = calls()
            assert found, what
            refused = {call for call in found if not allowed(call, policies(names))}
            assert not refused, what
            for name in names:
                made.setdefault(name, []).extend(found)

        pipeline.ingest(config)
        done(TRAINING, "ingest")
        pipeline.train(config, group=Group())
        done(TRAINING, "train")
        pipeline.pretrain(config, group=Group())
        done(TRAINING, "pretrain")
        answer = pipeline.forget(config, users=user, request_id="r1", group=Group())
        assert answer["status"] == "committed"
        done(TRAINING, "forget")
        check_servable(Session(config))
        pipeline.status(config, "r1")
        pipeline.evaluate(config.model_copy(update={"test_interactions": "s3://my-lake/interactions"}), group=Group())
        done(TRAINING, "evaluate")
        pipeline.purge(config, now=True)
        done([*TRAINING, "purge"], "purge")
        pipeline.residue(config, "r1")
        done([*TRAINING, "residue"], "residue")
    # And nothing is allowed that no command needs.
    for name, actions in {
        name: {action for statement in POLICIES[name]["Statement"] for action in statement["Action"]} for name in made
    }.items():
        unused = actions - {call.action for call in made[name]} - RARE
        assert not unused, name


RARE = {"s3:AbortMultipartUpload", "s3:GetObjectVersion"}
"""After an upload that broke off, and in a bucket with versions: neither happened here."""
