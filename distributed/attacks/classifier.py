"""A membership attack by a trained classifier on features of pairs (or of nodes).

Its scores are larger for pairs that look like members of the training data; `scores.auc` and `true_positives_at` judge
them.

Shape legend: n = pairs, N = members and others together, F = features, E = expanded features (F, their squares and
products), G = E and a constant.
"""

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from ..measures.scores import Ids, Scores

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def cross_fitted_scores(
    members: Scores,
    others: Scores,
    groups: tuple[Ids, Ids] | None = None,
    folds: int = 5,
    l2: float = 1.0,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """(log odds of members [n], of others [n]) by a logistic regression, each from a fit without the pair's own fold.

    The attacker knows the membership of all pairs except those of one fold. Features, their squares and their products are
    standardised on the other folds. The penalty l2/2 |w|^2 is added to the summed loss. Both classes have the same weight,
    because otherwise the intercept of a fold would reveal the shares of the classes in the other folds.

    Args:
        members, others: features [n, F] of the pairs of each class.
        groups: an id, such as the user's, for each member and for each of the others. Pairs with the same id are in the
            same fold.

    Raises:
        ValueError: there are fewer groups than folds, or all pairs of a class are in one fold.
    """
    x_NF = np.concatenate([members, others]).astype(np.float64)
    member_N = np.arange(len(x_NF)) < len(members)
    group_N = np.arange(len(x_NF)) if groups is None else np.concatenate(groups)
    fold_N = _folds(group_N, folds, seed)
    scores_N = np.empty(len(x_NF))
    for fold in range(folds):
        known = fold_N != fold
        if not 0 < member_N[known].sum() < known.sum():
            raise ValueError(
                f"without fold {fold}, pairs of one class are left: members and others must stand in two folds"
            )
        x_NE = _standardised(_expanded(_standardised(x_NF, known)), known)
        w_E, bias = _fit(x_NE[known], member_N[known], l2)
        scores_N[~known] = x_NE[~known] @ w_E + bias
    return scores_N[member_N], scores_N[~member_N]


def _folds(group_N: Ids, folds: int, seed: int) -> npt.NDArray[np.int64]:
    """The fold of each pair [N]. The groups are put in random order and assigned to the folds in turn."""
    names, index_N = np.unique(group_N, return_inverse=True)
    if len(names) < folds:
        raise ValueError(f"{folds} folds need at least as many groups; there are {len(names)}")
    fold_of = np.random.default_rng(seed).permutation(len(names)) % folds
    return fold_of[index_N]


def _standardised(x: Floats, fitted_on: Mask) -> Floats:
    """x scaled so that its columns have mean 0 and variance 1 on the rows `fitted_on`. A column that is constant on them
    becomes 0 there."""
    mean, sd = x[fitted_on].mean(axis=0), x[fitted_on].std(axis=0)
    standardised: Floats = (x - mean) / np.where(sd > 1e-9 * np.abs(mean), sd, 1)
    return standardised


def _expanded(x_NF: Floats) -> Floats:
    """The features with their squares and products, [N, E]."""
    first, second = np.triu_indices(x_NF.shape[1])
    return np.concatenate([x_NF, x_NF[:, first] * x_NF[:, second]], axis=1)


def _fit(x_NE: Floats, member_N: Mask, l2: float) -> tuple[Floats, float]:
    """(weights [E], intercept) that minimise the class-balanced logistic loss. The intercept has no penalty.

    Newton's method in a trust region is used, because the expanded features are strongly correlated and first-order methods
    would need thousands of steps.
    """
    sign_N = np.where(member_N, 1.0, -1.0)
    share = member_N.mean()
    weight_N = 0.5 / np.where(member_N, share, 1 - share) / len(x_NE)
    x_NG = np.column_stack([x_NE, np.ones(len(x_NE))])
    penalty_G = np.append(np.full(x_NE.shape[1], l2 / len(x_NE)), 0.0)

    def loss(w_G: Floats) -> tuple[float, Floats]:
        margin_N = sign_N * (x_NG @ w_G)
        slope_N = -weight_N * sign_N * expit(-margin_N)
        value = weight_N @ np.logaddexp(0, -margin_N) + penalty_G @ w_G**2 / 2
        return float(value), x_NG.T @ slope_N + penalty_G * w_G

    def curvature(w_G: Floats) -> Floats:
        score_N = x_NG @ w_G
        by_row_N1 = (weight_N * expit(score_N) * expit(-score_N))[:, None]
        hessian: Floats = x_NG.T @ (by_row_N1 * x_NG) + np.diag(penalty_G)
        return hessian

    options = {"gtol": 1e-7, "maxiter": 200}
    found = minimize(loss, np.zeros(len(penalty_G)), jac=True, hess=curvature, method="trust-exact", options=options).x
    return found[:-1], float(found[-1])
