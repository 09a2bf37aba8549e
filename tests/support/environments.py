"""New environments with this package's wheel, for the lane UNLEARNREC_TEST_INSTALL, which fetches packages."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fences import ROOT

GIVEN = os.environ.get("UNLEARNREC_TEST_INSTALL", "")
INSTALL = pytest.mark.skipif(not GIVEN, reason="UNLEARNREC_TEST_INSTALL names no Python")

NO_COMPILER = dict.fromkeys(("CC", "CXX", "FC", "LD"), "/bin/false")
"""What a build would ask for a compiler, if PATH has none."""


def attempt(*command: str | Path, cwd: Path, **places: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(list(map(str, command)), cwd=cwd, env=kept | places, capture_output=True, text=True)


def run(*command: str | Path, cwd: Path, **places: str) -> subprocess.CompletedProcess[str]:
    done = attempt(*command, cwd=cwd, **places)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def pinned(name: str) -> str:
    """The tested version, as `name==version`."""
    return re.findall(rf"(?m)^{name}==[^\s]+$", (ROOT / "constraints.txt").read_text(encoding="utf-8"))[0]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as a release is: from a copy of what git knows."""
    folder = tmp_path_factory.mktemp("release")
    source = folder / "source"
    run("git", "clone", "-q", "--depth", "1", ROOT.as_uri(), source, cwd=folder)
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, source, cwd=folder)
    return next(folder.glob("unlearnrec-*.whl"))
