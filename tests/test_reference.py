"""An unlearned model beside a retrained one: the gate of the quickstart."""

import pytest

from unlearnrec.cluster.quickstart import passed


@pytest.mark.parametrize(
    ("aucs", "near"),
    [
        ((0.60, 0.50, 0.50), True),
        ((0.60, 0.56, 0.50), False),
        ((0.60, 0.46, 0.50), True),
        ((0.60, 0.44, 0.50), False),
        ((0.60, 0.20, 0.50), False),
        ((0.40, 0.80, 0.50), False),
        ((0.50, 0.20, 0.50), False),
        ((0.501, 0.20, 0.50), False),
        ((0.50, 0.50, 0.50), True),
        ((0.501, 0.509, 0.50), True),
        ((float("nan"), 0.5, float("nan")), False),
    ],
)
def test_the_quickstart_passes_near_the_retrained_model_on_either_side(aucs, near):
    rows = {
        name: {"recall@20": 0.2, "attack AUC": auc}
        for name, auc in zip(("original", "unlearned", "retrained"), aucs, strict=True)
    }
    assert passed(rows) == near
    rows["unlearned"]["recall@20"] = 0.19
    assert not passed(rows)
