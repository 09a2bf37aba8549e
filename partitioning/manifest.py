"""The manifest of a graph: what it is, and its files. And what all documents have in common that the output keeps as JSON.

A document that was read is written again as it was: keys that it did not have are not added, and keys that this release
does not know are kept. So its digest, which names folders and ingests, is the same in every release.
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
"""Names of files; a list in JSON."""


class Document(BaseModel):
    """A part of the output that is kept as JSON; it never changes."""

    # Strict: a value that pydantic would turn into another kind would be written in another way than it was read.
    model_config = ConfigDict(frozen=True, extra="allow", strict=True, ser_json_inf_nan="constants")

    def document(self) -> dict[str, Any]:
        """The JSON object, with the keys that it was read or made with and no others."""
        return self.model_dump(mode="json", exclude_unset=True)

    def replaced(self, **fields: Any) -> Self:
        """The same with other values of these fields.

        Raises:
            pydantic.ValidationError: a value is of the wrong kind.
        """
        kept = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self).model_validate(kept | fields)


Read = TypeVar("Read", bound=Document)


def read_document(kind: type[Read], document: Any, place: str, what: str, readable: int, remedy: str) -> Read:
    """A document that has a `format`, as its model.

    place: where it stands. what: "the manifest of a graph", say. readable: the format that this release reads. remedy: a
    sentence on what to do when it is another or damaged.

    Raises:
        InputError: it has another format, or is no such document; names the place, the key and the value.
    """
    if not isinstance(document, dict):
        raise InputError(f"{place}: got {_kind(document)} where {what} should be, an object. {remedy}")
    if document.get("format") != readable:
        raise InputError(
            f"{place} has format {document.get('format')}, this version of unlearnrec reads format {readable} of {what}. "
            f"{remedy}"
        )
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        wrong = "; ".join(_explain(dict(entry)) for entry in error.errors(include_url=False))
        raise InputError(f"{place} is not {what}: {wrong}. {remedy}") from error


def _explain(error: dict[str, Any]) -> str:
    """`files.a.bytes: got a text, expected a valid integer`: a line for one of pydantic's errors."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).lstrip(".")
    if error["type"] == "missing":
        return f"{path} is missing"
    expected = error["msg"].removeprefix("Input should be ").replace("dictionary", "object").replace("tuple", "list")
    if error["type"] == "model_type":
        expected = "an object"
    return f"{path}: got {_kind(error['input'])}, expected {expected}"


def _kind(value: Any) -> str:
    """The kind of a JSON value, and where it is short the value."""
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
    """A file that a manifest names."""

    sha256: str
    bytes: int


class EventTimes(Document):
    """Of a graph that has the times of its events."""

    unit: str | None


class Graph(Document):
    """A partitioned graph, as `ingest` left it or as deletion requests changed it.

    `users` and `items` are the ranges of dense ids, which are never used again; `interactions` counts distinct pairs,
    `events` the rows that they came from.
    """

    # The order of the fields is that in which they are written: one of the digests is taken of the JSON in that order.
    format: int
    users: int
    items: int
    interactions: int
    events: int
    skipped: int = 0
    """Rows that were no interactions."""
    suppressed: int = 0
    """Rows that the suppression list kept out."""
    time: EventTimes | None = None
    partitions: int
    strategy: str
    seed: int
    halo: str
    edge_cut: float
    """Share of the interactions whose ends have different owners."""
    balance: float
    """The heaviest partition's sum of degrees over the mean."""
    rows_per_layer: dict[str, int]
    """Rows of embeddings that all partitions send for one layer, by halo plan."""
    id_type: dict[str, str]
    """By side ("user", "item"): "int64" or "string"."""
    source: str
    table: dict[str, Any] | None = None
    """What is known of the version of the table that was read."""
    user_file: str
    item_file: str
    shard_files: Names
    """By partition."""
    files: dict[str, File]

    def id_file(self, side: str) -> str:
        """The file with the id map of a side ("user" or "item")."""
        return {"user": self.user_file, "item": self.item_file}[side]

    def nodes(self, side: str) -> int:
        """The range of dense ids of a side."""
        return {"user": self.users, "item": self.items}[side]


class IngestedGraph(Graph):
    """A graph that a version is, or is trained on: it says of which ingest it is, and what was deleted from that."""

    log_head: int = 0
    """The head of the log when the ingest began to read."""
    ingested_interactions: int
    ingest: str
    """The digest of the manifest that the ingest wrote."""
    live_users: int | None = None
    live_items: int | None = None
    """Those that were not deleted; None where none were."""

    def live(self, side: str) -> int:
        """How many nodes of a side ("user" or "item") were not deleted."""
        found = {"user": self.live_users, "item": self.live_items}[side]
        return self.nodes(side) if found is None else found


def load_manifest(store: Store) -> Graph:
    """The manifest of the graph that was ingested last.

    Raises:
        InputError: there is none, another version of unlearnrec wrote it, or it is damaged.
    """
    try:
        data = store.read(MANIFEST)
    except FileNotFoundError as error:
        raise InputError(
            f"{store.root_uri} holds no graph. Run `unlearnrec ingest` first, or check `output`"
        ) from error
    place, remedy = f"{store.root_uri}/{MANIFEST}", "Run `unlearnrec ingest` again"
    try:
        document = json.loads(data)
    except ValueError as error:
        raise InputError(f"{place} is not JSON ({error}). {remedy}") from error
    return read_document(Graph, document, place, "the manifest of a graph", FORMAT, remedy)
