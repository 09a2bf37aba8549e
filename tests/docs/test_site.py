"""The site is built without a warning, has every page and all of the reference, and fetches nothing from elsewhere."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fences import ROOT

from unlearnrec.docs.tools.pages import site_text

pytest.importorskip("mkdocs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built strictly: a link or an anchor that leads nowhere is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    search = os.pathsep.join([str(ROOT.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": search}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loads(HTMLParser):
    """What a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        fetched = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
        if tag in fetched and (address := given.get(fetched[tag])) and given.get("rel") not in ("next", "prev"):
            self.found.append(address)


def pages(site: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(site.rglob("*.html")):
        yield path.relative_to(site).as_posix(), path.read_text(encoding="utf-8")


def test_nothing_is_fetched_from_elsewhere(site: Path):
    outside = {}
    for name, text in pages(site):
        loads = Loads()
        loads.feed(text)
        if foreign := [one for one in loads.found if re.match(r"(https?:)?//", one)]:
            outside[name] = foreign
        missing = [one for one in loads.found if not re.match(r"https?:|/|data:", one)]
        for one in missing:
            assert (site / name).parent.joinpath(one.split("?")[0]).resolve().exists(), f"{name}: {one}"
    assert not outside
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.search(r"url\(\s*['\"]?(https?:)?//", styles)


def test_every_document_is_a_page_and_stands_in_the_navigation(site: Path):
    navigation = (site / "index.html").read_text(encoding="utf-8")
    for path in (ROOT / "docs").glob("*.md"):
        name = "index.html" if path.name == "README.md" else f"{path.stem}.html"
        assert (site / name).is_file(), path.name
        assert f'href="{name}"' in navigation or name == "index.html", path.name
    for name in ("start/overview", "about/changelog", "about/contributing", "about/security", "results/index"):
        assert (site / f"{name}.html").is_file(), name


def test_the_reference_has_every_command_key_and_call(site: Path):
    from unlearnrec.cluster.cli.app import TABLE
    from unlearnrec.cluster.config.keys import all_keys
    from unlearnrec.cluster.config.schema import Config

    text = {path.stem: path.read_text(encoding="utf-8") for path in (site / "reference").glob("*.html")}
    for _, members in TABLE:
        assert all(f'id="{function.__name__.replace("_", "-")}"' in text["commands"] for function, _ in members)
    assert "--dry-run" in text["commands"] and "--requester" in text["commands"]
    for key in all_keys(Config):
        assert f'id="{key.path.replace(".", "-")}"' in text["configuration"], key.path
    described = json.loads((site / "reference" / "openapi.json").read_text(encoding="utf-8"))
    assert len(described["paths"]) > 5
    for path in described["paths"]:
        assert path in text["http"], path
    for name in ("ingest", "forget", "recommend", "wait", "EvaluateResult"):
        assert f'id="{name.lower()}"' in text["python"], name


def test_lists_and_links_become_those_of_the_site():
    lists = "Some text:\n- one\n- [two](../CONTRIBUTING.md#add-a-setting)\n\n"
    made = site_text(f"{lists}[code](../cluster/pipeline.py) [f](../cluster/)\n", "faq.md")
    assert "Some text:\n\n- one\n- [two](about/contributing.md#add-a-setting)" in made
    assert site_text("1. one\n\n    more\n2. two\n3. three\n", "faq.md") == "1. one\n\n    more\n\n2. two\n3. three\n"
    assert "[code](source/cluster/pipeline.py.txt) f\n" in made
    assert "[x](../faq.md)" in site_text("[x](docs/faq.md)", "about/contributing.md")
    assert site_text("```\n- a\n[x](../LICENSE)\n```", "faq.md") == "```\n- a\n[x](../LICENSE)\n```"
