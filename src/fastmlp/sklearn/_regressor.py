"""MLPRegressor."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import validate_data

from fastmlp.sklearn._base import BaseMLP, hidden_sizes_of
from fastmlp.sklearn._objective import Objective

# scikit-learn's name, or the network's -> the network's loss and output activation.
LOSSES = {
    "squared_error": ("mse", "identity"),
    "poisson": ("poisson", "exp"),
    "absolute_error": ("mae", "identity"),
    "mae": ("mae", "identity"),
    "huber": ("huber", "identity"),
}


class MLPRegressor(RegressorMixin, BaseMLP):
    """A multi-layer perceptron for regression, with the interface and the results of scikit-learn's.

    It minimizes half the squared error, or another loss, with identity outputs (poisson: exp).

    Parameters
    ----------
    loss : {"squared_error", "poisson", "absolute_error", "huber"}, default "squared_error"
        Half the squared error; half the Poisson deviance; the absolute error ("mae" is the same); or Huber's, which is
        half the squared error up to 1 and linear beyond. Several outputs add up, but the mean squared error is
        reported.
    hidden_layer_sizes : int or sequence of int, default (100,)
        Units of each hidden layer.
    activation : str or sequence of str, default "relu"
        Of the hidden layers: identity, logistic, tanh or relu, and also leaky_relu (slope 0.01), elu, softplus, gelu or
        silu; one for all, or one each.
    solver : {"adam", "sgd", "lbfgs", "adamw"}, default "adam"
        adamw is Adam with ``weight_decay``. lbfgs takes all examples at once.
    alpha : float, default 0.0001
        The penalty alpha/2 sum W^2 on weights; like the loss of a batch it is divided by the batch's sum of weights.
    batch_size : int or "auto", default "auto"
        Examples of a step; "auto" is 200, or all where there are fewer.
    learning_rate : {"constant", "invscaling", "adaptive"} or callable, default "constant"
        For sgd: constant; ``learning_rate_init / t ** power_t``, t counting examples from 1; or divided by 5 whenever
        ``n_iter_no_change`` epochs in a row bring no improvement. A callable gives the rate of an epoch counted from
        0, to any stochastic solver: `fastmlp.schedules` has some.
    learning_rate_init : float, default 0.001
        The rate to start with.
    power_t : float, default 0.5
        The exponent of "invscaling".
    max_iter : int, default 200
        At most so many epochs, or iterations of lbfgs.
    shuffle : bool, default True
        Whether each epoch takes the examples in a new order.
    random_state : None, int or numpy.random.RandomState
        The source of the first parameters, of the part held out, of the orders and of dropout. An int starts anew at
        every call of fit and partial_fit.
    tol : float, default 1e-4
        What an improvement of the loss or score must exceed to count.
    verbose : bool, default False
        Whether to print the loss of each epoch.
    warm_start : bool, default False
        Whether fit goes on from the parameters it finds.
    momentum : float, default 0.9
        Of sgd, in [0, 1].
    nesterovs_momentum : bool, default True
        Whether it is Nesterov's.
    early_stopping : bool, default False
        Whether to stop by the score on held-out examples, and to keep the parameters that had the best one.
    validation_fraction : float, default 0.1
        The share of the examples to hold out, where fit is not given others.
    beta_1, beta_2 : float, defaults 0.9 and 0.999
        What Adam's running means keep at each step, in [0, 1).
    epsilon : float, default 1e-8
        Added to the root of Adam's second moment.
    n_iter_no_change : int or inf, default 10
        How many epochs in a row may bring no improvement.
    max_fun : int, default 15000
        At most so many evaluations for lbfgs.
    dropout : float or sequence of float, default 0.0
        Rates in [0, 1) at which outputs of hidden layers are dropped in training; not for lbfgs.
    weight_decay : float, default 0.01
        The share of every weight, times the learning rate, that each step of adamw takes off.
    scoring : str or callable, optional
        What early stopping watches: by default R^2; "loss" for the loss on the held-out examples; or a
        scorer, as in `sklearn.metrics.check_scoring`.
    callbacks : callable or sequence of callables, default ()
        Called as ``callback(estimator)`` after each epoch; one that returns True ends the training. Not for lbfgs.
    progress : bool, default False
        Whether to show the progress: by tqdm where it is installed, else one line an epoch. Not for lbfgs.
    n_threads : int, optional
        At most so many threads; see `fastmlp.set_num_threads`.
    backend : {"c", "numba", "numpy"}, optional
        As for `fastmlp.MLP`.

    Attributes
    ----------
    net_ : fastmlp.MLP
        The network.
    coefs_, intercepts_ : lists of arrays of shapes (n_in, n_out) and (n_out,)
        The parameters of each layer: views of the network's, so writing into them changes it.
    loss_, loss_curve_, best_loss_ : float, list of float, float or None
        The loss of the last epoch, of all of them, and the least; before the updates, with the penalty.
    validation_scores_, best_validation_score_ : list of float, float
        With early stopping: the score after each epoch, and the best; else None.
    validation_loss_curve_ : list of float
        Where examples are held out: the loss on them after each epoch, without the penalty.
    n_iter_, t_ : int
        Epochs of the last fit, and all examples seen since the parameters were drawn.
    n_features_in_, feature_names_in_, n_layers_, n_outputs_, out_activation_
        The number of features and their names, the number of layers with the input, the number of outputs, and their
        activation.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = MLPRegressor(learning_rate_init=0.01, max_iter=500, random_state=0).fit(X, y)
    >>> bool(model.score(X, y) > 0.5)
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions(set(LOSSES))],
    }

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: Any = 10,
        max_fun: int = 15000,
        dropout: Any = 0.0,
        weight_decay: float = 0.01,
        scoring: Any = None,
        callbacks: Any = (),
        progress: bool = False,
        n_threads: int | None = None,
        backend: str | None = None,
    ) -> None:
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.dropout = dropout
        self.weight_decay = weight_decay
        self.scoring = scoring
        self.callbacks = callbacks
        self.progress = progress
        self.n_threads = n_threads
        self.backend = backend

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> "MLPRegressor":
        """Train on the examples.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, n_features)
        y : array of shape (n,) or (n, n_outputs)
            Real numbers; not negative with ``loss="poisson"``.
        sample_weight : array of shape (n,), optional
        X_val, y_val, sample_weight_val : arrays, optional
            Examples to validate on after each epoch. They fill ``validation_loss_curve_``, and early stopping watches
            them instead of a part of X.

        Returns
        -------
        MLPRegressor
            This estimator.
        """
        return self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val))

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> "MLPRegressor":
        """Train for one epoch, going on from where the last call stopped.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.

        Returns
        -------
        MLPRegressor
            This estimator.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> np.ndarray:
        """The network's outputs.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, n_features)

        Returns
        -------
        array of shape (n,) or (n, n_outputs)
        """
        outputs = self._outputs(X)
        return outputs.ravel() if outputs.shape[1] == 1 else outputs

    @classmethod
    def from_coefs(cls, coefs: Sequence[Any], intercepts: Sequence[Any], **settings: Any) -> "MLPRegressor":
        """A regressor with parameters from elsewhere, ready to predict, and to go on with partial_fit.

        Parameters
        ----------
        coefs : sequence of arrays of shape (n_in, n_out)
            The weights of each layer.
        intercepts : sequence of arrays of shape (n_out,)
            The biases.
        **settings
            Parameters of the regressor; ``hidden_layer_sizes`` follows from the shapes.
        """
        estimator = cls(**{"hidden_layer_sizes": hidden_sizes_of(intercepts)} | settings)
        estimator._validate_params()
        estimator._adopt(coefs, intercepts, Objective(*LOSSES[estimator.loss], len(intercepts[-1])))
        estimator._forget_progress()
        return estimator

    # --- what BaseMLP asks for ---

    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, np.ndarray]:
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=True,
            dtype=(np.float64, np.float32),
            reset=reset,
        )
        return X, as_targets(y)

    def _objective_for(self, y: np.ndarray) -> Objective:
        return Objective(*LOSSES[self.loss], y.shape[1])

    def _score_of(self, outputs: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None) -> float:
        if not np.isfinite(outputs).all():
            return np.nan
        return float(r2_score(y, outputs, sample_weight=sample_weight))

    def _labels_of(self, y: np.ndarray) -> np.ndarray:
        return y[:, 0] if y.shape[1] == 1 else y

    def _validation_targets(self, y: Any, n: int) -> np.ndarray:
        targets = as_targets(check_array(y, ensure_2d=False, dtype="numeric", input_name="y_val"))
        check_consistent_length(np.empty(n), targets)
        if targets.shape[1] != self.n_outputs_:
            raise ValueError(f"y_val has {targets.shape[1]} outputs; y has {self.n_outputs_}")
        return targets


def as_targets(y: np.ndarray) -> np.ndarray:
    """Real targets (n, n_outputs) of a dtype that kernels read."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    if y.dtype not in (np.float32, np.float64, np.int64):
        y = y.astype(np.float64)
    return y[:, None] if y.ndim == 1 else y
