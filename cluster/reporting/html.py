"""Make a page as one HTML file with a verdict, tiles, tables and charts. It has no scripts and fetches nothing. It can be
read at the width of a phone, on a light and on a dark background, and on paper.

Everything that is shown is escaped here or in charts.py; callers hand over plain text and numbers.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .style import STYLE
from .svg import number
from .terms import terms_in

State = Literal["good", "bad", "unknown", ""]
"""Of a verdict or a tile; "" has no colour. The text has to say the same, because colours are not seen by everybody."""

_CODE = re.compile(r"`([^`]+)`")
_HASH = re.compile(r"[0-9a-f]{32,}\+?")
_NUMBER = re.compile(r"[-+–]|[-+]?[\d.,]+%?( ?\[[-+\d., ]+\])?")


@dataclass(frozen=True)
class Tile:
    """A number or a word that is to be seen first."""

    name: str
    value: str
    about: str = ""
    """A sentence below it: by which measure, against what."""
    state: State = ""


@dataclass(frozen=True)
class Head:
    """What stands above the sections of a page."""

    lead: str = ""
    """The verdict, in a few sentences."""
    state: State = ""
    tiles: Sequence[Tile] = ()
    line: str = ""
    """A line under the title: when, by which command."""


@dataclass(frozen=True)
class Section:
    """A part of a page: a heading, paragraphs, a table, charts and code. All but the heading may be empty."""

    heading: str
    text: str = ""
    """Paragraphs, separated by an empty line."""
    table: Sequence[Mapping[str, Any]] = ()
    """The rows of the table; the keys are the titles of the columns. The first column names the row. Numbers stand right,
    everything else left; None is shown as "not known"."""
    figures: Sequence[str] = ()
    """Charts as the functions of charts.py return them."""
    code: str = ""
    """A text that is shown as it is, such as a configuration."""
    terms: Sequence[str] = ()
    """Terms of terms.py that are explained beside those in the titles of columns and the names of rows."""
    meanings: Mapping[str, str] = field(default_factory=dict)
    """What other names in this section mean."""
    under: bool = False
    """Whether it belongs to the section before it, with a smaller heading."""


def render_report(title: str, sections: Sequence[Section], head: Head | None = None) -> str:
    """The page as a string of HTML."""
    parts, told = [], set[str]()
    for section in sections:
        # What a section explains is not explained again in those that belong to it.
        told = told if section.under else set()
        parts.append(_section(section, told))
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main><h1>{html.escape(title)}</h1>\n{_head(head or Head())}{body}\n</main></body></html>\n"
    )


def write_report(path: str | Path, title: str, sections: Sequence[Section], head: Head | None = None) -> None:
    """Write the page to a local file. Its folder is made if it is missing."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(render_report(title, sections, head), encoding="utf-8")


def _head(head: Head) -> str:
    parts = []
    if head.line:
        parts.append(f'<p class="soft">{_prose(head.line)}</p>')
    if head.lead:
        parts.append(f'<p class="lead {head.state}">{_prose(head.lead)}</p>')
    if head.tiles:
        parts.append(f'<ul class="tiles">{"".join(map(_tile, head.tiles))}</ul>')
        parts.append(_meanings(terms_in(tile.name for tile in head.tiles)))
    return "".join(f"{part}\n" for part in parts if part)


def _tile(tile: Tile) -> str:
    spans = (("name", tile.name), ("big", tile.value), ("about", tile.about))
    shown = "".join(f'<span class="{kind}">{html.escape(text)}</span>' for kind, text in spans if text)
    return f'<li class="tile {tile.state}">{shown}</li>'


def _section(section: Section, told: set[str]) -> str:
    """The HTML of a section. told: names that need no explanation any more; those that this section explains are added."""
    level = "h3" if section.under else "h2"
    parts = [f"<{level}>{html.escape(section.heading)}</{level}>"]
    parts += [f"<p>{_prose(paragraph)}</p>" for paragraph in section.text.split("\n\n") if paragraph]
    names = list(section.terms)
    if section.table:
        keys = list(dict.fromkeys(key for row in section.table for key in row))
        parts.append(_table(section.heading, keys, section.table))
        names += [*keys, *(str(row.get(keys[0])) for row in section.table)]
    found = {name: about for name, about in {**section.meanings, **terms_in(names)}.items() if name not in told}
    told.update(found)
    parts.append(_meanings(found))
    if section.figures:
        parts.append(f'<div class="figures">{"".join(section.figures)}</div>')
    if section.code:
        parts.append(f"<pre>{html.escape(section.code)}</pre>")
    return "\n".join(part for part in parts if part)


def _table(heading: str, keys: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """A table in a box of its own, which scrolls by itself if it is wide; on a narrow screen each row becomes a card."""
    right = {key for key in keys[1:] if all(_is_number(row.get(key)) for row in rows)}
    pairs = len(keys) == 2
    head = "".join(f'<th scope="col"{_kind(key, right)}>{html.escape(key)}</th>' for key in keys)
    # A table of names and values needs no head, which would say only that.
    shown_head = "" if pairs and list(keys) == ["", "value"] else f"<thead><tr>{head}</tr></thead>"
    lines = []
    for row in rows:
        first = f'<th scope="row">{_cell(row.get(keys[0]))}</th>'
        rest = (
            f'<td{_kind(key, right)} data-label="{html.escape(key)}">{_cell(row[key])}</td>'
            if key in row
            else "<td></td>"
            for key in keys[1:]
        )
        lines.append(f"<tr>{first}{''.join(rest)}</tr>")
    kind = ' class="pairs"' if pairs else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(heading)}"><table{kind}>'
        f"{shown_head}<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _kind(key: str, right: set[str]) -> str:
    names = [name for name, given in (("number", key in right), ("short", 0 < len(key) <= 6)) if given]
    return f' class="{" ".join(names)}"' if names else ""


def _is_number(value: Any) -> bool:
    if isinstance(value, int | float):
        return not isinstance(value, bool)
    return isinstance(value, str) and _NUMBER.fullmatch(value) is not None


def moment(text: str | None) -> str | None:
    """A time of the log (ISO-8601 in UTC) as people read it: without its fraction."""
    return None if text is None else f"{text[:10]} {text[11:19]} UTC"


def _cell(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, int):
        return f"{value:,}"
    shown = str(value)
    return f"<code>{shown}</code>" if _HASH.fullmatch(shown) else _prose(shown)


def _prose(text: str) -> str:
    """Text with what stands between backticks as code."""
    return _CODE.sub(r"<code>\1</code>", html.escape(text))


def _meanings(found: Mapping[str, str]) -> str:
    """What these names mean, as a list."""
    told = "".join(f"<div><dt>{html.escape(name)}</dt><dd>{_prose(about)}</dd></div>" for name, about in found.items())
    return f'<dl class="terms">{told}</dl>' if told else ""
