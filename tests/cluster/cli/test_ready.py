"""What a command is told before torch and Ray are loaded."""

import json
import subprocess
import sys

import pytest
from small_output import small_config, write_interactions

from unlearnrec.cluster.cli.app import run
from unlearnrec.cluster.commands.ingest import ingest
from unlearnrec.cluster.config.schema import to_yaml
from unlearnrec.partitioning.storage import Store

CODE = """
import sys
from unlearnrec.cluster.cli.app import run
code = run(sys.argv[1:])
heavy = {'torch', 'ray', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules)
sys.exit(f'loaded {heavy}' if heavy else code)
"""


@pytest.fixture
def config(tmp_path):
    config = small_config(write_interactions(tmp_path / "events.parquet"), str(tmp_path / "out"))
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    return config


def told(arguments, tmp_path):
    """What the command says on stderr, in a process that must end with 2 and load nothing heavy."""
    command = [sys.executable, "-c", CODE, *arguments, "--config", str(tmp_path / "c.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train", "holds no graph. Run `unlearnrec ingest` first"),
        ("evaluate", "holds no trained model. Run `unlearnrec ingest` and `unlearnrec train` first"),
        ("forget --users 3", "holds no trained model"),
        ("train train.epoch=3", "train.epoch: unknown key; did you mean 'epochs'?"),
        ("ingest interactions=gone.parquet", "gone.parquet: no such file"),
    ],
)
def test_mistakes_are_told_before_anything_heavy_is_loaded(config, tmp_path, line, expected):
    assert expected in told(line.split(), tmp_path)


@pytest.mark.parametrize("line", ["pretrain", "export --to x", "rollback --to 1", "evaluate --reference y --users 3"])
def test_after_ingest_only_train_is_missing(config, tmp_path, capsys, line):
    ingest(config)
    assert run([*line.split(), "--config", str(tmp_path / "c.yaml")]) == 2
    assert capsys.readouterr().err.endswith("holds no trained model. Run `unlearnrec train` first\n")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("forget --users gone.csv", "--users gone.csv: no such file"),
        ("forget --requests gone.jsonl", "gone.jsonl: no such file"),
        ("evaluate --reference other --interactions gone.csv", "--reference other: holds no trained model"),
        ("train --without gone.csv", "gone.csv: no such file"),
    ],
)
def test_missing_files_too(config, tmp_path, line, expected):
    ingest(config)
    Store(config.output).write("log/000000001.json", json.dumps({}).encode())  # for these checks, a model is there
    assert expected in told(line.split(), tmp_path)
