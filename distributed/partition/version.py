"""What a worker loads: a version's graph, its model and the checksums of its files."""

from __future__ import annotations

from typing import Any

from pydantic import SerializeAsAny

from ...partitioning.manifest import Chains, Document, File, Graph, Names
from ..encoder.influence import readable_formats


class Encoder(Document):
    """A trained Influence Encoder."""

    file: str
    tables: Names | None = None
    """By partition: of the paper's form only."""
    objective: str = "counterfactual"
    format: int = 1
    shape: dict[str, int]
    """Arguments of its class."""
    around: bool = False
    """Whether it changes rows around the touched nodes too."""
    largest_shift: float | None = None
    """Of a row, as far as the pre-training saw; None where it did not look."""
    interactions: int
    """Of the graph that it was trained on."""
    carried_from: int | None = None
    """The version from whose encoder it was carried over; None where a whole pre-training made it."""
    carried_r2: float | None = None
    """Of a carried one: R2 by `gains.explained_shifts` on the run that checked it."""

    @property
    def readable(self) -> bool:
        """Whether this release can use it."""
        return self.format in readable_formats(self.objective)


class EarlierEncoder(Document):
    """The encoder of the version before a training, and the recipe of its model. `pretrain` may carry it over."""

    encoder: Encoder
    version: int
    """The number of a version that had it."""
    backbone: dict[str, Any]
    train: dict[str, Any]


class Model(Document):
    """A trained backbone and its rows of E0."""

    backbone: dict[str, Any]
    """As `TrainRun.backbone`."""
    seed: int
    embeddings: Names
    """Files with the rows, by partition."""
    dense: str | None
    """The file of the backbone's dense weights; None where it has none."""
    encoder: Encoder | None
    train: dict[str, Any]
    """The section `train` of the configuration that it was trained with."""
    trained_on: Names
    """The files of the shards of the graph that it was trained on (`Graph.shard_chains`, one after the other)."""
    embedding_deltas: Chains | None = None
    """By partition: the files with what was changed in its rows since, in order (`delta.RowsDelta`)."""
    earlier: EarlierEncoder | None = None
    """Only while there is no `encoder`: that of the version before the training."""

    def embedding_chain(self, k: int) -> tuple[str, ...]:
        """The files that together are the rows of partition k: their base, then their deltas."""
        return (self.embeddings[k], *(self.embedding_deltas[k] if self.embedding_deltas else ()))

    def was_trained_on(self, graph: Graph) -> bool:
        """Whether it was trained on this graph, from which nothing was removed since."""
        return self.trained_on == tuple(name for chain in graph.shard_chains for name in chain)

    def named_files(self) -> list[str]:
        """The names of all files that the model needs."""
        names = [name for k in range(len(self.embeddings)) for name in self.embedding_chain(k)]
        if self.dense:
            names.append(self.dense)
        if self.encoder:
            names += [self.encoder.file, *(self.encoder.tables or ())]
        if self.earlier:
            names.append(self.earlier.encoder.file)
        return names


class Follows(Document):
    """How a version follows from another one. Workers that hold that one need not load the whole of the new one.

    A partition that neither list names has the same shard and rows in both. The files need not be in a chain of the new
    version, which may have been written anew as a whole.
    """

    fingerprint: str
    """Of the other version (`state.fingerprint`)."""
    shards: Chains
    """By partition: the deltas that lead from the other version's shard to this one's."""
    embeddings: Chains
    """By partition: likewise, for the rows of E0."""

    def named_files(self) -> list[str]:
        """The names of all these files."""
        return [name for chain in (*self.shards, *self.embeddings) for name in chain]


class Version(Document):
    """A version of graph and model, committed or not."""

    version: int
    """Its number. Before the commit, the one that it has if no other version is committed first."""
    graph: SerializeAsAny[Graph]  # else keys that only an `IngestedGraph` has would not be in the fingerprint
    model: Model
    files: dict[str, File]
    """All that graph, model and `follows` name."""
    follows: Follows | None = None
