"""MLPClassifier."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels
from sklearn.utils.validation import validate_data

from fastmlp.sklearn._base import BaseMLP, hidden_sizes_of
from fastmlp.sklearn._objective import Objective
from fastmlp.sklearn._solver import STOCHASTIC


def _is_stochastic(estimator: Any) -> bool:
    if estimator.solver not in STOCHASTIC:
        raise AttributeError(
            f"partial_fit is only available for stochastic optimizers. {estimator.solver} is not stochastic."
        )
    return True


class MLPClassifier(ClassifierMixin, BaseMLP):
    """A multi-layer perceptron that classifies, with the interface and the results of scikit-learn's.

    It minimizes the log loss: of a softmax over several classes, of one sigmoid for two, of a sigmoid for each label.

    Parameters
    ----------
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
    class_weight : "balanced", dict or None, default None
        Multiplies the weights of the examples: a number for each class, or n / (n_classes * count of the class).
    dropout : float or sequence of float, default 0.0
        Rates in [0, 1) at which outputs of hidden layers are dropped in training; not for lbfgs.
    weight_decay : float, default 0.01
        The share of every weight, times the learning rate, that each step of adamw takes off.
    scoring : str or callable, optional
        What early stopping watches: by default the accuracy; "loss" for the loss on the held-out examples; or a
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
    classes_ : array of shape (n_classes,)
        The classes, sorted.
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
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = load_wine(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), MLPClassifier(max_iter=300, random_state=0)).fit(X, y)
    >>> model.score(X, y)
    1.0
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseMLP._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }

    def __init__(
        self,
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
        class_weight: Any = None,
        dropout: Any = 0.0,
        weight_decay: float = 0.01,
        scoring: Any = None,
        callbacks: Any = (),
        progress: bool = False,
        n_threads: int | None = None,
        backend: str | None = None,
    ) -> None:
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
        self.class_weight = class_weight
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
    ) -> "MLPClassifier":
        """Train on the examples.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, n_features)
        y : array of shape (n,) or (n, n_labels)
            A class of each example, or 0 and 1 for each of several labels.
        sample_weight : array of shape (n,), optional
        X_val, y_val, sample_weight_val : arrays, optional
            Examples to validate on after each epoch. They fill ``validation_loss_curve_``, and early stopping watches
            them instead of a part of X.

        Returns
        -------
        MLPClassifier
            This estimator.
        """
        return self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val))

    @available_if(_is_stochastic)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> "MLPClassifier":
        """Train for one epoch, going on from where the last call stopped.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes : array of shape (n_classes,), optional
            All classes there will ever be; the first call needs them.

        Returns
        -------
        MLPClassifier
            This estimator.
        """
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all the data at once, which partial_fit does not have; pass a dict"
            )
        if _check_partial_fit_first_call(self, classes):
            multilabel = type_of_target(y).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(y if multilabel else classes)
        return self._fit(X, y, sample_weight, incremental=True)

    # --- predict ---

    def predict(self, X: Any) -> np.ndarray:
        """The most likely class of each example, or 0 and 1 for each of several labels.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, n_features)

        Returns
        -------
        array of shape (n,) or (n, n_labels)
        """
        outputs = self._outputs(X)
        if self._label_binarizer.y_type_ == "multiclass":
            return self.classes_.take(outputs.argmax(axis=1))
        if self._label_binarizer.y_type_ == "binary" and len(self.classes_) == 2:
            return self.classes_.take((outputs[:, 0] > 0.5).view(np.int8))
        labels: np.ndarray = self._label_binarizer.inverse_transform(
            outputs.ravel() if self.n_outputs_ == 1 else outputs
        )
        return labels

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, in the order of ``classes_``, or of each of several labels.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, n_features)

        Returns
        -------
        array of shape (n, n_classes)
        """
        outputs = self._outputs(X)
        if self.n_outputs_ > 1:
            return outputs
        return np.concatenate([1 - outputs, outputs], axis=1)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithm of `predict_proba`."""
        probabilities = self.predict_proba(X)
        return np.log(probabilities, out=probabilities)

    @classmethod
    def from_coefs(
        cls,
        coefs: Sequence[Any],
        intercepts: Sequence[Any],
        *,
        classes: Any = None,
        multilabel: bool = False,
        **settings: Any,
    ) -> "MLPClassifier":
        """A classifier with parameters from elsewhere, ready to predict, and to go on with partial_fit.

        Parameters
        ----------
        coefs : sequence of arrays of shape (n_in, n_out)
            The weights of each layer. The last has a column per class, or one column for two classes.
        intercepts : sequence of arrays of shape (n_out,)
            The biases.
        classes : array of shape (n_classes,), optional
            The classes, sorted; by default 0, 1, ...
        multilabel : bool, default False
            Whether each output is a label of its own.
        **settings
            Parameters of the classifier; ``hidden_layer_sizes`` follows from the shapes.
        """
        estimator = cls(**{"hidden_layer_sizes": hidden_sizes_of(intercepts)} | settings)
        estimator._validate_params()
        n_outputs = len(intercepts[-1])
        n_classes = 2 if n_outputs == 1 else n_outputs
        classes = np.arange(n_classes) if classes is None else np.unique(classes)
        if len(classes) != n_classes or (n_outputs == 2 and not multilabel):
            raise ValueError(f"coefs have {n_outputs} outputs, which does not go with {len(classes)} classes")
        binarizer = LabelBinarizer().fit(np.eye(n_classes, dtype=int) if multilabel else classes)
        estimator._label_binarizer, estimator.classes_ = binarizer, binarizer.classes_
        single = multilabel or n_outputs == 1
        kind = ("bce", "sigmoid") if single else ("cross_entropy", "softmax")
        estimator._adopt(coefs, intercepts, Objective(*kind, n_outputs))
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
            dtype=(np.float64, np.float32),
            reset=reset,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = fitted_binarizer(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            self._check_classes(unique_labels(y))
        return X, self._targets_of(y)

    def _check_classes(self, classes: np.ndarray) -> None:
        """Raise ValueError unless the classes of y are those known already, or, in partial_fit, some of them."""
        if self.warm_start:
            if set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                    f"Previously got {self.classes_}, `y` has {classes}"
                )
        elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {classes}."
            )

    def _targets_of(self, y: Any) -> np.ndarray:
        """Classes (n,) for softmax, else 0 and 1 in (n, n_outputs)."""
        if self._label_binarizer.y_type_ == "multiclass":
            return np.searchsorted(self.classes_, y)
        binary: np.ndarray = self._label_binarizer.transform(y).astype(np.float64)
        return binary

    def _objective_for(self, y: np.ndarray) -> Objective:
        if y.ndim == 1:
            return Objective("cross_entropy", "softmax", len(self.classes_))
        return Objective("bce", "sigmoid", y.shape[1])

    def _weights_of(self, y: np.ndarray, sample_weight: np.ndarray | None) -> np.ndarray | None:
        if self.class_weight is None:
            return sample_weight
        weights: np.ndarray = compute_sample_weight(self.class_weight, self._labels_of(y))
        return weights if sample_weight is None else weights * sample_weight

    def _score_of(self, outputs: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None) -> float:
        right = outputs.argmax(axis=1) == y if y.ndim == 1 else ((outputs > 0.5) == y).all(axis=1)
        return float(np.average(right, weights=sample_weight))

    def _labels_of(self, y: np.ndarray) -> np.ndarray:
        if y.ndim == 1:
            return self.classes_.take(y)
        labels: np.ndarray = self._label_binarizer.inverse_transform(y)
        return labels

    def _validation_targets(self, y: Any, n: int) -> np.ndarray:
        y = column_or_1d(y) if np.ndim(y) == 1 or np.shape(y)[-1] == 1 else np.asarray(y)
        check_consistent_length(np.empty(n), y)
        unknown = np.setdiff1d(unique_labels(y), self.classes_)
        if len(unknown):
            raise ValueError(f"y_val has classes that y has not: {unknown}")
        return self._targets_of(y)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def fitted_binarizer(y: Any) -> LabelBinarizer:
    """A LabelBinarizer that knows the classes of y, which is checked.

    Its own fit takes as long as an epoch of the digits, most of it for finding out what whole numbers can only be.
    """
    binarizer = LabelBinarizer()
    if type(y) is np.ndarray and y.ndim == 1 and y.dtype.kind in "iu":
        classes = np.unique(y)
        if len(classes) <= len(y) // 2:  # else its fit warns
            binarizer.classes_ = classes
            binarizer.y_type_ = "multiclass" if len(classes) > 2 else "binary"
            binarizer.sparse_input_ = False
            return binarizer
    return binarizer.fit(y)
