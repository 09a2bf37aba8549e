"""Backbones are found by name: those of the package, those of other modules, those of entry points. Without processes."""

import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest

from unlearnrec.cluster.config.schema import load_config, parse_config
from unlearnrec.cluster.planning import memory, speed
from unlearnrec.distributed.backbones import BACKBONES, registry
from unlearnrec.distributed.backbones.registry import find_backbone, make_backbone
from unlearnrec.partitioning.errors import InputError

MODULE = """
from unlearnrec import Backbone
from unlearnrec.distributed.backbones.sgl import SGL

class Plain(Backbone):
    def __init__(self, *args, slope=0.5, **others):
        super().__init__(*args, **others)
        self.slope = slope

    def forward(self, e0_ND, layer):
        return self.slope * layer(e0_ND)

class Wide(Plain):
    readout_size = 7

class Views(SGL):
    pass

class Box:
    Inner = Plain

NOT_ONE = 3
"""
PLACES = ["interactions=a", "output=b"]


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module my_models in the working directory."""
    (tmp_path / "my_models.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import there_is_no_such_package\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("my_models", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def spec(name: str, **options: Any) -> dict[str, Any]:
    values = {"interactions": "a", "output": "b", "backbone": {"name": name, "embedding_size": 4, "options": options}}
    return parse_config(values).backbone.specification()


def test_a_class_is_found_by_its_place_and_gets_its_options():
    made = make_backbone(spec("my_models:Plain", slope=0.25), seed=1)
    assert (type(made).__name__, made.slope, made.embedding_size, made.num_layers) == ("Plain", 0.25, 4, 3)
    assert find_backbone("my_models:Box.Inner") is find_backbone("my_models:Plain")
    assert make_backbone(spec("my_models:Views") | {"edge_keep": 0.5}, 0).edge_keep == 0.5
    assert find_backbone("ngcf") is BACKBONES["ngcf"]
    assert "options" not in parse_config({"interactions": "a", "output": "b"}).backbone.specification()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_models:Missing", "my_models has no Missing"),
        ("my_models:Box", "is no subclass of unlearnrec.Backbone"),
        ("my_models:NOT_ONE", "is no subclass"),
        ("nowhere:Plain", "there is no module nowhere in process .*beside the script, or on PYTHONPATH; on a cluster"),
        ("nowhere.deep:Plain", r"no module nowhere\.deep"),
        ("__main__:Plain", r"Put the class into a file of its own, such as my_backbone\.py"),
        ("no-such-name", "no package that is installed here gives one this name"),
    ],
)
def test_what_cannot_be_found_says_where_it_was_looked_for(name: str, message: str):
    with pytest.raises(InputError, match=f"backbone.name {name}: .*{message}"):
        find_backbone(name)


def test_an_error_inside_the_module_is_shown_as_it_is():
    with pytest.raises(ModuleNotFoundError, match="there_is_no_such_package"):
        find_backbone("broken:Plain")


def test_a_misspelt_option_is_told(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match=r"backbone\.options\.slpoe: Plain takes no such argument \(here: slope\)"):
        make_backbone(spec("my_models:Plain", slpoe=1.0), seed=0)
    with pytest.raises(InputError, match="its readout_size is 7, expected a multiple of embedding_size"):
        make_backbone(spec("my_models:Wide"), seed=0)
    for override, message in (
        ("backbone={options: {restart: 1}}", "expected nothing for lightgcn"),
        (
            "backbone={name: 'a:B', options: {num_layers: 1}}",
            "backbone.options.num_layers: is a key of `backbone` itself",
        ),
        ("backbone={name: 'a:B', options: {x: [1]}}", r"backbone.options"),
        ("backbone={name: 'a:B', options: 3}", r"backbone.options: got 3 \(int\), expected keys with values"),
        ("backbone.name=a:1b", r"expected one of lightgcn, ngcf, sgl, simgcl, the place of a class of your own"),
    ):
        with pytest.raises(InputError, match=message):
            load_config(None, [*PLACES, override])


def test_an_entry_point_gives_a_class_a_short_name(monkeypatch: pytest.MonkeyPatch):
    def installed(group: str, name: str) -> EntryPoints:
        there = [EntryPoint("plain", "my_models:Plain", registry.GROUP)]
        return EntryPoints(there).select(group=group, name=name)

    monkeypatch.setattr(registry, "entry_points", installed)
    monkeypatch.setattr("unlearnrec.cluster.config.model_sections.entry_points", installed)
    assert find_backbone("plain").__name__ == "Plain"
    assert make_backbone(spec("plain", slope=2.0), 0).slope == 2.0


def test_plans_know_what_to_take_it_for():
    mine = parse_config({"interactions": "a", "output": "b", "backbone": {"name": "my_models:Plain"}}).backbone
    for needs in (memory.STEP_TABLES, memory.READOUT_COPIES, speed.PASSES, speed.TABLE_PASSES):
        assert mine.planned_as in needs and set(needs) == set(BACKBONES)
