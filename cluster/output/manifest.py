"""The manifest of a version, as the log keeps it. All code that reads one reads it here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from ...distributed.partition.version import Follows, Model, Version
from ...partitioning.manifest import File, Graph, IngestedGraph, read_document
from ..log.records import Record

if TYPE_CHECKING:
    from ...distributed.partition.results import WithFiles, Written

FORMAT, FORMAT_WITH_DELTAS = 1, 2
"""The formats of a manifest. A reader of the first would take a base file for the whole, and so see what was deleted."""


class Manifest(Version):
    """A version of graph and model, as its "committed" record in the log describes it."""

    format: int
    reason: str
    """What made the version: "train", "pretrain", "forget" or "rollback"."""
    graph: IngestedGraph
    lake_graph: IngestedGraph
    """The graph to train on next. It differs from `graph` in a version that was trained `--without` some data."""
    base: int | None = None
    """The number of the version that was current before; None for the first version."""
    answers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """The answers of the requests that it closes, by request id."""
    needs_retrain: bool = False
    """Whether this version missed its gate, or one that it was made from since the last training."""
    replayed: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    """The ids of the requests that were carried out on the result of a `retrain`; None where no retrain made the version."""
    rolled_back_to: int | None = None
    """The number of the version whose files it has again, where a rollback made it."""

    def loaded(self) -> Version:
        """The part of the manifest that workers need to load the version."""
        return Version(version=self.version, graph=self.graph, model=self.model, files=self.files, follows=self.follows)

    @property
    def has_deltas(self) -> bool:
        """Whether files that it names still hold what was deleted, and deltas take it away (docs/commit.md, "Deltas")."""
        graphs = self.graph.has_deltas or self.lake_graph.has_deltas
        led_here = self.follows is not None and bool(self.follows.named_files())
        return graphs or led_here or any(self.model.embedding_deltas or ())

    def as_committed(self, number: int, base: int | None) -> Manifest:
        """The manifest with the number of its version, that of the version before, and the format that it needs."""
        kind = FORMAT_WITH_DELTAS if self.has_deltas else FORMAT
        return self.replaced(format=kind, version=number, base=base)


def read_manifest(document: Any, place: str) -> Manifest:
    """Read the manifest of a version from a JSON object.

    place: where the object stands, for messages.

    Raises:
        InputError: another version of unlearnrec wrote it, or it is damaged; names the place, the key and the value.
    """
    remedy = "Use the release that wrote this output, or restore it from a backup"
    return read_document(Manifest, document, place, "the manifest of a version", (FORMAT, FORMAT_WITH_DELTAS), remedy)


def manifest_of(record: Record) -> Manifest:
    """The manifest that a "committed" record holds. It is kept in a cache: the same record is not parsed twice.

    Raises:
        InputError: as `read_manifest`.
    """
    return cached_manifest(record.body["manifest"], f"{record.file or 'the log'}, record {record.number}")


def cached_manifest(document: Mapping[str, Any], place: str) -> Manifest:
    """As `read_manifest`, with a cache: the same object is not parsed twice. The caller must not change the object.

    Raises:
        InputError: as `read_manifest`.
    """
    return _read(_Source(id(document), document, place))


@dataclass(frozen=True)
class _Source:
    """The key of the cache. It holds the document, so that no other object gets the same `id` while the key is in use."""

    identity: int
    document: Mapping[str, Any] = field(compare=False)
    place: str = field(compare=False)


@lru_cache(maxsize=64)
def _read(source: _Source) -> Manifest:
    return read_manifest(source.document, source.place)


def files_of(results: Iterable[WithFiles]) -> dict[str, File]:
    """The files that workers wrote, by name, as a manifest has them in `files`."""
    return file_entries(file for result in results for file in result["files"])


def file_entries(files: Iterable[Written]) -> dict[str, File]:
    """As `files_of`, for files by themselves."""
    return {file["name"]: File(sha256=file["sha256"], bytes=file["bytes"]) for file in files}


def needed_files(graph: Graph, model: Model, follows: Follows | None = None) -> list[str]:
    """The names of the files that a version of this graph and model needs."""
    names = [*graph.named_files(), *model.named_files(), *(follows.named_files() if follows else ())]
    return list(dict.fromkeys(names))
