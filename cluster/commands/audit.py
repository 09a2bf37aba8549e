"""`audit`: put the strongest known attacks to the current version, beside models that never had what was forgotten.

The audit changes no version. It trains models on the present graph: one without the request, one with another seed, and runs
on canaries; each takes as long as a training.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...distributed.attacks.attacks import ATTACKS, AttackedPairs, attack, untold
from ...distributed.attacks.canaries import Canaries
from ...distributed.attacks.likelihood import balanced_halves
from ...distributed.attacks.runs import ATTACKS_ON_CANARIES, LEAST_RUNS, Runs, attack_runs
from ...distributed.attacks.told import FOUND, tell
from ...distributed.graph.removal import Removal
from ...distributed.partition.auditing import Ask
from ...partitioning.errors import InputError
from ...workers import WorkerGroup
from ..audit.choice import Interactions, Pairs, asked_nodes, attacked_pairs, pool
from ..audit.looking import Look, Looking
from ..audit.outcome import Outcome, markdown, page
from ..config.schema import Config
from ..layout import audit_name, auditing_folder
from ..lifecycle.finding import find_stored
from ..models.held_out import held_out_pairs
from ..models.training import as_trained
from ..output.ingests import graph_key
from ..output.leases import Lease
from ..output.manifest import Manifest
from ..output.session import Session
from ..planning.announce import announce
from ..planning.sizes import sizes_of_graph
from ..reporting.progress import SILENT, Progress
from ..requests.matching import effect
from ..requests.request import Request, parse_request
from .evaluate_reference import forgotten_pairs, recipe_of, version_before

LEAST_RETRAINS = 2
"""The model without the request, and one with another seed: no attack means anything without both."""
RETRAINED, ANOTHER_SEED = "retrained", "another-seed"
"""The names of the two runs that are compared with."""
NOTHING: Pairs = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


def audit(
    config: Config,
    *,
    users: str | None = None,
    items: str | None = None,
    interactions: str | None = None,
    requests: str | None = None,
    retrains: int = 8,
    canaries: int | None = None,
    own_seeds: bool = False,
    progress: Progress = SILENT,
    group: WorkerGroup | None = None,
) -> dict[str, Any]:
    """Attack the current version.

    Args:
        users, items, interactions, requests: what was forgotten, as `forget` takes it. If the version still has it, it is
            forgotten in memory. If nothing is named, the canaries are.
        retrains: the budget of trainings. Two are compared with; those beyond are runs on canaries, of which at least four
            are needed. Those that were finished before are found again.
        canaries: the number of canaries of each kind of one interaction; None chooses it by the size of the graph.
        own_seeds: each run on canaries has a seed of its own, as those of an attacker who does not know the model's. If not,
            all have the model's, and the attacker's shadow models differ from it by what they were trained with alone.

    Returns:
        `attacks` by name, `untold` by name (why), `verdict` ("passed", "found" or "not told"), `passed` (False if something
        was found), `report` (the page), and what was audited.

    Raises:
        InputError: the version has no encoder, `retrains` or `canaries` are too few, nothing that is named is or was in the
            graph, or a file cannot be read.
        WorkerFailure: as `WorkerGroup.run`.
    """
    if retrains < LEAST_RETRAINS:
        raise InputError(
            f"--retrains {retrains}: at least {LEAST_RETRAINS} are needed, a model without the request and one with "
            f"another seed; {LEAST_RETRAINS + LEAST_RUNS} with canaries"
        )
    if canaries is not None and canaries < 1:
        raise InputError(
            f"--canaries {canaries}: at least 1 is needed; leave it out to choose by the size of the graph"
        )
    started = time.perf_counter()
    session = Session(config)
    version = session.whole_version()
    if version.model.encoder is None or not version.model.encoder.readable:
        raise InputError(f"version {version.version} has no encoder to audit. Run `unlearnrec pretrain` first")
    trained = as_trained(config, version.model)
    everything = Interactions.read(session.store, version.graph)
    chosen = pool(everything, canaries, trained.seed)
    plan = _Plan.of(session, version, everything, chosen, users, items, interactions, requests)
    runs = retrains - LEAST_RETRAINS
    if plan.own_encoder:
        runs = 0  # the encoder has tables for the rows of this version alone
    identity = [version.graph.document(), version.model.document(), plan.key(), trained.seed, canaries]
    unique = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]
    folder = auditing_folder(graph_key(version.graph), unique)
    announce(trained, sizes_of_graph(session.store, version.graph, config.partitioning.halo), "train", progress, group)
    made = LEAST_RETRAINS + (runs if runs >= LEAST_RUNS else 0)
    wanted = {RETRAINED, ANOTHER_SEED, *(name for name, _ in _runs_on_canaries(made - LEAST_RETRAINS, 0, own_seeds))}
    there = wanted & {name.rpartition("/")[2].removesuffix(".npz") for name in session.store.list(folder)}
    progress.note(f"audit: {made} such trainings, of which {len(there)} are there already")
    with Lease(session, version.version, [*version.files, f"{folder}/*"]) as lease, session.workers(group) as workers:
        if plan.before is not None:
            lease.add(plan.before.files)
        looking = Looking(session, workers, version, trained, folder, progress)
        outcome = Outcome(own_seeds=own_seeds)
        pairs = attacked_pairs(plan.rest, plan.forgotten, _test(session, version, progress), trained.seed)
        looked = _attack_request(looking, plan, pairs, trained.seed, outcome)
        if runs >= LEAST_RUNS:
            _attack_canaries(looking, plan, runs, trained.seed, looked, outcome)
    if runs < LEAST_RUNS:
        why = (
            "the encoder has tables of its own, which fit no other model (pretrain.objective=published)"
            if plan.own_encoder
            else f"--retrains {retrains} leaves {runs} runs; at least {LEAST_RETRAINS + LEAST_RUNS} retrains are needed"
        )
        outcome.untold |= dict.fromkeys(ATTACKS_ON_CANARIES, why)
    about = {
        "version": version.version,
        "request": plan.told,
        "removed_interactions": len(plan.forgotten[0]),
        "forgotten_pairs": len(pairs.forgotten[0]),
        "held_out_pairs": len(pairs.held_out[0]),
        "canaries": len(chosen),
        "retrains": len(looking.seconds),
        "retrain_seconds": float(np.sum(looking.seconds)),
        # Not the seed itself: a page may be handed on, and who has the seed can tell (docs/audit.md#canary-by-canary).
        "seeds_of_runs": "their own" if own_seeds else "that of the model",
    }
    document = {
        **about,
        "verdict": outcome.verdict,
        "attacks": outcome.document(),
        "untold": outcome.untold,
        "table": markdown(outcome),
    }
    name = f"{unique}-own-seeds" if own_seeds else unique
    report = audit_name(version.version, name, "html")
    session.store.write(audit_name(version.version, name), json.dumps(document, indent=1).encode())
    session.store.write(report, page(outcome, about).encode())
    return {
        **document,
        "passed": outcome.verdict != FOUND,
        "seconds": time.perf_counter() - started,
        "report": f"{config.output.rstrip('/')}/{report}",
    }


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is forgotten, and which models know it."""

    told: str
    """For people."""
    forgotten: Pairs
    """The interactions, sorted by user, then item."""
    rest: Interactions
    """Those that stay."""
    hidden: Pairs
    """Those of `forgotten` that the current version still has: all, or none."""
    before: Manifest | None
    """The version from before the request, where that is another one than the current version."""
    canaries: Canaries
    own_encoder: bool
    """Whether the encoder fits no other model."""
    named: bool
    """Whether the user named a request. If not, the canaries are the request."""

    @classmethod
    def of(
        cls, session: Session, version: Manifest, everything: Interactions, canaries: Canaries, *options: str | None
    ) -> _Plan:
        """The plan for what the options name. Raises InputError as `audit`."""
        own = version.model.encoder is not None and version.model.encoder.tables is not None
        if all(option is None for option in options):
            pairs = sorted_pairs(canaries.pairs)
            if not len(pairs[0]):
                raise InputError(
                    f"{session.config.output}: no interaction of version {version.version} can be a canary, since too few "
                    "would be left of its user or item. Name what was forgotten (--users, --items, --interactions)"
                )
            told = "nothing was named: the canaries, forgotten in memory"
            return cls(told, pairs, everything.without(pairs), pairs, None, canaries, own, False)
        users, items, interactions, requests = options
        request = parse_request(users, items, interactions, requests, None, session.options)
        resolved, found = find_stored(session.store, version.graph, [request])
        whole = effect(found, resolved, version.graph.items)
        if len(whole.users):
            pairs = sorted_pairs((whole.users, whole.items))
            told = "still in the version: forgotten in memory, as `forget` would"
            return cls(told, pairs, everything.without(pairs), pairs, None, canaries, own, True)
        before = version_before(session, version, recipe_of(session.config, version), request)
        pairs = sorted_pairs(forgotten_pairs(session, version, before, request))
        if not len(pairs[0]):
            raise InputError(_nothing(session, version, before, request))
        return cls("forgotten before", pairs, everything, NOTHING, before, canaries, own, True)

    def key(self) -> list[str]:
        """What tells this request from others."""
        digest = hashlib.sha256(self.forgotten[0].tobytes() + b"|" + self.forgotten[1].tobytes())
        return [digest.hexdigest(), str(len(self.hidden[0]))]


def sorted_pairs(pairs: Pairs) -> Pairs:
    """The pairs by user, then item."""
    order = np.lexsort((pairs[1], pairs[0]))
    return pairs[0][order], pairs[1][order]


def _nothing(session: Session, version: Manifest, before: Manifest | None, request: Request) -> str:
    if before is None:
        return (
            f"{session.config.output}: version {version.version} has nothing of what is named, and no version is left that "
            "had it. Name interactions with --interactions, or audit a request before it is carried out"
        )
    return (
        f"{session.config.output}: of what is named, no interaction has both its user and its item left in version "
        f"{version.version}, so there is no pair to attack. Run `audit` without naming anything: some of its canaries are "
        "whole users"
    )


def _test(session: Session, version: Manifest, progress: Progress) -> Pairs | None:
    """The test interactions; None if none are configured."""
    if session.config.test_interactions is None:
        progress.note("test_interactions is not set: attacks that compare with held-out pairs cannot be asked")
        return None
    users, items, _ = held_out_pairs(session, version.graph)
    return users, items


def _attack_request(
    looking: Looking, plan: _Plan, pairs: AttackedPairs, seed: int, outcome: Outcome
) -> tuple[Look, Look]:
    """Attack the request; what it told goes into `outcome`. Returns what is seen of the two retrains."""
    own = plan.canaries.asked() if not plan.named else NOTHING
    nodes = asked_nodes(pairs.asked(), own)

    def ask(hidden: Pairs = NOTHING, forgets: bool = False) -> Ask:
        return Ask(*nodes, pairs.forgotten, hidden, forgets)

    # A retrain on the present graph is one without what is already forgotten.
    removal = Removal(pair_users=plan.hidden[0], pair_items=plan.hidden[1])
    retrained = looking.at_run(RETRAINED, removal, seed, [ask()], "retrain without the request")[0]
    floor = looking.at_run(ANOTHER_SEED, removal, seed + 1, [ask()], "retrain with another seed")[0]
    before: Look | None = None
    if len(plan.hidden[0]):
        before, after = looking.at_version(looking.version, [ask(plan.hidden), ask(plan.hidden, forgets=True)])
    else:
        (after,) = looking.at_version(looking.version, [ask()])
        if plan.before is not None:
            (before,) = looking.at_version(plan.before, [ask(plan.forgotten)])
    then = None if before is None else before.view
    found = {
        name: attack(pairs, look.view, then, look.returned)
        for name, look in (("after", after), ("retrained", retrained), ("floor", floor))
    }
    first = {} if before is None else attack(pairs, before.view, None, before.returned)
    for name, measure in found["after"].items():
        others = [found["floor"][name]]
        of_two = ATTACKS[name].of_two_versions
        outcome.told[name] = tell(measure, found["retrained"][name], others, first.get(name), of_two)
    outcome.untold |= untold(pairs, then)
    return retrained, floor


def _runs_on_canaries(count: int, seed: int, own_seeds: bool) -> list[tuple[str, int]]:
    """(name, seed) of each run on canaries. seed: the model's; the one after it is that of the floor."""
    if own_seeds:
        return [(f"own-seed-{number:03d}", seed + 2 + number) for number in range(count)]
    return [(f"canaries-{number:03d}", seed) for number in range(count)]


def _attack_canaries(
    looking: Looking,
    plan: _Plan,
    count: int,
    seed: int,
    retrained: tuple[Look, Look],
    outcome: Outcome,
) -> None:
    """Attack the canaries one by one, over `count` runs; what it told goes into `outcome`."""
    canaries = plan.canaries
    nodes = canaries.asked()
    inside = balanced_halves(len(canaries), count, seed)
    looks = []
    for number, (name, own) in enumerate(_runs_on_canaries(count, seed, outcome.own_seeds)):
        mine, others = (sorted_pairs(canaries.pairs_of(x)) for x in (inside[number], ~inside[number]))
        asks = [Ask(*nodes, NOTHING, mine, forgets) for forgets in (False, True)]
        removal = Removal(pair_users=others[0], pair_items=others[1])
        title = f"run on canaries {number + 1}/{count}"
        looks.append(looking.at_run(name, removal, own, asks, title))
    before, after = (
        Runs(canaries, inside, *map(np.array, zip(*(canaries.statistics(look[n].view) for look in looks), strict=True)))
        for n in (0, 1)
    )
    # The two retrains have none of the canaries only where the canaries are the request.
    references = [] if plan.named else [canaries.statistics(look.view)[0] for look in retrained]
    outcome.add_runs(attack_runs(after, references[0] if references else None, references[1:], before))
