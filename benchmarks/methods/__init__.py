"""The ways to forget that are compared. Each has one small file, and one line here."""

from .ascent import Ascent
from .base import Method
from .cut import Cut
from .encoder import CounterfactualEncoder
from .fine_tune import FineTune
from .fine_tuned_encoder import FineTunedEncoder
from .ifru import Ifru
from .influence_function import InfluenceFunction
from .published import PublishedForm
from .receraser import RecEraser
from .retrain import AnotherSeed, Retrain
from .sharded import Sharded
from .unlearnrec import UnlearnRec
from .withdrawal import Withdrawal

METHODS: dict[str, type[Method]] = {
    "retrain": Retrain,
    "retrain, another seed": AnotherSeed,
    "cut": Cut,
    "withdrawal": Withdrawal,
    "fine-tune": FineTune,
    "ascent": Ascent,
    "sharded": Sharded,
    "influence function": InfluenceFunction,
    "published encoder": PublishedForm,
    "IFRU": Ifru,
    "RecEraser": RecEraser,
    "UnlearnRec": UnlearnRec,
    "counterfactual encoder": CounterfactualEncoder,
    "encoder, fine-tuned": FineTunedEncoder,
}

__all__ = ["METHODS", "Method"]
