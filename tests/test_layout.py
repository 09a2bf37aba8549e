"""The layout is the architecture: arrows run one way, a few modules own a library, nothing is loaded twice."""

import ast
import importlib
import re
import sys
import tomllib
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from built_wheel import build_wheel

import unlearnrec
from unlearnrec import __main__ as start
from unlearnrec.cluster.reporting.exit_codes import BAD_INPUT

ROOT = Path(unlearnrec.__file__).resolve().parent
FOLDERS = ("partitioning", "distributed", "workers", "cluster", "benchmarks")  # each may import those before it
ORDER = {
    "distributed": "environment comm processes graph backbones measures attacks training encoder partition",
    "cluster": "layout reporting config tracking planning log requests jobs output lifecycle models audit evidence drop "
    "serving http desk commands pipeline api cli",
}
"""The folders (and single files) of a folder, each of which imports only those before it."""
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
SKIPPED = {"__pycache__", "build", "dist"}


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def used_names(path: Path) -> Iterator[str]:
    """Dotted names of all that a module imports, relative imports made absolute, and of torch's attributes it reads."""
    package = ["unlearnrec", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if text.startswith("torch."):
                yield text


def users_of(library: str) -> set[str]:
    def uses(path: Path) -> bool:
        return any(name == library or name.startswith(library + ".") for name in used_names(path))

    return {place(path) for path in MODULES if uses(path)}


def test_the_walk_sees_imports():
    assert "unlearnrec.partitioning.errors.InputError" in set(used_names(ROOT / "cluster" / "config" / "schema.py"))


def test_arrows_run_one_way():
    wrong = []
    for path in MODULES:
        own = FOLDERS.index(path.relative_to(ROOT).parts[0])
        for name in used_names(path):
            parts = name.split(".")
            if parts[0] == "unlearnrec" and len(parts) > 1 and parts[1] in FOLDERS[own + 1 :]:
                wrong.append(f"{place(path)} imports {name}")
    assert not wrong


def imports() -> dict[tuple[str, ...], set[tuple[str, ...]]]:
    """Of each module of the package the modules of the package that it imports, as parts of their paths."""
    known = {path.relative_to(ROOT).with_suffix("").parts for path in MODULES}
    found: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for path in MODULES:
        targets = found.setdefault(path.relative_to(ROOT).with_suffix("").parts, set())
        for name in used_names(path):
            parts = tuple(name.split(".")[1:]) if name.startswith("unlearnrec.") else ()
            # A module itself, one of its names, or one of the names of a folder's __init__.py.
            targets |= set([m for m in (parts, parts[:-1], (*parts[:-1], "__init__")) if m in known][:1])
    return found


@pytest.mark.parametrize("folder", ORDER)
def test_folders_import_only_those_before_them(folder: str):
    order = ORDER[folder].split()
    wrong, there = [], set()
    for module, targets in imports().items():
        if module[0] != folder or module[1] == "__init__":
            continue
        there.add(module[1])
        inside = [target for target in targets if target[0] == folder and target[1] not in ("__init__", module[1])]
        wrong += [
            f"{'/'.join(module)} imports {'/'.join(target)}"
            for target in inside
            if order.index(target[1]) > order.index(module[1])
        ]
    assert not wrong
    assert there == set(order), "a folder is missing in ORDER, or is there no more"


def test_no_files_import_each_other_in_a_circle():
    graph = imports()
    done: set[tuple[str, ...]] = set()

    def visit(module: tuple[str, ...], path: list[tuple[str, ...]]) -> None:
        assert module not in path, " -> ".join("/".join(part) for part in [*path[path.index(module) :], module])
        if module not in done:
            for target in graph[module]:
                visit(target, [*path, module])
            done.add(module)

    for module in graph:
        visit(module, [])


def test_inside_the_package_imports_are_relative():
    wrong = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            wrong += [f"{place(path)}: {name}" for name in names if name.split(".")[0] in ("unlearnrec", *FOLDERS)]
    assert not wrong


@pytest.mark.parametrize("library", ["torch.distributed", "torch.nn.parallel"])
def test_one_module_talks_to_other_ranks(library: str):
    assert users_of(library) <= {"distributed/comm.py"}


def test_one_module_imports_dgl():
    assert users_of("dgl") <= {"distributed/graph/neighbour_sum.py"}


def test_ray_stays_in_workers_and_above():
    assert all(user.startswith(("workers/", "cluster/", "benchmarks/")) for user in users_of("ray"))


def test_partitioning_needs_no_torch():
    assert not any(user.startswith("partitioning/") for user in users_of("torch"))


def test_no_module_is_loaded_twice():
    for path in MODULES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        importlib.import_module(".".join(["unlearnrec", *(part for part in parts if part != "__init__")]))
    names = defaultdict(set)
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "/").resolve()
        # Tests lie in folders of the same names, after which pytest calls them.
        if file.is_relative_to(ROOT) and file.relative_to(ROOT).parts[0] not in (".venv", "tests"):
            names[file].add(name)
    twice = {place(path): sorted(found) for path, found in names.items() if len(found) > 1 and "__main__" not in found}
    assert not twice
    bare = {name for found in names.values() for name in found if name.split(".")[0] in FOLDERS}
    assert not bare, "a folder of the package was imported as a top-level package"


def test_every_package_is_listed_for_installation():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = set(re.findall(r'^    "(unlearnrec[\w.]*)",$', text, flags=re.M))
    there = {".".join(["unlearnrec", *path.parent.relative_to(ROOT).parts]) for path in MODULES}
    assert listed == there | {"unlearnrec"}
    assert f'version = "{unlearnrec.__version__}"' in text
    assert f"\nversion: {unlearnrec.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_wheel_holds_every_file_of_the_package(tmp_path):
    examples = [path for path in (ROOT / "examples").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    pages = [path for folder in ("static", "templates") for path in (ROOT / "cluster" / "desk" / folder).iterdir()]
    files = [*MODULES, *ROOT.glob("*.py"), *(ROOT / "benchmarks").rglob("*.yaml"), *examples, *pages]
    there = {place(path) for path in files} | {"py.typed"}
    with zipfile.ZipFile(build_wheel(tmp_path)) as archive:
        held = {name.removeprefix("unlearnrec/") for name in archive.namelist() if name.startswith("unlearnrec/")}
    assert held == there


def test_no_file_holds_a_developers_path():
    pattern = re.compile("/" + r"(home|Users|root|work)/\w|/" + r"tmp/spec")
    suffixes = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".ini", ".cfg", ""}
    wrong = []
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        generated = parts[0] in ("quickstart-output", "output", "shared") or parts[0].endswith(".egg-info")
        hidden = parts[0].startswith(".") and parts[0] != ".ci"
        if SKIPPED & set(parts) or hidden or generated or path.suffix not in suffixes or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            if pattern.search(line):
                wrong.append(f"{place(path)}:{number}: {line.strip()[:100]}")
    assert not wrong


def test_the_lowest_python_is_the_same_wherever_it_is_said():
    """Older ones do not read all ISO-8601 of time ranges: `Z`, for one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lowest = project["project"]["requires-python"].removeprefix(">=")
    assert lowest == project["tool"]["mypy"]["python_version"] == "3.11"
    assert project["tool"]["ruff"]["target-version"] == f"py{lowest.replace('.', '')}"
    assert f"Python {lowest} or newer" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert lowest == ".".join(map(str, start.LOWEST)) and start.BAD_INPUT == BAD_INPUT
