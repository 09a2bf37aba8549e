"""The image's steps of pip, in an environment of its own: they need no registry of images. UNLEARNREC_TEST_IMAGE=1."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from built_wheel import copy_source

import unlearnrec

ROOT = Path(unlearnrec.__file__).parent
DOCKERFILE = ROOT / "examples" / "deployment" / "Dockerfile"


def steps() -> list[str]:
    """The commands of the RUN lines that are pip's, or this package's."""
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    return [line[4:] for line in text.splitlines() if line.startswith(("RUN python -m pip", "RUN unlearnrec"))]


def test_the_steps_of_pip_are_those_that_the_lane_runs():
    assert [shlex.split(step)[:4] for step in steps()] == [
        ["python", "-m", "pip", "wheel"],
        ["python", "-m", "pip", "install"],
        ["python", "-m", "pip", "install"],
        ["unlearnrec", "--version"],
    ]


@pytest.mark.skipif(os.environ.get("UNLEARNREC_TEST_IMAGE") != "1", reason="UNLEARNREC_TEST_IMAGE is not 1")
def test_what_pip_installs_for_the_image_starts(tmp_path: Path):
    """torch comes from the index that pip finds here, not from the one of the image, which may not be reached."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    wheels, opt = tmp_path / "wheels", tmp_path / "opt"
    opt.mkdir()
    (opt / "constraints.txt").write_text((ROOT / "constraints.txt").read_text(encoding="utf-8"), encoding="utf-8")
    defaults = dict(re.findall(r"(?m)^ARG (\w+)=(\S+)$", DOCKERFILE.read_text(encoding="utf-8")))
    env = os.environ | defaults | {"PATH": f"{tmp_path}/venv/bin:{os.environ['PATH']}", "PYTHONPATH": ""}
    source = copy_source(tmp_path)
    for step in steps():
        line = step.replace('--index-url "${TORCH_INDEX}"', "").replace("/wheels .", f"{wheels} {source}")
        line = line.replace("/opt/unlearnrec/wheels", str(wheels)).replace("/opt/unlearnrec", str(opt))
        done = subprocess.run(line, shell=True, env=env, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert unlearnrec.__version__ in done.stdout
    modules = [
        "unlearnrec.cluster.commands.serve_detached",
        "unlearnrec.cluster.http.app",
        "s3fs",
        "deltalake",
        "pyiceberg",
    ]
    modules += ["cryptography", "opentelemetry.exporter.otlp.proto.http.trace_exporter"]
    command = ["python", "-c", f"import {', '.join(modules)}"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
