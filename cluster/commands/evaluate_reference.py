"""`evaluate --reference`: compare the current version with one that was trained without what was forgotten."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ...distributed.measures import gap as shares
from ...partitioning.errors import InputError
from ...partitioning.graph import dense_ids
from ...partitioning.ingest import load_ids
from ...workers import KeptWorkers, Workers
from ..config.schema import Config
from ..evidence.run_report import comparison, seconds_of, update_run_report
from ..lifecycle.finding import find_stored
from ..log.records import COMMITTED
from ..models.comparison import Measured, Probe, compare, measure_version
from ..models.held_out import held_out_pairs
from ..models.training import as_trained
from ..output.leases import leased
from ..output.manifest import Manifest, manifest_of
from ..output.ready import no_reference_text
from ..output.session import Session
from ..reporting.progress import Progress
from ..requests.matching import effect, resolve
from ..requests.request import Request, parse_request

Ids = npt.NDArray[np.int64]
Pairs = tuple[Ids, Ids]

SIDES = ("user", "item")
RANDOM_PAIRS = 20_000
"""The number of random pairs that are scored."""
INDIFFERENT = {"checkpoint_every", "kernel"}
"""Keys of the section `train` that do not change the result of a training."""
ORIGINAL, UNLEARNED, RETRAINED = "original", "unlearned", "retrained"


def evaluate_against(
    config: Config,
    reference: str,
    *,
    users: str | None = None,
    items: str | None = None,
    interactions: str | None = None,
    requests: str | None = None,
    progress: Progress,
    group: Workers | None = None,
) -> dict[str, Any]:
    """As `compare_with_reference`, for the options of the command: users, items, interactions and requests are what was
    forgotten, as `forget` takes it."""
    request = parse_request(users, items, interactions, requests, None, Session(config).options)
    return compare_with_reference(config, reference, request, progress=progress, group=group)


def compare_with_reference(
    config: Config, reference: str, request: Request, *, progress: Progress, group: Workers | None = None
) -> dict[str, Any]:
    """Evaluate the current version, and compare its scores of the forgotten interactions with those of a model that was
    trained without them.

    Args:
        reference: another output of the same data, configuration and seed whose current version was trained without them.
            It may have other partitions: users and items are matched by their external ids.
        request: what was forgotten. Rows of a file that mean nothing are left out, and a note says how many.

    Returns:
        The keys of `evaluate`, and `models`: a row as of `comparison.compare` for the version before the request, the
        current version and the reference. `gap_closed` (of the attack's AUC, with its interval), `shift_r2` and
        `shift_slope` are None if they cannot be measured: there is no gap to close, no version before the request is there
        any more, or no forgotten interaction has both its user and its item left.

    Raises:
        InputError: the reference is not such a model, or has other users, items or interactions; one of the two models still
            has some of what is named; the test interactions are missing or cannot be read.
    """
    session = Session(config)
    if not any(request.entries()):
        raise InputError("the request names no user, item or interaction. Give what was forgotten")
    if request.tally.invalid:
        progress.note(f"{request.tally.invalid} of {len(request.rows)} rows mean nothing and are left out")
    other = _open(config, reference)
    with leased(session) as version, leased(other) as retrained:
        _check_recipe(config, version, retrained, reference)
        _check_gone(session, version, request, "Run `unlearnrec forget` first")
        _check_gone(other, retrained, request, "Train it `--without` them")
        there = _matched(session, version, other, retrained)
        before = version_before(session, version, recipe_of(config, retrained), request)
        test_users, test_items, unknown = held_out_pairs(session, version.graph)
        forgotten = forgotten_pairs(session, version, before, request)
        probe = Probe(forgotten, (test_users, test_items), _random_pairs(there, config.seed))
        theirs = Probe(*((there[0][u], there[1][i]) for u, i in (probe.forgotten, probe.held_out, probe.random)))
        models: dict[str, Measured] = {}
        with session.workers(group) as own:
            for name, one in ((ORIGINAL, before), (UNLEARNED, version)):
                if one is not None:
                    models[name] = measure_version(session, one, own, probe, probe.held_out)
            same_workers = retrained.graph.partitions == version.graph.partitions
            if same_workers:
                models[RETRAINED] = measure_version(other, retrained, own, theirs, theirs.held_out)
        if not same_workers:
            if isinstance(group, KeptWorkers):
                group.stop()  # the other group needs the room
            with other.workers() as own:
                models[RETRAINED] = measure_version(other, retrained, own, theirs, theirs.held_out)
    same_draws = _same_draws(version, retrained, there)
    if not same_draws:
        progress.note(
            f"--reference {reference}: ingested from other data, so that its random draws are others too, and its scores "
            "differ for that reason alone. Ingest the same table, and train it `--without` the request"
        )
    if before is None:
        progress.note(
            f"{config.output}: no version from before the request is there any more, so no change can be said"
        )
    rows = compare(models, ORIGINAL if before is not None else None, RETRAINED, config.evaluate.k[0])
    own_row = next(row for row in rows if row["model"] == UNLEARNED)
    metrics = models[UNLEARNED].metrics
    told = comparison(models, rows)
    told["about"] = _about(before, version, retrained, len(forgotten[0]), same_draws)
    told["seconds"] = seconds_of(session, before, version, other, retrained)
    report = update_run_report(session, version, progress, comparison=told, quality=metrics)
    return {
        "version": version.version,
        **metrics,
        "users": int(metrics["users"]),
        "unknown_test_rows": unknown,
        "before_version": None if before is None else before.version,
        "reference_version": retrained.version,
        "same_draws": same_draws,
        "forgotten_pairs": len(forgotten[0]),
        "held_out_pairs": len(test_users),
        **_gap_closed(models),
        "shift_r2": own_row.get("shift R2"),
        "shift_slope": own_row.get("shift slope"),
        "models": rows,
        "report": report,
    }


def _about(before: Manifest | None, version: Manifest, retrained: Manifest, pairs: int, same_draws: bool) -> str:
    """What the report says of the comparison."""
    original = "" if before is None else f"the original is version {before.version}, "
    told = (
        f"By {pairs:,} forgotten pairs: {original}the unlearned model is version {version.version} of this output, and the "
        f"retrained one version {retrained.version} of another."
    )
    if not same_draws:
        told += (
            " It was ingested from other data, so its random draws are others, and its scores differ for that alone."
        )
    return told


def _open(config: Config, reference: str) -> Session:
    """A session on the reference's output, with the number of partitions of that output.

    Raises:
        InputError: there is no trained model.
    """
    found = Session(config.model_copy(update={"output": reference})).versions.current()
    if found is None:
        raise InputError(no_reference_text(reference))
    cluster = config.cluster.model_copy(update={"partitions": found.graph.partitions})
    return Session(config.model_copy(update={"output": reference, "cluster": cluster}))


def recipe_of(config: Config, version: Manifest) -> dict[str, Any]:
    """Everything except the data on which the training of this version depended, by configuration key."""
    trained = as_trained(config, version.model)
    sections = {"backbone": trained.backbone.model_dump(), "train": trained.train.model_dump(exclude=INDIFFERENT)}
    keys = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    return {"seed": trained.seed} | keys


def _check_recipe(config: Config, version: Manifest, retrained: Manifest, reference: str) -> None:
    """Raise InputError unless the reference was trained with the same configuration, and has forgotten nothing since."""
    if not retrained.model.was_trained_on(retrained.graph):
        raise InputError(
            f"--reference {reference}: its version {retrained.version} forgot something after its training, so it is no "
            "retrained model. Run `unlearnrec train --without` there"
        )
    theirs = recipe_of(config, retrained)
    for key, ours in recipe_of(config, version).items():
        if ours != theirs[key]:
            raise InputError(
                f"--reference {reference}: trained with {key}={theirs[key]}, but version {version.version} with "
                f"{key}={ours}. Train it with the same configuration"
            )


def named_pairs(session: Session, version: Manifest, request: Request) -> Pairs:
    """The interactions of this version's graph that the request names, by dense id."""
    named, found = find_stored(session.store, version.graph, [request])
    whole = effect(found, named, version.graph.items)
    return whole.users, whole.items


def _check_gone(session: Session, version: Manifest, request: Request, remedy: str) -> None:
    """Raise InputError if the version still has an interaction that the request names. remedy: what the user can do."""
    if held := len(named_pairs(session, version, request)[0]):
        raise InputError(
            f"{session.config.output}: version {version.version} still holds {held} of the interactions that are named. "
            f"{remedy}"
        )


def _matched(session: Session, version: Manifest, other: Session, retrained: Manifest) -> tuple[Ids, Ids]:
    """(users, items): for each dense id of the version, the dense id of the same user or item in the reference; -1 if the
    version's dense id is not used any more.

    Raises:
        InputError: the two do not have the same users, items and number of interactions.
    """
    found = []
    for side in SIDES:
        ids, node, _ = load_ids(session.store, version.graph, side)
        their_ids, their_node, _ = load_ids(other.store, retrained.graph, side)
        matched = dense_ids(their_ids, their_node, ids)
        common = int((matched >= 0).sum())
        if common < max(len(ids), len(their_ids)):
            raise InputError(
                f"--reference {other.config.output}: holds {len(their_ids)} {side}s and version {version.version} "
                f"{len(ids)}, of which {common} are the same. {_SAME_DATA}"
            )
        there = np.full(version.graph.nodes(side), -1, dtype=np.int64)
        there[node] = matched
        found.append(there)
    ours, theirs = (x.graph.interactions for x in (version, retrained))
    if ours != theirs:
        raise InputError(
            f"--reference {other.config.output}: holds {theirs} interactions and version {version.version} {ours}. "
            f"{_SAME_DATA}"
        )
    return found[0], found[1]


_SAME_DATA = "Ingest the same table there, and train it `--without` everything that was forgotten here"


def _same_draws(version: Manifest, retrained: Manifest, there: tuple[Ids, Ids]) -> bool:
    """Whether both trainings had the same random draws. Draws are keyed by dense id, and the number of steps depends on the
    number of ingested interactions, so both must be equal."""
    known = [np.flatnonzero(side >= 0) for side in there]
    same_nodes = all(bool((side[ids] == ids).all()) for side, ids in zip(there, known, strict=True))
    keys = ("ingested_interactions", "users", "items")
    return same_nodes and all(getattr(version.graph, key) == getattr(retrained.graph, key) for key in keys)


def version_before(session: Session, version: Manifest, recipe: Mapping[str, Any], request: Request) -> Manifest | None:
    """The last version that had all named interactions; None if there is none, or its files were removed.

    Only versions of the same ingest count, with this recipe (`recipe_of`), that are no counterfactuals.
    """
    kept = [
        one
        for record in session.log.records()
        if record.kind == COMMITTED and (one := manifest_of(record)).version < version.version
        if one.graph.ingest == version.graph.ingest
        and one.graph.shard_chains == one.lake_graph.shard_chains  # a counterfactual has two graphs
        and recipe_of(session.config, one) == recipe
        and all(session.store.exists(name) for name in one.files)
    ]
    most = len(named_pairs(session, kept[0], request)[0]) if kept else 0
    if not most:
        return None
    # The number of named interactions never grows from one version to the next, so the last version can be bisected.
    place = bisect_right(kept, 0, key=lambda one: most - len(named_pairs(session, one, request)[0]))
    return kept[place - 1]


def forgotten_pairs(session: Session, version: Manifest, before: Manifest | None, request: Request) -> Pairs:
    """The forgotten interactions whose user and item are both still in the version, by dense id.

    The version before the request says which they are. Without it, they are those that the request names as pairs.
    """
    maps = [load_ids(session.store, version.graph, side) for side in SIDES]
    if before is None:
        removal = resolve(request, maps[0], maps[1]).removal
        return removal.pair_users, removal.pair_items
    users, items = named_pairs(session, before, request)
    stay = np.isin(users, maps[0][1]) & np.isin(items, maps[1][1])
    return users[stay], items[stay]


def _random_pairs(there: tuple[Ids, Ids], seed: int) -> Pairs:
    """RANDOM_PAIRS pairs of users and items that both models have, by dense id of the version."""
    draw = np.random.default_rng(seed)
    users, items = (draw.choice(np.flatnonzero(side >= 0), RANDOM_PAIRS) for side in there)
    return users, items


def _gap_closed(models: dict[str, Measured]) -> dict[str, Any]:
    """The share of the gap between the attack's AUCs that was closed, with the interval of `share_of_gap`; None for both if
    it cannot be measured."""
    if ORIGINAL in models and len(models[ORIGINAL].forgotten):
        scores = [models[name] for name in (ORIGINAL, UNLEARNED, RETRAINED)]
        before, after, target = (shares.auc(one.forgotten, one.held_out) for one in scores)
        share = shares.share_of_gap(before, after, target)
        if not np.isnan(share.value):
            return {"gap_closed": share.value, "gap_closed_interval": [share.low, share.high]}
    return {"gap_closed": None, "gap_closed_interval": None}
