"""The report that the commands of one run leave, from training to the comparison with a retrain, in this process."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from in_process import InProcess

from unlearnrec.cluster import pipeline
from unlearnrec.cluster.config.schema import parse_config
from unlearnrec.partitioning.sample import make_sample


def test_each_command_adds_what_it_knows(tmp_path: Path) -> None:
    sample = make_sample(tmp_path / "data", users=200, items=100)
    whole = {
        "interactions": sample["train"],
        "test_interactions": sample["test"],
        "cluster": {"partitions": 1},
        "backbone": {"embedding_size": 8, "num_layers": 1},
        "train": {"epochs": 3, "batch_size": 500},
        "pretrain": {"epochs": 1, "counterfactuals": 1},
    }
    config, other = (parse_config(whole | {"output": str(tmp_path / name)}) for name in ("run", "retrained"))
    request = str(tmp_path / "forget.parquet")
    table = pq.read_table(sample["train"])
    pq.write_table(table.take(pa.array(np.arange(0, table.num_rows, 50))), request)

    def document() -> dict:
        page = (tmp_path / "run" / "reports" / "report.html").read_text()
        assert "<script" not in page and "None" not in page
        return json.loads((tmp_path / "run" / "reports" / "report.json").read_text())

    pipeline.ingest(config)
    pipeline.train(config, group=InProcess())
    assert len(document()["training"]["curve"]) == 3 and "comparison" not in document()
    pipeline.pretrain(config, group=InProcess())
    assert document()["encoder"]["seconds"] > 0 and document()["version"] == 2
    pipeline.forget(config, interactions=request, request_id="r", group=InProcess())
    answer = pipeline.evaluate(config, group=InProcess())
    assert answer["report"] == str(tmp_path / "run" / "reports" / "report.html")
    told = document()
    assert told["quality"]["recall@20"] == answer["recall@20"] and told["quality"]["by_user_activity"]
    assert [r["request_id"] for r in told["requests"]] == ["r"] and told["forgotten"]["interactions"] > 0

    pipeline.ingest(other)
    pipeline.train(other, without=[request], group=InProcess())
    pipeline.evaluate(config, reference=other.output, interactions=request, group=InProcess())
    told = document()
    assert [row["model"] for row in told["comparison"]["models"]] == ["original", "unlearned", "retrained"]
    assert told["comparison"]["seconds"].keys() == {"forget", "retrain"}
    pipeline.evaluate(config, group=InProcess())  # the same version: nothing is lost
    assert document()["comparison"] == told["comparison"] and len(document()["training"]["curve"]) == 3
