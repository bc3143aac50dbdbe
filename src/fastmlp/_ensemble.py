"""MLPEnsemble: many networks of one shape, trained side by side. The training itself stands in _ensemble_fit.py."""

import copy
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self

import numpy as np

from fastmlp import _backends, _description, _threads
from fastmlp._architecture import Architecture
from fastmlp._backends._engine import Examples
from fastmlp._checks import check_architecture, check_initializer, check_inputs, check_parameter_array, spawn_streams
from fastmlp._ensemble_arguments import (
    check_ensemble_examples,
    check_member_dropout,
    check_optimizers,
    check_per_member,
    check_seeds,
    member_architectures,
)
from fastmlp._initializers import Initializer, initialize
from fastmlp._layout import Layout, aligned_zeros
from fastmlp._mlp import MLP
from fastmlp._numbers import check_whole
from fastmlp._optimizers import Adam, Optimizer

if TYPE_CHECKING:
    from fastmlp._early_stopping import EarlyStopping
    from fastmlp._ensemble_history import EnsembleHistory


class Member:
    """What the optimizer of a member is bound to."""

    __slots__ = ("__weakref__", "_layout")

    def __init__(self, layout: Layout) -> None:
        self._layout = layout


class _Pattern(NamedTuple):
    """An optimizer that was given for all members, and each member's own after it."""

    optimizer: "weakref.ref[Optimizer]"
    copies: list[Optimizer]


class MLPEnsemble:
    """K multi-layer perceptrons with the same layers, each with its own seed, learning rate, penalty and dropout.

    They are trained side by side, several in one compiled call, and every member comes to the bits that an `MLP` of its
    own would come to: ``MLPEnsemble(sizes, K, rng=seeds)[i]`` trained is ``MLP(sizes, rng=seeds[i])`` trained, with the
    same arguments.

    Parameters
    ----------
    layer_sizes : sequence of int
        As for `MLP`, the same for all members; so are ``activation``, ``output_activation``, ``loss``, ``initializer``
        and ``dtype``.
    n_members : int
        K, at least 1.
    l1, l2 : float or sequence of K floats, default 0.0
        As for `MLP`, for all members or one for each.
    dropout : float, sequence of float, or array of shape (K, hidden layers) or (K, 1), default 0.0
        As for `MLP`; of two dimensions, a row for each member.
    rng : None, int, numpy.random.Generator, or sequence of K of these
        A sequence has each member's ``rng`` as `MLP` takes it. Else members get the streams of
        ``numpy.random.default_rng(rng).spawn(K)``.
    backend : {"c", "numba", "numpy"}, optional
        As for `MLP`.
    n_threads : int, optional
        At most so many threads, which take members, not parts of a network; see `set_num_threads`.

    Raises
    ------
    TypeError, ValueError
        If an argument makes no sense; the message names it.
    RuntimeError
        If the backend asked for cannot be used here.

    Examples
    --------
    >>> ensemble = MLPEnsemble([8, 16, 1], 100, rng=0)
    >>> ensemble.forward(np.zeros((5, 8))).shape
    (100, 5, 1)
    """

    def __init__(
        self,
        layer_sizes: Sequence[int],
        n_members: int,
        *,
        activation: str | Sequence[str] = "relu",
        output_activation: str = "identity",
        loss: str | None = None,
        initializer: str | Initializer = "auto",
        l1: float | Sequence[float] = 0.0,
        l2: float | Sequence[float] = 0.0,
        dropout: Any = 0.0,
        dtype: Any = "float32",
        rng: Any = None,
        backend: str | None = None,
        n_threads: int | None = None,
    ) -> None:
        n_members = check_whole("n_members", n_members, at_least=1)
        shape: dict[str, Any] = {
            "activation": activation,
            "output_activation": output_activation,
            "loss": loss,
            "l1": 0.0,
            "l2": 0.0,
            "dtype": dtype,
        }
        rates: dict[int, Architecture] = {}
        given = check_member_dropout(dropout, n_members)
        for value in given:
            if id(value) not in rates:
                rates[id(value)] = check_architecture(layer_sizes, **shape, dropout=value)
        architectures = member_architectures(
            rates[id(given[0])],
            check_per_member("l1", l1, n_members),
            check_per_member("l2", l2, n_members),
            [rates[id(value)].dropout for value in given],
        )
        initializer = check_initializer(initializer)
        streams = [spawn_streams(seed) for seed in check_seeds(rng, n_members)]
        seeds = np.array([dropout_rng.integers(2**64, dtype=np.uint64) for _, _, dropout_rng in streams])
        self._build(architectures, backend, n_threads, [shuffle_rng for _, shuffle_rng, _ in streams], seeds)
        for (init_rng, _, _), architecture, arena in zip(streams, architectures, self._parameters):
            initialize(self._layout.weights(arena), initializer, architecture, init_rng)

    def _build(
        self,
        architectures: tuple[Architecture, ...],
        backend: str | None,
        n_threads: int | None,
        shuffle_rngs: list[np.random.Generator],
        seeds: np.ndarray,
    ) -> None:
        """Everything but the values of the parameters, which are zeros."""
        first = architectures[0]
        self._architectures = architectures
        self._architecture = first
        self._backend = _backends.resolve(backend)
        self._n_threads = None if n_threads is None else check_whole("n_threads", n_threads, at_least=1)
        self._layout = Layout(first.layer_sizes, first.dtype)
        size = self._layout.size
        self._parameters = aligned_zeros(len(architectures) * size, first.dtype).reshape(-1, size)
        self._shuffle_rngs = shuffle_rngs
        self._seeds = seeds
        self._dropout_steps = np.zeros(len(architectures), dtype=np.int64)
        self._members = tuple(Member(self._layout) for _ in architectures)
        self._pattern: _Pattern | None = None
        self._training_lock = threading.Lock()
        self._engine = _backends.make_ensemble_engine(
            self._backend, architectures, self._layout, self._parameters, seeds
        )

    # --- what the ensemble is ---

    @property
    def n_members(self) -> int:
        """K."""
        return len(self._architectures)

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Of every member: n_0 ... n_L."""
        return self._layout.layer_sizes

    @property
    def n_parameters(self) -> int:
        """Of one member."""
        return self._architecture.n_parameters

    @property
    def dtype(self) -> np.dtype:
        """Of the parameters and of all computation: float32 or float64."""
        return self._layout.dtype

    @property
    def loss_name(self) -> str:
        """What `loss` computes beside the penalty."""
        return self._architecture.loss

    @property
    def l1(self) -> np.ndarray:
        """Each member's, (K,)."""
        return np.array([architecture.l1 for architecture in self._architectures])

    @property
    def l2(self) -> np.ndarray:
        """Each member's, (K,)."""
        return np.array([architecture.l2 for architecture in self._architectures])

    @property
    def dropout(self) -> np.ndarray:
        """Each member's rates, (K, hidden layers)."""
        return np.array([architecture.dropout for architecture in self._architectures]).reshape(self.n_members, -1)

    @property
    def backend(self) -> str:
        """The backend that computes."""
        return self._backend

    def __repr__(self) -> str:
        return _description.ensemble_line(self._architectures, self._backend)

    def __len__(self) -> int:
        return self.n_members

    def __getitem__(self, index: int) -> MLP:
        """Member ``index`` as a network of its own: a copy, with its random streams as they are now.

        Raises
        ------
        TypeError, IndexError
            If ``index`` is no whole number, or there is no such member.
        """
        if isinstance(index, bool) or not isinstance(index, (int, np.integer)):
            raise TypeError(f"index is {index!r}; expected a whole number")
        if not -self.n_members <= index < self.n_members:
            raise IndexError(f"index is {index}; this ensemble has {self.n_members} members")
        net = MLP.__new__(MLP)
        net._build(
            self._architectures[index],
            self._backend,
            self._n_threads,
            copy.deepcopy(self._shuffle_rngs[index]),
            int(self._seeds[index]),
        )
        net._dropout_step = int(self._dropout_steps[index])
        net._parameters[...] = self._parameters[index]
        return net

    def __iter__(self) -> Iterator[MLP]:
        return (self[index] for index in range(self.n_members))

    # --- parameters ---

    @property
    def weights(self) -> tuple[np.ndarray, ...]:
        """(K, n_l, n_{l-1}) for each layer, W_l of every member: live, writable views."""
        return tuple(matrix[:, :-1].transpose(0, 2, 1) for matrix in self._matrices())

    @weights.setter
    def weights(self, value: Any) -> NoReturn:
        raise AttributeError("weights cannot be assigned; write into its arrays, or call set_parameters(flat)")

    @property
    def biases(self) -> tuple[np.ndarray, ...]:
        """(K, n_l) for each layer, b_l of every member: live, writable views."""
        return tuple(matrix[:, -1] for matrix in self._matrices())

    @biases.setter
    def biases(self, value: Any) -> NoReturn:
        raise AttributeError("biases cannot be assigned; write into its arrays, or call set_parameters(flat)")

    def _matrices(self) -> list[np.ndarray]:
        layout = self._layout
        layers = zip(layout.layer_sizes, layout.layer_sizes[1:], layout.leading, layout.offsets)
        return [
            self._parameters[:, offset : offset + (n_in + 1) * leading].reshape(-1, n_in + 1, leading)[:, :, :n_out]
            for n_in, n_out, leading, offset in layers
        ]

    @property
    def parameters(self) -> np.ndarray:
        """A copy, (K, n_parameters): a row is what ``MLP.parameters`` gives."""
        return np.array([self._layout.flatten(arena) for arena in self._parameters])

    def set_parameters(self, flat: Any) -> None:
        """Replace all parameters by those in ``flat``, (K, n_parameters), in the order of ``parameters``."""
        values = check_parameter_array("flat", flat, (self.n_members, self.n_parameters))
        for row, arena in zip(values, self._parameters):
            self._layout.unflatten(row, arena)

    # --- what can be computed ---

    def forward(self, X: Any) -> np.ndarray:
        """Every member's outputs.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, n_0), or array of shape (n_0,)

        Returns
        -------
        ndarray of shape (K, n, n_L), or (K, n_L) for a single example
        """
        return self._forward(X, logits=False)

    def __call__(self, X: Any) -> np.ndarray:
        """The same as `forward`."""
        return self._forward(X, logits=False)

    def logits(self, X: Any) -> np.ndarray:
        """What goes into every member's output activation; shapes are those of `forward`."""
        return self._forward(X, logits=True)

    def _forward(self, X: Any, logits: bool) -> np.ndarray:
        batch, single = check_inputs(X, self.layer_sizes[0], self.dtype)
        out = np.empty((self.n_members, len(batch), self.layer_sizes[-1]), self.dtype)
        if len(batch):
            self._engine.forward(np.arange(self.n_members), batch, out, logits)
        return out[:, 0] if single else out

    def mean(self, X: Any) -> np.ndarray:
        """The mean of the members' outputs, added up in float64: (n, n_L), or (n_L,) for a single example."""
        outputs = self.forward(X)
        mean: np.ndarray = outputs.mean(axis=0, dtype=np.float64).astype(self.dtype)
        return mean

    def spread(self, X: Any) -> np.ndarray:
        """The standard deviation of the members' outputs around their mean, with a divisor of K; shaped as `mean`."""
        outputs = self.forward(X)
        deviation: np.ndarray = outputs.std(axis=0, dtype=np.float64).astype(self.dtype)
        return deviation

    def loss(self, X: Any, y: Any, sample_weight: Any = None) -> np.ndarray:
        """Every member's loss, as ``MLP.loss`` gives it.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, n_0)
        y : array
            Targets as for `MLP.loss`.
        sample_weight : array of shape (n,) or (K, n), optional
            For all members, or a row for each.

        Returns
        -------
        ndarray of shape (K,), float64
        """
        examples = self._checked_examples(X, y, sample_weight)
        losses = np.empty(self.n_members)
        self._engine.losses(np.arange(self.n_members), examples, losses)
        return losses

    def _checked_examples(self, X: Any, y: Any, sample_weight: Any = None) -> Examples:
        return check_ensemble_examples(X, y, sample_weight, self._architecture, self.n_members)

    # --- training ---

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        epochs: int = 1,
        batch_size: int | None = 32,
        shuffle: bool = True,
        sample_weight: Any = None,
        validation_data: tuple[Any, ...] | None = None,
        early_stopping: "int | EarlyStopping | None" = None,
    ) -> "EnsembleHistory":
        """Train every member by mini-batches, as its own ``fit`` would.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, n_0)
            The same for all members; what kernels cannot read is converted as a whole.
        y : array
            Targets as for `MLP.loss`.
        optimizer : Optimizer or sequence of K Optimizers, optional
            One for each member, with its own learning rate or schedule and other settings, but of one rule: each keeps
            its member's state. A single one is a pattern: every member gets another with its settings, which the
            ensemble keeps, so that a second fit with the same pattern goes on; ``lr`` may be set in between. By default
            a new ``Adam(lr=1e-3)``.
        epochs, batch_size, shuffle
            As for `MLP.fit`. Every member takes the examples in orders of its own.
        sample_weight : array of shape (n,) or (K, n), optional
            For all members, or a row for each: weights of 0 take examples away, whole numbers repeat them.
        validation_data : tuple (X, y) or (X, y, sample_weight), optional
            As for `MLP.fit`; the weights may be (n,) or (K, n).
        early_stopping : int or EarlyStopping, optional
            As for `MLP.fit`; every member stops by itself.

        Returns
        -------
        EnsembleHistory

        Raises
        ------
        RuntimeError
            If the ensemble is being trained already, or an optimizer keeps the state of another network.
        KeyboardInterrupt
            On Ctrl-C, between updates: the ensemble is usable, its members having come to different epochs.

        Warns
        -----
        RuntimeWarning
            Where losses or parameters of some members were no longer finite: these have ended there, in the state in
            which a fit of their own would have left them. The others went on.
        """
        from fastmlp import _ensemble_fit

        return _ensemble_fit.fit(
            self,
            X,
            y,
            optimizer=check_optimizers(Adam() if optimizer is None else optimizer, self.n_members),
            epochs=epochs,
            batch_size=batch_size,
            shuffle=shuffle,
            sample_weight=sample_weight,
            validation_data=validation_data,
            early_stopping=early_stopping,
        )

    def _own_optimizers(self, optimizer: Optimizer | list[Optimizer]) -> list[Optimizer]:
        """Each member's optimizer, bound to it; RuntimeError, and none bound, where one belongs to another network."""
        if isinstance(optimizer, Optimizer):
            kept = self._pattern
            is_bound = optimizer._net is not None and optimizer._net() is self
            if kept is None or not is_bound or kept.optimizer() is not optimizer:
                optimizer._bind(self)
                kept = self._pattern = _Pattern(
                    weakref.ref(optimizer), [optimizer._like_new() for _ in self._architectures]
                )
            for own in kept.copies:
                if own.lr is not optimizer.lr:
                    own.lr = optimizer.lr
            optimizer = kept.copies
        new = [each for each in optimizer if each._update is None]
        try:
            for each, member in zip(optimizer, self._members, strict=True):
                each._bind(member)
        except RuntimeError:
            for each in new:
                each.reset()
            raise
        return optimizer

    # --- copies ---

    def _threads(self) -> int:
        return _threads.threads_for(self._n_threads)

    def copy(self) -> Self:
        """An independent ensemble with the same parameters, random streams and backend."""
        other = type(self).__new__(type(self))
        other._restore(self.__getstate__(), self._backend)
        return other

    def __copy__(self) -> Self:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.copy()

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle holds: no backend, so that loading takes the best one available."""
        return {
            "architectures": self._architectures,
            "parameters": self.parameters,
            "n_threads": self._n_threads,
            "shuffle_rngs": copy.deepcopy(self._shuffle_rngs),
            "seeds": self._seeds.copy(),
            "dropout_steps": self._dropout_steps.copy(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._restore(state, None)

    def _restore(self, state: dict[str, Any], backend: str | None) -> None:
        self._build(state["architectures"], backend, state["n_threads"], state["shuffle_rngs"], state["seeds"])
        self._dropout_steps[...] = state["dropout_steps"]
        for row, arena in zip(state["parameters"], self._parameters, strict=True):
            self._layout.unflatten(row, arena)
