"""How a place in the lake is shown where no id may stand: names that writers generate stay, all others become *.

Hive folders have ids as their values, and people name files after users: also by a bare number or UUID, which may be an id.
What an engine generates names nobody.
"""

import re

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_ENDING = r"(\.(snappy|zstd|gzip|gz|lz4|brotli))?\.(parquet|parq|csv|csv\.gz)"
_GENERATED = re.compile(
    "("
    rf"(part|cdc)-[0-9]{{5}}-{_UUID}(-[0-9]{{1,5}})?([-.]c[0-9]{{3}})?"  # Spark, delta-rs
    rf"|[0-9]{{5}}-[0-9]+-{_UUID}(-[0-9]{{1,5}})?(-deletes)?"  # Iceberg
    r"|(part|data|file|chunk)[-_.]?[0-9]{1,5}"
    r"|0[0-9]{0,5}"  # padded, so that it is no id
    rf"){_ENDING}"
)
_FOLDERS = {"_change_data", "data", "metadata"}


def shown_place(table: str, root: str, path: str) -> str:
    """A file of a table.

    table: what the place is named by. root, path: of the table and of the file, as their file system takes them.
    """
    below = path[len(root.rstrip("/")) :] if path == root or path.startswith(root.rstrip("/") + "/") else path
    parts = [part for part in below.split("/") if part]
    return "/".join([table.rstrip("/"), *map(_shown, parts)])


def _shown(part: str) -> str:
    name, equals, _ = part.partition("=")
    if equals:
        return f"{name if re.fullmatch('[A-Za-z_][A-Za-z0-9_]*', name) else '*'}=*"
    if part in _FOLDERS or _GENERATED.fullmatch(part):
        return part
    ending = re.search(r"\.(parquet|parq|csv)$", part)
    return f"*{ending[0]}" if ending else "*"
