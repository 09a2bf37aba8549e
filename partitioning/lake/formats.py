"""What tells the format of a folder: the marks that table formats leave, and what is said about those that are not read.

The files of such a table are not the table: some hold rows that were deleted, some were never committed. They are never
read as plain Parquet, neither all of them nor a part.
"""

import re
from collections.abc import Sequence

import pyarrow.fs as pafs

from ..errors import InputError
from .location import DELTA, ICEBERG

HUDI, SPARK_SINK, PAIMON, HIVE_ACID, DUCKLAKE, LANCE = (
    "Hudi",
    "Spark streaming sink",
    "Paimon",
    "Hive ACID",
    "DuckLake",
    "Lance",
)

_REMEDY = {
    HUDI: "Read it through an engine that knows Hudi, for instance Spark, and write its live rows as a Delta, Iceberg or "
    "plain Parquet table",
    SPARK_SINK: "Only the log in _spark_metadata says which of its files count: read it through Spark, and write it as a "
    "Delta, Iceberg or plain Parquet table",
    PAIMON: "Read it through Flink or Spark, and write its live rows as a Delta, Iceberg or plain Parquet table",
    HIVE_ACID: "Only Hive knows which rows are alive: write them as a Delta, Iceberg or plain Parquet table",
    DUCKLAKE: "Only its catalog knows which rows are alive: write them as a Delta, Iceberg or plain Parquet table",
    LANCE: "Write its live rows as a Delta, Iceberg or plain Parquet table",
}

# Folders that lie in the root of a table, and by whom.
_FOLDERS = {"_delta_log": DELTA, ".hoodie": HUDI, "_spark_metadata": SPARK_SINK}
_METADATA_FILE = re.compile(r".+\.metadata\.json(\.gz)?|version-hint\.text")
_HIVE_ACID = re.compile(r"base_\d{7,}(_v\d+)?|(delete_)?delta_\d{7,}_\d{7,}(_\d+)?(_v\d+)?")
_DUCKLAKE = re.compile(r"ducklake-[0-9a-f-]{36}(-delete)?\.parquet")


def mark(parts: Sequence[str]) -> tuple[str, str] | None:
    """(format, root) of the table that a path belongs to, if the path itself is a mark of one.

    parts: its names below the folder that is looked at; the root is relative to this folder, "" for the folder itself.
    """
    for depth, name in enumerate(parts):
        root = "/".join(parts[:depth])
        below = parts[depth + 1 :]
        if name in _FOLDERS:
            return _FOLDERS[name], root
        if name == "metadata" and len(below) == 1 and _METADATA_FILE.fullmatch(below[0]):
            return ICEBERG, root
        if (name, *below) in (("snapshot", "LATEST"), ("schema", "schema-0")):
            return PAIMON, root
        if name == "_versions" and below and below[-1].endswith(".manifest"):
            return LANCE, root
        if _HIVE_ACID.fullmatch(name):
            return HIVE_ACID, root
        if _DUCKLAKE.fullmatch(name):
            return DUCKLAKE, root
    return None


def formats_at(filesystem: pafs.FileSystem, folder: str) -> list[str]:
    """The formats of which the folder bears the marks, without a look at what lies deeper: Delta, Iceberg, Hudi, ...

    Raises:
        OSError: as the file system.
    """
    base = folder.rstrip("/")
    names = [*_FOLDERS, "metadata", "snapshot/LATEST", "schema/schema-0"]
    infos = filesystem.get_file_info([f"{base}/{name}" for name in names])
    there = {name for name, info in zip(names, infos, strict=True) if info.type != pafs.FileType.NotFound}
    found = [_FOLDERS[name] for name in _FOLDERS if name in there]
    if "metadata" in there:
        listed = filesystem.get_file_info(pafs.FileSelector(f"{base}/metadata", allow_not_found=True))
        if any(_METADATA_FILE.fullmatch(entry.base_name) for entry in listed):
            found.append(ICEBERG)
    if there & {"snapshot/LATEST", "schema/schema-0"}:
        found.append(PAIMON)
    return found


def table_around(filesystem: pafs.FileSystem, path: str) -> tuple[str, str] | None:
    """(format, root) of the table that a file or folder lies in; None where there is none.

    Folders above that may not be looked at are taken for none: a policy often opens one prefix only.

    Raises:
        OSError: as the file system, but for permissions.
    """
    folder = path.rstrip("/")
    while "/" in folder.strip("/"):
        folder = folder.rpartition("/")[0]
        try:
            found = formats_at(filesystem, folder)
        except OSError as error:
            if isinstance(error, PermissionError) or "ACCESS_DENIED" in str(error).upper():
                return None
            raise
        if found:
            return found[0], folder
    return None


def refuse_format(uri: str, name: str) -> InputError:
    """That this is a table of a format that is not read."""
    return InputError(f"{uri}: is a table of the format {name}, which is not read. {_REMEDY[name]}")


def refuse_part(uri: str, name: str, root: str) -> InputError:
    """That this is a part of a table, whose files also hold what is not alive in it."""
    advice = f"Name the table: {root}" if name in (DELTA, ICEBERG) else _REMEDY[name]
    return InputError(
        f"{uri}: lies in {root}, which is {_named(name)}. Files of such a table may hold rows that were deleted or never "
        f"committed, so no part of it is read. {advice}"
    )


def refuse_parent(uri: str, name: str, root: str) -> InputError:
    """That a table of another format lies below this folder."""
    advice = f"Name that table alone: {root}" if name in (DELTA, ICEBERG) else _REMEDY[name]
    return InputError(
        f"{uri}: is no plain Parquet or CSV table, for {root} in it is {_named(name)}, whose files may hold rows that were "
        f"deleted or never committed. {advice}, or move it elsewhere"
    )


def _named(name: str) -> str:
    return {DELTA: "a Delta table", ICEBERG: "an Iceberg table"}.get(name, f"a table of the format {name}")
