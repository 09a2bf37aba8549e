"""What an installation may bring is told where people look for it."""

import re
import tomllib

import yaml
from fences import ROOT

from unlearnrec import __main__
from unlearnrec.cluster.reporting.exit_codes import BAD_INPUT


def test_each_extra_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    told = re.findall(r"(?m)^\| `(\w+)` \| .+ \| .+ \|$", (ROOT / "docs" / "install.md").read_text(encoding="utf-8"))
    assert set(project["optional-dependencies"]) <= set(told)
    assert len(told) == len(set(told))


def test_the_lowest_python_is_the_one_that_is_asked_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == ">=" + ".".join(map(str, __main__.LOWEST))
    assert __main__.BAD_INPUT == BAD_INPUT


def test_each_python_of_the_classifiers_was_tried():
    """It stands in the table of docs/install.md that says on what."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [one.rpartition(" ")[2] for one in project["classifiers"] if one.startswith("Programming Language")]
    rows = re.findall(r"(?m)^\| (3\.[\d., ]+) \|", (ROOT / "docs" / "install.md").read_text(encoding="utf-8"))
    assert named == [version for row in rows for version in row.split(", ")]


def test_make_installs_every_extra_that_tests_need():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    made = re.search(r"(?m)^EXTRAS := ([\w,]+)$", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert made and set(made.group(1).split(",")) <= set(extras)
    assert {"serve", "docs", "dev"} <= set(made.group(1).split(","))


def test_forms_and_citation_can_be_read():
    """Hosting services drop a form with a mistake in silence."""
    forms = [
        yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")
    ]
    assert len(forms) > 2
    for form in forms:
        assert "blank_issues_enabled" in form or {"name", "description", "body"} <= set(form)
        for field in form.get("body", ()):
            assert field["type"] == "markdown" or (field["id"] and field["attributes"]["label"]), field
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "version"} <= set(citation)
