"""What mkdocs calls while it builds the site (`hooks` of mkdocs.yml): adds pages, and mends links."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation, Section
from mkdocs.structure.pages import Page

from unlearnrec.docs.tools.pages import ROOT, linked_sources, outside_pages, site_text, source_place
from unlearnrec.docs.tools.reference import reference_files


def on_files(files: Files, config: Any) -> Files:
    """Add documents of other folders, copies of linked source files, and the reference."""

    def add(place: str, content: bytes) -> None:
        files.append(File.generated(config, place, content=content))

    outside = outside_pages()
    for home, place in outside.items():
        add(place, (ROOT / home).read_bytes())
    inside = [f"docs/{file.src_uri}" for file in files.documentation_pages() if file.src_uri not in outside.values()]
    for source in sorted(linked_sources(_documents([*inside, *outside]))):
        add(source_place(source), (ROOT / source).read_bytes())
    for place, text in reference_files().items():
        add(place, text.encode())
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page as the site needs it. A page of the reference is written for it already."""
    place = page.file.src_uri
    return markdown if place.startswith("reference/") else site_text(markdown, place)


def on_nav(nav: Navigation, config: Any, files: Files) -> Navigation:
    """Give every page that mkdocs.yml does not name a place: by its folder, and in docs/ itself among the how-tos."""
    sections = {item.title: item for item in nav.items if isinstance(item, Section)}
    about = sections["About"]
    results = next(item for item in about.children if isinstance(item, Section))
    places = {"results": results, "about": about, "start": sections["Start"]}
    named = {page.file.src_uri for page in nav.pages}
    for file in files.documentation_pages():
        if file.src_uri not in named:
            section = places.get(file.src_uri.partition("/")[0], sections["How to"])
            page = file.page if isinstance(file.page, Page) else Page(None, file, config)
            page.parent = section
            section.children.append(page)
            nav.pages.append(page)
    return nav


def _documents(homes: list[str]) -> Iterator[str]:
    return (home for home in homes if home.endswith(".md") and (ROOT / home).is_file())
