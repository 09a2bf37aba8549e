"""RecBole's LightGCN with its own data loader and loss, in a loop of steps as its trainer has one."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .protocol import Ids, Rows, Task, serve


class RecBole:
    """The program."""

    def __init__(self, task: Task) -> None:
        sys.argv = sys.argv[:1]  # RecBole reads them as its own
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.model.general_recommender import LightGCN
        from recbole.utils import init_seed

        self._task, recipe = task, task.recipe
        with tempfile.TemporaryDirectory() as folder:
            self._write(Path(folder) / "data")
            values = {
                "data_path": folder,
                "benchmark_filename": ["train", "few", "few"],
                "load_col": {"inter": ["user_id", "item_id"]},
                "USER_ID_FIELD": "user_id",
                "ITEM_ID_FIELD": "item_id",
                "use_gpu": False,
                "seed": task.seed,
                "show_progress": False,
                "state": "ERROR",
                "train_batch_size": task.batch_size,
                "embedding_size": recipe["size"],
                "n_layers": recipe["layers"],
                "reg_weight": recipe["decay"],
                "learning_rate": recipe["learning_rate"],
                "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1, "dynamic": False},
                "eval_args": {"group_by": "user", "order": "RO", "split": {"RS": [0.8, 0.1, 0.1]}, "mode": "full"},
                "metrics": ["Recall"],
                "valid_metric": "Recall@10",
                "topk": [10],
                "checkpoint_dir": folder,
            }
            config = Config(model="LightGCN", dataset="data", config_dict=values)
            init_seed(task.seed, True)
            dataset = create_dataset(config)
            self._batches, *_ = data_preparation(config, dataset)
        torch.set_num_threads(task.threads)
        self._rows_of = [
            np.array([dataset.token2id(field, str(k)) for k in range(count)])
            for field, count in (("user_id", task.num_users), ("item_id", task.num_items))
        ]
        self._model: Any = LightGCN(config, self._batches.dataset)
        self._adam = torch.optim.Adam(self._model.parameters(), lr=recipe["learning_rate"])

    def _write(self, folder: Path) -> None:
        """The interactions as RecBole's files. A node without interactions is in none of them; RecBole needs every part to
        have some."""
        folder.mkdir()
        pairs = np.stack([self._task.users, self._task.items], axis=1)
        for name, part in (("train", pairs), ("few", pairs[:1000])):
            with open(folder / f"data.{name}.inter", "w", encoding="utf-8") as file:
                file.write("user_id:token\titem_id:token\n")
                np.savetxt(file, part, fmt="%d", delimiter="\t")

    def epoch(self) -> Iterator[None]:
        """As `Contestant`."""
        self._model.train()
        for batch in self._batches:
            self._adam.zero_grad()
            self._model.calculate_loss(batch).backward()
            self._adam.step()
            yield

    @torch.no_grad()
    def embeddings(self) -> tuple[Rows, Rows]:
        """As `Contestant`."""
        users, items = (x.numpy() for x in self._model.forward())
        found: list[Ids] = self._rows_of
        return users[found[0]], items[found[1]]


if __name__ == "__main__":
    serve(RecBole)
