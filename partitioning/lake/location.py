"""What a user writes to name a table: a place, perhaps its format, perhaps a version of it. Nothing is looked up here."""

import datetime as dt
from dataclasses import dataclass
from urllib.parse import unquote

from ..errors import InputError

DELTA, ICEBERG = "delta", "iceberg"
_KEYS = {"version", "timestamp", "snapshot"}


@dataclass(frozen=True)
class Selection:
    """Which state of a table: at most one of these; none is the current one."""

    version: int | None = None
    """Of a Delta table."""
    snapshot: int | None = None
    """Of an Iceberg table, by its id."""
    timestamp: dt.datetime | None = None
    """The state that was current then, with a zone."""

    def __bool__(self) -> bool:
        return (self.version, self.snapshot, self.timestamp) != (None, None, None)


@dataclass(frozen=True)
class Location:
    """Where a table lies."""

    uri: str
    """As it was written, for messages."""
    place: str
    """A local path, file:// or s3://, without what says the format or the version; "" for a table of a catalog."""
    format: str | None = None
    """"delta" or "iceberg", where the URI says so."""
    catalog: tuple[str, str] | None = None
    """(name of the catalog, NAMESPACE.TABLE) of an Iceberg table that is not named by its folder."""
    selection: Selection = Selection()


def parse_location(uri: str) -> Location:
    """Take a URI apart.

    `delta://PLACE` and `iceberg://PLACE`, where PLACE is a path (delta:///data/t), file:// or s3:// (delta://s3://b/t);
    `iceberg://CATALOG/NAMESPACE.TABLE`; or just a place. Each may end with ?version=, ?timestamp= or ?snapshot=.

    Raises:
        InputError: it cannot be read so.
    """
    for name in (DELTA, ICEBERG):
        if uri.startswith(f"{name}://"):
            rest, _, query = uri.removeprefix(f"{name}://").partition("?")
            selection = _selection(query, uri) if query else Selection()
            if not rest.strip("/"):
                raise InputError(
                    f"{uri}: names no table. Write {name}:///path, {name}://s3://bucket/path{_OR_NAME[name]}"
                )
            if name == ICEBERG and "://" not in rest and not rest.startswith(("/", ".", "~")):
                catalog, _, table = rest.partition("/")
                if "." not in table.strip(".") or "/" in table:
                    raise InputError(
                        f"{uri}: names no table of a catalog. Write iceberg://CATALOG/NAMESPACE.TABLE, or for a folder "
                        "iceberg:///path or iceberg://s3://bucket/path"
                    )
                return Location(uri, "", name, (catalog, table), selection)
            return Location(uri, rest, name, None, selection)
    place, mark, query = uri.rpartition("?")
    # A file may be called `a?b`: only what can be nothing else is taken for a selection, and `open_table` looks first.
    if mark and query and {part.partition("=")[0] for part in query.split("&")} <= _KEYS:
        return Location(uri, place, None, None, _selection(query, uri))
    return Location(uri, uri)


_OR_NAME = {DELTA: "", ICEBERG: " or iceberg://CATALOG/NAMESPACE.TABLE"}


def _selection(query: str, uri: str) -> Selection:
    pairs = [part.partition("=") for part in query.split("&")]
    unknown = [name for name, _, _ in pairs if name not in _KEYS]
    if unknown:
        raise InputError(f"{uri}: '{unknown[0]}' is not known after the ?; it may be {', '.join(sorted(_KEYS))}")
    if len(pairs) > 1:
        raise InputError(f"{uri}: says which state of the table more than once. Give one of {', '.join(sorted(_KEYS))}")
    (name, _, text) = pairs[0]
    text = unquote(text)
    if name == "timestamp":
        return Selection(timestamp=_timestamp(text, uri))
    if not (text.isascii() and text.isdecimal()):
        raise InputError(f"{uri}: {name} is '{text}'; it must be a whole number")
    return Selection(version=int(text)) if name == "version" else Selection(snapshot=int(text))


def _timestamp(text: str, uri: str) -> dt.datetime:
    try:
        when = dt.datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{uri}: timestamp is '{text}'; write it as 2026-01-31T00:00:00Z") from None
    return when if when.tzinfo else when.replace(tzinfo=dt.UTC)
