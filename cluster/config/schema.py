"""The configuration: one frozen model per section, checked as a whole before any work starts.

A key that does not exist, a value of the wrong type or outside its range is an `InputError` that names the dotted path,
the value it got and what would be right. What may stand where is written once, in the field; messages are made from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ...partitioning.errors import InputError
from .errors import explain
from .yaml import parse_yaml, parse_yaml_value

BackboneName = Literal["lightgcn", "ngcf", "sgl", "simgcl"]
BACKBONES: tuple[str, ...] = get_args(BackboneName)
"""The backbones that exist; the registry in `distributed/backbones` has the same names (a test holds them equal)."""


class Section(BaseModel):
    """Frozen, strict (no `"3"` for 3), and closed: an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Columns(Section):
    """Which columns of the table hold what."""

    user: str = "user_id"
    """The user's id: integers or strings."""
    item: str = "item_id"
    """The item's id: integers or strings."""
    time: str | None = None
    """When the event happened, if the table says so: timestamps (without a zone: UTC), dates, or whole numbers. Kept with
    the graph, so that `forget` can take time ranges."""
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    """Of a time column of numbers, since 1970. Null: `since` and `until` must be numbers as well."""
    value: str | None = None
    """A number such as a rating or a count; rows where it is null or not positive are not interactions."""


class Storage(Section):
    """How s3:// is reached. Credentials come from the provider's usual chain, never from here."""

    endpoint_url: str | None = None
    """For stores other than AWS, such as MinIO: http://host:port. With a path after it only `output` can lie there: tables
    are read without one."""
    region: str | None = None
    """The region of the bucket; null: as the provider's usual chain has it."""
    anonymous: bool = False
    """Read public buckets without credentials."""

    @model_validator(mode="after")
    def _endpoint_is_a_url(self) -> Storage:
        if self.endpoint_url is not None and not re.fullmatch(r"https?://[^/\s]\S*", self.endpoint_url):
            raise ValueError(
                f"storage.endpoint_url: got {self.endpoint_url!r}, expected http://host:port or https://host"
            )
        return self


class Cluster(Section):
    """Where the workers run and how many there are: one worker holds one partition."""

    address: str | None = None
    """Of a running Ray; null starts one on this machine, "auto" finds the one that is there."""
    partitions: int = Field(2, ge=1, le=1024)
    """How many parts the graph is cut into, each held by one worker. More than the CPUs there are only slow a run down."""
    cpus_per_worker: int = Field(1, ge=1)
    """What each worker asks Ray for."""
    gpus_per_worker: float = Field(0, ge=0)
    """0: workers use no GPU. A worker uses one; a part of one is enough for the only worker."""
    threads_per_worker: int | None = Field(None, ge=1)
    """Torch threads in each worker; null means as many as `cpus_per_worker`."""
    collective_timeout_seconds: float = Field(60, gt=0)
    """How long a worker waits for the others in one exchange before it gives the group up as broken."""
    max_rebuilds: int = Field(3, ge=0)
    """How often a run rebuilds its worker group after a failure before it gives up."""

    @model_validator(mode="after")
    def _workers_share_no_gpu(self) -> Cluster:
        if self.partitions > 1 and 0 < self.gpus_per_worker < 1:
            raise ValueError(
                f"cluster.gpus_per_worker: got {self.gpus_per_worker:g}, expected 0 or at least 1 with {self.partitions} "
                "partitions: workers that exchange rows through NCCL cannot share a GPU"
            )
        return self


class Partitioning(Section):
    """How nodes are dealt to partitions, and what travels between them."""

    strategy: Literal["metis", "hash", "file"] = "metis"
    """How nodes are dealt out: `metis` cuts few edges, `hash` goes by the ids alone, `file` reads `assignment`."""
    halo: Literal["pull", "cover"] = "pull"
    """`pull` sends rows and is bit-equal for any number of partitions; `cover` sends fewer (a minimum vertex cover)."""
    assignment: str | None = None
    """With strategy `file`: a Parquet file with the columns side ("user" or "item"), id and partition."""

    @model_validator(mode="after")
    def _file_needs_a_path(self) -> Partitioning:
        if self.strategy == "file" and self.assignment is None:
            raise ValueError("partitioning.assignment: strategy 'file' needs the path of the assignment's Parquet file")
        if self.strategy != "file" and self.assignment is not None:
            raise ValueError(
                f"partitioning.assignment: got {self.assignment!r}, which only strategy 'file' reads "
                f"(partitioning.strategy is {self.strategy!r})"
            )
        return self


class Backbone(Section):
    """The recommender itself."""

    name: BackboneName = "lightgcn"
    """Which recommender: a linear graph convolution (lightgcn), one with weights (ngcf), or one with a contrastive loss
    (sgl, simgcl)."""
    embedding_size: int = Field(64, ge=1, le=4096)
    """Columns of each user's and item's embedding."""
    num_layers: int = Field(3, ge=1, le=16)
    """How many hops of the graph a node's readout takes in."""
    length_power: float = Field(1.0, ge=0, le=1)
    """Readouts keep this power of their length. 1 suits bpr; about 0.5 suits softmax, which only trains directions and
    would leave the scores to popular items."""
    negative_slope: float = Field(0.2, ge=0, lt=1)
    """Of the LeakyReLU of ngcf; the others have none."""
    edge_keep: float = Field(0.9, gt=0, le=1)
    """Share of the edges that each view of sgl keeps."""
    noise: float = Field(0.1, ge=0)
    """Length of the noise that the views of simgcl add to each layer's rows."""
    ego: bool = False
    """Whether the readout of simgcl has E0 itself in its mean, as that of lightgcn has. In the paper it has not; such a
    model recommends better, and can be made to forget less well (docs/log.md)."""
    contrast_weight: float = Field(0.001, ge=0)
    """Of the contrastive loss of sgl and simgcl. Small enough for bpr with few steps; with softmax 0.1 is better."""
    contrast_temperature: float = Field(0.2, gt=0)
    """Divides the similarities in the contrastive loss of sgl and simgcl."""


class Train(Section):
    """How the backbone is trained."""

    epochs: int = Field(30, ge=1)
    """Passes over all interactions."""
    batch_size: int = Field(16384, ge=1)
    """Interactions a step over all partitions. Every step costs a full propagation, so large batches pay."""
    learning_rate: float = Field(0.01, gt=0)
    """Of Adam."""
    loss: Literal["bpr", "softmax"] = "bpr"
    """`bpr` compares each interaction with one sampled item, `softmax` with `softmax_negatives` items."""
    initial_deviation: float = Field(0.1, gt=0)
    """Standard deviation of the embeddings before the first step."""
    l2: float = Field(1e-4, ge=0)
    """Weight of the squared norm of the batch's embeddings."""
    softmax_temperature: float = Field(0.2, gt=0)
    """Divides the scores in the loss softmax."""
    softmax_negatives: int = Field(2048, ge=1)
    """Items sampled a step, the same for every interaction of the batch."""
    checkpoint_every: int = Field(5, ge=0)
    """In epochs; 0 means never, and then a failure starts the training again."""
    kernel: Literal["auto", "torch", "dgl"] = "auto"
    """What sums over neighbours; `auto` is torch, the faster one wherever it was measured."""


class Influence(Section):
    """The Influence Encoder's shape."""

    num_layers: int = Field(3, ge=1, le=16)
    """How many hops around a request the encoder takes in."""
    mlp_layers: int = Field(2, ge=1, le=16)
    """Depth of the network that makes the change of a row."""
    around: bool | None = None
    """Change rows around the touched nodes beside their own (objective counterfactual, backbones without dense weights). A
    request then changes rows in all partitions. null: where a node's readout does not hold its own row, so that it could
    not be changed otherwise: simgcl without backbone.ego (docs/encoder.md)."""


class Pretrain(Section):
    """How the Influence Encoder is trained."""

    epochs: int = Field(30, ge=1)
    """Passes over the simulated requests (counterfactual) or the interactions (published)."""
    learning_rate: float = Field(0.003, gt=0)
    """Of Adam."""
    batch_size: int | None = Field(None, ge=1)
    """Interactions a step: forgotten ones (counterfactual; null means 16 to 256, for about 50 steps an epoch) or positive
    pairs (published; null 4,096)."""
    objective: Literal["counterfactual", "published"] = "counterfactual"
    """`counterfactual` learns from retrains without simulated requests; `published` is the paper's loss, which
    overshoots with the defaults here: 1 epoch, 1.5e-4 and batches of 1,024 did best on MovieLens-1M (docs/log.md)."""
    counterfactuals: int = Field(3, ge=1, le=64)
    """How many retrains to learn from (objective counterfactual): with 3, one of each kind of simulated request."""
    request_share: float = Field(0.05, gt=0, le=0.5)
    """Share of all interactions that a simulated request leaves out, or the largest of them (counterfactual)."""
    forget_weight: float = Field(1.0, ge=0)
    """`a` of the published objective: low scores for forgotten pairs. The paper's are .1 to 1."""
    preserve_weight: float = Field(0.05, ge=0)
    """`b` of the published objective: unchanged scores for the others, summed over a batch. The paper's are .001 to .05."""
    contrast_weight: float = Field(1e-4, ge=0)
    """`c` of the published objective: the same influence when some of the request is dropped."""
    edge_drop: float = Field(0.05, ge=0, lt=1)
    """Share of the request's edges dropped for `contrast_weight`."""
    drift_budget: float = Field(0.05, gt=0, le=1)
    """Share of the interactions forgotten since the encoder's pre-training above which `forget` calls it stale."""


class Forget(Section):
    """What happens around a deletion request."""

    fine_tune_steps: int = Field(0, ge=0)
    """Training steps after the encoder's answer, on all partitions, in which only the touched rows move."""
    gate_gap_closed: float | None = Field(0.5, gt=0, le=1)
    """Least share of the way from where trained pairs stand to where held-out ones do that forgotten pairs must go, and
    the inverse of the most; null: not measured. This and the next two are checked on samples before the commit:
    docs/forgetting.md, "The gate"."""
    gate_recall_loss: float | None = Field(0.05, gt=0, lt=1)
    """Largest share of Recall on the test interactions that may be lost; null: not measured."""
    gate_change: float | None = Field(2.0, gt=0)
    """Largest change of a row, in units of the largest that pre-training saw; null: not measured."""
    gate_fine_tune_steps: int = Field(50, ge=0)
    """Training steps of the touched rows when the gate is missed, before it is looked at again; what still misses it is
    given up. 0: none."""
    grace_seconds: float = Field(0, ge=0, le=2592000)
    """How long a request waits, in which it can be cancelled and others join its version. With 0 the command `forget`
    carries out its request at once; otherwise it only accepts it, for `serve` or for another `forget` after that time."""
    max_share: float = Field(0.2, gt=0, le=1)
    """Of the interactions that a request, or all requests of a version together, may remove. A request above it is held
    until somebody approves it. The default catches mistakes such as the wrong file; set it to what is usual for you."""
    deadline_hours: float = Field(720, gt=0, le=87600)
    """A request is overdue when it has no answer this long after its acceptance: 30 days, within the GDPR's month."""
    retention_hours: float = Field(0, ge=0, le=87600)
    """`purge` keeps older files with deleted data until they were written this long ago; `purge --now` does not."""
    lease_seconds: float = Field(600, gt=0, le=86400)
    """`evaluate` and `export` hold the files of the version that they read, against `purge` but not `purge --now`, until
    they end, or for this long."""


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class Evaluate(Section):
    """How quality is measured."""

    k: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1), BeforeValidator(_as_tuple)] = (20,)
    """Cut-offs of Recall and NDCG."""
    batch_users: int = Field(1024, ge=1)
    """Users scored at once: memory is this many times the number of items, in float32."""


def _callback_host(value: str) -> str:
    if not re.fullmatch(r"(https?://)?([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?", value):
        raise ValueError(
            f"serve.callback_hosts: got {value!r}, expected HOST[:PORT], https://HOST[:PORT] or http://HOST[:PORT], in "
            "small letters and without a path"
        )
    return value


def _route_prefix(value: str) -> str:
    if not re.fullmatch(r"/|(/[^/{}?#\s]+)+", value):
        raise ValueError(f"serve.route_prefix: got {value!r}, expected a path such as /runs/shop, no slash at its end")
    return value


CallbackHost = Annotated[str, AfterValidator(_callback_host)]


class Serve(Section):
    """The long-running service: who may ask, and how much at once."""

    host: str = Field("127.0.0.1", min_length=1)
    """Where it listens. Anything but a loopback address needs a token."""
    port: int = Field(8080, ge=0, le=65535)
    """0 takes a free one, which the log names."""
    token_variable: str = Field("UNLEARNREC_TOKEN", min_length=1)
    """The environment variable that holds the bearer token; the token itself is never in the configuration."""
    max_open_requests: int = Field(10000, ge=1)
    """With so many accepted and not yet carried out, further ones are refused (429)."""
    max_batch: int = Field(100, ge=1)
    """Most requests that share one version."""
    max_body_bytes: int = Field(1048576, ge=1024)
    """Longest body of a request; longer ones are refused (413)."""
    poll_seconds: float = Field(1.0, ge=0.05, le=60)
    """How often the log is read for what other commands wrote."""
    tokens_file: str | None = None
    """A JSON file of more tokens: names, SHA-256 digests and scopes, no token itself (docs/serving.md)."""
    rate_per_second: float = Field(500, gt=0)
    """Calls that each token (without tokens: each address) may make in the long run; more are refused (429)."""
    burst: int = Field(1000, ge=1)
    """Calls that it may make at once."""
    callback_hosts: Annotated[tuple[CallbackHost, ...], BeforeValidator(_as_tuple)] = ()
    """Where `status_callback_urls` may lead: HOST[:PORT] for https, http://HOST[:PORT] for plain http. Empty: nowhere."""
    callback_attempts: int = Field(12, ge=1, le=50)
    """Attempts to tell a receiver one state; the pauses between them double, from one second to an hour."""
    detached: bool = False
    """Run as a detached actor of the Ray cluster at `cluster.address`, behind Ray Serve, until `serve --stop`."""
    route_prefix: Annotated[str, AfterValidator(_route_prefix)] = "/"
    """With `detached`: the path under which Ray Serve answers for this output, another one for each application of a
    cluster."""


class Watch(Section):
    """A table whose deletions become requests (docs/watching.md)."""

    table: str | None = None
    """A Delta or Iceberg table. null: `serve` follows none, and the command `watch` follows `interactions`."""
    kind: Literal["deletions", "requests"] = "deletions"
    """`deletions`: what is deleted from it is to be forgotten. `requests`: its rows say what is (columns user_id, item_id,
    since, until; and, if they are there, request_id and requester)."""
    columns: Columns | None = None
    """Which of its columns hold what, with `deletions`; null: as those of `interactions` (the section `columns`)."""
    whole_users: bool = True
    """A user without a row left is forgotten as a user, whom the suppression list then keeps out of every ingest. false:
    only the interactions that were deleted are; for tables from which old rows are dropped."""
    max_rows: int = Field(1000, ge=1, le=100000)
    """Most users, interactions or events of one request, with `deletions`; a commit that deletes more makes several."""
    poll_seconds: float = Field(60, ge=0.05, le=86400)
    """How often the table is looked at."""


class Evidence(Section):
    """What is left to show of a request: its receipt, and how far the lake is looked at for it."""

    signing_key: str | None = None
    """A file outside `output` with an Ed25519 private key (PEM), which signs receipts; the environment variable
    UNLEARNREC_SIGNING_KEY may hold the PEM text instead. Null, and no variable: they are not signed, and say so."""
    public_keys: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ()
    """Files with public keys (PEM) whose signatures `status --verify` takes, beside the signing key's own: of keys that
    signed before, or of a key that only another machine has."""
    max_files: int = Field(10000, ge=1)
    """Data files of a table that `residue` opens at most, the current ones first; a receipt says how many were left out."""
    max_states: int = Field(100, ge=0)
    """Older versions or snapshots of a table that `residue` opens at most, the newest first."""


class DropList(Section):
    """Where the identifiers of one list of DROP stand in your data: a column of their hashes, or of themselves."""

    table: str
    """Any table that `interactions` could be: Parquet, CSV, Delta, Iceberg; a users' table, or one of hash and user."""
    user: str = "user_id"
    """Its column of users' ids, as in `columns.user` of the interactions."""
    hash: str | None = None
    """Its column of DROP's hashes (SHA-256): Base64, hexadecimal, or 32 bytes."""
    keyed: bool = False
    """The column holds HMAC-SHA256 of these hashes, under the key in `drop.key_variable`: a hash alone finds nobody."""
    value: str | None = None
    """Instead of `hash`: its column of the identifiers, which are standardised and hashed as DROP does. Not for ndz and
    namevin, whose names DROP folds by a table of its own."""

    @model_validator(mode="after")
    def _one_column(self) -> DropList:
        if (self.hash is None) == (self.value is None):
            raise ValueError(
                f"drop, table {self.table}: expected either hash or value, the name of a column; got both or none"
            )
        if self.keyed and self.hash is None:
            raise ValueError(f"drop, table {self.table}: keyed is for a column of hashes; set hash, not value")
        return self


class Drop(Section):
    """California's DROP: how the hashes of a batch lead to users, and what else decides the codes (docs/drop.md)."""

    email: DropList | None = None
    phone: DropList | None = None
    maid: DropList | None = None
    ctvid: DropList | None = None
    ndz: DropList | None = None
    namevin: DropList | None = None
    key_variable: str = Field("UNLEARNREC_DROP_KEY", min_length=1)
    """The environment variable that holds the key of `keyed` hashes; the key itself is never in the configuration."""
    exempt: str | None = None
    """A table of ids, column `user_id`: users all of whose data is exempt. They are not forgotten, and get code 2."""
    opted_out: str | None = None
    """A table of ids, column `user_id`: users whom you have opted out of sale and sharing. An identifier of several users,
    all of whom are in it, gets code 4."""
    several: Literal["wait", "delete"] = "wait"
    """What an identifier of several users means: `wait` forgets none of them (it may be of several people), `delete` takes
    them for accounts of one person and forgets all."""
    nothing_held: Literal["wait", "deleted"] = "wait"
    """The code of a user in your table of whom the model holds nothing: none; or 3, where you delete the rest yourself."""

    @model_validator(mode="after")
    def _names_are_hashed(self) -> Drop:
        for name in ("ndz", "namevin"):
            if (one := getattr(self, name)) is not None and one.value is not None:
                raise ValueError(
                    f"drop.{name}.value: got {one.value!r}, expected null; name a column of hashes in drop.{name}.hash"
                )
        return self


class Config(Section):
    """Everything a run depends on. Relative paths are relative to the working directory."""

    interactions: str
    """Table of interactions, local or s3://: Parquet or CSV (a file or a folder), a Delta table (`delta://PLACE` or its
    folder) or an Iceberg table (`iceberg://CATALOG/NAMESPACE.TABLE` or its folder); `?version=`, `?snapshot=` or
    `?timestamp=` behind it chooses a state (docs/lake.md)."""
    test_interactions: str | None = None
    """Held-out interactions for `evaluate`: a table as `interactions`, with the same columns. Without `columns.value` every
    row counts."""
    output: str
    """Folder, local or s3://, that holds everything the run leaves."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Same seed and data, same result."""
    columns: Columns = Columns()
    storage: Storage = Storage()
    cluster: Cluster = Cluster()
    partitioning: Partitioning = Partitioning()
    backbone: Backbone = Backbone()
    train: Train = Train()
    influence: Influence = Influence()
    pretrain: Pretrain = Pretrain()
    forget: Forget = Forget()
    evaluate: Evaluate = Evaluate()
    evidence: Evidence = Evidence()
    serve: Serve = Serve()
    watch: Watch = Watch()
    drop: Drop = Drop()


def parse_config(values: Mapping[str, Any]) -> Config:
    """The configuration of these nested values.

    Raises:
        InputError: a key is unknown or missing, a value has the wrong type or is out of range; names each one.
    """
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise InputError(explain(error, Config)) from None


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a YAML file with some values set on the command line.

    Args:
        path: the file; None starts from the defaults, so that `interactions` and `output` must be among the overrides.
        overrides: `section.key=value` each, the value written as YAML; later ones win.

    Raises:
        InputError: the file is missing or no mapping, an override has no `=`, or as in `parse_config`.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"configuration {str(path)!r}: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise InputError(f"configuration {str(path)!r}: not a text file in UTF-8") from None
        values = parse_yaml(text, str(path))
    for override in overrides:
        _set_override(values, override)
    return parse_config(values)


def _set_override(values: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in the nested values."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InputError(f"{override!r} on the command line: expected section.key=value, such as train.epochs=10")
    place = values
    for depth, key in enumerate(keys[:-1], start=1):
        # A section written as `train:` with nothing below it is None in YAML and means all defaults.
        inner = place.get(key) or {}
        if not isinstance(inner, dict):
            raise InputError(f"{override!r} on the command line: {'.'.join(keys[:depth])} holds a value, not keys")
        place[key] = dict(inner)
        place = place[key]
    place[keys[-1]] = parse_yaml_value(text, override)


def to_yaml(config: Config) -> str:
    """The resolved configuration, every default written out; `load_config` reads it back as the same object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
