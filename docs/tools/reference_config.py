"""Every configuration key, from the models of the sections."""

from __future__ import annotations

import json

from unlearnrec.cluster.config.keys import Key, all_keys
from unlearnrec.cluster.config.schema import Config

HEAD = """# Configuration

Every key, made from the code of this version. `unlearnrec config KEY` says the same on the command line, and
`unlearnrec init TABLE --to run.yaml` writes a file to begin with. A key can also be set behind a command, such as
`train.epochs=10`. An unknown key, a value of the wrong type or one out of range is an error before any work starts. Only
`interactions` and `output` must be given.
"""


def configuration_page() -> str:
    """Markdown: a heading for each section, and for each key its default, what may stand there, and what it means."""
    lines = [HEAD, "## The run", ""]
    closed: list[str] = []
    for key in all_keys(Config):
        if key.section and not key.optional:
            lines += [f"## {key.path}", "", _plain(key.about), ""]
        elif key.section:
            closed.append(key.path)
            lines += _entry(key)
        else:
            lines += _entry(key)
    return "\n".join(lines) + "\n"


def _entry(key: Key) -> list[str]:
    default = "must be given" if key.required else f"default `{json.dumps(key.default, ensure_ascii=False)}`"
    return [
        f"`{key.path}`{{ #{key.path.replace('.', '-')} }}",
        f":   {default}; {_plain(key.expected)}",
        "",
        f"    {_plain(key.about)}",
        "",
    ]


def _plain(text: str) -> str:
    """Text in which Markdown shall see no emphasis and no HTML outside of code."""
    parts = text.split("`")
    parts[::2] = [part.replace("*", r"\*").replace("_", r"\_").replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)
