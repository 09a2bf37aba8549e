"""An owner-sharded table of embeddings: the rows of one partition, with their Adam moments."""

import torch
from torch import Tensor

# torch's fused Adam on CPU works in cache lines of 16 floats and rounds the last, incomplete one differently: whole lines
# make a row's update independent of where the row lies, and so of the number of partitions.
_LINE = 16


class Table:
    """Rows float32 [N, D], trained by Adam (Kingma & Ba 2015) with dense gradients."""

    def __init__(self, rows: Tensor, learning_rate: float) -> None:
        self._shape = rows.shape
        self._size = -(-max(rows.numel(), 1) // _LINE) * _LINE
        self._flat = torch.nn.Parameter(self._whole_lines(rows).clone())
        self._adam = torch.optim.Adam([self._flat], lr=learning_rate, fused=True)

    def leaf(self) -> Tensor:
        """The rows as a leaf of autograd, which shares memory with the table. Pass its gradient to `step`."""
        return self.rows.requires_grad_()

    @property
    def rows(self) -> Tensor:
        """The rows [N, D]. They share memory with the table."""
        return self._flat.detach()[: self._shape.numel()].view(self._shape)

    def step(self, gradient: Tensor) -> None:
        """Take one Adam step with this gradient [N, D]."""
        self._flat.grad = self._whole_lines(gradient)
        self._adam.step()
        self._flat.grad = None

    def _whole_lines(self, rows: Tensor) -> Tensor:
        """Rows [N, D] as a vector of whole lines. It shares their memory if they fill the lines."""
        flat = rows.reshape(-1)
        return flat if len(flat) == self._size else torch.nn.functional.pad(flat, (0, self._size - len(flat)))

    def state(self) -> dict[str, Tensor]:
        """The rows, the moments and the step count, by name. They share memory with the table, and change with its steps."""
        moments = self._adam.state.get(self._flat, {})
        zeros = torch.zeros(())
        first, second = (
            moments[name][: self._shape.numel()].view(self._shape) if moments else torch.zeros_like(self.rows)
            for name in ("exp_avg", "exp_avg_sq")
        )
        step = moments.get("step", zeros).reshape(1)
        return {"rows": self.rows, "first_moment": first, "second_moment": second, "step": step}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self.rows.copy_(state["rows"])
        padded = [
            self._whole_lines(state[name].to(self._flat.device)).clone() for name in ("first_moment", "second_moment")
        ]
        step = state["step"].reshape(()).clone().to(self._flat.device)
        self._adam.state[self._flat] = {"step": step, "exp_avg": padded[0], "exp_avg_sq": padded[1]}
