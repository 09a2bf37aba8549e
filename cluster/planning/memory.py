"""The one model of memory: what a worker and the command's own process hold at their peaks, in bytes.

A worker's peak is that of its phases: it loads its shard, begins an epoch, takes steps, writes. Each phase is a sum of terms
whose factors stand below as constants, with what they count. `unlearnrec bench memory` measures the peaks and shows them
beside this model; who changes the code of a step measures them again and mends the constants (docs/planning.md).

Words: a table is 4 bytes x own nodes x embedding size, a row of pairs 4 bytes x interactions of a worker's batch x columns
of the readout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...distributed.encoder.influence import RIDGES
from ...distributed.measures.ranking import PAIRS_AT_A_TIME
from ...distributed.training.batch import WINDOW
from ...distributed.training.losses import SOFTMAX_CELLS
from ...partitioning import estimate
from ..config.model_sections import Backbone
from ..config.schema import Config
from .runs import carry_fork_of, fork_of
from .sizes import SHARD_ENTRY, SHARD_NODE, PartSizes, Sizes

WORKER, LEARNING = 365e6, 160e6
"""A worker's process with torch and Ray, before it holds anything; and what an optimizer's modules and small arrays add."""
HEAP = 60e6
"""Freed arrays below 32 MiB that the C library keeps for the next ones of a process."""
COMMAND, INGEST_COMMAND = 640e6, 160e6
"""The process of a command with torch and Ray; and what that of an ingest holds besides `partitioning.estimate`."""
RAY = 450e6
"""Ray's own processes on a machine: raylet, control store, agents, monitors, an idle worker or two."""
MANY_RANKS = 15e6
"""The process groups, once there are several workers."""

GRAPH_ENTRY, GRAPH_NODE, ANY_NODE, PAIR = 14, 64, 34, 8
"""What a loaded graph holds: a shard's neighbours and counts, the plan's columns and their blocks, for each entry; offsets,
degrees and scales, for each own node; owners and local rows, for each node of the whole graph; global ids, for each
interaction of own users."""
LOAD_ENTRY = 30
"""While a graph is made, for each entry."""
EPOCH_PAIR, DEAL_PAIR, DEALT_PAIR = 4, 36, 8
"""The batches of an epoch: the step of each interaction of own users, as long as the epoch runs; and of those that are put
in order at a time, at most batch.WINDOW: while this is done, and until the next ones."""

TABLE_COPIES = 3
"""The rows of E0 and Adam's two moments."""
WRITE_COPIES, CHECKPOINT_COPIES = 2, 3
"""Tables that are copied when the result, and when a checkpoint with its moments, is written."""


@dataclass(frozen=True)
class StepTables:
    """Tables that a backbone holds: `kept` from step to step, besides TABLE_COPIES, buffers and the gradient of the
    readouts; and at the peaks of a step, while it propagates and while it works on pairs. `each` and `pairs_each` are added
    for each layer."""

    kept: float
    fixed: float
    each: float
    pairs_fixed: float
    pairs_each: float = 0.0


STEP_TABLES = {
    "lightgcn": StepTables(2, 0, 0, 0),
    "sgl": StepTables(0, 9, 0, 3),
    "simgcl": StepTables(0, 7.5, 0.25, 3),
    "ngcf": StepTables(0, 5, 6, 1, 5),
}
MESSAGES = 2
"""Rows of a layer's exchange that are on their way, for each row received. Fitted to what two workers held."""
THINNED_KEPT, THINNED_MADE = 12, 40
"""The two thinned graphs of sgl, for each entry: as long as the epoch runs, and while the second is made."""

NODE_ROWS = (4.0, 6.0)
"""bpr: rows of the different users and items of a batch that are held at the peak: with one worker, and with several,
between which rows are exchanged."""
PAIR_ROWS = (4.0, 5.5)
"""softmax: rows of pairs that are held at the peak, likewise."""
PAIR_IDS = {"bpr": 300, "softmax": 220}
"""Ids, keys and orders of a batch, for each of its interactions."""

READOUT_COPIES = {"lightgcn": (1, 0), "sgl": (1, 0), "simgcl": (1, 0), "ngcf": (2, 2)}
"""Tables besides buffers while readouts are made without a gradient, the readout itself among them, and for each layer."""
RANKING = 45e6
"""Tiles of scores and the best of them, while a block of users is ranked, for each thread."""
TEST_ROW = 90
"""Test interactions, for each."""

REMOVED_ENTRY = 10
"""While a simulated request's interactions are chosen and taken out, for each entry."""
MOVED_ENTRY = 20
"""While many interactions (more than `gaps.MOST_MOVES`) are taken out of a loaded graph, for each entry: neighbours and
counts of the smaller shard, the columns of its plan without the gaps and numbered anew, and those of its blocks."""
AROUND_TABLES = 8
"""Tables of the solver that finds the rows around a request, where `influence.around` asks for it."""
EXAMPLE_COPIES = 3.3
"""Copies of the directions of each left-out interaction, seen from both of its ends, while an encoder is fitted."""
SYSTEM = 4 * 8 * 65**2
"""Copies of the linear system of the MLP's last layer, for each pair of directions: 64 hidden outputs and a bias each."""

ID, LOOK_NODE = 60, 60
"""External ids of nodes and what encodes them; and the evidence's arrays of nodes and of rows, for each node."""


def table_bytes(config: Config, part: PartSizes) -> float:
    """A table of this partition."""
    return 4.0 * part.nodes * config.backbone.embedding_size


def readout_columns(backbone: Backbone) -> int:
    """Columns of the readout of this backbone."""
    return backbone.embedding_size * (backbone.num_layers + 1 if backbone.name == "ngcf" else 1)


def base_bytes(sizes: Sizes) -> float:
    """A worker's process that holds nothing yet."""
    return WORKER + HEAP + (MANY_RANKS if len(sizes.parts) > 1 else 0)


def graph_bytes(sizes: Sizes, part: PartSizes) -> float:
    """A graph that is loaded."""
    return GRAPH_ENTRY * part.entries + GRAPH_NODE * part.nodes + ANY_NODE * sizes.nodes + PAIR * part.pairs


def load_bytes(sizes: Sizes, part: PartSizes, removes: bool = False) -> float:
    """A graph while it is made. removes: whether the interactions of a simulated request are looked for in it."""
    entry = LOAD_ENTRY + (REMOVED_ENTRY if removes else 0)
    return entry * part.entries + SHARD_NODE * part.nodes + ANY_NODE * sizes.nodes


def buffers_bytes(config: Config, part: PartSizes) -> float:
    """The buffers of a propagation: rows with the received ones behind them, two where a layer follows another, and the rows
    that are sent."""
    backbone = config.backbone
    buffers = 1 if backbone.name == "ngcf" or backbone.num_layers == 1 else 2
    rows = 4.0 * part.received * backbone.embedding_size
    return buffers * table_bytes(config, part) + (1 + MESSAGES + buffers) * rows


def readout_bytes(config: Config, part: PartSizes) -> float:
    """Making readouts without a gradient."""
    fixed, each = READOUT_COPIES[config.backbone.planned_as]
    return buffers_bytes(config, part) + (fixed + each * config.backbone.num_layers) * table_bytes(config, part)


def pair_bytes(config: Config, sizes: Sizes, part: PartSizes) -> float:
    """What the loss of a worker's part of a batch holds at its peak."""
    batch = min(config.train.batch_size, sizes.interactions) * part.pairs / max(1, sizes.interactions)
    several, row = len(sizes.parts) > 1, 4.0 * readout_columns(config.backbone)
    ids = PAIR_IDS[config.train.loss] * batch
    if config.train.loss == "softmax":
        chunk = 4.0 * max(SOFTMAX_CELLS, config.train.softmax_negatives)
        return PAIR_ROWS[several] * row * batch + ids + chunk
    nodes = different(batch, part.nodes - part.items) + different(2 * batch, sizes.items)
    return NODE_ROWS[several] * row * nodes + ids


def different(draws: float, number: float) -> float:
    """How many of a number of nodes are among so many draws, if all are equally likely."""
    return number * -math.expm1(-draws / max(1, number))


def kept_bytes(config: Config, part: PartSizes) -> float:
    """What a worker holds between two steps besides its graph: tables, buffers, and the gradient of the readouts."""
    tables = TABLE_COPIES + STEP_TABLES[config.backbone.planned_as].kept
    gradient = 4.0 * part.nodes * readout_columns(config.backbone)
    return tables * table_bytes(config, part) + buffers_bytes(config, part) + gradient


def train_bytes(config: Config, sizes: Sizes, part: PartSizes, removes: bool = False, carries: bool = False) -> float:
    """A worker's peak in a training. removes: as for a counterfactual, which leaves out a simulated request. carries: as for
    `make_plan`."""
    backbone, table = config.backbone, table_bytes(config, part)
    tables, layers = STEP_TABLES[backbone.planned_as], backbone.num_layers
    steady = graph_bytes(sizes, part) + kept_bytes(config, part)
    thinned = backbone.name == "sgl" and backbone.contrast_weight > 0
    window = min(part.pairs, max(WINDOW, config.train.batch_size))
    dealt = EPOCH_PAIR * part.pairs + DEALT_PAIR * window + (THINNED_KEPT * part.entries if thinned else 0.0)
    keeps = fork_of(config) is not None or (carries and carry_fork_of(config) is not None)
    saves = 0 < config.train.checkpoint_every < config.train.epochs or keeps
    phases = [
        load_bytes(sizes, part, removes),
        steady + EPOCH_PAIR * part.pairs + DEAL_PAIR * window,
        steady + dealt + (tables.fixed + tables.each * layers) * table,
        steady + dealt + (tables.pairs_fixed + tables.pairs_each * layers) * table + pair_bytes(config, sizes, part),
        steady + readout_bytes(config, part),  # when the last epoch is checked for finite scores
        steady + WRITE_COPIES * table,
        steady + CHECKPOINT_COPIES * table if saves else 0.0,
        steady + THINNED_MADE * part.entries + 3 * table if thinned else 0.0,
    ]
    return base_bytes(sizes) + LEARNING + max(phases)


def loaded_bytes(config: Config, sizes: Sizes, part: PartSizes) -> float:
    """A loaded version: its graph, the rows of E0, the readouts and the means of neighbours' readouts."""
    readout = 4.0 * part.nodes * readout_columns(config.backbone)
    return graph_bytes(sizes, part) + table_bytes(config, part) + 2 * readout


def loading_bytes(config: Config, sizes: Sizes, part: PartSizes) -> float:
    """The peak while a version is loaded. The means of neighbours are made while there are readouts already."""
    table, readout = table_bytes(config, part), 4.0 * part.nodes * readout_columns(config.backbone)
    making = max(readout_bytes(config, part), 4 * readout)
    return max(load_bytes(sizes, part), graph_bytes(sizes, part) + table + making)


def ranking_bytes(config: Config, sizes: Sizes, part: PartSizes) -> float:
    """What a worker holds besides the loaded version while users are ranked: the readouts of all items, and tiles of
    scores."""
    row = 4.0 * readout_columns(config.backbone)
    items = row * (sizes.items * (3 if len(sizes.parts) > 1 else 2) + part.items)
    threads = config.cluster.threads_per_worker or max(1, int(config.cluster.cpus_per_worker))
    return items + RANKING * threads


def evaluate_bytes(config: Config, sizes: Sizes, part: PartSizes, test_rows: int) -> float:
    """A worker's peak in an evaluation. test_rows: the interactions of the test table."""
    ranking = loaded_bytes(config, sizes, part) + ranking_bytes(config, sizes, part) + TEST_ROW * test_rows
    return base_bytes(sizes) + max(loading_bytes(config, sizes, part), ranking)


def forget_bytes(config: Config, sizes: Sizes, part: PartSizes) -> float:
    """A worker's peak while requests are carried out. The loaded version becomes the next one in place: no second one is
    loaded beside it, and its readouts go before the new ones are made. Files that deltas have outgrown are written anew, the
    shard first and then the rows."""
    table, held = table_bytes(config, part), loaded_bytes(config, sizes, part)
    without_ego = config.backbone.planned_as == "simgcl" and not config.backbone.ego
    around = without_ego if config.influence.around is None else config.influence.around
    phases = [
        loading_bytes(config, sizes, part),
        held + SHARD_ENTRY * part.entries,  # the smaller shard that is written; its file needs no copy
        held + WRITE_COPIES * table,
        held + MOVED_ENTRY * part.entries,
        held + ranking_bytes(config, sizes, part),  # the gate ranks a sample of users
        graph_bytes(sizes, part) + table + readout_bytes(config, part),
        held + AROUND_TABLES * table + readout_bytes(config, part) if around else 0.0,
    ]
    return base_bytes(sizes) + max(phases)


def left_out(config: Config, sizes: Sizes) -> float:
    """The interactions that the counterfactuals of a pre-training leave out, over all of them."""
    share, number = config.pretrain.request_share, config.pretrain.counterfactuals
    # The third kind takes from 3% of the users, and from popular items, which have about a third of all interactions.
    kinds = (share, share / 5, 0.03 * min(1.0, 3 * share) + 0.33 * min(1.0, 1.6 * share))
    return sizes.interactions * sum(kinds[k % 3] for k in range(number))


def fit_bytes(config: Config, sizes: Sizes, part: PartSizes) -> float:
    """A worker's peak while the encoder is fitted on the finished counterfactuals."""
    table, size = table_bytes(config, part), config.backbone.embedding_size
    blocks = readout_columns(config.backbone) // size
    # Of each side at most `pretrain.examples` interactions are fitted; a rank has its share of both sides.
    ends = min(left_out(config, sizes), config.pretrain.examples) * part.entries / max(1, sizes.interactions)
    directions = (3 + len(RIDGES)) * blocks + 2
    examples = EXAMPLE_COPIES * 4 * directions * size * ends + SYSTEM * directions**2
    runs = config.pretrain.counterfactuals
    # For the gains: what each run changes; of one at a time its graph, rows of E0, readouts, and rows of pairs.
    pairs = 4.0 * readout_columns(config.backbone) * PAIR_ROWS[0] * min(left_out(config, sizes), PAIRS_AT_A_TIME)
    # Before that, forks are stretched one by one: the rows of one at its end, and of it and of the original half way.
    changes = max(runs + 1, 3 if fork_of(config) is not None else 0)
    gains = changes * table + graph_bytes(sizes, part) + readout_bytes(config, part) + pairs
    held = loaded_bytes(config, sizes, part) + (runs + 1) * table
    return base_bytes(sizes) + LEARNING + held + max(examples, gains)


def pretrain_bytes(config: Config, sizes: Sizes, part: PartSizes) -> float:
    """A worker's peak in a pre-training: in its counterfactuals, or in the fit."""
    if config.pretrain.objective == "published":
        # The tables h0 and gate with their moments are trained as the backbone's are.
        return (
            train_bytes(config, sizes, part)
            + loaded_bytes(config, sizes, part)
            + TABLE_COPIES * table_bytes(config, part)
        )
    return max(train_bytes(config, sizes, part, removes=True), fit_bytes(config, sizes, part))


def ingest_bytes(config: Config, sizes: Sizes) -> float:
    """The peak of an ingest, which has no workers, with the process that METIS runs in."""
    partitioning = config.partitioning
    return INGEST_COMMAND + estimate.ingest_bytes(
        sizes.users,
        sizes.items,
        sizes.interactions,
        config.cluster.partitions,
        partitioning.strategy,
        round(partitioning.metis_gib * 2**30),
    )


def command_bytes(work: str, sizes: Sizes, test_rows: int = 0) -> float:
    """The peak of the process of the command itself, besides its workers."""
    held = {"evaluate": TEST_ROW * test_rows, "forget": (ID + LOOK_NODE) * sizes.nodes}
    return COMMAND + held.get(work, 0.0)
