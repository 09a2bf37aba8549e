"""Finds the class of a backbone by its name: one of this package, or one of the user's, in every process that needs it.

A name with a colon is the place of a class, `package.module:Class`. Workers are other processes, perhaps on other machines,
and import it there by the same name. A package may also give its class a short name, by an entry point in the group
`unlearnrec.backbones`.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from ...partitioning.errors import InputError
from . import BACKBONES
from .base import Backbone

GROUP = "unlearnrec.backbones"


def find_backbone(name: str) -> type[Backbone]:
    """The class of a backbone. name: one of BACKBONES, a place `package.module:Class`, or the name of an entry point.

    Raises:
        InputError: there is none, its module cannot be imported in this process, or it is no `Backbone`.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    place = name
    if ":" not in name:
        found = entry_points(group=GROUP, name=name)
        if not found:
            raise InputError(
                f"backbone.name {name}: is none of {', '.join(BACKBONES)}, and no package that is installed here gives one "
                f"this name. Install the package on every machine, or name the class: package.module:Class"
            )
        place = next(iter(found)).value
    module, _, path = place.partition(":")
    value: Any = _imported(module, name)
    for part in path.split("."):
        if not hasattr(value, part):
            raise InputError(f"backbone.name {name}: {module} has no {path}. Check the name of the class")
        value = getattr(value, part)
    if not (isinstance(value, type) and issubclass(value, Backbone)):
        raise InputError(f"backbone.name {name}: is no subclass of unlearnrec.Backbone, which a backbone has to be")
    return value


def make_backbone(spec: Mapping[str, Any], seed: int) -> Backbone:
    """Make the backbone of a specification such as `TrainRun.backbone`, with weights initialised from the seed.

    Raises:
        InputError: as `find_backbone`; or its class takes no option of this name.
    """
    values = dict(spec)
    name, options = values.pop("name"), values.pop("options", {})
    kind = find_backbone(name)
    known = _arguments(kind)
    for option in options:
        if option not in known:
            raise InputError(
                f"backbone.options.{option}: {kind.__name__} takes no such argument (here: {', '.join(sorted(known))})"
            )
    made = kind(seed=seed, **values, **options)
    if made.readout_size % made.embedding_size:
        raise InputError(
            f"backbone.name {name}: its readout_size is {made.readout_size}, expected a multiple of embedding_size "
            f"({made.embedding_size})"
        )
    return made


def _imported(module: str, name: str) -> Any:
    """The module of a backbone. The working directory counts too, as it does for `python -m`."""
    top = module.partition(".")[0]
    if module == "__main__" or top == "__main__":
        raise InputError(
            f"backbone.name {name}: is defined in the script or notebook itself, which workers do not import. Put the class "
            "into a file of its own, such as my_backbone.py, and name it my_backbone:Class"
        )
    here = os.getcwd()
    for added in (False, True):
        if added:
            if here in sys.path:
                break
            sys.path.append(here)
        try:
            return import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module and not module.startswith(f"{error.name}."):
                raise  # the module is there, and imports one that is not
            if added:
                sys.path.remove(here)
    raise InputError(
        f"backbone.name {name}: there is no module {module} in process {os.getpid()} ({sys.executable}). Workers are other "
        "processes: the file must lie in the folder in which the command or script is started, beside the script, or on "
        "PYTHONPATH; on a cluster, install it on every machine"
    )


def _arguments(kind: type[Backbone]) -> set[str]:
    """The names of the arguments that the constructors of a class and its bases take, without those of every backbone."""
    names = {
        name
        for base in kind.__mro__
        if issubclass(base, Backbone) and base is not Backbone and "__init__" in vars(base)
        for name, parameter in inspect.signature(vars(base)["__init__"]).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    return names - {"self", *inspect.signature(Backbone.__init__).parameters}
