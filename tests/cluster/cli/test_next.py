"""What a command line is told at its end: the next command, and how to go on after Ctrl-C."""

import pytest
import typer

from unlearnrec.cluster.cli.app import app, run
from unlearnrec.cluster.cli.next import FLAGS, NEXT, interrupted, next_command

COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize(
    ("line", "code", "expected"),
    [
        ("init t.parquet --to my.yaml columns.user=u", 0, "unlearnrec ingest --config my.yaml"),
        ("ingest --config my.yaml", 0, "unlearnrec train --config my.yaml"),
        ("ingest -c my.yaml seed=3", 0, "unlearnrec train --config my.yaml seed=3"),
        ("train --resume train.epochs=3 --config=my.yaml", 0, "unlearnrec pretrain train.epochs=3 --config my.yaml"),
        ("train --without a.csv --config my.yaml", 0, None),
        ("forget --users dt=1/u.csv --config my.yaml", 0, "unlearnrec purge --config my.yaml"),
        ("forget --users 1 --config my.yaml", 3, "unlearnrec retrain --config my.yaml"),
        ("forget --users 1 --dry-run --config my.yaml", 0, None),
        ("train --tune seed=3 --config my.yaml", 0, "unlearnrec pretrain seed=3 --config my.yaml"),
        ("doctor", 0, "unlearnrec quickstart"),
        ("doctor --config my.yaml", 0, "unlearnrec ingest --config my.yaml"),
        ("plan --for pretrain --config my.yaml", 0, "unlearnrec pretrain --config my.yaml"),
        ("export --to x --config my.yaml", 0, "unlearnrec serve --config my.yaml"),
        ("approve r1 --by Ann --config my.yaml", 0, "unlearnrec status --config my.yaml"),
        ("train --config my.yaml", 1, None),
        ("status --config my.yaml", 0, None),
        ("", 0, None),
    ],
)
def test_the_next_command_is_for_the_same_configuration(line, code, expected):
    assert next_command(line.split(), code) == expected


@pytest.mark.parametrize(("command", "follows"), NEXT.items())
def test_every_next_command_is_understood(command, follows):
    name, *options = follows.split()
    # `quickstart` has a configuration of its own, which is not that of the user's table.
    COMMANDS[name].make_context(name, options if command == "quickstart" else [*options, "--config", "my.yaml"])


def test_the_flags_are_options_without_a_value():
    options = [o for command in COMMANDS.values() for o in command.params]
    assert {name for o in options if getattr(o, "is_flag", False) for name in o.opts} == FLAGS


def test_it_stands_on_stdout_for_people_only(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("user_id,item_id\n1,2\n")
    line = ["init", str(tmp_path / "t.csv"), "--to", str(tmp_path / "a.yaml")]
    assert run(line) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"next: unlearnrec ingest --config {tmp_path / 'a.yaml'}"
    assert run([*line[:-1], str(tmp_path / "b.yaml"), "--json"]) == 0
    assert "next: " not in capsys.readouterr().out


def test_ctrl_c_names_resume_where_there_is_one():
    assert "`unlearnrec train --config my.yaml --resume` goes on" in interrupted(["train", "--config", "my.yaml"])
    assert interrupted(["train", "--resume"]).count("--resume") == 1
    assert "`unlearnrec pretrain -c my.yaml` goes on where it was" in interrupted(["pretrain", "-c", "my.yaml"])
    assert "`unlearnrec forget --users 3` carries the request out" in interrupted(["forget", "--users", "3"])
    assert interrupted(["ingest"]) == "interrupted"
