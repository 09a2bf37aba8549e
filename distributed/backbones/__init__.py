"""The recommenders: one small file each, and one line here. `registry.py` finds those of other packages too."""

from .base import Backbone
from .lightgcn import LightGCN
from .ngcf import NGCF
from .sgl import SGL
from .simgcl import SimGCL

BACKBONES: dict[str, type[Backbone]] = {"lightgcn": LightGCN, "ngcf": NGCF, "sgl": SGL, "simgcl": SimGCL}

__all__ = ["BACKBONES", "Backbone"]
