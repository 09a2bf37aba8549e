"""Make a new version before its commit: let the workers write its files, fine-tune touched rows, and ask the gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...distributed.graph.removal import Removal
from ...distributed.partition.partition import Partition
from ...distributed.partition.results import Forgotten
from ...distributed.partition.version import Follows
from ...distributed.partition.written import FileNames
from ...workers import WorkerGroup, calling
from ..output.manifest import FORMAT, Manifest, files_of, needed_files
from ..output.session import Session
from ..reporting.progress import Progress
from ..requests.matching import Effect
from .gate import CHANGED_BY_FINE_TUNING, Gate, active_bounds
from .gate_measures import FINE_TUNED, MISSED, PASSED
from .reduced_graph import Ids, merged_gone, new_graph
from .training import as_trained, make_run

RETRAIN = "run `unlearnrec retrain`"
"""What the user is told to do about a version that needs a retrain."""


@dataclass(eq=False)
class Candidate:
    """A version that a batch of requests makes, before its commit. Its files are written."""

    session: Session
    group: WorkerGroup
    version: Manifest
    """The version before."""
    manifest: Manifest
    """The new version; `fine_tune_and_judge` may replace it."""
    pairs: tuple[Ids, Ids]
    """(users [n], items [n]) of the removed interactions, by dense id."""
    gone: tuple[Ids, Ids]
    """(users, items) that were deleted, by dense id."""

    def fine_tune_and_judge(
        self, mark: Callable[[str], None], progress: Progress, largest_change: float, kept_rows: bool
    ) -> dict[str, Any]:
        """Fine-tune the new version and let the gate judge it, as the configuration says.

        If the gate is missed only in measures that fine-tuning can change, the touched rows are fine-tuned. The fine-tuned
        rows are kept if they miss no bound. Otherwise the version keeps the rows that it had, and `gate.given_up` says
        what was tried.

        Args:
            mark: called with the name of a phase when it ends.
            largest_change: the L2 norm of the largest change of a row that stays.
            kept_rows: do not fine-tune.

        Returns:
            The part of the answers about the gate: `gate`, `needs_retrain` and, where a retrain is needed, `retrain`. It is
            empty if no bound is set.
        """
        settings = self.session.config.forget
        gate = None
        if active_bounds(settings):
            # The workers still hold the version before, which the gate measures first.
            gate = Gate(self.session, self.group, self.version, self.pairs, self.gone)
            mark("gate")
        if settings.fine_tune_steps and not kept_rows:
            self.manifest = self._fine_tuned(settings.fine_tune_steps)
            mark("fine_tune")
        if self.version.needs_retrain:
            # Only a retrain ends this state. A batch does not, even if its own version passes the gate.
            self.manifest = self.manifest.replaced(needs_retrain=True)
        if gate is None:
            return {}
        self.session.ensure_loaded(self.group, self.manifest)
        mark("refresh")
        found = gate.judge(self.manifest, largest_change)
        mark("gate")
        # Fine-tuning is tried only if it can mend all that was missed. It is kept only if the gate then misses nothing.
        steps = settings.gate_fine_tune_steps
        if found["status"] == MISSED and CHANGED_BY_FINE_TUNING.issuperset(found["missed"]) and steps and not kept_rows:
            tuned = self._fine_tuned(steps)
            again = gate.judge(tuned, largest_change)
            if again["status"] == MISSED:
                found["given_up"] = {"steps": steps, "measures": again["measures"], "missed": again["missed"]}
                # The workers hold the version that will be committed.
                self.session.ensure_loaded(self.group, self.manifest)
            else:
                self.manifest = tuned
                found = again | {"status": FINE_TUNED if again["status"] == PASSED else again["status"]}
            mark("fine_tune")
        if found["status"] != MISSED:
            return {"gate": found, "needs_retrain": False}
        self.manifest = self.manifest.replaced(needs_retrain=True)
        tried = ", also after fine-tuning, which was given up" if "given_up" in found else ""
        progress.note(f"the new version misses its bounds ({', '.join(found['missed'])}){tried}: {RETRAIN}")
        return {"gate": found, "needs_retrain": True, "retrain": RETRAIN}

    def _fine_tuned(self, steps: int) -> Manifest:
        """Fine-tune the touched rows for some training steps; returns the manifest with the resulting rows.

        The rows are written to new files. So the rows before fine-tuning are still there if it is given up.
        """
        session, number = self.session, self.manifest.version
        model, graph = self.manifest.model, self.manifest.graph
        trained = as_trained(session.config, model)
        # This number of an epoch was used by neither the training nor another version, so the random draws are new.
        run = replace(make_run(trained, graph, Removal()), epochs=trained.train.epochs + number)
        names = [session.versions.new_name(number, f"tuned-{k:03d}", "safetensors") for k in range(graph.partitions)]
        users, items = (np.unique(ends) for ends in self.pairs)
        call = calling(Partition.fine_tune, session.location, users, items, run, steps, names)
        results = session.call(self.group, self.manifest, call)
        # The tuned rows stand behind those of the encoder, as one more delta of each partition that has touched rows.
        tuned = [tuple(file["name"] for file in result["files"]) for result in results]
        deltas = model.embedding_deltas or ((),) * graph.partitions
        model = model.replaced(embedding_deltas=tuple(old + new for old, new in zip(deltas, tuned, strict=True)))
        nothing: tuple[tuple[str, ...], ...] = ((),) * graph.partitions
        follows = Follows(fingerprint=session.fingerprint(self.manifest), shards=nothing, embeddings=tuple(tuned))
        known = self.manifest.files | files_of(results)
        files = {name: known[name] for name in needed_files(graph, model, follows)}
        return self.manifest.replaced(model=model, files=files, follows=follows)


@dataclass(frozen=True, eq=False)
class Change:
    """What a batch of requests changes in a version."""

    effect: Effect
    """What all requests of the batch remove together."""
    partitions: Sequence[int]
    """The partitions whose files change."""
    cut_only: bool = False
    """Remove the interactions, and leave the parameters as they are."""


def make_candidate(
    session: Session,
    group: WorkerGroup,
    version: Manifest,
    change: Change,
    mark: Callable[[str], None],
    progress: Progress,
) -> tuple[Candidate, float]:
    """Let the workers of the affected partitions write the files of a version with this change, and make its manifest.

    mark: called with the name of a phase when it ends.

    Returns:
        (the candidate, the L2 norm of the largest change of a row that stays). The workers still hold `version`.

    Raises:
        InputError, WorkerFailure: as `Session.call`.
    """
    number, graph = session.versions.next_number(), version.graph
    whole, affected = change.effect, change.partitions
    names = {
        k: tuple(session.versions.new_name(number, stem, "safetensors") for stem in FileNames.stems(k))
        for k in affected
    }
    pairs = (whole.users, whole.items)
    thinned = whole.thinned if whole.partial else None
    # All workers together make what the encoder reads of the touched nodes, unless they have it; those that are affected
    # then work by themselves.
    session.call(group, version, calling(Partition.complete, *pairs))
    # Only workers write shards and rows (W4), each its own. The others keep the files of the version before.
    call = calling(Partition.forget, session.location, *pairs, names, cut_only=change.cut_only, thinned=thinned)
    with progress.task("forget", len(affected)) as task:
        results = session.call(group, version, call, partitions=affected)
        task.advance(len(affected))
    mark("unlearn")
    by_partition = dict(zip(affected, results, strict=True))
    # The id maps (W5) come after the shards, because the workers find out which nodes lost their last interaction.
    gone = merged_gone(results)
    written = files_of(results)
    shards = {k: (result["shard_chain"], written) for k, result in by_partition.items()}
    changed = new_graph(session, graph, number, shards, gone, len(whole.users), whole.events)
    encoder = version.model.encoder
    assert encoder is not None
    chains = [version.model.embedding_chain(k) for k in range(graph.partitions)]
    tables = list(encoder.tables or ())
    for k, result in by_partition.items():
        chains[k] = result["embedding_chain"]
        if result["tables"] is not None:
            tables[k] = result["tables"]
    if tables:
        encoder = encoder.replaced(tables=tuple(tables))
    model = version.model.replaced(embeddings=tuple(chain[0] for chain in chains), encoder=encoder)
    if any(chain[1:] for chain in chains) or model.embedding_deltas is not None:
        model = model.replaced(embedding_deltas=tuple(chain[1:] for chain in chains))
    follows = _follows(session, version, by_partition)
    # The new version shares the unchanged files with the version before.
    files = version.files | changed.files | written
    manifest = Manifest(
        format=FORMAT,
        reason="forget",
        version=number,
        graph=changed,
        lake_graph=changed,
        model=model,
        files={name: files[name] for name in needed_files(changed, model, follows)},
        follows=follows,
    )
    mark("write")
    largest_change = max(result["largest_change"] for result in results)
    return Candidate(session, group, version, manifest, pairs, gone), largest_change


def _follows(session: Session, version: Manifest, results: Mapping[int, Forgotten]) -> Follows | None:
    """How the new version follows from `version`; None where a partition wrote no deltas. results: by partition."""
    shards, embeddings = [list[tuple[str, ...]]([()] * version.graph.partitions) for _ in range(2)]
    for k, result in results.items():
        if result["follow"] is None:
            return None
        shards[k], embeddings[k] = result["follow"]
    return Follows(fingerprint=session.fingerprint(version), shards=tuple(shards), embeddings=tuple(embeddings))
