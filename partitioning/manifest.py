"""The manifest of a graph: what the graph is, and which files it has. Also what all JSON documents of an output have in
common.

A document that was read is written again as it was: keys that it did not have are not added, and keys that this release
does not know are kept. Its digest, which is used in names of folders and identifies ingests, is therefore the same in every
release.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import InputError
from .storage import Store

FORMAT = 1
MANIFEST = "graph/manifest.json"

Names = Annotated[tuple[str, ...], Field(strict=False)]
"""Names of files. In JSON they are a list."""
Chains = Annotated[tuple[Names, ...], Field(strict=False)]
"""Names of files, by partition."""


class Document(BaseModel):
    """A part of the output that is kept as JSON. An object of it never changes."""

    # Strict: otherwise pydantic turns some values into another type, and they are not written as they were read.
    model_config = ConfigDict(frozen=True, extra="allow", strict=True, ser_json_inf_nan="constants")

    def document(self) -> dict[str, Any]:
        """The JSON object, with exactly the keys that it was read or made with."""
        return self.model_dump(mode="json", exclude_unset=True)

    def replaced(self, **fields: Any) -> Self:
        """The same document with other values of these fields.

        Raises:
            pydantic.ValidationError: a value has a wrong type.
        """
        kept = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self).model_validate(kept | fields)


Read = TypeVar("Read", bound=Document)


def read_document(
    kind: type[Read], document: Any, place: str, what: str, readable: int | tuple[int, ...], remedy: str
) -> Read:
    """Read a document that has the key `format`.

    kind: the class of the document. document: the JSON object. place: where it stands, for messages. what: what it is, for
    example "the manifest of a graph". readable: the format, or formats, that this release reads. remedy: a sentence that
    says what to do if the document is damaged or has another format.

    Raises:
        InputError: it has another format, or is no such document; names the place, the key and the value.
    """
    if not isinstance(document, dict):
        raise InputError(f"{place}: got {_kind(document)} where {what} should be, an object. {remedy}")
    formats = readable if isinstance(readable, tuple) else (readable,)
    if document.get("format") not in formats:
        known = " and ".join(map(str, formats))
        raise InputError(
            f"{place} has format {document.get('format')}, this version of unlearnrec reads format {known} of {what}. "
            f"{remedy}"
        )
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        wrong = "; ".join(_explain(dict(entry)) for entry in error.errors(include_url=False))
        raise InputError(f"{place} is not {what}: {wrong}. {remedy}") from error


def _explain(error: dict[str, Any]) -> str:
    """One of pydantic's errors as text, such as `files.a.bytes: got a text, expected a valid integer`."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).lstrip(".")
    if error["type"] == "missing":
        return f"{path} is missing"
    expected = error["msg"].removeprefix("Input should be ").replace("dictionary", "object").replace("tuple", "list")
    if error["type"] == "model_type":
        expected = "an object"
    return f"{path}: got {_kind(error['input'])}, expected {expected}"


def _kind(value: Any) -> str:
    """The type of a JSON value in words, and of a plain value its first 60 characters."""
    if value is None:
        return "null"
    if isinstance(value, (dict, list, tuple)):
        return "an object" if isinstance(value, dict) else "a list"
    name = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}.get(
        type(value), "another value"
    )
    return f"{name} ({json.dumps(value)[:60]})"


# ---- the graph -------------------------------------------------------------------------------------------------------


class File(Document):
    """What a manifest says of a file: its SHA-256 in hexadecimal, and its size in bytes."""

    sha256: str
    bytes: int


class EventTimes(Document):
    """What a manifest says of the times of events, where the graph has them."""

    unit: str | None
    """"s", "ms", "us" or "ns" since the epoch; None for numbers whose unit is not known."""


class Graph(Document):
    """A partitioned graph, as `ingest` wrote it or as deletion requests changed it.

    Dense ids are 0 to `users` - 1 and 0 to `items` - 1. They are never used again, so these two numbers do not fall when
    users or items are deleted. `interactions` counts the edges, and `events` the rows of the table that they came from.
    """

    # The fields are written in this order, which must not change: one of the digests is taken of the JSON in that order.
    format: int
    users: int
    items: int
    interactions: int
    events: int
    skipped: int = 0
    """The number of rows that were left out because they are no interactions."""
    suppressed: int = 0
    """The number of rows that the suppression list kept out."""
    time: EventTimes | None = None
    partitions: int
    strategy: str
    seed: int
    halo: str
    edge_cut: float
    """The share of the interactions whose user and item have different owners, from 0 to 1."""
    balance: float
    """The heaviest partition's sum of degrees divided by the mean partition's; 1 is perfect."""
    rows_per_layer: dict[str, int]
    """Halo plan -> the number of rows of embeddings that all partitions together send for one layer."""
    id_type: dict[str, str]
    """By side ("user", "item"): "int64" or "string"."""
    source: str
    table: dict[str, Any] | None = None
    """What is known of the state of the table that was read (`lake.Table.pinned`)."""
    user_file: str
    item_file: str
    shard_files: Names
    """The file of the shard of each partition, in order of partition."""
    files: dict[str, File]
    shard_deltas: Chains | None = None
    """By partition: the files with what was removed from its shard since, in order (`delta.ShardDelta`)."""
    gone_file: str | None = None
    """The file with the nodes that were deleted since the id maps were written (`delta.GoneNodes`)."""

    def shard_chain(self, k: int) -> tuple[str, ...]:
        """The files that together are the shard of partition k: its base, then its deltas."""
        return (self.shard_files[k], *(self.shard_deltas[k] if self.shard_deltas else ()))

    @property
    def shard_chains(self) -> tuple[tuple[str, ...], ...]:
        """`shard_chain` of each partition. Two graphs of one output have the same interactions if these are the same."""
        return tuple(map(self.shard_chain, range(self.partitions)))

    @property
    def has_deltas(self) -> bool:
        """Whether some of its files still hold what was deleted since they were written."""
        return self.gone_file is not None or any(self.shard_deltas or ())

    def named_files(self) -> list[str]:
        """The names of all files that the graph needs."""
        more = [] if self.gone_file is None else [self.gone_file]
        return [self.user_file, self.item_file, *more, *(name for chain in self.shard_chains for name in chain)]

    def id_file(self, side: str) -> str:
        """The file with the id map of a side ("user" or "item")."""
        return {"user": self.user_file, "item": self.item_file}[side]

    def nodes(self, side: str) -> int:
        """The number of dense ids of a side ("user" or "item"), those of deleted nodes included."""
        return {"user": self.users, "item": self.items}[side]


class IngestedGraph(Graph):
    """A graph that belongs to a version, or that is trained on. It also says which ingest it comes from, and how many of its
    nodes are left."""

    log_head: int = 0
    """The head of the log when the ingest began to read."""
    ingested_interactions: int
    """The number of interactions that the ingest read."""
    ingest: str
    """The digest of the manifest that the ingest wrote (`output.ingests.digest`)."""
    live_users: int | None = None
    live_items: int | None = None
    """live_users, live_items: the numbers of users and items that were not deleted; None where none were deleted."""

    def live(self, side: str) -> int:
        """The number of nodes of a side ("user" or "item") that were not deleted."""
        found = {"user": self.live_users, "item": self.live_items}[side]
        return self.nodes(side) if found is None else found


def no_graph_text(store: Store) -> str:
    """The message for an output without a graph."""
    return f"{store.root_uri} holds no graph. Run `unlearnrec ingest` first, or check `output`"


def load_manifest(store: Store) -> Graph:
    """The manifest of the graph that was ingested last.

    Raises:
        InputError: there is none, another version of unlearnrec wrote it, or it is damaged.
    """
    try:
        data = store.read(MANIFEST)
    except FileNotFoundError as error:
        raise InputError(no_graph_text(store)) from error
    place, remedy = f"{store.root_uri}/{MANIFEST}", "Run `unlearnrec ingest` again"
    try:
        document = json.loads(data)
    except ValueError as error:
        raise InputError(f"{place} is not JSON ({error}). {remedy}") from error
    return read_document(Graph, document, place, "the manifest of a graph", FORMAT, remedy)
