"""Carrying the encoder of the version before a training over to the new model, on a partition."""

from collections.abc import Sequence

from ..encoder.carry import make_statistics_again
from ..encoder.gains import explained_shifts
from ..encoder.influence import InfluenceEncoder
from ..encoder.pretrain import PretrainSettings
from ..graph.removal import Simulated
from ..training.checkpoint import from_bytes, to_bytes
from .files import read_file, write_file
from .results import Fitted
from .state import Location
from .training import FinishedRuns, PartitionTraining


class PartitionCarrying(PartitionTraining):
    """The method that `pretrain` and `retrain` call where an encoder can be carried over."""

    def carry_encoder(
        self,
        location: Location,
        runs: FinishedRuns,
        requests: Sequence[Simulated],
        settings: PretrainSettings,
        name: str,
    ) -> Fitted:
        """Make the encoder that the loaded version names as its earlier one an encoder of this version's model
        (`encoder.carry`), and measure it on the one counterfactual of `runs`: "carried_r2" and "carried_factor".

        requests: those of a whole pre-training. Rank 0 writes the encoder to `name`.

        Raises:
            OSError: the file of the earlier encoder is missing or damaged.
        """
        self.complete()
        self._say(phase="encoder")
        model, store = self._loaded_model(), location.store()
        earlier = model.version.model.earlier
        assert earlier is not None, "called for a version that names no earlier encoder"
        encoder = InfluenceEncoder(**earlier.encoder.shape).to(self._device)
        encoder.load_state_dict(from_bytes(read_file(store, model.version, earlier.encoder.file)))
        backbone, nodes, [target] = self._targets(store, runs)
        make_statistics_again(model.graph, backbone, nodes, encoder, requests, settings.seed, settings.examples)
        r2, factor = explained_shifts(model.graph, backbone, nodes, encoder, target)
        fitted = {"carried_r2": r2, "carried_factor": factor}
        rows = (target[1] - nodes.e0).norm(dim=1)
        files = [write_file(store, name, to_bytes(encoder.state_dict()))] if self._rank == 0 else []
        return {"fit": fitted, "files": files, "largest_shift": float(rows.max()) if len(rows) else 0.0}
