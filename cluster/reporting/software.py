"""What software runs: its versions, and the commit of a checkout."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("unlearnrec", "torch", "numpy", "ray")


@functools.cache
def software() -> dict[str, str | None]:
    """Versions of what the numbers depend on; `commit` of a checkout, with "+" where files differ from it."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found | {"commit": _commit(Path(__file__).resolve().parents[2])}


def _commit(root: Path) -> str | None:
    if not (root / ".git").exists():
        return None
    try:
        outputs = [
            subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10)
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return outputs[0].stdout.strip() + ("+" if outputs[1].stdout.strip() else "")
