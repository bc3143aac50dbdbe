"""What both estimators share: the checks of their parameters, and fitting."""

import warnings
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from functools import cache
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.metrics import get_scorer_names
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight, validate_data

from fastmlp._activations import HIDDEN_ACTIVATIONS
from fastmlp._backends import BACKEND_NAMES
from fastmlp._backends._engine import Examples
from fastmlp._checks import is_sparse
from fastmlp._fit_arguments import check_callbacks
from fastmlp._mlp import MLP
from fastmlp.sklearn._fitted import Fitted
from fastmlp.sklearn._initialization import draw_parameters
from fastmlp.sklearn._lbfgs import fit_lbfgs
from fastmlp.sklearn._objective import NET_NAMES, SKLEARN_NAMES, Objective
from fastmlp.sklearn._solver import STOCHASTIC, Solver
from fastmlp.sklearn._training import Batches, Training
from fastmlp.sklearn._validation import Validation

ACTIVATIONS = {SKLEARN_NAMES.get(name, name) for name in HIDDEN_ACTIVATIONS}
UNIT = {"left": Interval(Real, 0, 1, closed="left"), "both": Interval(Real, 0, 1, closed="both")}


class BaseMLP(Fitted):
    """A multi-layer perceptron with scikit-learn's interface; use its two subclasses."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(ACTIVATIONS), list, tuple],
        "solver": [StrOptions({"lbfgs", *STOCHASTIC})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"}), callable],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [UNIT["both"]],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [UNIT["left"]],
        "beta_1": [UNIT["left"]],
        "beta_2": [UNIT["left"]],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "dropout": [UNIT["left"], list, tuple],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "scoring": [StrOptions({"loss", *get_scorer_names()}), callable, None],
        "callbacks": [callable, list, tuple],
        "progress": ["boolean"],
        "n_threads": [Interval(Integral, 1, None, closed="left"), None],
        "backend": [StrOptions(set(BACKEND_NAMES)), None],
    }

    @classmethod
    @cache  # inspecting so many parameters takes as long as an epoch of the digits
    def _get_param_names(cls) -> list[str]:
        names: list[str] = super()._get_param_names()
        return names

    _best_parameters: np.ndarray | None = None  # in a fit with early stopping, the arena with the best score

    # --- what a subclass adds ---

    @abstractmethod
    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, np.ndarray]:
        """X checked, and y as the network takes it: classes (n,), or real targets (n, n_outputs)."""

    @abstractmethod
    def _objective_for(self, y: np.ndarray) -> Objective:
        """What to minimize with these targets, from ``_validate_input``."""

    @abstractmethod
    def _score_of(self, outputs: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None) -> float:
        """What ``score`` returns, from the network's outputs and its targets."""

    @abstractmethod
    def _labels_of(self, y: np.ndarray) -> np.ndarray:
        """Targets as users give them."""

    def _weights_of(self, y: np.ndarray, sample_weight: np.ndarray | None) -> np.ndarray | None:
        """The weights to train with."""
        return sample_weight

    # --- fit ---

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        held_out: tuple[Any, Any, Any] = (None, None, None),
        incremental: bool = False,
    ) -> Any:
        sizes = hidden_sizes(self.hidden_layer_sizes)
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        stochastic = self.solver in STOCHASTIC
        if incremental and self.early_stopping and stochastic:
            raise ValueError("partial_fit does not support early_stopping=True")
        X, targets = self._validate_input(X, y, incremental, reset=first)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X).astype(np.float64, copy=False)
        examples = Examples(rows_of(X), targets, self._weights_of(targets, sample_weight))
        rng = check_random_state(self.random_state)
        objective = self._objective_for(targets)
        dtype = X.dtype if stochastic else np.dtype(np.float64)
        self.n_outputs_ = objective.n_outputs
        validation_examples = self._held_out(*held_out)
        weight = total_weight(examples)
        if first:
            self._start((X.shape[1], *sizes, objective.n_outputs), objective, rng, X.dtype, dtype, weight)
        else:
            self._go_on(objective, dtype, weight)
        with self.net_._training():
            if stochastic:
                self._fit_stochastic(examples, validation_examples, objective, rng, incremental)
            else:
                fit_lbfgs(self, self.net_, objective, examples)
        if not np.isfinite(self.net_.parameters).all():
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
                "preprocessed."
            )
        return self

    def _start(
        self,
        layer_sizes: tuple[int, ...],
        objective: Objective,
        rng: np.random.RandomState,
        drawn_dtype: np.dtype,
        dtype: np.dtype,
        weight: float,
    ) -> None:
        """A new network, and attributes as before any epoch."""
        seed = int(rng.randint(2**31)) if np.any(self.dropout) else 0
        net = self._new_net(layer_sizes, objective, dtype, weight, seed)
        activations = net.activations
        if not activations and isinstance(self.activation, str):
            activations = (NET_NAMES.get(self.activation, self.activation),)
        weights, biases = draw_parameters(layer_sizes, activations, rng, drawn_dtype)
        net.set_weights([W.T for W in weights], biases)
        self._show(net)
        self._forget_progress()

    def _forget_progress(self) -> None:
        self.n_iter_ = 0
        self.t_ = 0
        self.n_layers_ = len(self.net_.layer_sizes)
        output = self.net_.output_activation
        self.out_activation_ = SKLEARN_NAMES.get(output, output)
        for name in ("_optimizer", "validation_loss_curve_"):
            if hasattr(self, name):
                delattr(self, name)
        if self.solver in STOCHASTIC:
            self.loss_curve_: list[float] = []
            self._no_improvement_count = 0
            self.validation_scores_: list[float] | None = [] if self.early_stopping else None
            self.best_validation_score_ = -np.inf if self.early_stopping else None
            self.best_loss_ = None if self.early_stopping else np.inf
            self._best_parameters = self.net_._parameters.copy() if self.early_stopping else None

    def _go_on(self, objective: Objective, dtype: np.dtype, weight: float) -> None:
        """The network so far, or a new one with its parameters where a setting has changed since."""
        net = self._network()
        if objective.n_outputs != net.layer_sizes[-1]:
            raise ValueError(f"y has {objective.n_outputs} outputs; this network has {net.layer_sizes[-1]}")
        stochastic = self.solver in STOCHASTIC
        if not (stochastic and self._settings_of_net(objective) == self._net_settings):
            wanted = self._new_net(net.layer_sizes, objective, net.dtype if stochastic else dtype, weight, net._seed)
            wanted.copy_parameters_from(net)
            net = wanted
        self._show(net)

    def _settings_of_net(self, objective: Objective) -> tuple[Any, ...]:
        """What a network is made with; of alpha, a stochastic fit can change everything but whether it is 0."""
        return (self.activation, self.dropout, self.n_threads, self.backend, self.alpha == 0.0, objective)

    def _new_net(
        self, layer_sizes: tuple[int, ...], objective: Objective, dtype: np.dtype, weight: float, seed: int
    ) -> MLP:
        """A network of zeros; its loss on all the examples is the objective times the objective's factor."""
        activation = self.activation
        self._net_settings = self._settings_of_net(objective)
        return MLP(
            layer_sizes,
            activation=NET_NAMES.get(activation, activation)
            if isinstance(activation, str)
            else [NET_NAMES.get(name, name) for name in activation],
            output_activation=objective.output_activation,
            loss=objective.loss,
            initializer="zeros",
            l2=objective.factor * self.alpha / abs(weight) if weight else 0.0,
            dropout=self.dropout,
            dtype=dtype,
            rng=seed,
            backend=self.backend,
            n_threads=self.n_threads,
        )

    def _fit_stochastic(
        self,
        examples: Examples,
        held_out: Examples | None,
        objective: Objective,
        rng: np.random.RandomState,
        incremental: bool,
    ) -> None:
        if not incremental or not hasattr(self, "_optimizer"):
            self._optimizer = Solver(self)
        if held_out is None and self.early_stopping:
            examples, held_out = self._split(examples, objective, rng)
        callbacks, checkpoints = check_callbacks(self.callbacks)
        if checkpoints:
            raise TypeError("callbacks has a Checkpoint, which is for MLP.fit; pickle or joblib keep an estimator")
        validation = None
        if held_out is not None:
            if not hasattr(self, "validation_loss_curve_"):
                self.validation_loss_curve_: list[float] = []
            validation = Validation(self, self.net_, objective, held_out)
        n = examples.X.shape[0]
        batches = Batches(examples, self._batch_size_for(n), is_sparse(examples.X), self.net_.dtype)
        Training(
            self,
            self.net_,
            self._optimizer,
            objective,
            batches,
            rng if self.shuffle else None,
            validation,
            callbacks,
            1 if incremental else self.max_iter,
            incremental,
        ).run()
        if self._best_parameters is not None:
            self.net_._parameters[...] = self._best_parameters
            # A warm start that never improves on its score keeps its last parameters: so does scikit-learn.
            self._best_parameters = None

    def _batch_size_for(self, n: int) -> int:
        if self.batch_size == "auto":
            return min(200, n)
        if self.batch_size > n:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=2
            )
        return min(int(self.batch_size), n)

    def _split(self, examples: Examples, objective: Objective, rng: np.random.RandomState) -> tuple[Examples, Examples]:
        """A part of the examples held out for validation; stratified where the targets are binary."""
        X, y, weight = examples
        arrays = [array for array in (X, y, weight) if array is not None]
        stratify = y[:, 0].astype(bool).astype(str) if objective.loss == "bce" and objective.n_outputs == 1 else None
        parts = train_test_split(*arrays, random_state=rng, test_size=self.validation_fraction, stratify=stratify)
        train, held_out = parts[::2], parts[1::2]
        if held_out[0].shape[0] < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        return Examples(*train, *[None] * (3 - len(train))), Examples(*held_out, *[None] * (3 - len(held_out)))

    def _held_out(self, X_val: Any, y_val: Any, sample_weight_val: Any) -> Examples | None:
        """The user's own validation data, checked."""
        if X_val is None and y_val is None:
            return None
        for name, given, missing, other in (("X_val", X_val, y_val, "y_val"), ("y_val", y_val, X_val, "X_val")):
            if given is not None and missing is None:
                raise ValueError(f"{name} is provided, but {other} was not provided.")
        X = validate_data(self, X_val, accept_sparse=["csr", "csc"], dtype=(np.float64, np.float32), reset=False)
        y = self._validation_targets(y_val, X.shape[0])
        weight = None if sample_weight_val is None else _check_sample_weight(sample_weight_val, X).astype(np.float64)
        return Examples(rows_of(X), y, weight)

    @abstractmethod
    def _validation_targets(self, y: Any, n: int) -> np.ndarray:
        """The user's own validation targets, as the network takes them."""


def hidden_sizes(hidden_layer_sizes: Any) -> tuple[int, ...]:
    """One size or several as a tuple."""
    sizes = list(hidden_layer_sizes) if isinstance(hidden_layer_sizes, Iterable) else [hidden_layer_sizes]
    if np.any(np.array(sizes) <= 0):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    return tuple(sizes)


def hidden_sizes_of(intercepts: Sequence[Any]) -> tuple[int, ...]:
    """The sizes of the hidden layers with these biases."""
    return tuple(len(bias) for bias in intercepts[:-1])


def rows_of(X: Any) -> Any:
    """X in a form that rows can be picked from."""
    return X.tocsr() if is_sparse(X) else X


def total_weight(examples: Examples) -> float:
    """The sum of the weights of all examples."""
    return float(examples.X.shape[0] if examples.sample_weight is None else examples.sample_weight.sum())
