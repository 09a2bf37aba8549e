"""Commands and Python of the documents, run as they stand: in a folder that has the table, the configuration, the request
and the output that they speak of, each block in a copy of it. UNLEARNREC_TEST_LONG=1; some 25 commands, most with Ray.

A block that stands in no document of RUN_HERE is run by another test, or says in the document why it is not.
"""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from fences import ROOT, SHELL, Fence, all_fences, goes_on_with_a_session, script, uses_a_session
from lanes import LONG

from unlearnrec.partitioning.sample import make_sample

RUN_HERE = ("README", "evaluation", "evidence", "extending", "forgetting", "planning", "python", "serving", "upgrading")
ELSEWHERE = {
    ("commit", "jq -r"): "cluster/log/test_checkpoints.py",
    ("evidence", "jq -r"): "cluster/evidence/test_report.py",
    ("evidence", "openssl pkeyutl"): "cluster/evidence/test_receipt.py",
    ("serving", "def verify"): "cluster/serving/test_callbacks.py",
    ("tutorial", "unlearnrec"): "docs/test_tutorial.py",
}
"""(document, words of a block) -> the test that runs it."""
MODEL = """
cluster: {partitions: 2}
backbone: {embedding_size: 8, num_layers: 2}
train: {epochs: 3, batch_size: 2000}
pretrain: {epochs: 2, counterfactuals: 1}
"""
"""Behind the three lines of the README's configuration: a model that is trained in a moment."""
USERS, ITEMS = (28281, 28380, 28448, 28452, 17, 23), (6719, 433)
"""Ids that the documents name."""
PREPARED = """
import unlearnrec
with unlearnrec.Session("run.yaml", progress=False) as s:
    s.ingest(), s.train(), s.pretrain()
    assert s.forget(interactions="request.csv", request_id="ID").wait().status == "committed"
"""
NAMES = """
import pandas as pd
import unlearnrec
test = pd.read_parquet("test.parquet")
frame = pd.read_parquet("events.parquet").rename(columns={"user_id": "customer", "item_id": "sku"})
"""
"""What blocks of Python take from what stands before them."""


def name_of(one: Fence) -> str:
    return Path(one.place).stem


def elsewhere(one: Fence) -> list[str]:
    return [test for (name, words), test in ELSEWHERE.items() if name == name_of(one) and words in one.text]


TO_RUN = [one for one in all_fences() if one.language in (*SHELL, "python") and not one.reason and not elsewhere(one)]
"""Without Python that needs nothing: test_fences.py runs it."""
TO_RUN = [one for one in TO_RUN if one.language != "python" or uses_a_session(one)]


def test_each_block_is_run_or_says_why_not():
    assert {name_of(one) for one in TO_RUN} == set(RUN_HERE), "write <!-- not run: why --> before it, or let it be run"
    for (name, words), test in ELSEWHERE.items():
        assert words in (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        assert f"{name}.md" in (ROOT / "tests" / test).read_text(encoding="utf-8"), test


def environment(programs: Path) -> dict[str, str]:
    search = os.pathsep.join([str(ROOT.parent), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": search}


def run(command: list[str], folder: Path) -> None:
    env = environment(folder.parent / "bin")
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with events.parquet, test.parquet, run.yaml, request.csv and `run`, in which that request is forgotten."""
    home = tmp_path_factory.mktemp("blocks")
    program = home / "bin" / "unlearnrec"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m unlearnrec "$@"\n')
    program.chmod(0o755)
    folder = home / "prepared"
    folder.mkdir()
    sample = make_sample(home / "data", users=200, items=100)
    table = pq.read_table(sample["train"]).to_pydict()
    first = dict(zip(table["user_id"], table["item_id"], strict=True))
    users = dict(zip(sorted(first), USERS, strict=False))
    asked = [user for user, new in users.items() if new in (28448, 28452)]
    items = dict(zip([first[user] for user in asked], ITEMS, strict=True))
    assert len(items) == 2, "another sample: these users chose the same item"
    for name, source in (("events", "train"), ("test", "test")):
        columns = pq.read_table(sample[source]).to_pydict()
        for column, new in (("user_id", users), ("item_id", items)):
            columns[column] = [new.get(one, one + 100_000) for one in columns[column]]
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    pa.csv.write_csv(pa.table({"user_id": [28448, 28452], "item_id": list(ITEMS)}), folder / "request.csv")
    (config,) = [one for one in all_fences() if one.place == "README.md" and one.language == "yaml"]
    (folder / "run.yaml").write_text(config.text + MODEL)
    run([sys.executable, "-c", PREPARED], folder)
    return folder


def code_of(one: Fence) -> str:
    if not goes_on_with_a_session(one):
        return NAMES + one.text
    return f'{NAMES}with unlearnrec.Session("run.yaml") as s:\n{textwrap.indent(one.text, "    ")}'


@LONG
@pytest.mark.slow
@pytest.mark.parametrize("one", TO_RUN, ids=str)
def test_a_block_works_as_it_is_written(one: Fence, prepared: Path):
    folder = prepared.parent / f"{name_of(one)}-{one.line}"
    shutil.copytree(prepared, folder)
    if one.language == "python":
        run([sys.executable, "-c", code_of(one)], folder)
    else:
        run(["bash", "-e", "-o", "pipefail", "-c", "\n".join(script(one.text))], folder)
