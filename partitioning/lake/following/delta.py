"""`History` of a Delta table: its log, entry by entry, and its change data feed."""

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from ...errors import InputError
from ...storage import StorageOptions, filesystem_for, split_uri
from ..data_file import Table
from ..delta import file_path, open_delta, storage_options
from ..location import DELTA, Selection, parse_location
from .history import BEFORE_ALL, Commit, MissedChanges, UnreadableFeed

CHANGE_TYPE = "_change_type"
REMOVED, ADDED = ("delete", "update_preimage"), ("insert", "update_postimage")
ENABLED, MAPPING = "delta.enableChangeDataFeed", "delta.columnMapping.mode"
FEED_FEATURES = frozenset({"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"})
"""What a table may demand of its readers for its feed to be read by deltalake, which applies neither deletion vectors nor
column mapping there. The feed of any other is not read: the difference of two states says the same."""


class DeltaHistory:
    """As `History`. An entry of the log is read once a look; files are opened only for commits that may have removed or
    added rows."""

    def __init__(self, table: Table, options: StorageOptions) -> None:
        self.uri, self.table_id, self.newest = table.uri, str(table.pinned["id"]), int(table.pinned["version"])
        self._location = replace(parse_location(table.uri), format=DELTA, selection=Selection())
        self._options = options
        self._filesystem, root = filesystem_for(self._location.place, options)
        self._root = root.rstrip("/")
        self._s3 = split_uri(self._location.place)[0] == "s3"

    def name(self, position: int) -> str:
        """As `History.name`."""
        return f"version {position}" if position >= 0 else "the beginning"

    def has(self, position: int) -> bool:
        """As `History.has`."""
        return BEFORE_ALL <= position <= self.newest

    def commits(self, after: int, upto: int) -> Sequence[Commit]:
        """As `History.commits`."""
        if not BEFORE_ALL <= after <= self.newest:
            raise InputError(
                f"{self.uri}: has no version {after}; the newest is {self.newest}. It was perhaps replaced by another "
                "table: go on with --from-version N or --from-now"
            )
        found, missed = [], []
        for version in range(after + 1, upto + 1):
            actions = self._actions(version)
            if actions is None:
                missed.append(version)
            else:
                found.append(_commit(version, actions))
        if missed:
            raise MissedChanges(self.uri, _ranges(missed), "its log has no entry of it, which was cleaned up")
        return found

    def at(self, position: int) -> Table:
        """As `History.at`."""
        if position == BEFORE_ALL:
            return Table(self.uri, [], {"format": DELTA})
        return open_delta(replace(self._location, selection=Selection(version=position)), self._options)

    def feed(self, commit: Commit, names: Sequence[str]) -> Iterator[tuple[bool, pa.RecordBatch]] | None:
        """As `History.feed`."""
        if commit.parent == BEFORE_ALL and commit.position:
            return None  # all rows of a state, not what one commit did
        import deltalake
        from deltalake.exceptions import DeltaError

        place, storage = (f"s3://{self._root}", storage_options(self._options)) if self._s3 else (self._root, None)
        try:
            table = deltalake.DeltaTable(place, version=commit.position, storage_options=storage)
            settings = table.metadata().configuration
            if settings.get(ENABLED) != "true" or settings.get(MAPPING, "none") != "none":
                return None
            if not set(table.protocol().reader_features or ()) <= FEED_FEATURES:
                return None
            if not self._feed_is_whole(commit):
                return None
            columns = [*dict.fromkeys(names), CHANGE_TYPE]
            stream = table.load_cdf(commit.position, commit.position, columns=columns)
            return _signed(pa.RecordBatchReader.from_stream(stream), list(dict.fromkeys(names)))
        except (DeltaError, ValueError, OSError):
            return None  # the difference of the two states says the same, or why it cannot be told

    def _feed_is_whole(self, commit: Commit) -> bool:
        """Whether its files are still there: those of changes, or, where there are none, those that the commit removed."""
        actions = self._actions(commit.position) or []
        own = [action["cdc"]["path"] for action in actions if "cdc" in action]
        removed = [action["remove"]["path"] for action in actions if _changes_data(action, "remove")]
        paths = [file_path(self._root, path, self._s3, self.uri) for path in own or removed]
        infos: Any = self._filesystem.get_file_info(paths)
        return all(info.type == pafs.FileType.File for info in infos)

    def _actions(self, version: int) -> list[dict[str, Any]] | None:
        path = f"{self._root}/_delta_log/{version:020}.json"
        if self._filesystem.get_file_info(path).type != pafs.FileType.File:
            return None
        with self._filesystem.open_input_stream(path) as stream:
            lines = stream.read().splitlines()
        try:
            return [json.loads(line) for line in lines if line.strip()]
        except ValueError as error:
            raise InputError(f"{self.uri}: {path} is no entry of a Delta log: {error}") from error


def _commit(version: int, actions: Sequence[dict[str, Any]]) -> Commit:
    """What an entry says. Files that were only rewritten (dataChange false, as OPTIMIZE does) hold the same rows."""
    removes = sum(_changes_data(action, "remove") for action in actions)
    adds = any(_changes_data(action, "add") for action in actions)
    told: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    when = told.get("timestamp")
    words = [str(told.get("operation", "a commit"))]
    if isinstance(when, int):
        words.append(f"of {dt.datetime.fromtimestamp(when / 1000, dt.UTC).isoformat()}")
    words.append(f"that removed {removes} files")
    return Commit(version, version - 1, removes > 0, adds, " ".join(words))


def _changes_data(action: dict[str, Any], kind: str) -> bool:
    return kind in action and bool(action[kind].get("dataChange", True))


def _signed(reader: Any, names: Sequence[str]) -> Iterator[tuple[bool, pa.RecordBatch]]:
    try:
        for batch in reader:
            kinds = batch.column(CHANGE_TYPE).cast(pa.string())
            rows = pa.RecordBatch.from_arrays([_plain(batch.column(name)) for name in names], names=list(names))
            for removed, wanted in ((True, REMOVED), (False, ADDED)):
                some = rows.filter(pc.is_in(kinds, value_set=pa.array(wanted)))
                if some.num_rows:
                    yield removed, some
    except (pa.ArrowException, OSError) as error:
        raise UnreadableFeed(str(error)) from error  # such as deltalake 1.6 with a % in the name of a partition


def _plain(column: pa.Array) -> pa.Array:
    """Not every kernel takes views."""
    return column.cast(pa.string()) if pa.types.is_string_view(column.type) else column


def _ranges(versions: Sequence[int]) -> str:
    """ "versions 3 to 5, 9"."""
    parts: list[list[int]] = []
    for version in versions:
        if parts and version == parts[-1][-1] + 1:
            parts[-1].append(version)
        else:
            parts.append([version])
    texts = [f"{part[0]} to {part[-1]}" if len(part) > 1 else f"{part[0]}" for part in parts]
    return f"version{'s' if len(versions) > 1 else ''} {', '.join(texts)}"
