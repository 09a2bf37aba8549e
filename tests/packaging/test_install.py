"""The package as others get it: a wheel, installed into an empty environment, runs the demo; no extra needs a compiler.

It fetches packages, and takes minutes: UNLEARNREC_TEST_INSTALL names the Pythons, such as `python3.11,python3.13`, or is 1
for the one that runs the tests. PyTorch is installed first and in the tested version, since pip would take the newest. A
Python that this machine has not, or for which pip finds no such PyTorch, is skipped, and the reason is what was found.
"""

import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from environments import GIVEN, INSTALL, NO_COMPILER, attempt, pinned, run
from fences import ROOT

PYTHONS = [sys.executable if one == "1" else one for one in GIVEN.split(",") if one]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
TRIED = re.findall(r"Programming Language :: Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))

pytestmark = INSTALL


@pytest.mark.parametrize("python", PYTHONS)
def test_the_demo_runs_in_an_empty_environment(
    python: str, wheel: Path, tmp_path: Path, request: pytest.FixtureRequest
):
    if shutil.which(python) is None:
        pytest.skip(f"there is no {python} on this machine")
    home = tmp_path / "environment"
    request.addfinalizer(lambda: shutil.rmtree(home))  # gigabytes
    run(python, "-m", "venv", home, cwd=tmp_path)
    bin = home / "bin"
    hidden = {"PATH": str(bin)} | NO_COMPILER
    pip = [bin / "python", "-m", "pip", "install", "-q", "--only-binary", ":all:"]
    # Pins of other packages may have no wheel for this Python, so only PyTorch is held.
    done = attempt(*pip, pinned("torch"), cwd=tmp_path, **hidden)
    if "No matching distribution found for torch" in done.stderr:
        pytest.skip(f"pip finds no {pinned('torch')} for {python}: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-3000:]
    run(*pip, f"{wheel}[serve]", cwd=tmp_path, **hidden)
    version = run(bin / "unlearnrec", "--version", cwd=tmp_path).stdout
    assert version.split()[0] == "unlearnrec"
    doctor = json.loads(run(bin / "unlearnrec", "doctor", "--json", cwd=tmp_path).stdout.splitlines()[-1])
    assert doctor["ok"], doctor
    done = run(bin / "unlearnrec", "quickstart", "--output", "demo", "--json", cwd=tmp_path)
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["recall@20"] > 0.38 and answer["forget_seconds"] < answer["retrain_seconds"], answer
    assert (tmp_path / answer["report"]).is_file()
    examples = (
        "from importlib.resources import files; print((files('unlearnrec') / 'examples' / 'lightgcn.yaml').is_file())"
    )
    assert "True" in run(bin / "python", "-c", examples, cwd=tmp_path).stdout
    assert run(bin / "python", "-m", "pip", "check", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("version", TRIED)
@pytest.mark.parametrize("extra", ["", *(name for name in EXTRAS if name != "dev")])
def test_no_extra_needs_a_compiler(extra: str, version: str, wheel: Path, tmp_path: Path):
    """pip resolves it to wheels alone. Nothing is installed; PyTorch is held, so that no other is looked at."""
    if extra == "dgl" and not version.endswith(f".{sys.version_info.minor}"):
        pytest.skip("pip asks the Python that runs it, not the one that is meant, whether the extra is for it")
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "-q", "--only-binary", ":all:"]
    wanted = [pinned("torch"), f"{wheel}[{extra}]" if extra else wheel]
    run(*pip, "--python-version", version, "--target", tmp_path / "nowhere", *wanted, cwd=tmp_path)
