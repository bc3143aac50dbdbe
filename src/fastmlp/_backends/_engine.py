"""The interface between a net and a backend: one engine per net, with few and coarse calls.

Everything that arrives here has been checked at the public edge. An engine never validates, prints or
keeps an argument.
"""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastmlp._update import Update


class Examples(NamedTuple):
    """Checked examples.

    ``X``: (n, n_0), a float32, float64 or int64 array in native byte order with any strides.
    ``y``: class indices (n,) in int64, checked to lie in range; or real targets (n, n_L) in float32,
    float64 or int64.
    ``sample_weight``: (n,) contiguous float64, or None.
    """

    X: np.ndarray
    y: np.ndarray
    sample_weight: np.ndarray | None


class Schedule(NamedTuple):
    """A run of training steps.

    The examples of an epoch are ``order[e * n : (e + 1) * n]`` (or 0 .. n - 1 where ``order`` is None, in
    every epoch), n the number of examples; step s is batch s % ceil(n / batch_size) of epoch
    s // ceil(n / batch_size), the last batch of an epoch being what is left.
    ``table`` has a row per step, or one row for all: learning rate, epsilon, divisor of the data term
    (0: the rows of the batch), scale of the penalty (1 as a rule).
    ``largest_loss``, where it is not 0, is what an example's cross-entropy is reported as at most; gradients take no
    notice of it.
    """

    order: np.ndarray | None
    batch_size: int
    first_step: int
    n_steps: int
    table: np.ndarray
    largest_loss: float = 0.0


# Arguments: X, y, update, table, dropout_step, lock.
RepeatStep = Callable[[Any, Any, Update, np.ndarray, int, Lock], float | None]


def unknown(*_: object) -> None:
    """Stands for what an engine cannot repeat."""


class Derivatives(Protocol):
    """Derivatives of a net beyond the gradient, without dropout. Arrays are C-contiguous and of the net's dtype, X and
    examples apart; there is one example at least."""

    def jacobian(self, X: np.ndarray, out: np.ndarray) -> None:
        """d y_hat / d x of each example into ``out`` (n, n_L, n_0)."""

    def jvp(self, X: np.ndarray, T: np.ndarray, Y: np.ndarray, dY: np.ndarray) -> None:
        """y_hat into ``Y``, and its derivative along ``T`` (n, n_0) into ``dY``, (n, n_L) both."""

    def gradients_per_example(self, examples: Examples, out: np.ndarray) -> None:
        """The gradient of each example's weighted loss, without penalty, into ``out`` (n, n_parameters)."""

    def hvp(self, examples: Examples, direction: np.ndarray, out: np.ndarray) -> None:
        """The derivative along the arena ``direction`` of what `gradients` computes, into the arena ``out``."""


class BoundForward(NamedTuple):
    """``run(argument)`` computes y_hat of ``X`` (n, n_0) into ``out`` (n, n_L), one call at a time.

    Both arrays are C-contiguous and of the net's dtype. ``memory`` must be kept as long as that may be called.
    ``as_builtin``, where there is one, makes the same calls in C: (x, y, otherwise) -> (predict, run), see
    csrc/python/bound_call.c.
    """

    X: np.ndarray
    out: np.ndarray
    run: Callable[[Any], object]
    argument: Any
    memory: object
    as_builtin: Callable[..., tuple[Callable[..., Any], Callable[[], object]]] | None = None


class DrawsOrders(Protocol):
    def draw_orders(self, generator: np.ndarray, orders: np.ndarray) -> bool:
        """Fill each row of ``orders`` (m, n), int64 and C-contiguous, with a permutation of 0 .. n - 1, and move the
        ``generator`` on: six words that _orders.py takes out of NumPy's PCG64. False, and nothing done, where this
        backend leaves that to NumPy."""


class Engine(DrawsOrders, Protocol):
    """A backend at work on one net: an Architecture, its Layout and its arena of parameters."""

    def shuffle_orders(self, next_uint32: int, state: int, orders: np.ndarray) -> bool:
        """Make each row of ``orders`` (m, n), int64 and C-contiguous, the one before it, shuffled as RandomState does;
        the first is shuffled as it is. Addresses of a bit generator's function and of its argument. False, and nothing
        done, where this backend leaves that to NumPy."""

    def forward(self, X: np.ndarray, out: np.ndarray, logits: bool) -> None:
        """Write y_hat, or the logits, of X (n, n_0) into ``out`` (n, n_L), C-contiguous, of the net's dtype."""

    def answer(self, X: np.ndarray, logits: bool) -> np.ndarray | None:
        """A new array with y_hat, or the logits, of one example (n_0,) or of few (n, n_0), of the net's dtype or
        float64, not checked for that; None, and nothing done, for others."""

    repeat_forward: Callable[[Any], np.ndarray | None]
    """The same for whatever comes, if it is like the X of an `answer` before; None, and nothing done, for all else."""

    repeat_logits: Callable[[Any], np.ndarray | None]

    def bind(self, n: int) -> BoundForward:
        """Places for ``n`` examples and their outputs, and what computes these from those."""

    def layer_outputs(self, X: np.ndarray, outs: list[np.ndarray]) -> None:
        """Write the output of every layer into ``outs``, (n, n_l) each, C-contiguous, of the net's dtype."""

    def penalty(self) -> float:
        """l1 sum|W| + l2/2 sum W^2."""

    def loss(self, examples: Examples) -> float:
        """The mean loss with the penalty."""

    def gradients(self, examples: Examples, gradients: np.ndarray, dropout_step: int | None) -> float:
        """The loss; its gradient, penalty included, is written into the arena ``gradients``.

        With ``dropout_step`` the hidden outputs are dropped as in that training step.
        """

    def backward(self, X: np.ndarray, dY: np.ndarray, gradients: np.ndarray, dX: np.ndarray | None) -> None:
        """Gradients of a loss of the user's own, from dL/dy_hat (n, n_L) in the net's dtype, C-contiguous.

        ``gradients`` is overwritten, and so is ``dX`` (n, n_0), C-contiguous, where it is given.
        """

    def derivatives(self) -> Derivatives:
        """Further derivatives; made when first wanted, for they need a workspace of their own."""

    def apply(self, update: Update, gradients: np.ndarray) -> None:
        """One update of the parameters and of the optimizer's state; ``gradients`` stays as it is."""

    def step(
        self,
        X: np.ndarray,
        y: np.ndarray,
        sample_weight: np.ndarray | None,
        update: Update,
        table: np.ndarray,
        dropout_step: int,
    ) -> float:
        """One step on all of X: `train` with one batch, and the one row of ``table``; returns the loss."""

    repeat_step: RepeatStep
    """`step` for a batch that was not checked, if it is like that of a step before, by type, shape, dtype and the range
    of its targets, and of the same optimizer. The lock is what the caller of `step` holds. None, and nothing done, for
    all else."""

    def forget_step(self) -> None:
        """Let `repeat_step` do nothing until the next `step`: its caller's lock is taken."""

    def train(
        self, examples: Examples, schedule: Schedule, update: Update, losses: np.ndarray, dropout_step: int
    ) -> int:
        """Take steps; returns how many were taken.

        ``losses[i]`` (float64) becomes the loss before update i. A step whose loss is not finite is not
        taken and ends the run, its loss noted. Step i drops as ``dropout_step + i``.
        """


class MembersSchedule(NamedTuple):
    """A run of training steps of m members of an ensemble, each with what `Schedule` has for one net.

    ``orders``: (m, epochs * n) in int64, each row contiguous, or None. ``tables``: (m, steps, 4) or (m, 1, 4),
    contiguous. ``dropout_steps``: (m,) in int64.
    """

    orders: np.ndarray | None
    batch_size: int
    first_step: int
    n_steps: int
    tables: np.ndarray
    dropout_steps: np.ndarray


class EnsembleEngine(DrawsOrders, Protocol):
    """A backend at work on K nets alike in their layers; ``parameters`` (K, size) has the arena of each as a row.

    ``members`` (m,) names some of them. Of examples, ``sample_weight`` may be (K, n), a row for each member. Several
    threads may call at once with members of their own. What a member comes to is, bit for bit, what an Engine of its
    own would bring it to.
    """

    def forward(self, members: np.ndarray, X: np.ndarray, out: np.ndarray, logits: bool) -> None:
        """Write y_hat, or the logits, of X (n, n_0) into ``out[member]`` (n, n_L); C-contiguous, of the nets' dtype."""

    def losses(self, members: np.ndarray, examples: Examples, out: np.ndarray) -> None:
        """Write each member's mean loss with the penalty into ``out`` (m,) in float64."""

    def bind(self, updates: Sequence[Update]) -> Any:
        """All K updates in the form in which `train` takes them; they must outlive it."""

    def train(
        self, members: np.ndarray, examples: Examples, schedule: MembersSchedule, updates: Any, losses: np.ndarray
    ) -> np.ndarray:
        """`Engine.train` for each of some members; returns (m,) how many steps each took.

        ``losses`` is (m, n_steps), each row contiguous.
        """
