"""`config`: every key is explained, and a mistyped one leads to the right one."""

import json

import pytest

from unlearnrec.cluster.cli.app import run
from unlearnrec.cluster.commands.config import explain_config
from unlearnrec.cluster.config.keys import all_keys
from unlearnrec.cluster.config.schema import Config
from unlearnrec.partitioning.errors import InputError


def test_every_key_and_section_is_explained():
    keys = all_keys(Config)
    assert not [key.path for key in keys if not key.about]
    assert len({key.path for key in keys}) == len(keys)


def test_the_defaults_and_what_must_be_given_are_those_of_the_model():
    keys = {key.path: key for key in all_keys(Config)}
    given = {"interactions": "a", "output": "b"}
    values = Config(**given).model_dump(mode="json")
    for path, key in keys.items():
        if path in given or (path.startswith("drop.") and path.count(".") > 1):
            continue
        place = values
        for name in path.split("."):
            place = place[name] if place is not None else None
        if not key.section and not path.startswith("watch.columns."):
            assert (key.default, key.required) == (place, False), path
    assert [path for path in given if not keys[path].required] == []
    assert keys["drop.email.table"].required and not keys["drop.email.user"].required


def test_a_key_is_printed_with_its_range_and_default(capsys):
    assert run(["config", "backbone.embedding_size"]) == 0
    assert capsys.readouterr().out == (
        "backbone.embedding_size  (default: 64; an integer >= 1 and <= 4096)\n"
        "  Columns of each user's and item's embedding.\n"
    )
    assert run(["config", "train.epochs", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["key"], told["default"], told["required"]) == ("train.epochs", 30, False)


def test_without_a_key_all_are_listed_in_sections(capsys):
    assert run(["config"]) == 0
    text = capsys.readouterr().out
    listed = {row["key"] for row in explain_config(None)["keys"]}
    assert {"interactions", "train.epochs", "drop.email"} <= listed and "drop.email.table" not in listed
    assert all(f"  {name}  " in text for name in listed)
    assert text.index("\ntrain: How") < text.index("  train.epochs") < text.index("\ninfluence: ")
    assert "must be given" in text


@pytest.mark.parametrize(("section", "first"), [("train", "train.epochs"), ("drop.email", "drop.email.table")])
def test_a_section_is_listed_with_what_its_keys_mean(section, first, capsys):
    assert run(["config", section]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{section}: ") and f"\n{first}  (default: " in text
    assert {row["key"].rpartition(".")[0] for row in explain_config(section)["keys"]} == {section}


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("epochs", "train.epochs or pretrain.epochs"),
        ("train.epoch", "train.epochs or pretrain.epochs"),
        ("pretrain.epoch", "pretrain.epochs or train.epochs"),
        ("trian", "train"),
        ("optimiser.learning_rate", "train.learning_rate or pretrain.learning_rate"),
    ],
)
def test_an_unknown_key_is_told_near_ones(path, near):
    with pytest.raises(InputError, match=f"did you mean {near}"):
        explain_config(path)
    with pytest.raises(InputError, match=r"no such key\. `unlearnrec config` lists all"):
        explain_config("zzzzqqq")
