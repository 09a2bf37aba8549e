"""Files in a folder of this machine: written completely, fsynced, then given their name."""

import contextlib
import os
import shutil
import uuid
from pathlib import Path
from typing import BinaryIO

from . import files
from .files import PIECE, TEMPORARY, Details


class LocalFiles:
    """As `files.Files`, under a folder. Every new name survives a power cut."""

    def __init__(self, root: str) -> None:
        self.root = Path(os.path.abspath(root))

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def mapped(self, path: str, folder: str | None) -> memoryview:
        with open(self.root / path, "rb") as file:
            return files.mapped(file)

    def size(self, path: str) -> int:
        return (self.root / path).stat().st_size

    def write(self, path: str, data: bytes) -> None:
        target = self.root / path
        temporary = self._temporary(target, data)
        os.replace(temporary, target)
        fsync_path(target.parent)  # the new name survives a power cut only once its folder is on the disk

    def write_file(self, path: str, file: BinaryIO) -> None:
        target = self.root / path
        os.replace(self._temporary(target, file), target)
        fsync_path(target.parent)

    def create(self, path: str, data: bytes) -> None:
        target = self.root / path
        temporary = self._temporary(target, data)
        try:
            os.link(temporary, target)
        finally:
            os.unlink(temporary)
        fsync_path(target.parent)

    def exists(self, path: str) -> bool:
        return (self.root / path).is_file()

    def details(self, prefix: str) -> dict[str, Details]:
        found = {}
        for path in filter(Path.is_file, (self.root / prefix).rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # another process removes it at this moment
                about = path.stat()
                found[path.relative_to(self.root).as_posix()] = Details(about.st_size, about.st_mtime)
        return dict(sorted(found.items()))

    def remove(self, path: str) -> None:
        target = self.root / path
        target.unlink()
        fsync_path(target.parent)

    def modified(self, path: str) -> float:
        return (self.root / path).stat().st_mtime

    def _temporary(self, target: Path, data: bytes | BinaryIO) -> Path:
        """Write a complete, fsynced temporary file in the folder of the target; returns its path."""
        _make_folder(target.parent)
        temporary = target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            with open(temporary, "xb") as file:
                if isinstance(data, bytes):
                    file.write(data)
                else:
                    shutil.copyfileobj(data, file, PIECE)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, as `mkdir -p`; every new entry survives a power cut."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_path(folder.parent)


def fsync_path(path: Path) -> None:
    """Make a file, or the entries of a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
