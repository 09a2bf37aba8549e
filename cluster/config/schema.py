"""The configuration: one frozen model for each section. All of it is checked before any work starts.

An unknown key, a value of the wrong type or a value outside its range is an `InputError`, which names the dotted path, the
value and what would be right. The type and the range are written once, in the field; the messages are made from them.
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
"""The names of the backbones. The registry in `distributed/backbones` has the same names; a test checks that."""


class Section(BaseModel):
    """The base of all sections. They cannot be changed, do not convert types (`"3"` is not 3), and allow no unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Columns(Section):
    """The names of the columns of the table of interactions."""

    user: str = "user_id"
    """The column of the users' ids, which are integers or strings."""
    item: str = "item_id"
    """The column of the items' ids, which are integers or strings."""
    time: str | None = None
    """The column with the times of the events, if there is one: timestamps (UTC if they have no zone), dates or whole
    numbers. The graph keeps the times, so that `forget` can take time ranges."""
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    """The unit of a time column of numbers, which count from 1970. null: `since` and `until` must be numbers too."""
    value: str | None = None
    """A column of numbers such as ratings or counts. A row whose value is null or not positive is no interaction."""


class Storage(Section):
    """How s3:// places are reached. Credentials come from the provider's usual chain, never from the configuration."""

    endpoint_url: str | None = None
    """The address of a store other than AWS, such as MinIO: http://host:port. If it has a path, only `output` can be in
    that store, because tables are read without the path."""
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
    """Where the workers run, how many they are, and what they need. Each worker has one partition."""

    address: str | None = None
    """The address of a running Ray. null: one is started on this machine. "auto": the one on this machine is used."""
    partitions: int = Field(2, ge=1, le=1024)
    """How many parts the graph is cut into, each held by one worker. More than the CPUs there are only slow a run down."""
    cpus_per_worker: int = Field(1, ge=1)
    """The number of CPU cores that each worker asks Ray for."""
    gpus_per_worker: float = Field(0, ge=0)
    """The number of GPUs that each worker asks Ray for. 0: workers use no GPU. No worker uses more than one. A fraction is
    allowed only with one partition."""
    threads_per_worker: int | None = Field(None, ge=1)
    """The number of Torch threads in each worker. null: as many as `cpus_per_worker`."""
    collective_timeout_seconds: float = Field(60, gt=0)
    """How long a worker waits for the others in one exchange. After that it takes the group for broken."""
    max_rebuilds: int = Field(3, ge=0)
    """How often a run rebuilds its group of workers after failures before it gives up."""

    @model_validator(mode="after")
    def _workers_share_no_gpu(self) -> Cluster:
        if self.partitions > 1 and 0 < self.gpus_per_worker < 1:
            raise ValueError(
                f"cluster.gpus_per_worker: got {self.gpus_per_worker:g}, expected 0 or at least 1 with {self.partitions} "
                "partitions: workers that exchange rows through NCCL cannot share a GPU"
            )
        return self


class Partitioning(Section):
    """How nodes are assigned to partitions, and what the partitions send each other."""

    strategy: Literal["metis", "hash", "file"] = "metis"
    """How nodes are dealt out: `metis` cuts few edges, `hash` goes by the ids alone, `file` reads `assignment`."""
    halo: Literal["pull", "cover"] = "pull"
    """`pull` sends rows, and gives the same bits for any number of partitions. `cover` sends fewer rows or sums, by a
    minimum vertex cover."""
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
    """The recommender model."""

    name: BackboneName = "lightgcn"
    """Which recommender: a linear graph convolution (lightgcn), one with weights (ngcf), or one with a contrastive loss
    (sgl, simgcl)."""
    embedding_size: int = Field(64, ge=1, le=4096)
    """Columns of each user's and item's embedding."""
    num_layers: int = Field(3, ge=1, le=16)
    """How many hops of the graph a node's readout takes in."""
    length_power: float = Field(1.0, ge=0, le=1)
    """Each readout is scaled to this power of its length. 1 suits bpr. About 0.5 suits softmax, which trains only
    directions; with 1, popular items would then have the highest scores."""
    negative_slope: float = Field(0.2, ge=0, lt=1)
    """The negative slope of the LeakyReLU in ngcf. The other backbones do not use it."""
    edge_keep: float = Field(0.9, gt=0, le=1)
    """The share of edges that each view of sgl keeps."""
    noise: float = Field(0.1, ge=0)
    """The length of the noise that the views of simgcl add to each layer's rows."""
    ego: bool = False
    """Whether the mean in the readout of simgcl includes E0, as in lightgcn. In the paper it does not. A model without E0
    recommends better, and can be made to forget less well (docs/log.md)."""
    contrast_weight: float = Field(0.001, ge=0)
    """The weight of the contrastive loss of sgl and simgcl. The default suits bpr with few steps; 0.1 is better for
    softmax."""
    contrast_temperature: float = Field(0.2, gt=0)
    """Divides the similarities in the contrastive loss of sgl and simgcl."""


class Train(Section):
    """How the backbone is trained."""

    epochs: int = Field(30, ge=1)
    """Passes over all interactions."""
    batch_size: int = Field(16384, ge=1)
    """The number of interactions in a step, over all partitions. Each step costs a full propagation, so large batches are
    efficient."""
    learning_rate: float = Field(0.01, gt=0)
    """Of Adam."""
    loss: Literal["bpr", "softmax"] = "bpr"
    """`bpr` compares each interaction with one sampled item, `softmax` with `softmax_negatives` items."""
    initial_deviation: float = Field(0.1, gt=0)
    """The standard deviation of the embeddings before the first step."""
    l2: float = Field(1e-4, ge=0)
    """The weight of the squared norm of the batch's embeddings."""
    softmax_temperature: float = Field(0.2, gt=0)
    """Divides the scores in the loss softmax."""
    softmax_negatives: int = Field(2048, ge=1)
    """The number of items that the loss softmax samples in a step. They are the same for all interactions of the batch."""
    checkpoint_every: int = Field(5, ge=0)
    """The number of epochs between two checkpoints. 0: there are none, and after a failure the training starts again."""
    kernel: Literal["auto", "torch", "dgl"] = "auto"
    """The kernel that sums over neighbours. `auto` is torch, which was faster wherever it was measured."""


class Influence(Section):
    """The shape of the Influence Encoder."""

    num_layers: int = Field(3, ge=1, le=16)
    """How many hops around a request the encoder takes in."""
    mlp_layers: int = Field(2, ge=1, le=16)
    """Depth of the network that makes the change of a row."""
    around: bool | None = None
    """Whether a request also changes rows around the touched nodes, which may be in all partitions. It needs the objective
    counterfactual and a backbone without dense weights. null: only where a node's readout does not contain its own row and
    could not be changed otherwise, as in simgcl without backbone.ego (docs/encoder.md)."""


class Pretrain(Section):
    """How the Influence Encoder is trained."""

    epochs: int = Field(30, ge=1)
    """Passes over the simulated requests (counterfactual) or the interactions (published)."""
    learning_rate: float = Field(0.003, gt=0)
    """Of Adam."""
    batch_size: int | None = Field(None, ge=1)
    """With the objective counterfactual: the number of forgotten interactions in a step; null: 16 to 256, for about 50 steps
    in an epoch. With published: the number of positive pairs in a step; null: 4,096."""
    objective: Literal["counterfactual", "published"] = "counterfactual"
    """`counterfactual` learns from retrains without simulated requests. `published` is the paper's loss. With the defaults
    here it changes the scores too much; 1 epoch, a learning rate of 1.5e-4 and batches of 1,024 were best on MovieLens-1M
    (docs/log.md)."""
    counterfactuals: int = Field(3, ge=1, le=64)
    """With the objective counterfactual: the number of retrains. 3 are one for each kind of simulated request."""
    request_share: float = Field(0.05, gt=0, le=0.5)
    """The share of all interactions that a simulated request leaves out; with the objective counterfactual, that of the
    largest one."""
    forget_weight: float = Field(1.0, ge=0)
    """The weight `a` of the published objective, for low scores of forgotten pairs. The paper uses .1 to 1."""
    preserve_weight: float = Field(0.05, ge=0)
    """The weight `b` of the published objective, for unchanged scores of other pairs, summed over a batch. The paper uses
    .001 to .05."""
    contrast_weight: float = Field(1e-4, ge=0)
    """The weight `c` of the published objective, for the same influence when a part of the request is dropped."""
    edge_drop: float = Field(0.05, ge=0, lt=1)
    """The share of the request's edges that is dropped for `contrast_weight`."""
    drift_budget: float = Field(0.05, gt=0, le=1)
    """If more than this share of the interactions was forgotten since the pre-training, `forget` calls the encoder stale."""


class Forget(Section):
    """How deletion requests are carried out."""

    fine_tune_steps: int = Field(0, ge=0)
    """The number of training steps after the encoder has changed the rows. They run on all partitions and change only the
    touched rows."""
    gate_gap_closed: float | None = Field(0.5, gt=0, le=1)
    """How far the forgotten pairs must move from the standing of trained pairs to that of held-out pairs: at least this
    share, and at most its inverse. null: it is not measured. This and the next two are measured on samples before the
    commit (docs/forgetting.md, "The gate")."""
    gate_recall_loss: float | None = Field(0.05, gt=0, lt=1)
    """The largest share of Recall on the test interactions that may be lost. null: it is not measured."""
    gate_change: float | None = Field(2.0, gt=0)
    """The largest change of a row that is allowed, as a multiple of the largest change in pre-training. null: it is not
    measured."""
    gate_fine_tune_steps: int = Field(50, ge=0)
    """The number of training steps of the touched rows after the gate was missed. Then the gate measures again; if it is
    still missed, the steps are given up. 0: there are none."""
    grace_seconds: float = Field(0, ge=0, le=2592000)
    """How long a request waits. In this time it can be cancelled, and other requests can join its version. With 0, the
    command `forget` carries out its request at once. Otherwise it only accepts the request, and `serve` or a later `forget`
    carries it out."""
    max_share: float = Field(0.2, gt=0, le=1)
    """The largest share of the interactions that a request, or all requests of a version together, may remove. A request
    above it is held until somebody approves it. The default catches mistakes such as a wrong file; set it to what is usual
    for you."""
    deadline_hours: float = Field(720, gt=0, le=87600)
    """A request is overdue if it has no answer this long after its acceptance. The default is 30 days, within the month of
    the GDPR."""
    retention_hours: float = Field(0, ge=0, le=87600)
    """`purge` keeps older files with deleted data until they have this age. `purge --now` does not."""
    lease_seconds: float = Field(600, gt=0, le=86400)
    """`evaluate` and `export` hold the files of the version that they read until they end, but not longer than this. `purge`
    leaves these files; `purge --now` does not."""


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class Evaluate(Section):
    """How quality is measured."""

    k: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1), BeforeValidator(_as_tuple)] = (20,)
    """The cut-offs K of Recall@K and NDCG@K."""
    batch_users: int = Field(1024, ge=1)
    """The number of users that are scored at once. The scores take memory for this number times the number of items, in
    float32."""


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
    """The service: where it listens, who may call it, and how much at once."""

    host: str = Field("127.0.0.1", min_length=1)
    """The address at which the service listens. Every address except a loopback address needs a token."""
    port: int = Field(8080, ge=0, le=65535)
    """The port of the service. 0: a free port is chosen, and a note on the screen names it."""
    token_variable: str = Field("UNLEARNREC_TOKEN", min_length=1)
    """The environment variable that holds the bearer token. The token itself is never in the configuration."""
    max_open_requests: int = Field(10000, ge=1)
    """The largest number of requests that are accepted and not yet carried out. Further ones are refused (429)."""
    max_batch: int = Field(100, ge=1)
    """The largest number of requests that become one version together."""
    max_body_bytes: int = Field(1048576, ge=1024)
    """The largest body of a call, in bytes. A longer one is refused (413)."""
    poll_seconds: float = Field(1.0, ge=0.05, le=60)
    """The interval at which the log is read for records of other commands."""
    tokens_file: str | None = None
    """A JSON file with further tokens: their names, digests (SHA-256) and scopes, not the tokens (docs/serving.md)."""
    rate_per_second: float = Field(500, gt=0)
    """The number of calls in a second that each token may make in the long run; without tokens, each address. Further calls
    are refused (429)."""
    burst: int = Field(1000, ge=1)
    """The number of calls that a token or an address may make at once."""
    callback_hosts: Annotated[tuple[CallbackHost, ...], BeforeValidator(_as_tuple)] = ()
    """The hosts to which `status_callback_urls` may lead: HOST[:PORT] for https, http://HOST[:PORT] for plain http. Empty:
    none."""
    callback_attempts: int = Field(12, ge=1, le=50)
    """The number of attempts to tell a receiver one state. The pauses between them double, from one second to an hour."""
    detached: bool = False
    """Run as a detached actor of the Ray cluster at `cluster.address`, behind Ray Serve, until `serve --stop`."""
    route_prefix: Annotated[str, AfterValidator(_route_prefix)] = "/"
    """With `detached`: the path under which Ray Serve answers for this output. Each application of a cluster needs another
    one."""


class Watch(Section):
    """A table whose deletions become requests (docs/watching.md)."""

    table: str | None = None
    """The Delta or Iceberg table to follow. null: `serve` follows none, and the command `watch` follows `interactions`."""
    kind: Literal["deletions", "requests"] = "deletions"
    """`deletions`: what is deleted from the table is to be forgotten. `requests`: the rows of the table say what is to be
    forgotten. Its columns are user_id, item_id, since and until, and, if they are there, request_id and requester."""
    columns: Columns | None = None
    """With `deletions`: the names of the table's columns. null: the same as for `interactions` (the section `columns`)."""
    whole_users: bool = True
    """Whether a user who has no row left is forgotten as a user. The suppression list then keeps the user out of every
    ingest. false: only the deleted interactions are forgotten, which suits tables from which old rows are dropped."""
    max_rows: int = Field(1000, ge=1, le=100000)
    """With `deletions`: the largest number of users, interactions or events in one request. A commit of the table that
    deletes more makes several requests."""
    poll_seconds: float = Field(60, ge=0.05, le=86400)
    """The interval at which the table is read."""

    @model_validator(mode="after")
    def _requests_have_columns_of_their_own(self) -> Watch:
        if self.kind == "requests" and self.columns is not None:
            raise ValueError(
                "watch.columns: got a section, which only watch.kind 'deletions' reads (watch.kind is 'requests'): a table "
                "of requests has user_id, item_id, since, until"
            )
        return self


class Evidence(Section):
    """Receipts of requests: how they are signed, and how much of the lake is searched for them."""

    signing_key: str | None = None
    """A file outside `output` with an Ed25519 private key (PEM), which signs receipts. The environment variable
    UNLEARNREC_SIGNING_KEY may hold the PEM text instead. Without both, receipts are not signed, and say so."""
    public_keys: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ()
    """Files with public keys (PEM) whose signatures `status --verify` accepts besides that of the signing key: those of
    earlier keys, or of a key that only another machine has."""
    max_files: int = Field(10000, ge=1)
    """The largest number of data files of a table that `residue` opens, the current ones first. A receipt says how many were
    left out."""
    max_states: int = Field(100, ge=0)
    """The largest number of older versions or snapshots of a table that `residue` opens, the newest first."""


class DropList(Section):
    """Where the identifiers of one list of DROP are in your data: a column of their hashes, or of the identifiers."""

    table: str
    """A table of users with their identifiers or hashes, in any format that `interactions` may have: Parquet, CSV, Delta or
    Iceberg."""
    user: str = "user_id"
    """The table's column of users' ids, which are the same as those in `columns.user` of the interactions."""
    hash: str | None = None
    """The table's column of DROP's hashes (SHA-256), as Base64, hexadecimal or 32 bytes."""
    keyed: bool = False
    """Whether the column has HMAC-SHA256 of these hashes, with the key in `drop.key_variable`. Then nobody can be found by
    a hash without the key."""
    value: str | None = None
    """Instead of `hash`: the table's column of the identifiers, which are standardised and hashed as DROP does it. Not for
    ndz and namevin, because DROP converts their names by a table of its own."""

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
    """California's DROP: how users are found by the hashes of a batch, and what else decides the codes (docs/drop.md)."""

    email: DropList | None = None
    phone: DropList | None = None
    maid: DropList | None = None
    ctvid: DropList | None = None
    ndz: DropList | None = None
    namevin: DropList | None = None
    key_variable: str = Field("UNLEARNREC_DROP_KEY", min_length=1)
    """The environment variable that holds the key of `keyed` hashes. The key itself is never in the configuration."""
    exempt: str | None = None
    """A table with the column `user_id`: users whose data is all exempt. They are not forgotten, and get code 2."""
    opted_out: str | None = None
    """A table with the column `user_id`: users whom you have opted out of sale and sharing. An identifier of several users
    gets code 4 if all of them are in this table."""
    several: Literal["wait", "delete"] = "wait"
    """What to do with an identifier of several users. `wait` forgets none of them, because they may be several people.
    `delete` takes them for accounts of one person and forgets all of them."""
    nothing_held: Literal["wait", "deleted"] = "wait"
    """The code of a user in your table of whom the model has no data. `wait`: none. `deleted`: 3, if you delete the rest of
    the user's data yourself."""

    @model_validator(mode="after")
    def _names_are_hashed(self) -> Drop:
        for name in ("ndz", "namevin"):
            if (one := getattr(self, name)) is not None and one.value is not None:
                raise ValueError(
                    f"drop.{name}.value: got {one.value!r}, expected null; name a column of hashes in drop.{name}.hash"
                )
        return self


class Config(Section):
    """Everything on which a run depends. Relative paths are relative to the working directory."""

    interactions: str
    """The table of interactions, local or on s3://: Parquet or CSV (a file or a folder), a Delta table (`delta://PLACE` or
    its folder) or an Iceberg table (`iceberg://CATALOG/NAMESPACE.TABLE` or its folder). `?version=`, `?snapshot=` or
    `?timestamp=` after it chooses a state (docs/lake.md)."""
    test_interactions: str | None = None
    """The table of held-out interactions for `evaluate`, with the same columns as `interactions`. If it has no column
    `columns.value`, every row counts."""
    output: str
    """The folder, local or on s3://, into which everything is written."""
    seed: int = Field(0, ge=0, lt=2**63)
    """The seed of all random draws. The same seed and data give the same result."""
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
    """Check nested values and return them as a configuration.

    Raises:
        InputError: keys are unknown or missing, or values have the wrong type or are out of range. The message names each.
    """
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise InputError(explain(error, Config)) from None


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a YAML file with some values set on the command line.

    Args:
        path: the file. None: the defaults are taken, and `interactions` and `output` must be among the overrides.
        overrides: texts `section.key=value` with the value in YAML. Later ones replace earlier ones.

    Raises:
        InputError: the file is missing or is not a mapping, an override has no `=`, or as `parse_config`.
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
        # A section written as `train:` with nothing below it is None in YAML, and means that all its keys have defaults.
        inner = place.get(key) or {}
        if not isinstance(inner, dict):
            raise InputError(f"{override!r} on the command line: {'.'.join(keys[:depth])} holds a value, not keys")
        place[key] = dict(inner)
        place = place[key]
    place[keys[-1]] = parse_yaml_value(text, override)


def to_yaml(config: Config) -> str:
    """The configuration as YAML with every default written out. `load_config` reads it back as an equal object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
