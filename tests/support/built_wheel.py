"""A wheel of this package, built from a copy of its source without a network."""

import shutil
import subprocess
import sys
from pathlib import Path

from unlearnrec.cluster.jobs.package import ROOT

BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
READ = {"pyproject.toml", "README.md", "LICENSE", "py.typed", "examples"}
"""What the build reads besides modules and folders of modules."""


def copy_source(folder: Path) -> Path:
    """Copy what the build reads below `folder`; returns the copy. setuptools leaves `build/` in what it builds."""
    copy = folder / "source"

    def ignored(place: str, names: list[str]) -> set[str]:
        if Path(place) != ROOT:
            return {name for name in names if name == "__pycache__"}
        modules = {name for name in names if name.endswith(".py") or (ROOT / name / "__init__.py").is_file()}
        return set(names) - modules - READ

    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy


def build_wheel(folder: Path) -> Path:
    """Build it below `folder`; returns its path."""
    copy, output = copy_source(folder), folder / "wheel"
    output.mkdir()
    done = subprocess.run([sys.executable, "-c", BUILD, str(output)], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(output.glob("*.whl"))
