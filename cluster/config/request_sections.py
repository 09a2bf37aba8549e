"""The sections on deletion requests: how they are carried out, where they come from, and what shows it afterwards."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from .data_sections import Columns
from .section import Section, as_tuple


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
    max_batch: int = Field(1000, ge=1)
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
    callback_hosts: Annotated[tuple[CallbackHost, ...], BeforeValidator(as_tuple)] = ()
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
    public_keys: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()
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
