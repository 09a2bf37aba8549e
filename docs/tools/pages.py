"""Pages of the site that do not lie in docs/, and how links between files of the repository become links of the site.

In the repository a document links others by their relative paths, so that they work where the files are read. On the site
some of them have another place, and links to source files lead to copies of these.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

MOVED = {
    "README.md": "start/overview.md",
    "CHANGELOG.md": "about/changelog.md",
    "CONTRIBUTING.md": "about/contributing.md",
    "SECURITY.md": "about/security.md",
    "CODE_OF_CONDUCT.md": "about/conduct.md",
}
"""Place in the repository -> place in the site, of single documents outside docs/."""

RESULTS = "benchmarks/results"
_LINK = re.compile(r"(?<!\\)(\]\()([^)\s#]*)(#[^)\s]*)?(\))")
_FENCE = re.compile(r"^ {0,3}(```+|~~~+)")


def outside_pages() -> dict[str, str]:
    """Place in the repository -> place in the site, of all documents and pictures outside docs/ that the site shows."""
    moved = {home: place for home, place in MOVED.items() if (ROOT / home).is_file()}
    for path in sorted((ROOT / "examples").rglob("README.md")):
        home = path.relative_to(ROOT).as_posix()
        moved[home] = f"start/{posixpath.dirname(home)}.md"
    for path in sorted((ROOT / RESULTS).iterdir()):
        if path.suffix in (".md", ".svg", ".png"):
            moved[f"{RESULTS}/{path.name}"] = f"results/{path.name}"
    return moved


def home_of(place: str) -> str:
    """Where a page of the site lies in the repository; docs/ where it is not one from outside."""
    return {moved: home for home, moved in outside_pages().items()}.get(place, f"docs/{place}")


def linked_sources(homes: Iterator[str]) -> set[str]:
    """Files of the repository that these documents link and that are no pages of the site: source, configurations."""
    found: set[str] = set()
    pages = outside_pages()
    for home in homes:
        for _, match in _links((ROOT / home).read_text(encoding="utf-8")):
            target = _target(home, match)
            if target and target not in pages and not target.startswith("docs/") and (ROOT / target).is_file():
                found.add(target)
    return found


def source_place(target: str) -> str:
    """Where the copy of a source file lies in the site; as text, so that browsers show it."""
    return f"source/{target}" + ("" if target.endswith((".svg", ".png", ".txt")) else ".txt")


def site_text(text: str, place: str) -> str:
    """The Markdown of a page as the site needs it: its links, its lists, and pictures instead of diagrams as text."""
    home, pages = home_of(place), outside_pages()

    def moved(match: re.Match[str]) -> str:
        target = _target(home, match)
        if target is None:
            return match.group(0)
        if target in pages:
            new = pages[target]
        elif target.startswith("docs/"):
            new = target.removeprefix("docs/")
        elif (ROOT / target).is_file():
            new = source_place(target)
        else:
            return "](.)" if (ROOT / target).is_dir() else match.group(0)
        relative = posixpath.relpath(new, posixpath.dirname(place) or ".")
        return f"{match.group(1)}{relative}{match.group(3) or ''}{match.group(4)}"

    text = _outside_fences(text, lambda line: _LINK.sub(moved, line))
    text = re.sub(r"\[([^\]]*)\]\(\.\)", r"\1", text)  # links to folders: the site has none
    text = re.sub(r"on the site<!-- (\S+) -->", r"[on this site](\1)", text)  # pages that only the site has
    picture = posixpath.relpath("images/path.svg", posixpath.dirname(place) or ".")
    text = re.sub(r"(?ms)^```mermaid\n.*?^```$", f"![From a table to versions and evidence]({picture})", text)
    return _with_lists(text)


def _outside_fences(text: str, change: Callable[[str], str]) -> str:
    lines, fence = [], ""
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark.group(1)
        elif mark and line.strip() == fence:
            fence = ""
        elif not fence:
            line = change(line)
        lines.append(line)
    return "\n".join(lines)


def _with_lists(text: str) -> str:
    """A list begins on GitHub right behind a line of text, also one inside an item before it; here it needs a blank line."""
    lines: list[str] = []
    fence = first = ""  # first: that of the lines since the last blank one
    for line in text.split("\n"):
        if mark := _FENCE.match(line):
            fence = "" if fence else mark.group(1)
        item = re.match(r"(-|\d+\.) ", line)
        if item and not fence and first and not re.match(r" {0,2}(-|\d+\.) |#", first):
            lines.append("")
            first = ""
        lines.append(line)
        first = (first or line) if line.strip() else ""
    return "\n".join(lines)


def _links(text: str) -> Iterator[tuple[int, re.Match[str]]]:
    for match in _LINK.finditer(text):
        yield match.start(), match


def _target(home: str, match: re.Match[str]) -> str | None:
    """The file or folder of the repository that a link names; None for a web address or a place in the same page."""
    link = match.group(2)
    if not link or re.match(r"[a-z]+:", link):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(home), link))
    return None if target.startswith("..") else target
