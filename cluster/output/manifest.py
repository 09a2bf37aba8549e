"""The manifest of a version: what the log keeps of it, and the one place that reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any

from pydantic import Field

from ...distributed.partition.version import Model, Version
from ...partitioning.manifest import File, Graph, IngestedGraph, read_document
from ..log.records import Record

FORMAT = 1


class Manifest(Version):
    """A version of graph and model, as its record in the log has it."""

    format: int
    reason: str
    """What made it: "train", "pretrain", "forget" or "rollback"."""
    graph: IngestedGraph
    lake_graph: IngestedGraph
    """The graph to train on next; another than `graph` in a version that was trained `--without` some data."""
    base: int | None = None
    """The version that was current before."""
    answers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Of the requests that it closes, by id."""
    needs_retrain: bool = False
    """It missed its gate, or a version did that it was made from."""
    replayed: Annotated[tuple[str, ...], Field(strict=False)] | None = None
    """The requests that were carried out on the result of a `retrain`; None where no retrain made it."""
    rolled_back_to: int | None = None

    def loaded(self) -> Version:
        """What workers need of it."""
        return Version(version=self.version, graph=self.graph, model=self.model, files=self.files)


def read_manifest(document: Any, place: str) -> Manifest:
    """The manifest of a version. place: where it stands.

    Raises:
        InputError: another version of unlearnrec wrote it, or it is damaged; names the place, the key and the value.
    """
    remedy = "Use the release that wrote this output, or restore it from a backup"
    return read_document(Manifest, document, place, "the manifest of a version", FORMAT, remedy)


def manifest_of(record: Record) -> Manifest:
    """The manifest of a "committed" record. Asked again for the same record, it is not read again.

    Raises:
        InputError: as `read_manifest`.
    """
    return cached_manifest(record.body["manifest"], f"{record.file or 'the log'}, record {record.number}")


def cached_manifest(document: Mapping[str, Any], place: str) -> Manifest:
    """As `read_manifest`, for an object that the caller keeps and does not change: not read again where it is the same
    object."""
    return _read(_Source(id(document), document, place))


@dataclass(frozen=True)
class _Source:
    """The key of a cache. While it is there it holds the document, so that no other object has its id."""

    identity: int
    document: Mapping[str, Any] = field(compare=False)
    place: str = field(compare=False)


@lru_cache(maxsize=64)
def _read(source: _Source) -> Manifest:
    return read_manifest(source.document, source.place)


def files_of(results: Sequence[Mapping[str, Any]]) -> dict[str, File]:
    """By name, the files that workers wrote."""
    return {
        file["name"]: File(sha256=file["sha256"], bytes=file["bytes"]) for result in results for file in result["files"]
    }


def needed_files(graph: Graph, model: Model) -> list[str]:
    """The files that a version of this graph and model stands on."""
    names = [graph.user_file, graph.item_file, *graph.shard_files, *model.embeddings]
    if model.dense:
        names.append(model.dense)
    if model.encoder:
        names += [model.encoder.file, *(model.encoder.tables or ())]
    return names
