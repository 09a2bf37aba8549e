"""What the methods of a partition return: plain dictionaries with the types of their values. All of them pickle."""

from typing import TypedDict

import numpy as np
import numpy.typing as npt

from ..graph.removal import Ids
from ..measures.standing import Standing

Rows = npt.NDArray[np.float32]
Recall = tuple[Ids, npt.NDArray[np.float64]]
"""Users [n] of one partition by dense id, and the Recall@K of each [n]."""


class Written(TypedDict):
    """A file that was written: its name under the output, the hex SHA-256 of its content, and its size."""

    name: str
    sha256: str
    bytes: int


class WithFiles(TypedDict):
    """The files that this partition wrote, shards apart."""

    files: list[Written]


class Deleted(TypedDict):
    """The users and items of this partition that lost their last interaction, by dense id."""

    gone_users: Ids
    gone_items: Ids


class Trained(WithFiles):
    """Of a training run: `curve` as `run_training` returns it; whether the backbone has dense weights."""

    curve: list[dict[str, float]]
    has_dense: bool


class Fitted(WithFiles):
    """Of an encoder's training: what `fit` measured (the same on every rank), and the longest change of a row of E0 that a
    counterfactual needed on this partition, by the L2 norm."""

    fit: dict[str, float]
    largest_shift: float


class FittedPublished(WithFiles):
    """Of the training of the encoder in the paper's form, which measures nothing: `fit` is empty."""

    fit: dict[str, float]


class Reduced(WithFiles, Deleted):
    """A shard and its rows without some interactions; how many interactions and events they were."""

    shard: Written
    removed: int
    removed_events: int


class Forgotten(WithFiles, Deleted):
    """Of a deletion request. `shard_chain`, `embedding_chain`: the files of this partition in the new version.
    `follow`: the deltas (of the shard, of the rows) that lead there from the version before; None where there are none.
    `tables`: the file of the encoder's tables, if it has any. `touched` rows of E0 changed, and `largest_change` is the
    largest L2 norm of the change of one that stays. `encoder_seconds` of the `seconds` went into the changes of rows."""

    shard_chain: tuple[str, ...]
    embedding_chain: tuple[str, ...]
    follow: tuple[tuple[str, ...], tuple[str, ...]] | None
    tables: str | None
    touched: int
    largest_change: float
    encoder_seconds: float
    seconds: float


class BaselineStanding(TypedDict):
    """Recall on the held-out pairs, and the standing of held-out and of trained pairs, with the users' rows and with
    stand-ins for them."""

    recall: Recall
    held_out: Standing
    trained: Standing
    stand_in_held_out: Standing
    stand_in_trained: Standing


class ForgottenStanding(TypedDict):
    """The standing of forgotten pairs: `kept` of users that stay, `deleted` of deleted users, by stand-ins."""

    kept: Standing
    deleted: Standing


class RecallAndStanding(ForgottenStanding):
    """Recall on the held-out pairs, and the standing of forgotten pairs."""

    recall: Recall


class Looked(TypedDict):
    """What an attacker sees of the nodes of this partition (`auditing.Ask`). users, items: the ids, and the columns of
    `attacks.view.Nodes`. returned: (positions among the listed pairs, 1 where the item is in its user's list)."""

    users: tuple[Ids, ...]
    items: tuple[Ids, ...]
    returned: tuple[Ids, Ids]
