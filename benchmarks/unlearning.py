"""Compare ways to forget with retraining, for each scenario, method, backbone and seed. A YAML file says which (`--config`).

It runs in this process with one partition, on a GPU if there is one, otherwise on all cores. A cell is one combination of
these four. Training runs and judged cells are kept under `--work`, so an interrupted benchmark goes on where it stopped. If
the code has changed, the cells are judged again, from the training runs that are there. The results file is written again
after every cell.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.parquet as pq
import torch
import yaml
from pydantic import Field

from ..cluster.config.schema import Section, parse_config
from ..cluster.reporting.screen import open_progress
from ..distributed.backbones.registry import make_backbone
from ..distributed.encoder.pretrain import tries_around_encoder
from ..distributed.measures import scores as measures
from ..partitioning.errors import InputError
from ..partitioning.storage import Store
from ..workers.memory import forget_peak, own_peak_bytes
from . import results_file
from . import unlearning_report as report
from .judge import judge
from .lab import Data, Lab, Model, Recipe
from .methods import METHODS, Method
from .panel import Panel, Seen
from .people import FIRST_REFERENCE, REFERENCES, alone, columns, told_of_people
from .scenarios import SCENARIOS, Scenario, joined
from .shadows import Shadows

SOURCES = (
    "distributed/**/*.py",
    "benchmarks/methods/*.py",
    *(
        f"benchmarks/{name}.py"
        for name in ("judge", "lab", "panel", "people", "scenarios", "shadows", "unlearning", "view")
    ),
)
"""The files of the package on which the numbers of a cell depend."""


def code_of(root: Path) -> str:
    """A hash of the text of SOURCES. root: the folder of the package."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in SOURCES for path in root.glob(pattern)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


FITTED = {"epochs", "batch_size", "learning_rate", "counterfactuals", "request_share", "fork"}
"""The keys of `pretrain` on which the benchmark's encoder depends."""

CODE = code_of(Path(__file__).resolve().parent.parent)
"""The hash of the code of this process."""


class Matrix(Section):
    """What is compared: the file of `--config`."""

    name: str
    """The name of the data set, for the results file."""
    backbones: dict[str, dict[str, Any]] = Field(min_length=1)
    """By title, the keys of `backbone` and `train` in the configuration, such as `backbone.name`, with their values."""
    epochs: int = Field(8, ge=1)
    seeds: tuple[int, ...] = (0,)
    other_seeds: int = Field(0, ge=0)
    """The number of retrains with other seeds in the scenarios of `spread`. They give the spread of retraining."""
    spread: tuple[str, ...] = ()
    shadows: int = Field(0, ge=0)
    """The number of shadow models, for the attack on each pair, in the scenarios of `shadowed`."""
    shadowed: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = Field(min_length=1)
    methods: tuple[str, ...] = Field(min_length=1)
    only: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """The methods to run in a scenario, by its name. In other scenarios all methods run."""


def main(argv: Sequence[str] | None = None) -> None:
    """See `--help`."""
    parser = argparse.ArgumentParser(prog="unlearnrec bench unlearning", description=__doc__)
    parser.add_argument("--config", required=True, type=Path, help="such as benchmarks/matrices/gowalla.yaml")
    parser.add_argument("--train", required=True, help="Parquet with user_id and item_id")
    parser.add_argument("--test", required=True)
    parser.add_argument("--work", required=True, type=Path, help="folder that keeps runs and cells")
    parser.add_argument("--results", type=Path)
    add_device(parser)
    arguments = parser.parse_args(argv)
    matrix = read_matrix(arguments.config)
    results = arguments.results or results_file.FOLDER / f"unlearning-{matrix.name}.md"
    settings = _settings(matrix)
    cells: list[dict[str, Any]] = []
    with open_progress().task("cells", sum(1 for _ in _names(matrix))) as task:
        data, store = read_data(arguments.train, arguments.test), Store(str(arguments.work))
        for cell in run(matrix, data, store, arguments.device):
            cells.append(cell)
            report.write(results, f"Unlearning on {matrix.name}", settings, cells)
            task.advance()


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the option `--device`."""
    best = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=best, choices=("cpu", "cuda"), help="a GPU where there is one")


Kind = TypeVar("Kind", bound=Section)


def read_section(path: Path, kind: type[Kind]) -> Kind:
    """Read a YAML file as a section of this kind.

    Raises:
        InputError: the file cannot be read, or its keys or values are not those of the section.
    """
    try:
        return kind.model_validate_json(json.dumps(yaml.safe_load(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: {error}") from error


def read_matrix(path: Path) -> Matrix:
    """Read a YAML file as a matrix.

    Raises:
        InputError: as `read_section`; or a scenario or a method does not exist.
    """
    matrix = read_section(path, Matrix)
    for kind, names, known in (
        ("scenarios", [*matrix.scenarios, *matrix.spread, *matrix.shadowed], SCENARIOS),
        ("methods", [*matrix.methods, *(method for few in matrix.only.values() for method in few)], METHODS),
        ("only", matrix.only, SCENARIOS),
    ):
        if unknown := sorted(set(names) - set(known)):
            raise InputError(f"{path}: {kind}: {unknown[0]!r} is none of {', '.join(known)}")
    return matrix


def read_data(train: str, test: str) -> Data:
    """Read both tables (Parquet). The dense ids have the order of the external ids. Test rows whose user or item is not in
    the training data are left out."""
    tables = [pq.read_table(path, columns=["user_id", "item_id"]) for path in (train, test)]
    (users, items), (test_users, test_items) = ((t["user_id"].to_numpy(), t["item_id"].to_numpy()) for t in tables)
    user_ids, item_ids = np.unique(users), np.unique(items)
    known = np.isin(test_users, user_ids) & np.isin(test_items, item_ids)
    codes = np.unique(np.searchsorted(user_ids, users) * len(item_ids) + np.searchsorted(item_ids, items))
    return Data(
        codes // len(item_ids),
        codes % len(item_ids),
        np.searchsorted(user_ids, test_users[known]),
        np.searchsorted(item_ids, test_items[known]),
        len(user_ids),
        len(item_ids),
    )


def recipe_of(epochs: int, overrides: dict[str, Any]) -> Recipe:
    """The recipe of a backbone: the defaults of the configuration with these keys. epochs: their number, if the keys do not
    name one."""
    sections: dict[str, dict[str, Any]] = {"backbone": {}, "train": {}}
    for path, value in overrides.items():
        section, _, key = path.partition(".")
        sections.setdefault(section, {})[key] = value
    config = parse_config({"interactions": "-", "output": "-", **sections})
    train = config.train.model_dump(exclude={"epochs", "checkpoint_every", "kernel", "dense_learning_rate"})
    if "epochs" in sections["train"]:
        epochs = config.train.epochs
    pretrain = config.pretrain.model_dump(include=FITTED)
    backbone = config.backbone.specification()
    made = make_backbone(backbone, 0)
    if (rate := config.train.rate_of_dense(any(True for _ in made.parameters()))) is not None:
        train["dense_learning_rate"] = rate
    around = tries_around_encoder(config.influence.around, made)
    return Recipe(backbone, train, epochs, pretrain, around)


def methods_of(matrix: Matrix, scenario: str) -> tuple[str, ...]:
    """The methods to run in a scenario."""
    return matrix.only.get(scenario, matrix.methods)


def _names(matrix: Matrix) -> Iterator[tuple[str, int, str, str]]:
    for backbone in matrix.backbones:
        for seed in matrix.seeds:
            for scenario in matrix.scenarios:
                for method in methods_of(matrix, scenario):
                    yield backbone, seed, scenario, method


@dataclass(frozen=True)
class Prepared:
    """A method that is prepared, with the seconds and the peak memory, in bytes, that its preparation took."""

    method: Method
    seconds: float
    peak: int


Ready = dict[tuple[str, str], Prepared]


def run(matrix: Matrix, data: Data, store: Store, device: str = "cpu") -> Iterator[dict[str, Any]]:
    """Yield the cells in order. A cell that this code has judged before is read from the store."""
    ready: Ready = {}
    for backbone, overrides in matrix.backbones.items():
        for seed in matrix.seeds:
            lab = Lab(store, data, recipe_of(matrix.epochs, overrides), seed, device)
            for name in matrix.scenarios:
                yield from _scenario(matrix, lab, backbone, name, ready)


def _scenario(matrix: Matrix, lab: Lab, backbone: str, name: str, ready: Ready) -> Iterator[dict[str, Any]]:
    """Yield the cells of one scenario. Its models are trained only if a cell is not in the store."""
    spread = matrix.other_seeds if name in matrix.spread else 0
    identity = {"backbone": backbone, "seed": lab.seed, "scenario": name}
    shadows = matrix.shadows if name in matrix.shadowed else 0
    cells = {method: lab.digest([CODE, name, method, spread, shadows]) for method in methods_of(matrix, name)}
    bench = None
    for method, digest in cells.items():
        place = f"cells/{digest}.json"
        if not lab.store.exists(place):
            bench = bench or _Bench(lab, name, spread, shadows, ready)
            cell = {**identity, "method": method, **bench.cell(method)}
            lab.store.write(place, json.dumps(cell).encode())
        yield json.loads(lab.store.read(place))


class _Bench:
    """A scenario with the models that its methods are compared with: the original, the retrain, and the shadow models."""

    def __init__(self, lab: Lab, name: str, spread: int, shadows: int, ready: Ready) -> None:
        self.ready = ready
        self.scenario = scenario = SCENARIOS[name](lab)
        self.lab = scenario.lab
        self.original = self.lab.train()
        self.retrained = self.lab.train(scenario.request)
        self.panel = Panel.of(scenario)
        self.references = Seen(self.original, self.panel), Seen(self.retrained, self.panel)
        others = [self.lab.train(scenario.request, seed=lab.seed + 1 + n) for n in range(spread)]
        self.others = [Seen(m, self.panel) for m in others]
        self.shadows = Shadows.train(scenario, self.panel, shadows) if shadows else None
        own = range(REFERENCES if len(scenario.strangers[0]) else 0)
        self.attackers = [self.lab.train(scenario.unknown, seed=lab.seed + FIRST_REFERENCE + n) for n in own]

    def cell(self, name: str) -> dict[str, Any]:
        """All measures of one method, and its seconds."""
        request = self.scenario.request
        prepared = self._prepared(name)
        method = prepared.method
        start = method.start(self.lab, self.original)
        steps = self.scenario.requests or (request,)
        marks = self.scenario.marks if self.scenario.marks and name not in RETRAINS else (len(steps),)
        checkpoints: list[dict[str, Any]] = []
        model, seconds = start, 0.0
        whole = name in WHOLE or not self.scenario.requests
        peak = 0
        for count in marks:
            done = 0 if whole else (0 if not checkpoints else marks[len(checkpoints) - 1])
            # A method that answers from the start gets all requests up to here as one; others get each new one by itself.
            for part in [joined(steps[:count])] if whole else steps[done:count]:
                current = start if whole else model
                _ = current.nodes  # computed before the clock starts, as a service has it before a request
                forget_peak()
                before = self.lab.clock()
                model = method.forget(self.lab, current, part)
                _ = model.readout
                seconds += self.lab.clock() - before
                peak = max(peak, own_peak_bytes())
            checkpoints.append(self._checkpoint(model, start, count))
        if model.seconds and name in WHOLE:
            seconds = model.seconds  # the seconds of the training run, which may come from the store
        original, target = self.references
        first = original if start is self.original else Seen(start, self.panel)
        seen = first, Seen(model, self.panel), target
        apart = None
        if name not in WHOLE and start is self.original:
            apart = alone(method, self.lab, start, self.panel.people, self.scenario.alone)
        attackers = [Seen(m, self.panel).people for m in self.attackers]
        result = judge(self.lab.data, self.panel, seen, self.others, self.shadows, attackers, apart)
        return result | {
            "interactions": len(request[0]),
            "requests": len(steps),
            "seconds": seconds,
            "retrain seconds": self.retrained.seconds,
            "preparation seconds": prepared.seconds,
            "peak bytes": peak,
            "preparation peak bytes": prepared.peak,
            "note": method.note(model),
            "checkpoints": checkpoints if self.scenario.requests else [],
        }

    def _prepared(self, name: str) -> Prepared:
        """The method, prepared for the lab's original. Its seconds have those of the runs that it learned from."""
        key = (self.lab.digest([]), name)
        if key not in self.ready:
            method = METHODS[name]()
            self.lab.counterfactuals()
            self.lab.learned_seconds = 0.0
            forget_peak()
            before = self.lab.clock()
            method.prepare(self.lab, self.original)
            seconds = self.lab.clock() - before + self.lab.learned_seconds
            self.ready[key] = Prepared(method, seconds, own_peak_bytes())
        return self.ready[key]

    def _checkpoint(self, model: Model, start: Model, count: int) -> dict[str, Any]:
        """Measures after `count` requests of a stream, against the retrain without these requests."""
        if not self.scenario.requests:
            return {}
        request = joined(self.scenario.requests[:count])
        panel = Panel.of(Scenario(self.lab, request, strangers=self.scenario.strangers))
        seen = [Seen(m, panel) for m in (start, model, self.lab.train(request))]
        row = {"requests": count, "interactions": len(request[0])}
        quality = {"recall, share of retrained": seen[1].recall / seen[2].recall}
        if panel.people is not None:
            of_users = told_of_people([s.people for s in seen], [Seen(m, panel).people for m in self.attackers])
            return row | columns(of_users) | quality
        needed, delivered = (s.forgotten - seen[0].forgotten for s in (seen[2], seen[1]))
        shifts = {
            "shift R2": measures.explained(needed, delivered),
            "shift slope": measures.slope(needed, delivered),
            "attack auc": seen[1].attack,
            "attack auc before": seen[0].attack,
            "attack auc retrained": seen[2].attack,
        }
        return row | shifts | quality


RETRAINS = ("retrain", "retrain, another seed")
WHOLE = (*RETRAINS, "sharded", "RecEraser")
"""The methods that carry out a stream from its start each time. More requests only multiply their cost."""


def _settings(matrix: Matrix) -> str:
    recipes = {title: recipe_of(matrix.epochs, overrides) for title, overrides in matrix.backbones.items()}
    lines = [
        f"- {title}: {r.epochs} epochs, backbone {r.backbone}, train {r.train}, pretrain {r.pretrain}"
        for title, r in recipes.items()
    ]
    return (
        "Every cell is judged against the retrain without the request under the same seed. `seconds` are from the request "
        "to refreshed readouts, `preparation` is what a method does before there is a request; of a stream they are of all "
        "its requests together, against one retrain. `sharded` and `RecEraser` "
        "start from an ensemble of their own and forget exactly; their gap and shifts against the one model's retrain say "
        "little, their Recall before and after what they cost. A method `pays from request` n where its preparation and n "
        "requests take less time than n retrains. Peak memory is that of the whole process, in which the "
        "models lie that a method is compared with.\n\n"
        "A share of the gap is (after - before) / (retrained - before) of a measure, with its 95% bootstrap interval over "
        'pairs or users: 0 is nothing done, 1 as retrained. It is "-" where there is no gap to close: the interval of '
        'retrained - before holds 0. For the difference attack, "before" is .5: there is no second version.\n\n'
        + "\n".join(lines)
    )


if __name__ == "__main__":
    main()
