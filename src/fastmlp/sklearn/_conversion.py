"""Converters between scikit-learn's estimators, the ones here, and plain networks."""

import copy
from typing import Any

import numpy as np
from sklearn import neural_network
from sklearn.base import BaseEstimator
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

from fastmlp._layout import Layout
from fastmlp._losses import default_loss
from fastmlp._mlp import MLP
from fastmlp._update import BETA1_POWER, BETA2_POWER
from fastmlp.sklearn._base import BaseMLP
from fastmlp.sklearn._classifier import MLPClassifier
from fastmlp.sklearn._objective import NET_NAMES, SKLEARN_NAMES, Objective
from fastmlp.sklearn._regressor import MLPRegressor
from fastmlp.sklearn._solver import Solver

SKLEARN_ACTIVATIONS = ("identity", "logistic", "tanh", "relu")
SKLEARN_SETTINGS = {
    "solver": ("lbfgs", "sgd", "adam"),
    "loss": ("squared_error", "poisson"),
    "learning_rate": ("constant", "invscaling", "adaptive"),
}
# What both kinds of estimators keep under the same names, if they have it.
SHARED = (
    *("n_features_in_", "feature_names_in_", "n_outputs_", "n_layers_", "out_activation_", "classes_"),
    *("n_iter_", "t_", "loss_", "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"),
    *("_label_binarizer", "_no_improvement_count"),
)


def from_sklearn(estimator: Any, **settings: Any) -> MLPClassifier | MLPRegressor:
    """The estimator of this package that corresponds to one of scikit-learn.

    Parameters
    ----------
    estimator : sklearn.neural_network.MLPClassifier or MLPRegressor
        Stays as it is. If it is fitted, so is the result, and partial_fit goes on as the original's would.
    **settings
        Parameters to change, such as ``n_threads=1``.

    Returns
    -------
    MLPClassifier or MLPRegressor

    Raises
    ------
    TypeError
        If ``estimator`` is something else.
    """
    kinds = {neural_network.MLPClassifier: MLPClassifier, neural_network.MLPRegressor: MLPRegressor}
    kind = next((ours for theirs, ours in kinds.items() if isinstance(estimator, theirs)), None)
    if kind is None:
        raise TypeError(
            f"estimator is a {type(estimator).__name__}; expected scikit-learn's MLPClassifier or MLPRegressor"
        )
    parameters = kind().get_params()
    ours = kind(**{name: value for name, value in estimator.get_params().items() if name in parameters} | settings)
    if hasattr(estimator, "coefs_"):
        _copy_attributes(estimator, ours)
        ours._adopt(estimator.coefs_, estimator.intercepts_, _objective_of(estimator))
        if hasattr(estimator, "_optimizer") and ours.solver == estimator.solver:
            ours._optimizer = _solver_of(estimator, ours)
    return ours


def to_sklearn(estimator: Any, classes: Any = None) -> Any:
    """The estimator of scikit-learn that predicts the same.

    Parameters
    ----------
    estimator : MLPClassifier, MLPRegressor or fastmlp.MLP
        An estimator of this package, fitted or not, or a network. Stays as it is. Settings of training that
        scikit-learn does not know become its defaults.
    classes : array of shape (n_classes,), optional
        The sorted classes of a network with softmax or sigmoid outputs; by default 0, 1, ...

    Returns
    -------
    sklearn.neural_network.MLPClassifier or MLPRegressor

    Raises
    ------
    ValueError
        If scikit-learn cannot express it: several activations, or others than its own.
    """
    if isinstance(estimator, MLP):
        estimator = _estimator_of(estimator, classes)
    if not isinstance(estimator, BaseMLP):
        raise TypeError(
            f"estimator is a {type(estimator).__name__}; expected fastmlp's MLP, MLPClassifier or MLPRegressor"
        )
    kind = neural_network.MLPClassifier if isinstance(estimator, MLPClassifier) else neural_network.MLPRegressor
    theirs = kind(**_known_settings(estimator, kind()))
    if hasattr(estimator, "coefs_"):
        net = estimator._network()
        _copy_attributes(estimator, theirs)
        theirs.coefs_ = [np.array(W.T) for W in net.weights]
        theirs.intercepts_ = [b.copy() for b in net.biases]
        if hasattr(estimator, "_optimizer") and estimator.solver == theirs.solver:
            theirs._optimizer = _optimizer_of(estimator, theirs)
    return theirs


def _copy_attributes(one: BaseEstimator, other: BaseEstimator) -> None:
    for name in SHARED:
        if hasattr(one, name):
            setattr(other, name, copy.deepcopy(getattr(one, name)))


def _objective_of(theirs: Any) -> Objective:
    output = NET_NAMES.get(theirs.out_activation_, theirs.out_activation_)
    return Objective(default_loss(output), output, theirs.n_outputs_)


def _known_settings(ours: BaseMLP, theirs: BaseEstimator) -> dict[str, Any]:
    """Parameters for scikit-learn; those of training that it does not know are its defaults."""
    activation = ours.activation
    if not isinstance(activation, str):
        names = set(activation)
        activation = names.pop() if len(names) == 1 else activation
    if activation not in SKLEARN_ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; scikit-learn has one of {', '.join(SKLEARN_ACTIVATIONS)}")
    settings = {name: value for name, value in ours.get_params().items() if name in theirs.get_params()}
    settings["activation"] = activation
    for name in ("solver", "loss", "learning_rate"):
        if name in settings and settings[name] not in SKLEARN_SETTINGS[name]:
            del settings[name]
    return settings


def _estimator_of(net: MLP, classes: Any) -> MLPClassifier | MLPRegressor:
    """A fitted estimator with a copy of a network's parameters."""
    coefs, intercepts = [W.T for W in net.weights], list(net.biases)
    activation = [SKLEARN_NAMES.get(name, name) for name in net.activations] or "relu"
    if net.loss_name == "cross_entropy":
        if len(intercepts[-1]) == 2:
            # Of two classes scikit-learn models the second: the softmax of two logits is the sigmoid of their gap.
            coefs[-1], intercepts[-1] = np.diff(coefs[-1]), np.diff(intercepts[-1])
        return MLPClassifier.from_coefs(coefs, intercepts, classes=classes, activation=activation)
    if net.loss_name == "bce":
        multilabel = len(intercepts[-1]) > 1
        return MLPClassifier.from_coefs(
            coefs, intercepts, classes=classes, multilabel=multilabel, activation=activation
        )
    losses = {"identity": "squared_error", "exp": "poisson"}
    if net.output_activation not in losses:
        raise ValueError(f"output_activation is {net.output_activation!r}, which scikit-learn's MLPRegressor has not")
    return MLPRegressor.from_coefs(coefs, intercepts, loss=losses[net.output_activation], activation=activation)


# --- the state of solvers: scikit-learn keeps it as lists of weights, then biases, and the rate within velocities ---


def _solver_of(theirs: Any, ours: BaseMLP) -> Solver:
    """The solver of an estimator of scikit-learn that is in the middle of partial_fit."""
    state, solver = theirs._optimizer, Solver(ours)
    solver.learning_rate = float(state.learning_rate if ours.solver == "sgd" else state.learning_rate_init)
    update = solver.bind(ours.net_)
    if ours.solver == "sgd":
        _write(ours.net_._layout, update.first, [-velocity / solver.learning_rate for velocity in state.velocities])
    else:
        _write(ours.net_._layout, update.first, state.ms)
        _write(ours.net_._layout, update.second, state.vs)
        solver.n_steps = state.t
        update.scalars[[BETA1_POWER, BETA2_POWER]] = state.beta_1**state.t, state.beta_2**state.t
    return solver


def _optimizer_of(ours: BaseMLP, theirs: Any) -> Any:
    """The other way."""
    solver, parameters = ours._optimizer, theirs.coefs_ + theirs.intercepts_
    layout, update = ours.net_._layout, solver.bind(ours.net_)
    if ours.solver == "sgd":
        optimizer = SGDOptimizer(
            parameters,
            solver.learning_rate_init,
            solver.policy,
            ours.momentum,
            ours.nesterovs_momentum,
            solver.power_t,
        )
        optimizer.learning_rate = solver.learning_rate
        optimizer.velocities = [-solver.learning_rate * array for array in _read(layout, update.first)]
        return optimizer
    optimizer = AdamOptimizer(parameters, solver.learning_rate_init, ours.beta_1, ours.beta_2, ours.epsilon)
    optimizer.t = solver.n_steps
    optimizer.ms, optimizer.vs = _read(layout, update.first), _read(layout, update.second)
    return optimizer


def _write(layout: Layout, arena: np.ndarray, arrays: list[np.ndarray]) -> None:
    if arena.size:
        for place, array in zip(_places(layout, arena), arrays, strict=True):
            place[...] = array


def _read(layout: Layout, arena: np.ndarray) -> list[np.ndarray]:
    return [place.copy() for place in _places(layout, arena if arena.size else layout.arena())]


def _places(layout: Layout, arena: np.ndarray) -> list[np.ndarray]:
    matrices = layout.matrices(arena)
    return [*(matrix[:-1] for matrix in matrices), *(matrix[-1] for matrix in matrices)]
