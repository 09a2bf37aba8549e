"""The example of a backbone outside the package, with real workers that import it themselves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lanes import LONG
from trained_output import small_sample

import unlearnrec

EXAMPLES = Path(unlearnrec.__file__).parent / "examples"
SCRIPT = """
from custom_backbone import main

if __name__ == "__main__":
    main({table!r}, "output", backbone={{"embedding_size": 8, "num_layers": 2}}, train={{"epochs": 3, "batch_size": 500}},
         pretrain={{"epochs": 2, "counterfactuals": 1}})
"""


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    root = str(EXAMPLES.parents[1])
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=variables, capture_output=True, text=True)


@LONG
def test_a_backbone_of_ones_own_is_trained_and_forgets_in_every_process(tmp_path: Path):
    table = small_sample(tmp_path)["train"]
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "custom_backbone.py").write_text((EXAMPLES / "custom_backbone.py").read_text())
    (folder / "mine.py").write_text(SCRIPT.format(table=table))
    done = run(["mine.py"], folder)
    assert done.returncode == 0, done.stderr
    assert "committed user" in done.stdout
    # Another process, the command line, with the configuration that the output has.
    command = [
        "-m",
        "unlearnrec",
        "forget",
        "--config",
        "output/config.yaml",
        "--users",
        "no-such-user",
        "--dry-run",
        "--json",
    ]
    told = run(command, folder)
    assert json.loads(told.stdout.splitlines()[-1])["status"] == "dry_run", told.stderr
    # No code is imported because the output names it.
    told = run([*command, "backbone.name=lightgcn", "backbone.options={}"], folder)
    assert (
        told.returncode == 2
        and "Set backbone.name=custom_backbone:PageRank, so that its code is imported" in told.stderr
    )


def test_the_example_has_about_thirty_lines():
    text = (EXAMPLES / "custom_backbone.py").read_text()
    own = text[text.index("class PageRank") : text.index("def main")]
    assert len(own.strip().splitlines()) < 20


@pytest.mark.parametrize("name", ["custom_backbone"])
def test_the_configuration_does_not_import_it(name: str):
    unlearnrec.Session(interactions="a", output="b", backbone={"name": f"{name}:PageRank"})
    assert name not in sys.modules
