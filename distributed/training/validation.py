"""The interactions that are held out of a training run to choose its settings.

The draw is keyed, so that they are the same for any number of partitions. It is made anew for each choice and stored
nowhere."""

import torch
from torch import Tensor

from ..graph.keyed import VALIDATION, keyed, keyed_below, keyed_uniform

_SHARES = 2**40


def validation_pairs(users: Tensor, items: Tensor, seed: int, share: float, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Those of the interactions users, items int64 [n], sorted by user, that are held out: a share of those of each of the
    `chosen` users (bool [number of users]), by a hash of the interaction. One of each user's stays.

    A user with few interactions loses one with the probability that gives the share on average.
    """
    mine = chosen[users]
    users, items = users[mine], items[mine]
    present, degrees = torch.unique_consecutive(users, return_counts=True)
    drawn = keyed_uniform(seed, VALIDATION, 1, present).double()
    wanted = torch.minimum((degrees * share + drawn).floor().long(), degrees - 1)
    order = keyed(seed, VALIDATION, 2, users, items).argsort(stable=True)
    order = order[users[order].argsort(stable=True)]
    within = torch.arange(len(users), device=users.device) - torch.repeat_interleave(
        degrees.cumsum(0) - degrees, degrees
    )
    held = order[within < torch.repeat_interleave(wanted, degrees)].sort().values
    return users[held], items[held]


def validation_users(num_users: int, seed: int, wanted: float) -> Tensor:
    """bool [number of users]: the users of whom interactions are held out. wanted: below 1 their share, from 1 their
    number, on average."""
    share = wanted if wanted < 1 else min(1.0, wanted / max(1, num_users))
    return keyed_below(_SHARES, seed, VALIDATION, 0, torch.arange(num_users)) < share * _SHARES
