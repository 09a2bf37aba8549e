"""`init`: a commented configuration, fit for the table that it is pointed at."""

from __future__ import annotations

import json
import os
import secrets
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...partitioning.errors import InputError
from ...partitioning.lake import Columns, open_table
from ...partitioning.lake.guess import Guess, Size, count, guess_columns
from ...partitioning.storage import StorageOptions
from ..config.recipe import Setting, fit_recipe
from ..config.schema import Config, load_config
from ..config.yaml import parse_yaml_value
from ..reporting.progress import SILENT, Progress
from ..reporting.software import usable_cpus

_SEEDS = 2**53
"""Seeds are drawn below it, so that every reader of JSON has them exactly."""


def init(table: str, to: Path, overrides: Sequence[str] = (), *, progress: Progress = SILENT) -> dict[str, Any]:
    """Guess the columns of a table, count it and write a configuration for it.

    Args:
        table: as `interactions` in a configuration.
        to: a YAML file that is not there yet.
        overrides: `section.key=value`, which go into the file as they are: the columns, or how s3:// is reached.

    Raises:
        InputError: the file is there, or cannot be written; the table is unreadable; no column can hold the ids.
    """
    _check_free(to)
    places = [f"interactions={json.dumps(table)}", f"output={json.dumps(str(to.with_suffix('')) + '-output')}"]
    given = load_config(None, [*places, *overrides])
    options = StorageOptions(**given.storage.model_dump())
    opened = open_table(given.interactions, options)
    roles = ("user", "item", "time", "value")
    settled = {role: getattr(given.columns, role) for role in roles if role in given.columns.model_fields_set}
    guesses, unit = guess_columns(opened, settled)
    if "time_unit" in given.columns.model_fields_set:
        unit = given.columns.time_unit
    columns = Columns(**{role: guess.name for role, guess in guesses.items()}, time_unit=unit)
    with progress.task("rows counted") as task:
        try:
            size = count(opened, columns, options, progress=task.advance)
            dropped = ""
        except InputError as error:
            # A column that only looked like a time or a value is no reason to stop.
            if not {"time", "value"} & (guesses.keys() - settled.keys()):
                raise
            dropped = f"Without the time and the value that were guessed, as they cannot be read ({error})."
            guesses = {role: guess for role, guess in guesses.items() if role in ("user", "item") or role in settled}
            columns = replace(Columns(**{role: guess.name for role, guess in guesses.items()}), time_unit=None)
            size = count(opened, columns, options, progress=task.advance)
    if not size.rows:
        raise InputError(
            f"{table}: no interactions: all {size.skipped} rows have a value ('{columns.value}') null or <= 0"
        )
    text = _text(given, guesses, columns, size, dropped)
    try:
        with to.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise _there(to) from None
    except OSError as error:
        raise InputError(f"init --to {to}: cannot be written: {error.strerror or error}. Name another place") from None
    return {
        "config": str(to),
        "users": size.users,
        "items": size.items,
        "interactions": size.rows,
        "exact": size.exact,
        "columns": {role: guess.name for role, guess in guesses.items()},
    }


def _check_free(to: Path) -> None:
    """Before minutes of counting."""
    if to.exists():
        raise _there(to)
    if not to.parent.is_dir() or not os.access(to.parent, os.W_OK):
        raise InputError(
            f"init --to {to}: {to.parent} is no folder that can be written to. Make it, or name another place"
        )


def _there(to: Path) -> InputError:
    return InputError(
        f"init --to {to}: there is such a file already, which is not overwritten. Name another, or remove it"
    )


def _text(given: Config, guesses: dict[str, Guess], columns: Columns, size: Size, dropped: str) -> str:
    sections: dict[str, dict[str, Setting]] = {
        "columns": {role: Setting(guess.name, f"{role.capitalize()}: {guess.why}.") for role, guess in guesses.items()}
    }
    held = sections["columns"]
    if columns.time:
        if columns.time_unit:
            held["time_unit"] = Setting(columns.time_unit, "Guessed from the size of the numbers.")
        held["time"] = replace(held["time"], why=f"{held['time'].why} With it `forget` can take time ranges.")
    if columns.value:
        held["value"] = replace(
            held["value"],
            why=f"{held['value'].why} Rows where it is null, 0 or less are not interactions; null: all are.",
        )
    sections |= {name: dict(keys) for name, keys in fit_recipe(size.users, size.rows, usable_cpus()).items()}
    _put_given(sections, given)
    drawn = "seed" not in given.model_fields_set
    about = f"{size.users:,} users, {size.items:,} items, {size.rows:,} interactions"
    if not size.exact:
        about = "At least " + about + "; the table is too large to be counted exactly in memory"
    about += f". {size.skipped:,} rows are none by their value." if size.skipped else "."
    lines = [
        *_comment(f"Written by `unlearnrec init`. {about} {dropped}".strip()),
        *_comment("`unlearnrec config KEY` says what a key means; keys that are not here have their defaults."),
        f"interactions: {_value(given.interactions)}",
        *_comment(
            "Interactions held out of the table, for `evaluate`: a table with the same columns. null: Recall cannot be "
            "measured. Split your table yourself, for instance the last interactions of each user."
        ),
        f"test_interactions: {_value(given.test_interactions)}",
        *_comment("Everything that the run leaves. Paths are relative to the folder in which a command is run."),
        f"output: {_value(given.output)}",
        *_comment(
            "Drawn for this file. Whoever knows it can tell far better what was forgotten (docs/audit.md): keep it secret."
            if drawn
            else "As given on the command line."
        ),
        f"seed: {secrets.randbelow(_SEEDS) if drawn else given.seed}",
    ]
    for name, keys in sections.items():
        lines += ["", f"{name}:"]
        for key, setting in keys.items():
            lines += [*_comment(setting.why, "  "), f"  {key}: {_value(setting.value)}"]
    return "\n".join(lines) + "\n"


def _put_given(sections: dict[str, dict[str, Setting]], given: Config) -> None:
    """What the command line says goes before every guess."""
    for name in sorted(given.model_fields_set - {"interactions", "test_interactions", "output", "seed"}):
        section = getattr(given, name)
        for key in sorted(section.model_fields_set):
            value = section.model_dump(mode="json")[key]
            sections.setdefault(name, {})[key] = Setting(value, "As given on the command line.")


def _comment(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, 100, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _value(value: Any) -> str:
    """As YAML, without quotes where it is read back as the same text."""
    if isinstance(value, str):
        try:
            plain = (
                bool(value) and not set(value) & set("\n\r#{}[]&*!|>'\"%@`") and parse_yaml_value(value, "") == value
            )
        except InputError:
            plain = False
        return value if plain else json.dumps(value)
    return json.dumps(value)
