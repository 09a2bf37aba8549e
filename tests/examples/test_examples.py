"""Each example is one that works: configurations are read and ingested, commands are those of the command line."""

import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import typer
from small_output import write_interactions

import unlearnrec
from unlearnrec.cluster import pipeline
from unlearnrec.cluster.cli.app import app
from unlearnrec.cluster.config.schema import load_config
from unlearnrec.partitioning.storage import StorageOptions, Store

EXAMPLES = Path(unlearnrec.__file__).parent / "examples"
CONFIGURATIONS = sorted(EXAMPLES.glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_a_configuration_is_one_and_ingests(path: Path, tmp_path: Path):
    """Each is read as it is; then with a small table, and as many partitions as that has room for."""
    config = load_config(path)
    table = write_interactions(tmp_path / "t.parquet")
    columns = config.columns
    if columns.user != "user_id":
        frame = pd.read_parquet(table).rename(columns={"user_id": columns.user, "item_id": columns.item})
        frame[columns.time], frame[columns.value] = pd.Timestamp("2026-01-01"), 1.0
        frame.loc[0, columns.value] = 0.0
        frame.to_parquet(table)
    places = [f"interactions={table}", f"output={tmp_path / 'output'}", "cluster.address=null", "cluster.partitions=2"]
    result = pipeline.ingest(load_config(path, [*places, "cluster.gpus_per_worker=0"]))
    assert result["events"] == 48 - (columns.value is not None)


def test_the_example_for_s3_works_on_s3(s3_server: StorageOptions, tmp_path: Path):
    place = f"s3://lake/{tmp_path.name}"
    store = Store(place, s3_server)
    store.write("train/part.parquet", Path(write_interactions(tmp_path / "t.parquet")).read_bytes())
    overrides = [
        f"interactions={place}/train/",
        f"output={place}/run",
        f"storage.endpoint_url={s3_server.endpoint_url}",
    ]
    session = unlearnrec.Session(load_config(EXAMPLES / "s3.yaml", overrides), progress=False)
    assert session.ingest().events == 48
    assert store.exists("run/graph/manifest.json")
    # A table in memory is written there as well.
    handed = unlearnrec.Session(session.config, interactions=pq.read_table(tmp_path / "t.parquet"), progress=False)
    assert handed.ingest().events == 48
    assert [name for name in store.list("run/tables") if name.endswith(".parquet")]


def commands_of_the_dags(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Task id -> command, from the DAGs as Airflow would load them; Airflow itself is stood in for."""
    found: dict[str, str] = {}

    class Block:
        def __init__(self, *_: Any, **__: Any) -> None: ...
        def __enter__(self) -> "Block":
            return self

        def __exit__(self, *_: object) -> None: ...

    class Operator:
        def __init__(self, *, task_id: str, bash_command: str) -> None:
            found[task_id] = bash_command

        def __rshift__(self, other: "Operator") -> "Operator":
            return other

    modules = {name: types.ModuleType(name) for name in ("airflow", "airflow.operators", "airflow.operators.bash")}
    vars(modules["airflow"])["DAG"] = Block
    vars(modules["airflow.operators.bash"])["BashOperator"] = Operator
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    exec(compile((EXAMPLES / "airflow_dag.py").read_text(), "airflow_dag.py", "exec"), {"__name__": "airflow_dag"})
    return found


def test_the_commands_of_airflow_are_those_of_the_command_line(monkeypatch: pytest.MonkeyPatch):
    group: Any = typer.main.get_command(app)
    found = commands_of_the_dags(monkeypatch)
    assert {"ingest", "retrain", "evaluate", "export", "forget", "purge", "verify"} == set(found)
    for task, line in found.items():
        rendered = re.sub(r"\{\{.*?\}\}", "20260101T000000", line)
        program, name, *arguments = shlex.split(rendered)
        assert program == "unlearnrec", task
        command = group.commands[name]
        # Raises for an option that the command does not have. Nothing is run.
        context = command.make_context(
            name, arguments, parent=group.make_context("unlearnrec", ["--help-not"], resilient_parsing=True)
        )
        assert context.params["config"] is not None, task
        assert not context.params.get("overrides"), "a stray argument"


def test_the_map_of_examples_names_each_file():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in EXAMPLES.iterdir():
        assert path.name == "README.md" or f"({path.name})" in text, path.name
