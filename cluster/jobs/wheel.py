"""Build a wheel of this package from its own source, for the machines of a cluster. It needs no network.

The wheel differs from a released one in two ways, because Ray installs the wheels of a job with `pip install --target`:

- It names no dependencies. Otherwise pip would fetch all of them again, even torch and another Ray, whatever is installed
  there (https://github.com/ray-project/ray/issues/27624).
- Its build tag is a hash of the source. Ray takes two wheels with the same file name for the same wheel, so without the hash
  a changed file would not reach the cluster until the version changes.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ...partitioning.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
_BUILD = """
import sys
from setuptools import build_meta
build_meta.build_wheel(sys.argv[1], {"--build-option": ["--build-number", sys.argv[2]]})
"""


def source_folder() -> Path | None:
    """The folder of this package's source; None if the package was installed without it."""
    project = ROOT / "pyproject.toml"
    return ROOT if project.is_file() and '\nname = "unlearnrec"\n' in project.read_text(encoding="utf-8") else None


def build_wheel(root: Path, folder: Path) -> Path:
    """Build the wheel of the source in `root`; returns its path, which is below `folder`.

    Raises:
        InputError: the build failed, most likely because setuptools is missing or too old.
    """
    # It is built from a copy, because setuptools leaves `build/` in the folder that it builds, and would take deleted
    # modules from an older `build/`.
    copy, output = folder / "source", folder / "wheel"
    shutil.copytree(root, copy, ignore=lambda place, names: _ignored(root, Path(place), names))
    output.mkdir()
    project = copy / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    project.write_text(re.sub(r"(?ms)^dependencies = \[.*?^\]$", "dependencies = []", text), encoding="utf-8")
    command = [sys.executable, "-c", _BUILD, str(output), build_tag(copy)]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise InputError(f"the wheel of {root} for the job was not built ({said}). Try: pip install 'setuptools>=77'")
    return next(output.glob("*.whl"))


def build_tag(root: Path) -> str:
    """A hash of all files in `root` as the build tag of a wheel, which must start with a digit."""
    content = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        content.update(f"{path.relative_to(root).as_posix()} {path.stat().st_size}\n".encode() + path.read_bytes())
    return f"0{content.hexdigest()[:16]}"


def _ignored(root: Path, place: Path, names: list[str]) -> set[str]:
    """The names in the folder `place` that are not copied for the build.

    In the root only the package's folders, its modules and the files that the build reads are copied.
    """
    if place != root:
        return {name for name in names if name == "__pycache__"}
    needed = {"pyproject.toml", "README.md", "LICENSE", "py.typed", "examples"}
    return {
        name
        for name in names
        if name not in needed and not name.endswith(".py") and not (place / name / "__init__.py").is_file()
    }
