"""The recommenders: one small file each, and one line here."""

from .base import Backbone
from .lightgcn import LightGCN
from .ngcf import NGCF

BACKBONES: dict[str, type[Backbone]] = {"lightgcn": LightGCN, "ngcf": NGCF}

__all__ = ["BACKBONES", "Backbone"]
