"""Full-batch training by SciPy's L-BFGS-B on the compiled loss and gradient."""

from typing import Any

import numpy as np
import scipy
from scipy.optimize import minimize
from sklearn.utils.optimize import _check_optimize_result

from fastmlp._backends._engine import Examples
from fastmlp._checks import is_sparse
from fastmlp._mlp import MLP
from fastmlp._row_blocks import ENGINE_ROWS
from fastmlp._training_data import dense
from fastmlp.sklearn._clipping import Clipping
from fastmlp.sklearn._objective import Objective


class FullBatch:
    """The objective and its gradient over all examples, as functions of the arena of parameters.

    The padding of the arena takes part as numbers that are 0 and have the gradient 0.
    """

    def __init__(self, net: MLP, objective: Objective, examples: Examples) -> None:
        self._net = net
        self._objective = objective
        X, y, weight = examples
        n = X.shape[0]
        if weight is not None and weight.sum() == 0.0:
            raise ZeroDivisionError("Weights sum to zero, can't be normalized")
        # The network divides by n, scikit-learn by the sum of weights.
        self._examples = Examples(X, y, None if weight is None else weight * (n / weight.sum()))
        constants = objective.constants(y)
        self._mean_constant = 0.0 if constants is None else float(np.average(constants, weights=weight))
        self._clipping = Clipping(net) if objective.is_log_loss else None

    def __call__(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss as scikit-learn reports it, and the gradient."""
        net, objective = self._net, self._objective
        net._parameters[...] = parameters
        total, gradients = self._loss_and_gradients()
        penalty = net.penalty()
        loss = (total - penalty) / objective.factor * objective.reported_share + penalty / objective.factor
        if self._clipping is not None:
            loss = self._clipped(loss, penalty / objective.factor)
        return loss + self._mean_constant, gradients / objective.factor

    def _loss_and_gradients(self) -> tuple[float, np.ndarray]:
        net = self._net
        X, y, weight = self._examples
        gradients = net._layout.arena()
        if not is_sparse(X):
            return net._engine.gradients(self._examples, gradients, None), gradients
        total, part = 0.0, net._layout.arena()
        for rows, block in self._blocks():
            share = len(block) / X.shape[0]
            examples = Examples(block, y[rows], None if weight is None else weight[rows])
            total += share * net._engine.gradients(examples, part, None)
            gradients += share * part
        return total, gradients

    def _clipped(self, loss: float, penalty: float) -> float:
        """The loss from clipped probabilities, where it has to be."""
        assert self._clipping is not None
        X, y, weight = self._examples
        n = X.shape[0]
        if self._clipping.steps_left and self._clipping.passed(np.array([loss * n])):
            return loss
        total = 0.0
        for rows, block in self._blocks() if is_sparse(X) else [(slice(n), X)]:
            part = None if weight is None else weight[rows]
            share = len(block) / n if part is None else float(part.sum()) / n
            if share:
                total += share * self._clipping.look(block, y[rows], part, penalty)
        return total

    def _blocks(self) -> Any:
        X = self._examples.X
        for start in range(0, X.shape[0], ENGINE_ROWS):
            rows = slice(start, min(start + ENGINE_ROWS, X.shape[0]))
            yield rows, dense(X[rows], self._net.dtype)


def fit_lbfgs(estimator: Any, net: MLP, objective: Objective, examples: Examples) -> None:
    """Minimize from the network's parameters; the estimator's loss_ and n_iter_ are set."""
    options = {"maxfun": estimator.max_fun, "maxiter": estimator.max_iter, "gtol": estimator.tol}
    if tuple(map(int, scipy.__version__.split(".")[:2])) < (1, 15):
        options["iprint"] = 1 if estimator.verbose else -1  # later ones print nothing
    function = FullBatch(net, objective, examples)
    result = minimize(function, net._parameters.copy(), method="L-BFGS-B", jac=True, options=options)
    estimator.n_iter_ = _check_optimize_result("lbfgs", result, estimator.max_iter)
    estimator.loss_ = float(result.fun)
    net._parameters[...] = result.x
