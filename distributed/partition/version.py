"""What a worker loads: a version's graph, its model and the checksums of its files."""

from __future__ import annotations

from typing import Any

from pydantic import SerializeAsAny

from ...partitioning.manifest import Document, File, Graph, Names
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

    @property
    def readable(self) -> bool:
        """Whether this release can use it."""
        return self.format in readable_formats(self.objective)


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
    """The shard files of the graph that it was trained on."""


class Version(Document):
    """A version of graph and model, committed or not."""

    version: int
    """Its number. Before the commit, the one that it has if no other version is committed first."""
    graph: SerializeAsAny[Graph]  # else keys that only an `IngestedGraph` has would not be in the fingerprint
    model: Model
    files: dict[str, File]
    """All that graph and model name."""
