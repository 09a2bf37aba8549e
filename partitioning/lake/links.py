"""A local folder walked once, with its symbolic links: each file with its real place, cycles left out."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True)
class LinkedFile:
    """A file below a folder."""

    name: str
    """Its path below the folder, with forward slashes."""
    bytes: int
    real: str = ""
    """Where it really lies; "" on a store that has no links."""
    link: str = ""
    """The link, by its path below the folder, that leads to it; "" if none does."""
    link_target: str = ""
    """Where that link really leads."""
    inside: bool = False
    """Whether the link, read as text, names a place in the folder: it stands for something that the folder has anyway."""


def walk(root: str, hidden: Callable[[str], bool]) -> Iterator[LinkedFile]:
    """All files below a local folder: first those that are reached without a link, then by links that lead out of the
    folder, then by links to places inside. Hidden links are not followed; hidden files and folders are listed.

    Raises:
        InputError: a link leads nowhere, or to a folder that holds this one.
        OSError: as the file system.
    """
    real_root = os.path.realpath(root)
    links: list[str] = []
    yield from _below(root, "", real_root, links)
    walked = {real_root}
    # Of links found behind links, those that lead out may come late: none of them can be what an inner link stands for.
    waiting = sorted(links, key=lambda name: (_inside(root, name), name))
    while waiting:
        name = waiting.pop(0)
        if any(map(hidden, name.split("/"))):
            continue
        path = os.path.join(root, name)
        target = os.path.realpath(path)
        if not os.path.exists(target):
            raise InputError(
                f"{root}: the link {name} leads to {os.readlink(path)}, where nothing is. Put back what it leads to, or "
                "take it out of the table"
            )
        inside = _inside(root, name)
        if os.path.isfile(target):
            yield LinkedFile(name, os.path.getsize(target), target, name, target, inside)
            continue
        if target != real_root and _holds(target, real_root):
            raise InputError(
                f"{root}: the link {name} leads to {target}, a folder that holds the table itself. Take it out of the table"
            )
        if _holds(target, os.path.realpath(os.path.dirname(path))):
            continue  # to a folder that it lies in: all that is there is listed already
        more: list[str] = []
        for file in _below(root, name, target, more):
            yield LinkedFile(file.name, file.bytes, file.real, name, target, inside)
        # Its links were followed the first time; again and again they would lead in circles.
        waiting += sorted(more) if target not in walked else []
        walked.add(target)


def _below(root: str, name: str, real: str, links: list[str]) -> Iterator[LinkedFile]:
    """The files of a folder, which really is `real`, and below; links left out and noted."""
    with os.scandir(os.path.join(root, name)) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        inner = f"{name}/{entry.name}" if name else entry.name
        if entry.is_symlink():
            links.append(inner)
        elif entry.is_dir():
            yield from _below(root, inner, f"{real}/{entry.name}", links)
        elif entry.is_file():
            yield LinkedFile(inner, entry.stat().st_size, f"{real}/{entry.name}")


def _inside(root: str, name: str) -> bool:
    path = os.path.join(root, name)
    named = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    return _holds(os.path.normpath(root), named)


def _holds(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
