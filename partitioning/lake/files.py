"""The files of a plain table: which count, which are hidden, what links mean, what the folders' names say."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow.fs as pafs

from ..errors import InputError
from ..storage import StorageOptions, filesystem_for, split_uri
from .formats import formats_at, mark, refuse_format, refuse_parent, refuse_part, table_around
from .links import LinkedFile, walk
from .location import DELTA, ICEBERG

_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class LakeFile:
    """One file of a table, with the values that its hive folders give to partition columns."""

    filesystem: pafs.FileSystem
    path: str
    uri: str
    partition: Mapping[str, str | None]
    bytes: int = 0


def hidden(name: str) -> bool:
    """Whether a file or folder of this name is no part of a table, by Spark's rule.

    `_name=value` is a partition column, whatever it begins with; `_SUCCESS`, `_temporary`, `_metadata` are hidden.
    """
    return name.startswith(".") or name.endswith("._COPYING_") or (name.startswith("_") and "=" not in name)


def list_files(uri: str, options: StorageOptions) -> list[LakeFile]:
    """The files of a plain table, or the file itself, in order of path.

    Hidden names (`hidden`) are left out. Locally a link is followed, and what it leads to counts once: a link to what the
    table has anyway adds nothing.

    Raises:
        InputError: nothing is there, or it cannot be reached; the folder holds no file; it is a table of another format, a
            part of one, or has one below; a link leads nowhere, to a folder that holds this one, to a file that another
            link leads to, or gives to a file of the table other values of partition columns.
    """
    filesystem, path = filesystem_for(uri, options)
    local = split_uri(uri)[0] == "file"
    try:
        info = filesystem.get_file_info(path)
        if info.type == pafs.FileType.NotFound:
            raise InputError(
                f"{uri}: no such file or folder. Check the path; one that is relative is looked for in the working directory"
            )
        for place in dict.fromkeys((path, os.path.realpath(path)) if local else (path,)):
            if (around := table_around(filesystem, place)) is not None:
                raise refuse_part(uri, around[0], _shown(around[1], local))
        if info.type == pafs.FileType.File:
            return [LakeFile(filesystem, path, _shown(path, local), {}, info.size)]
        if found := formats_at(filesystem, path):
            raise refuse_table(uri, found)
        entries = list(walk(path, hidden) if local else _objects(filesystem, path))
        _refuse_tables_below(uri, path, entries, filesystem, local)
    except OSError as error:
        raise InputError(
            f"{uri} cannot be reached: {error}. Check the path, the permissions or credentials, storage.endpoint_url "
            "and storage.region"
        ) from error
    files = [
        LakeFile(filesystem, full, _shown(full, local), hive_partition(entry.name), entry.bytes)
        for entry in _once(uri, entries)
        if not any(map(hidden, entry.name.split("/"))) and (full := f"{path.rstrip('/')}/{entry.name}")
    ]
    if not files:
        raise InputError(f"{uri}: the folder holds no Parquet file")
    return sorted(files, key=lambda file: file.path)


def refuse_table(uri: str, found: Sequence[str]) -> InputError:
    """That this is a table of the formats found, where plain files are asked for."""
    other = [name for name in found if name not in (DELTA, ICEBERG)]
    if other:
        return refuse_format(uri, other[0])
    return InputError(
        f"{uri}: is {'a Delta' if DELTA in found else 'an Iceberg'} table, and plain files are asked for here"
    )


def _objects(filesystem: pafs.FileSystem, path: str) -> Iterator[LinkedFile]:
    for entry in filesystem.get_file_info(pafs.FileSelector(path, recursive=True)):
        if entry.type == pafs.FileType.File:
            yield LinkedFile(entry.path[len(path) :].strip("/"), entry.size)


def _refuse_tables_below(
    uri: str, path: str, entries: Sequence[LinkedFile], filesystem: pafs.FileSystem, local: bool
) -> None:
    for entry in entries:
        parts = entry.name.split("/")
        if (found := mark(parts)) is None:
            continue
        name, root = found
        if any(map(hidden, root.split("/"))) and root:
            continue  # nothing of it would be read
        if not root:
            raise refuse_format(uri, name) if name not in (DELTA, ICEBERG) else refuse_table(uri, [name])
        raise refuse_parent(uri, name, _shown(f"{path}/{root}", local))
    # A link may lead into a table whose marks lie above it.
    for target in dict.fromkeys(entry.link_target for entry in entries if entry.link_target):
        if (around := table_around(filesystem, target)) is not None:
            raise refuse_part(f"{uri}: a link in it leads to {target}, and that", around[0], _shown(around[1], local))


def _once(uri: str, entries: Sequence[LinkedFile]) -> Iterator[LinkedFile]:
    """Each file once, by where it really lies; those that are reached without a link come first in `entries`."""
    known: dict[str, LinkedFile] = {}
    for entry in entries:
        if not entry.real or any(map(hidden, entry.name.split("/"))):
            yield entry
            continue
        first = known.setdefault(entry.real, entry)
        if first is entry:
            yield entry
            continue
        given, there = hive_partition(entry.name), hive_partition(first.name)
        if any(name not in there or there[name] != value for name, value in given.items()):
            raise InputError(
                f"{uri}: the link {entry.link} leads to {first.name}, which the table has already, and its name gives other "
                "values of partition columns. Take the link out of the table"
            )
        if first.link and not entry.inside:
            raise InputError(
                f"{uri}: the links {first.link} and {entry.link} lead to the same file, {entry.real}. Whether its rows "
                "count once or twice cannot be told: take one link out of the table, or put a copy there"
            )


def hive_partition(name: str) -> dict[str, str | None]:
    partition: dict[str, str | None] = {}
    for key, equals, value in (folder.partition("=") for folder in name.split("/")[:-1]):
        if equals:
            partition[unquote(key)] = None if value == _NULL_PARTITION else unquote(value)
    return partition


def _shown(path: str, local: bool) -> str:
    return path if local else f"s3://{path}"
