"""The fenced code blocks of the documents, and the lines of a shell block as commands."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import unlearnrec

ROOT = Path(unlearnrec.__file__).resolve().parent
MARK = re.compile(r"<!-- not run: (.+?) -->\s*$")
SHELL = ("", "sh", "bash", "console", "shell")
"""Languages of commands; "" where none is given."""
SESSION = ("s", "session")
"""What the documents call one."""
PROMPT = re.compile(r"^(?:\w+)?[$]\s+")


@dataclass(frozen=True)
class Fence:
    """A block: where it stands, its language ("" where none is given), its lines, and why it is not run."""

    place: str
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.place}:{self.line}"


def documents() -> list[Path]:
    """All that people read."""
    root = [path for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md"]
    folders = [path for name in ("docs", "examples", "deploy", ".github") for path in (ROOT / name).rglob("*.md")]
    return sorted({*root, *folders})


def fences(path: Path) -> Iterator[Fence]:
    """The blocks of a document. The reason is in a comment that ends the last line of text before the block."""
    lines = path.read_text(encoding="utf-8").split("\n")
    number = 0
    while number < len(lines):
        opened = re.match(r"^( *)(`{3,})\s*([\w-]*)", lines[number])
        if not opened:
            number += 1
            continue
        indent, mark, language = opened.groups()
        end = next(n for n in range(number + 1, len(lines)) if lines[n].strip() == mark)
        before = next((line for line in reversed(lines[:number]) if line.strip()), "")
        reason = MARK.search(before)
        text = "\n".join(line.removeprefix(indent) for line in lines[number + 1 : end])
        place = path.relative_to(ROOT).as_posix()
        yield Fence(place, number + 1, language.lower(), text, reason and reason.group(1))
        number = end + 1


def all_fences() -> list[Fence]:
    return [fence for path in documents() for fence in fences(path)]


def script(text: str) -> list[str]:
    """The commands of a shell block: prompts and output are left out where it has prompts; continued lines are joined."""
    lines = text.replace("\\\n", " ").split("\n")
    if any(PROMPT.match(line) for line in lines):
        lines = [PROMPT.sub("", line) for line in lines if PROMPT.match(line)]
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def calls(lines: list[str], program: str) -> Iterator[list[str]]:
    """The words of each call of a program in these lines, without its name, assignments before it, pipes and comments."""
    for line in lines:
        try:
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()<>")
            lexer.whitespace_split = True
            words = list(lexer)
        except ValueError:  # a quotation over several lines
            continue
        command: list[str] = []
        for word in [*words, ";"]:
            if set(word) <= set("|&;()<>"):
                while command and re.fullmatch(r"\w+=.*", command[0]):
                    command.pop(0)
                if command and command[0] == program:
                    yield command[1:]
                command = []
            else:
                command.append(word)


def uses_a_session(one: Fence) -> bool:
    """Whether a block of Python opens one, or goes on with that of a block before it."""
    return "Session(" in one.text or goes_on_with_a_session(one)


def goes_on_with_a_session(one: Fence) -> bool:
    names = [node for node in ast.walk(ast.parse(one.text)) if isinstance(node, ast.Name)]
    bound = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    return any(node.id in SESSION and node.id not in bound for node in names)
