"""Every code block of the documents is one that works, or says why it is not run.

Shell: its syntax, and each `unlearnrec` command is one of the command line, with options and settings that exist; calls of
the service by curl are held against its OpenAPI document. YAML: a configuration, or part of one. Python: compiled; calls of
a session have arguments that its methods take; a block that opens no session, which would train a model, is run. JSON and
TOML are parsed. Text is not run, and says what it is. All of this holds for blocks that say why they are not run, too.
test_blocks_run.py runs the others.
"""

import ast
import inspect
import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from fences import ROOT, SESSION, SHELL, Fence, all_fences, calls, documents, script, uses_a_session

import unlearnrec
from unlearnrec.cluster.cli.app import app
from unlearnrec.cluster.commands.bench import benchmark_names
from unlearnrec.cluster.config.keys import all_keys
from unlearnrec.cluster.config.schema import Config, load_config, parse_config
from unlearnrec.partitioning.errors import InputError

FENCES = all_fences()
GROUP: Any = typer.main.get_command(app)
SECTIONS = {key.path.partition(".")[0] for key in all_keys(Config)}
NEEDED = {"interactions": "t.parquet", "output": "run"}


def of(*languages: str) -> list[Fence]:
    return [one for one in FENCES if one.language in languages]


def test_the_documents_were_found():
    assert {"README.md", "docs/python.md", "docs/serving.md"} <= {one.place for one in FENCES}


def test_each_block_has_a_language_that_is_checked():
    known = {*SHELL, "python", "yaml", "json", "toml", "text", "mermaid"}
    assert not [f"{one}: {one.language!r}" for one in FENCES if one.language not in known and not one.reason]


def test_what_is_not_run_says_why():
    """Text, and blocks without a language in which no command stands, are output: nothing here checks them."""
    silent = [one for one in of("text") if not one.reason]
    checked = ("unlearnrec", "curl", "make", "pip", "ray", "docker", "kubectl", "helm")
    silent += [
        one for one in of("") if not one.reason and not any(list(calls(script(one.text), name)) for name in checked)
    ]
    assert not [f"{one}: write <!-- not run: why --> before it" for one in silent]


def test_shell_has_no_mistake_in_its_syntax():
    wrong = []
    for one in of("sh", "bash", "shell", "console"):
        done = subprocess.run(["bash", "-n"], input="\n".join(script(one.text)), text=True, capture_output=True)
        wrong += [f"{one}: {done.stderr}"] if done.returncode else []
    assert not wrong


def check_call(words: list[str]) -> None:
    """Raises what the command line would: for an unknown command, option or setting, or a value out of range."""
    if not words or words[0].startswith("-"):
        GROUP.make_context("unlearnrec", list(words), resilient_parsing=True)
        return
    name, *arguments = words
    command = GROUP.commands[name]
    if name == "bench":
        assert not arguments or arguments[0] in (*benchmark_names(), "NAME", "--help"), arguments
        return
    if name == "submit" and "--" in arguments:
        check_call(arguments[arguments.index("--") + 1 :])
    if "--help" in arguments:
        return
    parent = GROUP.make_context("unlearnrec", ["--help-not"], resilient_parsing=True)
    context = command.make_context(name, list(arguments), parent=parent)
    overrides = context.params.get("overrides")
    assert not any(re.search(r"[<>…]|\.\.\.", word) for word in overrides or ()), overrides
    if overrides:
        load_config(None, [*(f"{key}={value}" for key, value in NEEDED.items()), *overrides])


def test_the_commands_of_shell_blocks_are_those_of_the_command_line():
    wrong = []
    for one in of(*SHELL):
        for words in calls(script(one.text), "unlearnrec"):
            try:
                check_call([word for word in words if word != "..."])
            except Exception as error:
                wrong.append(f"{one}: unlearnrec {' '.join(words)}: {type(error).__name__} {error}")
    assert not wrong


def test_commands_within_the_text_are_there_and_have_their_options():
    """`unlearnrec COMMAND --option` between backticks. What follows an option may be a placeholder, and is not looked at."""
    wrong = []
    for path in documents():
        for span in re.findall(r"`unlearnrec ([a-z][^`]*)`", re.sub(r"(?ms)^ *```.*?^ *```", "", path.read_text())):
            name, *words = span.split()
            command = GROUP.commands.get(name)
            options = {opt for p in command.params for opt in p.opts} | {"--help"} if command else set()
            own = words[: words.index("--")] if "--" in words else words
            bad = [w for w in own if w.startswith("--") and w.partition("=")[0] not in options]
            if command is None or (bad and name != "bench"):
                wrong.append(f"{path.name}: unlearnrec {span}")
    assert not wrong


def test_settings_within_the_text_are_keys_of_the_configuration():
    """`section.key` between backticks, where it is no name of a file."""
    keys = {key.path for key in all_keys(Config)}
    wrong = set()
    for path in documents():
        if path.name == "log.md":  # tells of settings that were dropped
            continue
        for span in re.findall(r"`([a-z_]+\.[a-z_.]+)(?:=[^`]*)?`", path.read_text(encoding="utf-8")):
            section, _, name = span.partition(".")
            is_file = name in ("py", "json", "yaml", "parquet", "csv", "md", "html")
            if section in SECTIONS and not is_file and not any(f"{key}.".startswith(f"{span}.") for key in keys):
                wrong.add(f"{path.name}: {span}")
    assert not sorted(wrong)


def test_make_has_the_targets_that_are_named():
    there = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))
    for one in of(*SHELL):
        for words in calls(script(one.text), "make"):
            assert not words or words[0] in there or "=" in words[0], f"{one}: make {words}"


def test_the_extras_that_are_named_are_there():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = set(tomllib.loads(project)["project"]["optional-dependencies"])
    for path in documents():
        for named in re.findall(r"(?:unlearnrec|'\.|\"\.)\[([a-z,]+)\]['\"` ]", path.read_text(encoding="utf-8")):
            assert set(named.split(",")) <= extras, f"{path.name}: {named}"


@pytest.mark.parametrize("one", of("yaml"), ids=str)
def test_yaml_is_a_configuration(one: Fence):
    for document in yaml.safe_load_all(one.text):
        if isinstance(document, dict) and set(document) & SECTIONS and "apiVersion" not in document:
            parse_config(NEEDED | document)


@pytest.mark.parametrize("one", of("json", "toml"), ids=str)
def test_json_and_toml_are_read(one: Fence):
    (json.loads if one.language == "json" else tomllib.loads)(one.text)


@pytest.mark.parametrize("one", of("python"), ids=str)
def test_python_is_compiled_and_calls_a_session_as_it_is(one: Fence):
    for node in ast.walk(ast.parse(one.text)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = node.func.value
        if isinstance(owner, ast.Name) and owner.id in SESSION and uses_a_session(one):
            method = getattr(unlearnrec.Session, node.func.attr)
            names = {keyword.arg: None for keyword in node.keywords if keyword.arg}
            inspect.signature(method).bind(None, *node.args, **names)


@pytest.mark.parametrize("one", [one for one in of("python") if not one.reason and not uses_a_session(one)], ids=str)
def test_python_that_needs_nothing_else_runs(one: Fence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(one.text, str(one), "exec"), {"__name__": "documents"})


def test_calls_by_curl_are_those_of_the_service():
    from unlearnrec.docs.tools.reference_http import openapi

    described = openapi()
    for one in of(*SHELL):
        for words in calls(script(one.text), "curl"):
            url = next(word for word in words if "localhost" in word or "127.0.0.1" in word)
            path = re.sub(r"^(http://)?[\w.]+(:\d+)?", "", url).partition("?")[0]
            method = words[words.index("-X") + 1].lower() if "-X" in words else "post" if "-d" in words else "get"
            fits = [
                known
                for known, calls_of in described["paths"].items()
                if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", known), path) and method in calls_of
            ]
            assert fits or path in ("/openapi.json", "/", "/docs"), f"{one}: {method} {path}"
            if "-d" in words and path.startswith("/v1/requests") and not path.endswith("/approval"):
                from unlearnrec.cluster.http.bodies import Deletion

                Deletion.model_validate_json(words[words.index("-d") + 1])


def test_mistakes_are_seen():
    """What the tests above would say of a document that is wrong."""
    with pytest.raises(KeyError):
        check_call(["fogret"])
    with pytest.raises(Exception, match="No such option"):
        check_call(["train", "--no-such-option"])
    with pytest.raises(InputError, match=r"train\.epoch"):
        check_call(["train", "--config", "run.yaml", "train.epoch=3"])
    with pytest.raises(InputError):
        parse_config(NEEDED | {"forget": {"grace": 1}})
    assert list(calls(["A=1 unlearnrec train -c x | tee y # no"], "unlearnrec")) == [["train", "-c", "x"]]
