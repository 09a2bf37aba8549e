"""What the methods of `unlearnrec.Session` return: frozen dataclasses, one a command.

Each is made of the dictionary that the command returns (`cluster.pipeline`), which is also what `--json` prints. The keys
that code relies on are fields with types. Every other key is there as an attribute too where its name allows it, and always
as `result[key]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Result:
    """The base of all results."""

    answer: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """All keys that the command returned."""

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Self:
        """The result that this dictionary of a command is. Lists become tuples where they are fields."""
        named = {one.name for one in fields(cls)} & answer.keys()
        values = {name: tuple(x) if isinstance(x := answer[name], list) else x for name in named}
        return cls(**values | {"answer": dict(answer)})

    def __getitem__(self, key: str) -> Any:
        return self.answer[key]

    def __iter__(self) -> Iterator[str]:
        """The keys of `answer`, so that `dict(result)` is a copy of it."""
        return iter(self.answer)

    def keys(self) -> Any:
        """The keys of `answer`."""
        return self.answer.keys()

    if not TYPE_CHECKING:  # a type checker shall know the fields only

        def __getattr__(self, name: str) -> Any:
            answer = self.__dict__.get("answer", {})  # not there yet while it is unpickled
            if name in answer:
                return answer[name]
            raise AttributeError(f"{type(self).__name__} has no {name!r}; it has {', '.join(answer)}")


@dataclass(frozen=True, kw_only=True)
class IngestResult(Result):
    """The graph that `ingest` wrote."""

    users: int
    items: int
    interactions: int
    """Edges of the graph: pairs of a user and an item with at least one event."""
    events: int
    """Rows of the table that count."""
    skipped: int
    """Rows whose value says that they are no interaction (`columns.value`)."""
    suppressed: int
    """Rows that the suppression list kept out."""
    partitions: int
    edge_cut: float
    """The share of the interactions whose user and item are in different partitions, from 0 to 1."""
    balance: float
    """The heaviest partition's sum of degrees divided by the mean; 1 is perfect."""
    rows_per_layer: int
    """Rows of embeddings that all partitions together send for one layer."""


@dataclass(frozen=True, kw_only=True)
class TrainResult(Result):
    """The version that `train` or `retrain` committed."""

    version: int
    epochs: int
    seconds: float
    """Of training; of `retrain`, all of it."""
    loss: float
    """Of the last epoch."""
    curve: tuple[Mapping[str, float], ...] = field(default=(), repr=False)
    """One entry an epoch: `epoch` (from 1), `loss`, `seconds` since the beginning, and measures where there were some."""
    validation: Mapping[str, Any] | None = field(default=None, repr=False)
    """How the number of epochs was chosen: `metric`, `value`, `epochs`, `epochs_tried` and its own `curve`. None without
    `validation.share`."""
    tune: Mapping[str, Any] | None = field(default=None, repr=False)
    """With `tune`: `trials`, a list of `settings` with what they measured, and the `best` of them."""


@dataclass(frozen=True, kw_only=True)
class PretrainResult(Result):
    """The version with the Influence Encoder that `pretrain` committed."""

    version: int
    epochs: int
    seconds: float
    user_r2_held_out: float | None = None
    """The share of the changes of users' rows that a retrain would make, on nodes held out; None where nothing is known."""
    item_r2_held_out: float | None = None
    """The same for items' rows."""
    moves_of_kept: float | None = None
    """How far a retrain without a small simulated request moves the scores of interactions that stay, as a part of how far
    it moves those that go (mean squares): about what an encoder cannot know of a request (docs/encoder.md)."""
    carried_from: int | None = None
    """The version whose encoder was carried over (docs/encoder.md); None where a whole pre-training was made."""
    carried_r2: float | None = None
    """Of a carried one: the share of the changes of scores that it explains in a retrain without a simulated request, of
    those that cutting edges does not make by itself, where its changes may all be scaled by one factor."""


@dataclass(frozen=True, kw_only=True)
class EvaluateResult(Result):
    """The quality of a version on the test interactions. `result["recall@20"]` is one measure by its name."""

    version: int
    users: int = 0
    """Users with test interactions whose mean the measures are."""
    baselines: Mapping[str, Mapping[str, Any]] | None = field(default=None, repr=False)
    """With `baselines=True`: the same measures of "popularity" and "item_knn"."""
    standard_errors: Mapping[str, float] | None = field(default=None, repr=False)
    """Those of the measures, where a sample of the users was evaluated."""
    models: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """With a reference: one row of measures each for "original" (before the request), "unlearned" (the current version) and
    "retrained" (the reference). docs/forgetting.md explains the columns."""
    gap_closed: float | None = None
    """With a reference: the share of the gap between the attack's AUCs that was closed; None if there is no gap to close."""
    shift_r2: float | None = None
    """With a reference: the share of the reference's changes of score that the current version has, too. 1 is all."""

    def __repr__(self) -> str:
        shown = "".join(f", {name}={value:.4g}" for name, value in self.measures.items())
        return f"EvaluateResult(version={self.version}, users={self.users}{shown})"

    @property
    def measures(self) -> dict[str, float]:
        """All measures with a cut-off, such as `recall@20`, by name."""
        found = self.answer.items()
        return {name: value for name, value in found if "@" in name and isinstance(value, int | float)}

    @property
    def recall(self) -> dict[int, float]:
        """Recall by cut-off: `result.recall[20]`."""
        return self._at("recall")

    @property
    def ndcg(self) -> dict[int, float]:
        """NDCG by cut-off."""
        return self._at("ndcg")

    def _at(self, measure: str) -> dict[int, float]:
        parts = ((name.partition("@"), value) for name, value in self.measures.items())
        return {int(cut): value for (name, _, cut), value in parts if name == measure and cut.isdecimal()}


@dataclass(frozen=True, kw_only=True)
class ForgetResult(Result):
    """What became of a deletion request. It is final: the log has it."""

    request_id: str
    status: str
    """"committed": a version without what was named is current. "nothing_to_forget": nothing of it was in the version.
    "cancelled": somebody took the request back."""
    version: int | None
    """The version without what was named."""
    removed_interactions: int = 0
    deleted_users: int = 0
    """Users who are gone because they have no interaction left."""
    deleted_items: int = 0
    unknown_ids: int = 0
    """Ids that the graph does not have."""
    matched: bool = True
    """Whether any of the named ids is known. If none is, they may be mistyped."""
    rows: Mapping[str, int] = field(default_factory=dict, repr=False)
    """How many of the named things were "deleted", "not_found", "already_gone" or "invalid"."""
    affected_partitions: tuple[int, ...] = ()
    seconds: float = 0.0
    """From the request until the workers held readouts without what was named; not the start of workers."""
    needs_retrain: bool = False
    """Whether the version missed its gate, or the encoder could not mend it: a retrain is due."""
    gate: Mapping[str, Any] | None = field(default=None, repr=False)
    """What was measured before the commit (docs/forgetting.md)."""
    evidence: str | None = None
    """The report under the output; None where it could not be written yet."""
    repeated: bool = False
    """Whether the request had its answer already: it was asked for before."""


@dataclass(frozen=True, kw_only=True)
class ForgetPreview(Result):
    """What a deletion request would change. Nothing was written."""

    request_id: str
    version: int
    removed_interactions: int
    affected_partitions: tuple[int, ...]
    share: float
    """Of all interactions, from 0 to 1."""
    needs_approval: bool
    """Whether it would be held (`forget.max_share`)."""
    unknown_ids: int
    estimated_seconds: float | None = None
    """From earlier requests; None where there were none."""
    matched: bool = True
    """As `ForgetResult.matched`."""
    rows: Mapping[str, int] = field(default_factory=dict, repr=False)
    """As `ForgetResult.rows`."""
    results: pa.Table | None = field(default=None, repr=False, compare=False)
    """With `requests`: a line for each row, as of `ForgetRequest.results`."""


@dataclass(frozen=True, kw_only=True)
class RequestStatus(Result):
    """Where a deletion request is."""

    request_id: str
    status: str
    """"accepted", "held", "failed", or as `ForgetResult.status`."""
    phase: str
    version: int | None = None
    due_by: str | None = None
    """Until when it has to be answered (`forget.deadline_hours`), in ISO-8601."""


@dataclass(frozen=True, kw_only=True)
class Status(Result):
    """The requests that have no answer yet."""

    version: int | None
    """The current version; None before the first training."""
    open_requests: int
    overdue_requests: int
    needs_retrain: bool
    requests: tuple[Mapping[str, Any], ...] = ()
    """One entry each: `request_id`, `status`, `age_hours`, `due_by`, `overdue`."""


@dataclass(frozen=True, kw_only=True)
class ExportResult(Result):
    """What `export` wrote."""

    version: int
    users: int
    items: int


@dataclass(frozen=True, kw_only=True)
class PurgeResult(Result):
    """What `purge` removed."""

    removed_files: int
    removed_bytes: int
    removed_rows: int
    """Rows taken out of tables that were handed over."""
    purged_requests: int
    """Requests whose contents were emptied."""
    kept_files: int
    """Files with deleted data that stay until their retention is over, or a lease ends."""
    version: int | None = None


@dataclass(frozen=True, kw_only=True)
class ResidueResult(Result):
    """Where deleted data still lies."""

    residues: tuple[Mapping[str, Any], ...]
    """One entry each: `place`, `kind`, `detail`, and `bytes` or `rows`."""
    not_read: tuple[Mapping[str, str], ...] = ()
    """What could not be looked at: `place` and `why`."""
    page: str | None = None
    """With a request's id: the page of its receipt under the output."""


@dataclass(frozen=True, kw_only=True)
class RollbackResult(Result):
    """The version that `rollback` committed."""

    version: int
    rolled_back_to: int
    encoder: bool
    """Whether it can forget."""


@dataclass(frozen=True, kw_only=True)
class VerifyResult(Result):
    """Whether log, contents, evidence and files agree."""

    ok: bool
    checks: tuple[Mapping[str, Any], ...]
    """One entry each: `name`, `ok`, `detail`."""


@dataclass(frozen=True)
class VersionInfo:
    """One version of the model, as the log has it."""

    version: int
    reason: str
    """What made it: "train", "pretrain", "forget" or "rollback"."""
    committed_at: datetime
    users: int
    items: int
    interactions: int
    encoder: bool
    """Whether requests can be carried out on it."""
    current: bool
    requests: tuple[str, ...] = ()
    """The ids of the requests that it answers."""
