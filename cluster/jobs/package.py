"""The package as a job takes it along: a copy of its files, which Ray puts on the Python path of the job.

It is a folder, not a wheel, for two reasons:

- Ray installs a wheel with pip, and there is none in an environment that `uv` made, here or on the cluster.
- Ray names what it ships after its content. A wheel is named by its version, so a changed file would not reach a cluster
  that has seen a wheel of this version.

The machines of the cluster need the dependencies themselves. The copy names none, and nothing is fetched for a job.
"""

from __future__ import annotations

import shutil
from pathlib import Path

NAME = "unlearnrec"
ROOT = Path(__file__).resolve().parents[2]


def source_folder() -> Path | None:
    """The folder of this package's source; None if the package was installed without it."""
    project = ROOT / "pyproject.toml"
    return ROOT if project.is_file() and f'\nname = "{NAME}"\n' in project.read_text(encoding="utf-8") else None


def copy_package(folder: Path, version: str) -> list[Path]:
    """Copy the package, from its source or from where it is installed.

    folder: where the copies are made.

    Returns:
        The folder of the package, and a folder that says its name and version to `importlib.metadata`. Each is an entry of
        Ray's `py_modules`.
    """
    copy = folder / NAME
    shutil.copytree(ROOT, copy, ignore=lambda place, names: _ignored(Path(place), names))
    metadata = folder / f"{NAME}-{version}.dist-info"
    metadata.mkdir()
    text = f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n"
    (metadata / "METADATA").write_text(text, encoding="utf-8")
    return [copy, metadata]


def _ignored(place: Path, names: list[str]) -> set[str]:
    """The names in the folder `place` that are not copied. In the root of a source only the package's own are."""
    if place != ROOT:
        return {name for name in names if name == "__pycache__"}
    return {
        name
        for name in names
        if name != "py.typed" and not name.endswith(".py") and not (place / name / "__init__.py").is_file()
    }
