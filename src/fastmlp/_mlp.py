"""MLP, the network: its construction, what can be computed with it, copies and files.

Its parameters are read and written in _parametrized.py, its derivatives computed in _differentiable.py, the forms in
which it goes elsewhere made in _portable.py; training loops stand in _fit.py and _optimizers.py, the arithmetic in
_backends.
"""

import copy
import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy import ndarray

from fastmlp import _backends, _description, _threads
from fastmlp._architecture import Architecture
from fastmlp._checks import (
    check_architecture,
    check_initializer,
    check_inputs,
    check_out,
    check_path,
    check_some,
    check_targets,
    is_sliced,
    spawn_streams,
)
from fastmlp._differentiable import Differentiable
from fastmlp._initializers import Initializer, initialize
from fastmlp._layout import Layout
from fastmlp._numbers import check_whole
from fastmlp._portable import Portable
from fastmlp._quick_checks import FLOAT64, QuickChecks
from fastmlp._row_blocks import comes_in_blocks, loss_in_blocks, row_blocks

if TYPE_CHECKING:
    from fastmlp._checkpoint import Checkpoint
    from fastmlp._early_stopping import EarlyStopping
    from fastmlp._fit import Pace
    from fastmlp._history import History
    from fastmlp._optimizers import Optimizer


class MLP(Differentiable, Portable):
    """A multi-layer perceptron y_hat = f_L(W_L f_{L-1}( ... f_1(W_1 x + b_1) ... ) + b_L).

    Layer 0 is the input. W_l has shape (n_l, n_{l-1}), b_l has shape (n_l,). A batch X has shape
    (n, n_0), one example a row; a single example has shape (n_0,). Any real numbers are taken and
    converted to the network's dtype; float32, float64 and int64 arrays of any strides are read in place.

    Parameters
    ----------
    layer_sizes : sequence of int
        n_0 (inputs), the sizes of the hidden layers, n_L (outputs); at least two.
    activation : str or sequence of str, default "relu"
        Of the hidden layers, one for all or one each: relu, leaky_relu (slope 0.01), elu (alpha 1),
        softplus, sigmoid, tanh, gelu (exact), silu, identity.
    output_activation : str, default "identity"
        Any of these, exp, or softmax. By task: identity for regression, sigmoid for binary and multi-label
        classification, softmax for one class out of several.
    loss : str, optional
        By default what belongs to the output: cross_entropy (softmax), bce (sigmoid), poisson (exp), mse
        (others). mae and huber (delta 1) also go with any output but softmax.
    initializer : str or callable, default "auto"
        he_, glorot_ or lecun_ with normal or uniform; zeros; auto (he_normal for the relu family,
        glorot_uniform otherwise); or a callable ``(rng, shape) -> array``. Biases start at 0.
    l1, l2 : float, default 0.0
        The penalty l1 sum|W| + l2/2 sum W^2 on weights, never on biases; it is part of every loss.
    dropout : float or sequence of float, default 0.0
        Rates in [0, 1) at which outputs of hidden layers are dropped in training, one for all or one each. Each unit
        has 16 random bits, so that a rate counts as its nearest multiple of 2**-16 below 1.
    dtype : {"float32", "float64"}, default "float32"
        Of the parameters and of all computation.
    rng : None, int or numpy.random.Generator
        The source of initialization, shuffling and dropout, which use streams spawned from it.
    backend : {"c", "numba", "numpy"}, optional
        By default the environment's FASTMLP_BACKEND, else the best one available.
    n_threads : int, optional
        At most so many threads; see `set_num_threads`.

    Raises
    ------
    TypeError, ValueError
        If an argument makes no sense; the message names it.
    RuntimeError
        If the backend asked for cannot be used here.

    Examples
    --------
    >>> net = MLP([64, 100, 10], output_activation="softmax", rng=0)
    >>> net.forward(np.zeros((5, 64))).shape
    (5, 10)
    """

    def __init__(
        self,
        layer_sizes: Sequence[int],
        *,
        activation: str | Sequence[str] = "relu",
        output_activation: str = "identity",
        loss: str | None = None,
        initializer: str | Initializer = "auto",
        l1: float = 0.0,
        l2: float = 0.0,
        dropout: float | Sequence[float] = 0.0,
        dtype: Any = "float32",
        rng: "int | np.random.Generator | None" = None,
        backend: str | None = None,
        n_threads: int | None = None,
    ) -> None:
        architecture = check_architecture(
            layer_sizes,
            activation=activation,
            output_activation=output_activation,
            loss=loss,
            l1=l1,
            l2=l2,
            dropout=dropout,
            dtype=dtype,
        )
        initializer = check_initializer(initializer)
        init_rng, shuffle_rng, dropout_rng = spawn_streams(rng)
        seed = int(dropout_rng.integers(2**64, dtype=np.uint64))
        self._build(architecture, backend, n_threads, shuffle_rng, seed)
        initialize(self._weights, initializer, architecture, init_rng)

    def _build(
        self,
        architecture: Architecture,
        backend: str | None,
        n_threads: int | None,
        shuffle_rng: "np.random.Generator",
        seed: int,
    ) -> None:
        """Everything but the values of the parameters, which are zeros."""
        self._architecture = architecture
        self._backend = _backends.resolve(backend)
        self._n_threads = None if n_threads is None else check_whole("n_threads", n_threads, at_least=1)
        self._allocate(Layout(architecture.layer_sizes, architecture.dtype))
        self._shuffle_rng = shuffle_rng
        self._seed = seed
        self._dropout_step = 0
        self._pace: Pace | None = None  # of the last fit
        self._training_lock = threading.Lock()
        self._n_inputs, self._n_outputs = architecture.layer_sizes[0], architecture.layer_sizes[-1]
        self._shape_of_one = (self._n_inputs,)
        self._quick_checks = QuickChecks(architecture)
        self._dtype = architecture.dtype
        self._use_threads()
        _threads.follow(self)

    def _use_threads(self) -> None:
        """Make an engine for the number of threads that holds now; calls under way keep the old one."""
        self._engine = _backends.make_engine(
            self._backend,
            self._architecture,
            self._layout,
            self._parameters,
            self._seed,
            _threads.threads_for(self._n_threads),
        )

    # --- what the network is ---

    @property
    def activations(self) -> tuple[str, ...]:
        """Of the hidden layers, one each."""
        return self._architecture.activations

    @property
    def output_activation(self) -> str:
        """Of the last layer."""
        return self._architecture.output_activation

    @property
    def loss_name(self) -> str:
        """What `loss` computes beside the penalty: mse, mae, huber, bce, poisson or cross_entropy."""
        return self._architecture.loss

    @property
    def l1(self) -> float:
        """The weight of sum|W| in the penalty."""
        return self._architecture.l1

    @property
    def l2(self) -> float:
        """Twice the weight of sum W^2 in the penalty."""
        return self._architecture.l2

    @property
    def dropout(self) -> tuple[float, ...]:
        """Of the hidden layers, one rate each."""
        return self._architecture.dropout

    @property
    def backend(self) -> str:
        """The backend that computes."""
        return self._backend

    def __repr__(self) -> str:
        return _description.line(self._architecture, self._backend)

    def summary(self) -> str:
        """A table of the layers, to print: each one's activation, shape and number of parameters."""
        return _description.table(self._architecture, self._backend)

    # --- forward ---

    def forward(self, X: Any, out: np.ndarray | None = None) -> np.ndarray:
        """The outputs y_hat of a batch or of a single example; safe to call from several threads.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, n_0), or array of shape (n_0,)
        out : ndarray of shape (n, n_L) or (n_L,), optional
            Where to write them: C-contiguous, of the network's dtype, apart from X.

        Returns
        -------
        ndarray of shape (n, n_L), or (n_L,) for a single example
            ``out``, or a new array.
        """
        if out is None and (answer := self._engine.repeat_forward(X)) is not None:
            return answer
        return self._forward(X, out, False)

    def __call__(self, X: Any, out: np.ndarray | None = None) -> np.ndarray:
        """The same as `forward`."""
        if out is None and (answer := self._engine.repeat_forward(X)) is not None:
            return answer
        return self._forward(X, out, False)

    def logits(self, X: Any, out: np.ndarray | None = None) -> np.ndarray:
        """What goes into the output activation; arguments and shapes are those of `forward`."""
        if out is None and (answer := self._engine.repeat_logits(X)) is not None:
            return answer
        return self._forward(X, out, True)

    def _forward(self, X: Any, out: np.ndarray | None, logits: bool) -> np.ndarray:
        # The way of plain arrays, kept short: for a small network these checks are most of the call.
        if out is None and type(X) is ndarray:
            shape = X.shape
            is_batch = len(shape) == 2 and shape[1] == self._n_inputs
            if is_batch or shape == self._shape_of_one:
                if (answer := self._engine.answer(X, logits)) is not None:
                    return answer
                if is_batch and ((dtype := X.dtype) is self._dtype or dtype is FLOAT64):
                    result = np.empty((shape[0], self._n_outputs), self._dtype)
                    self._engine.forward(X, result, logits)
                    return result
        return self._forward_checked(X, out, logits)

    def _forward_checked(self, X: Any, out: np.ndarray | None, logits: bool) -> np.ndarray:
        in_blocks = comes_in_blocks(X)
        batch, single = (X, False) if in_blocks else check_inputs(X, self._n_inputs, self._dtype)
        n = int(batch.shape[0])
        shape = (self._n_outputs,) if single else (n, self._n_outputs)
        if out is None:
            out = np.empty(shape, self._dtype)
        else:
            others = (self._parameters, batch) if isinstance(batch, np.ndarray) else (self._parameters,)
            check_out(out, shape, self._dtype, *others)
        result = out.reshape(n, self._n_outputs)
        blocks = row_blocks(X, self._n_inputs, self._dtype) if in_blocks else [(slice(n), batch)]
        for block, rows in blocks:
            self._engine.forward(rows, result[block], logits)
        return out

    def predict(self, X: Any) -> np.ndarray:
        """Decisions instead of outputs.

        Returns
        -------
        ndarray
            softmax: the most likely class, int64 of shape (n,). sigmoid: 0 or 1, int64, 1 where the
            probability is above 0.5. Others: the outputs. (n, n_L), but (n,) where n_L is 1; without the
            first axis for a single example.
        """
        if self.output_activation == "softmax":
            classes: np.ndarray = self.logits(X).argmax(axis=-1)
            return classes
        if self.output_activation == "sigmoid":
            values = (self.logits(X) > 0.0).astype(np.int64)
        else:
            values = self.forward(X)
        return values[..., 0] if self._n_outputs == 1 else values

    def accuracy(self, X: Any, y: Any) -> float:
        """The share of right decisions, for softmax and sigmoid outputs.

        Parameters
        ----------
        X : array of shape (n, n_0)
        y : array
            Targets as for `loss`; probabilities count by their largest (softmax), or as 1 above 0.5 (sigmoid).
            With several sigmoid outputs each of them counts by itself.
        """
        if self.output_activation not in ("softmax", "sigmoid"):
            raise ValueError(
                f"accuracy is defined for softmax and sigmoid outputs; this network's is {self.output_activation}"
            )
        actual = np.atleast_1d(self.predict(X))
        single = (len(X.shape) if is_sliced(X) else np.ndim(X)) == 1
        n = 1 if single else actual.shape[0]
        check_some(n)
        targets = check_targets(y, n, self._architecture, single=single)
        if self.output_activation == "sigmoid":
            return float(np.mean(actual.reshape(targets.shape) == (targets > 0.5)))
        return float(np.mean(actual == (targets if targets.ndim == 1 else targets.argmax(axis=1))))

    def activations_of(self, X: Any) -> tuple[np.ndarray, ...]:
        """Every layer's output: arrays of shape (n, n_l), l = 1 ... L, or (n_l,) for a single example."""
        batch, single = check_inputs(X, self._n_inputs, self._dtype)
        outputs = [np.empty((len(batch), size), self._dtype) for size in self.layer_sizes[1:]]
        self._engine.layer_outputs(batch, outputs)
        return tuple(output[0] for output in outputs) if single else tuple(outputs)

    # --- losses ---

    def penalty(self) -> float:
        """l1 sum|W| + l2/2 sum W^2, which is part of every loss."""
        return self._engine.penalty()

    def loss(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The mean of the local losses, plus the penalty. Without dropout.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, n_0), or array of shape (n_0,)
        y : array
            softmax: class indices (n,) or probabilities (n, n_L). sigmoid: 0, 1 or probabilities. Others:
            real numbers. (n, n_L), or (n,) where n_L is 1; for a single example the first axis may be left out.
        sample_weight : array of shape (n,), optional
            Finite, of any sign; the loss is then sum(w_i l_i) / n plus the penalty.

        Returns
        -------
        float
        """
        if comes_in_blocks(X):
            return loss_in_blocks(self, X, y, sample_weight)
        return self._engine.loss(self._checked_examples(X, y, sample_weight))

    # --- training ---

    def _training(self) -> "_Held":
        """Hold the training lock; RuntimeError where another call holds it."""
        if not self._training_lock.acquire(blocking=False):
            raise RuntimeError("this network is already being trained")
        self._engine.forget_step()
        return _Held(self._training_lock)

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        optimizer: "Optimizer | None" = None,
        epochs: int = 1,
        batch_size: int | None = 32,
        shuffle: bool | str = True,
        sample_weight: Any = None,
        validation_data: tuple[Any, ...] | None = None,
        early_stopping: "int | EarlyStopping | None" = None,
        callbacks: "Sequence[Callable[[MLP, History], Any] | Checkpoint]" = (),
        progress: bool = False,
        rng: "int | np.random.Generator | None" = None,
        record: str | Sequence[str] = (),
        on_nonfinite: str = "raise",
        resume: str | os.PathLike[str] | None = None,
        block_rows: int | None = None,
    ) -> "History":
        """Train by mini-batches.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, n_0), or what gives its rows in slices
        y : array
            Targets as for `loss`.
        optimizer : Optimizer, optional
            By default a new ``Adam(lr=1e-3)``. It keeps its state: a second fit goes on where the first stopped.
        epochs : int, default 1
            Passes over the examples.
        batch_size : int or None, default 32
            Examples per update; None for all of them (batch gradient descent). The last batch of an epoch
            is what is left.
        shuffle : bool or "blocks", default True
            Whether each epoch takes the examples in a new order. "blocks" takes blocks of ``block_rows`` rows in a
            random order, each with its rows shuffled; batches run across them. It needs memory for one block and one
            batch where X, or y or sample_weight, gives its rows in slices, as data sets of h5py and zarr do; with True
            they are read as a whole first. False reads them in blocks, too.
        sample_weight : array of shape (n,), optional
            As for `loss`.
        validation_data : tuple (X, y) or (X, y, sample_weight), optional
            Its loss is computed after each epoch.
        early_stopping : int or EarlyStopping, optional
            A patience in epochs, or the whole rule.
        callbacks : sequence of callables and Checkpoints
            Called as ``callback(net, history)`` after each epoch; one that returns True ends the training.
        progress : bool, default False
            Whether to show the progress: by tqdm where it is installed, else one line an epoch.
        rng : None, int or numpy.random.Generator
            The source of the orders: each epoch's is ``rng.permutation(n)``. None goes on with the network's own.
            With blocks an epoch's comes from a generator g of its own, ``default_rng(rng.integers(2**63))``: the
            blocks in the order of ``g.permutation``, and, one after the other, that of each one's rows.
        record : str or sequence of str
            ``"steps"`` keeps the loss of every step, ``"parameters"`` the parameters after every epoch.
        on_nonfinite : {"raise", "warn", "ignore"}, default "raise"
            What follows a loss that is NaN or infinite, or parameters that are so after an epoch. The step of
            such a loss is never taken; parameters that are no longer finite, and the optimizer's state, are put
            back to the start of the epoch (unless the two take more than 256 MB). "raise" ends the fit with an
            error; "warn" goes on with the next step and warns, once an epoch; "ignore" just goes on. The mean
            loss of an epoch is then that of the steps that were taken.
        resume : path, optional
            Go on with the fit that a `Checkpoint` keeps in this file; where there is no file, start. The arguments
            must be those of that fit, but for ``epochs``, counted from its start, which may be larger. The result
            is the same bits as without the interruption.
        block_rows : int, optional
            Rows of a block; by default what 16 MB hold, in whole chunks where X has ``chunks``.

        Returns
        -------
        History

        Raises
        ------
        FloatingPointError
            If a loss, or a parameter after an epoch, is not finite; the message says where.
        RuntimeError
            If the network is being trained already.
        ValueError
            If ``resume`` is damaged, and the file before it, too, or belongs to another fit; an argument is wrong.
        KeyboardInterrupt
            On Ctrl-C, between two updates: the network is usable.
        """
        from fastmlp._fit import fit

        return fit(
            self,
            X,
            y,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=batch_size,
            shuffle=shuffle,
            block_rows=block_rows,
            sample_weight=sample_weight,
            validation_data=validation_data,
            early_stopping=early_stopping,
            callbacks=callbacks,
            progress=progress,
            rng=rng,
            record=record,
            on_nonfinite=on_nonfinite,
            resume=resume,
        )

    # --- copies and files ---

    def copy(self) -> Self:
        """An independent network with the same parameters, random streams and backend."""
        net = type(self).__new__(type(self))
        net._restore(self.__getstate__(), self._backend)
        return net

    def __copy__(self) -> Self:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.copy()

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle holds: no backend, so that loading takes the best one available."""
        return {
            "architecture": self._architecture,
            "parameters": self.parameters,
            "n_threads": self._n_threads,
            "shuffle_rng": copy.deepcopy(self._shuffle_rng),
            "seed": self._seed,
            "dropout_step": self._dropout_step,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._restore(state, None)

    def _restore(self, state: dict[str, Any], backend: str | None) -> None:
        self._build(state["architecture"], backend, state["n_threads"], state["shuffle_rng"], state["seed"])
        self._dropout_step = state["dropout_step"]
        self._layout.unflatten(state["parameters"], self._parameters)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write architecture and parameters to a file in the safetensors format.

        The file holds tensors ``layer1.weight`` (n_1, n_0), ``layer1.bias`` (n_1,), ``layer2.weight`` ..., and the
        architecture as JSON in the header's metadata. It is replaced as a whole or not at all.
        """
        from fastmlp import _files

        _files.save(check_path("path", path), self._architecture, self._weights, self._biases)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        backend: str | None = None,
        *,
        n_threads: int | None = None,
        rng: "int | np.random.Generator | None" = None,
    ) -> Self:
        """A network from a file that `save` wrote.

        Parameters
        ----------
        path : path
        backend, n_threads, rng
            As for `MLP`; the file binds none of them.

        Raises
        ------
        ValueError
            If the file is damaged or something else; the message says what is wrong.
        OSError
            If it cannot be read.
        """
        from fastmlp import _files

        _, shuffle_rng, dropout_rng = spawn_streams(rng)
        seed = int(dropout_rng.integers(2**64, dtype=np.uint64))
        backend = _backends.resolve(backend)
        if n_threads is not None:
            n_threads = check_whole("n_threads", n_threads, at_least=1)
        with _files.opened(check_path("path", path)) as (architecture, file):
            net = cls.__new__(cls)
            net._build(architecture, backend, n_threads, shuffle_rng, seed)
            for name, parameters in _files.named(net._weights, net._biases).items():
                file.read_into(parameters, name)
        return net


class _Held:
    """A lock that is held, and released where a block ends: a third of the time of a generator's context manager."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._lock.release()
