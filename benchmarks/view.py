"""What an attacker sees of a model of the lab."""

from ..distributed.attacks.view import Nodes, View, node_columns
from ..distributed.graph.local_graph import LocalGraph
from .lab import Model


def view_of(model: Model, graph: LocalGraph) -> View:
    """What an attacker sees of a model who has this graph."""
    columns = [x.cpu().numpy() for x in node_columns(graph, model.e0, model.readout)]
    ids, first = (graph.user_ids.cpu().numpy(), graph.item_ids.cpu().numpy()), graph.num_local_users
    sides = [slice(None, first), slice(first, None)]
    users, items = (Nodes(i, *(x[side] for x in columns)) for i, side in zip(ids, sides, strict=True))
    return View(users, items)
