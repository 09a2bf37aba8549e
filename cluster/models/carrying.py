"""Which encoder may be carried over to a new model, and where not, why (docs/encoder.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...distributed.backbones.registry import make_backbone
from ...distributed.encoder.influence import format_of
from ...distributed.encoder.pretrain import tries_around_encoder
from ...distributed.partition.version import EarlierEncoder
from ...partitioning.manifest import File
from ..config.schema import Config
from ..output.manifest import Manifest
from ..planning.runs import carry_fork_of
from ..reporting.progress import Progress

ANY_VALUE = ("epochs", "checkpoint_every", "kernel")
"""The keys of `train` that may differ between two models of the same recipe."""


@dataclass(frozen=True)
class Earlier:
    """An encoder that may be carried over, with its file as a manifest has it in `files`."""

    encoder: EarlierEncoder
    files: Mapping[str, File]


def earlier_of(current: Manifest | None) -> Earlier | None:
    """The encoder of a version, or the one that its training left to `pretrain`; None where there is neither."""
    if current is None:
        return None
    model = current.model
    found = model.earlier
    if model.encoder is not None:
        found = EarlierEncoder(
            encoder=model.encoder, version=current.version, backbone=model.backbone, train=model.train
        )
    if found is None or found.encoder.tables:  # those of the published form have a row for each node
        return None
    return Earlier(found, {found.encoder.file: current.files[found.encoder.file]})


def find_earlier(config: Config, current: Manifest | None, progress: Progress) -> Earlier | None:
    """The encoder that may be carried over to the model of a training with this configuration. None: there is none that
    fits, of which a note tells, or none is wanted.

    current: the current version when the training begins.
    """
    earlier = earlier_of(current)
    if earlier is None or carry_fork_of(config) is None:
        return None
    train = config.train.model_dump(mode="json")
    why = why_not_carried(config, earlier.encoder, config.backbone.specification(), train)
    if why is not None:
        progress.note(not_carried_text(earlier.encoder, why))
        return None
    return earlier


def encoder_to_carry(trained: Config, version: Manifest) -> EarlierEncoder | None:
    """The encoder that the training of a version left, if `pretrain` is to carry it over. A version with an encoder of its
    own has none: whoever runs `pretrain` on it wants a new one.

    trained: the configuration with the settings of the version's training.
    """
    model = version.model
    return model.earlier if model.encoder is None and carry_fork_of(trained) is not None else None


def is_current(earlier: Earlier | None, current: Manifest | None) -> bool:
    """Whether `find_earlier` may still find this encoder: a purge that has not seen a lease on it has not taken it."""
    found = earlier_of(current)
    return earlier is None or (found is not None and found.files == earlier.files)


def why_not_carried(
    config: Config, earlier: EarlierEncoder, backbone: Mapping[str, Any], train: Mapping[str, Any]
) -> str | None:
    """Why an encoder cannot be carried over to a model with this backbone and these settings of its training, or None."""
    encoder = earlier.encoder
    if encoder.objective != config.pretrain.objective:
        return f"its objective is {encoder.objective}, and pretrain.objective={config.pretrain.objective}"
    for section, before, now in (("backbone", earlier.backbone, backbone), ("train", earlier.train, train)):
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key) and key not in ANY_VALUE:
                return f"its model was trained with {section}.{key}={before.get(key)}, and this one with {now.get(key)}"
    model = make_backbone(dict(backbone), 0)
    made = format_of(encoder.objective, any(True for _ in model.parameters()))
    if encoder.format != made:
        return f"its format is {encoder.format}, and this release makes format {made} for this backbone"
    if encoder.around or tries_around_encoder(config.influence.around, model):
        return "requests change rows around a node here (influence.around), for which it is not done"
    layers = config.influence.mlp_layers
    if encoder.shape.get("mlp_layers", layers) != layers:
        return f"it has {encoder.shape['mlp_layers']} hidden layers, and influence.mlp_layers={layers}"
    return None


def not_carried_text(earlier: EarlierEncoder, why: str) -> str:
    """What is told where an encoder is not carried over."""
    return f"the encoder of version {earlier.version} is not carried over: {why}. A whole pre-training is needed"
