"""The tutorial, done as it says: every command in order, in an empty folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fences import ROOT, fences, script
from lanes import LONG


@LONG
def test_the_tutorial_works_as_it_is_written(tmp_path: Path):
    program = tmp_path / "bin" / "unlearnrec"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m unlearnrec "$@"\n')
    program.chmod(0o755)
    search = os.pathsep.join([str(ROOT.parent), os.environ.get("PYTHONPATH", "")])
    places = {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": search}
    work = tmp_path / "work"
    work.mkdir()
    blocks = [fence.text for fence in fences(ROOT / "docs" / "tutorial.md") if fence.language == "sh"]
    lines = [line for block in blocks for line in script(block)]
    assert len(lines) > 10
    for line in lines:
        done = subprocess.run(["bash", "-c", line], cwd=work, env=os.environ | places, capture_output=True, text=True)
        if done.returncode:
            pytest.fail(f"{line}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    assert (work / "run" / "reports" / "evidence-ticket-4711.html").is_file()
    assert (work / "exported" / "recommendations.parquet").is_file()
