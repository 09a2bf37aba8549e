"""The sections on the model: the backbone, its training, the Influence Encoder, its pre-training, and the measures."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from .section import Section, as_tuple

BACKBONES = ("lightgcn", "ngcf", "sgl", "simgcl")
"""The names of the backbones of this package. The registry in `distributed/backbones` has the same names; a test checks
that."""
BACKBONE_PLACE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
"""Where a class of a backbone is: package.module:Class."""
DENSE_RATE = 0.1
"""The learning rate of dense weights as a part of `train.learning_rate`, where `train.dense_learning_rate` is null."""
BACKBONE_GROUP = "unlearnrec.backbones"
"""The group of entry points in which an installed package gives names to its backbones."""


def _known_backbone(name: str) -> str:
    """The name, unless it can be none of a backbone. Nothing is imported: the class itself is looked at where it is used."""
    if name in BACKBONES or BACKBONE_PLACE.fullmatch(name) or entry_points(group=BACKBONE_GROUP, name=name):
        return name
    raise ValueError(
        f"backbone.name: got {name!r} (str), expected one of {', '.join(BACKBONES)}, the place of a class of your own, such "
        "as package.module:Class, or a name that an installed package gives one (docs/python.md)"
    )


BackboneName = Annotated[
    str, AfterValidator(_known_backbone), WithJsonSchema({"anyOf": [{"enum": list(BACKBONES)}, {"type": "string"}]})
]


class Backbone(Section):
    """The recommender model."""

    name: BackboneName = "lightgcn"
    """Which recommender: a linear graph convolution (lightgcn), one with weights (ngcf), one with a contrastive loss
    (sgl, simgcl), or one of your own: package.module:Class (docs/python.md)."""
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
    options: dict[str, bool | int | float | str] = Field({})
    """Of a backbone of your own: further arguments of its class, by name."""

    @model_validator(mode="after")
    def _options_are_of_another_class(self) -> Backbone:
        if self.options and self.name in BACKBONES:
            raise ValueError(
                f"backbone.options: got {self.options!r}, expected nothing for {self.name}; only a backbone of your own "
                "reads them"
            )
        if twice := sorted(self.options.keys() & type(self).model_fields.keys()):
            raise ValueError(f"backbone.options.{twice[0]}: is a key of `backbone` itself. Set backbone.{twice[0]}")
        return self

    @property
    def planned_as(self) -> str:
        """The backbone of this package whose needs `plan` takes for those of this one. What one of your own needs is not
        known: it is planned as ngcf, which needs most."""
        return self.name if self.name in BACKBONES else "ngcf"

    def specification(self) -> dict[str, Any]:
        """The section as `TrainRun.backbone` and manifests have it: without `options` where there are none, so that those of
        this package are named as they were before the key."""
        found = self.model_dump()
        return found if self.options else {key: value for key, value in found.items() if key != "options"}


class Train(Section):
    """How the backbone is trained."""

    epochs: int = Field(30, ge=1)
    """Passes over all interactions."""
    batch_size: int = Field(16384, ge=1)
    """The number of interactions in a step, over all partitions. Each step costs a full propagation, so large batches are
    efficient."""
    learning_rate: float = Field(0.01, gt=0)
    """Of Adam."""
    dense_learning_rate: float | None = Field(None, gt=0)
    """Of Adam, for the dense weights of a backbone that has any (ngcf). null: a tenth of `learning_rate`. With higher ones
    two trainings that differ in a few interactions end far apart, and a request cannot be forgotten well (docs/log.md)."""
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

    def rate_of_dense(self, has_dense: bool) -> float | None:
        """The learning rate of the dense weights of a backbone that has some (`has_dense`); None where it has none."""
        if not has_dense:
            return None
        return DENSE_RATE * self.learning_rate if self.dense_learning_rate is None else self.dense_learning_rate


class Validation(Section):
    """How `train` and `retrain` choose the number of epochs, and `train --tune` settings, without the test interactions
    (docs/evaluation.md)."""

    share: float = Field(0.0, ge=0, lt=1)
    """The share of each chosen user's interactions that is held out while choosing; .1 is usual. The model is then trained
    on all interactions. 0: nothing is chosen, and train.epochs holds."""
    users: float = Field(10_000, gt=0)
    """Of how many users: below 1 their share, from 1 their number, about."""
    every: int = Field(1, ge=1)
    """The number of epochs between two evaluations."""
    patience: int = Field(3, ge=1)
    """After so many evaluations in a row that are no better than an earlier one, a run ends before train.epochs."""
    metric: Literal["ndcg", "recall"] = "ndcg"
    """The measure that decides, at the first cut-off of evaluate.k."""


class Tune(Section):
    """What `train --tune` tries."""

    grid: dict[str, list[Any]] = Field({})
    """Values by key of the sections `train` and `backbone`, such as {train.learning_rate: [0.001, 0.003]}. Each combination
    is tried. Empty: half, once and twice the configured train.learning_rate."""


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
    fork: float = Field(0.5, ge=0, lt=1)
    """With the objective counterfactual: the part of the training, in whole epochs, after which its state is kept and the
    retrains begin, but for that of the smallest request, which begins at the first epoch. With .5 the three cost two
    trainings, with 0, where all begin at the first epoch, three (docs/encoder.md#forks)."""
    carry: bool = True
    """With the objective counterfactual, after another training: take over the encoder of the version before, where its
    model was trained with the same settings, and check it by one retrain of the last tenth of the epochs. Where it does
    badly, or with false, a whole pre-training is made (docs/encoder.md#carrying-an-encoder-over)."""
    examples: int = Field(131_072, ge=1)
    """With the objective counterfactual: about how many left-out interactions of each side the encoder is fitted on. If
    there are more, a random sample of the nodes is used, each with all of its interactions. One takes 1.8 kB with embeddings
    of 64 columns."""
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


class Evaluate(Section):
    """How quality is measured."""

    k: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1), BeforeValidator(as_tuple)] = (20,)
    """The cut-offs K of Recall@K and NDCG@K."""
    users: float | None = Field(None, gt=0)
    """Evaluate only a sample of the users with test items: below 1 their share, from 1 their number. The sample depends on
    `seed` alone, and the answer then has standard errors. null: all of them."""
    batch_users: int = Field(1024, ge=1)
    """The largest number of users that are ranked at once. On a CPU at most 256 for each thread are."""
