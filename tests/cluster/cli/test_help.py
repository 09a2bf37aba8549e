"""What the program says of itself: groups with examples, its version, completion, a benchmark's own help."""

import os
import shlex
import subprocess
import sys

import pytest
import typer

import unlearnrec
from unlearnrec.cluster.cli.app import TABLE, app, run
from unlearnrec.cluster.cli.help import EXAMPLE, SHELLS

COMMANDS = typer.main.get_command(app).commands


def test_the_help_has_every_command_under_its_heading_and_cuts_nothing_off(capsys):
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert "..." not in text.replace("[ARGS]...", "")
    places = [text.index(f"\n{heading}:\n") for heading, _ in TABLE]
    assert places == sorted(places)
    for (_, members), start, end in zip(TABLE, places, [*places[1:], len(text)], strict=True):
        section = " ".join(text[start:end].split())
        for command, _ in members:
            assert " ".join(COMMANDS[command.__name__].help.split()) in section
        assert f"$ unlearnrec {members[0][0].__name__} {members[0][1]}" in section
    assert sum(len(members) for _, members in TABLE) == len(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_is_one_line_that_its_command_understands(name):
    line = COMMANDS[name].epilog
    assert line.startswith(EXAMPLE) and len(line) <= 76  # else the help would break it
    program, command, *arguments = shlex.split(line.removeprefix(EXAMPLE))
    assert (program, command) == ("unlearnrec", name)
    context = COMMANDS[name].make_context(name, arguments)  # raises on an option that there is not
    assert context.info_name == name


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "bench"])
def test_a_commands_help_fits_80_columns_and_says_what_everything_is(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert all(len(line) <= 80 for line in text.splitlines()) and "..." not in text.replace("]...", "").replace(
        "ID,ID...", ""
    )
    assert "list[" not in text and "<str>" not in text and "[[" not in text
    options = COMMANDS[name].params
    assert [option.name for option in options if not option.help] == []


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"unlearnrec {unlearnrec.__version__}\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_completion_of_the_shell_that_is_named(shell, capsys):
    assert run(["--show-completion", shell]) == 0
    instruction = "complete_powershell" if shell == "pwsh" else f"complete_{shell}"
    script = capsys.readouterr().out
    assert instruction in script and "_UNLEARNREC_COMPLETE" in script


def test_an_unknown_shell_is_told_which_there_are(capsys):
    assert run(["--show-completion", "ksh"]) == run(["--install-completion", "ksh"]) == 2
    assert "bash, zsh, fish" in capsys.readouterr().err


def test_completion_is_installed_for_the_shell_that_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run(["--install-completion", "fish"]) == 0
    [path] = tmp_path.rglob("*.fish")
    assert str(path) in capsys.readouterr().out and "_UNLEARNREC_COMPLETE=complete_fish" in path.read_text()


@pytest.mark.parametrize(
    ("words", "expected"), [("unlearnrec resi", "residue"), ("unlearnrec train --res", "--resume")]
)
def test_the_shell_is_answered(words, expected):
    count = len(words.split()) - 1
    environment = os.environ | {
        "COMP_WORDS": words,
        "COMP_CWORD": str(count),
        "_UNLEARNREC_COMPLETE": "complete_bash",
    }
    code = "from unlearnrec.cluster.cli.app import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split() == [expected]


def test_what_stands_behind_a_benchmarks_name_is_its_own(monkeypatch):
    told = []
    monkeypatch.setattr(
        "unlearnrec.cluster.commands.bench.run_benchmark", lambda name, arguments: told.append((name, arguments)) or 0
    )
    assert run(["bench", "training", "--help"]) == run(["bench", "training", "x", "--k", "3"]) == 0
    assert told == [("training", ["--help"]), ("training", ["x", "--k", "3"])]
