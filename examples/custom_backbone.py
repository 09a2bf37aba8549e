"""A backbone of your own, in a file of your own: personalised PageRank on the graph (APPNP: Gasteiger et al., ICLR 2019).

    python examples/custom_backbone.py INTERACTIONS.parquet OUTPUT

Workers are other processes. They import the class by the name in the configuration, `custom_backbone:PageRank`, from the
folder of the script that is started. docs/python.md says how else they find it.
"""

from typing import Any

from torch import Tensor

import unlearnrec
from unlearnrec import Backbone, Layer


class PageRank(Backbone):
    """x(l+1) = (1 - restart) A x(l) + restart E0, where A is the normalised graph; the readout is the last x."""

    def __init__(self, *args: Any, restart: float = 0.2, **others: Any) -> None:
        super().__init__(*args, **others)
        self.restart = restart

    def forward(self, e0_ND: Tensor, layer: Layer) -> Tensor:
        x_ND = e0_ND
        for _ in range(self.num_layers):
            x_ND = (1 - self.restart) * layer(x_ND) + self.restart * e0_ND
        return x_ND


def main(interactions: str, output: str, **sections: Any) -> None:
    """Train it, and forget the first user of the table."""
    backbone = {"name": "custom_backbone:PageRank", "options": {"restart": 0.3}, **sections.pop("backbone", {})}
    with unlearnrec.Session(interactions=interactions, output=output, backbone=backbone, **sections) as session:
        session.ingest()
        print("loss", session.train().loss)
        print("explained on held-out users", session.pretrain().user_r2_held_out)
        user = session.embeddings().user_ids[0]
        print(session.forget(users=[user]).wait().status, "user", user)


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:3])
