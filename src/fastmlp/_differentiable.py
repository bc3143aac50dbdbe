"""The derivatives of a network: of its loss and of losses of one's own by the parameters, of its outputs by the inputs.

Here arguments are checked; _gradients.py has what some of these calls return, _backends computes.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp._architecture import Architecture
from fastmlp._backends._engine import Examples
from fastmlp._checks import (
    check_inputs,
    check_numbers,
    check_parameter_array,
    check_sample_weight,
    check_some,
    check_targets,
)
from fastmlp._gradients import Gradients, GradientsPerExample
from fastmlp._numbers import check_flag
from fastmlp._parametrized import Parametrized

if TYPE_CHECKING:
    from fastmlp._backends._engine import Engine
    from fastmlp._quick_checks import QuickChecks


class Differentiable(Parametrized):
    """What `MLP` is built on: a network with an engine that computes its derivatives."""

    _architecture: Architecture
    _dropout_step: int
    _dtype: np.dtype
    _engine: "Engine"
    _n_inputs: int
    _n_outputs: int
    _quick_checks: "QuickChecks"

    # --- by the parameters ---

    def loss_and_gradients(
        self, X: Any, y: Any, sample_weight: Any = None, training: bool = False
    ) -> tuple[float, Gradients]:
        """The loss of a batch and its exact gradient, penalty included.

        Parameters
        ----------
        X, y, sample_weight
            As for `loss`; a sparse X is made dense at once.
        training : bool, default False
            Whether dropout acts, as in an optimizer's step; each such call uses the next masks.

        Returns
        -------
        loss : float
        gradients : Gradients
        """
        examples = self._checked_examples(X, y, sample_weight)
        arena = self._layout.arena()
        step = None
        if check_flag("training", training):
            step = self._dropout_step
            self._dropout_step += 1
        loss = self._engine.gradients(examples, arena, step)
        return loss, Gradients(self._layout, arena)

    def backward(self, X: Any, dY: Any, input_gradient: bool = False) -> Gradients:
        """The gradients of any loss of your own, from its derivative with respect to the outputs.

        Without penalty and without dropout.

        Parameters
        ----------
        X : array of shape (n, n_0), or (n_0,)
        dY : array of shape (n, n_L), or (n_L,)
            dL/dy_hat; a mean over the batch has its 1/n in there.
        input_gradient : bool, default False
            Whether the result's ``input`` holds dL/dX, too.

        Returns
        -------
        Gradients
        """
        batch, single = check_inputs(X, self._n_inputs, self._dtype)
        derivative = check_numbers("dY", dY, self._dtype)
        expected = (len(batch), self._n_outputs)
        if derivative.shape != expected[single:]:
            raise ValueError(f"dY has shape {derivative.shape}; expected {expected[single:]}, that of the outputs")
        derivative = np.ascontiguousarray(derivative.reshape(expected), dtype=self._dtype)
        arena = self._layout.arena()
        dX = np.zeros(batch.shape, self._dtype) if check_flag("input_gradient", input_gradient) else None
        if len(batch):
            self._engine.backward(batch, derivative, arena, dX)
        return Gradients(self._layout, arena, dX[0] if dX is not None and single else dX)

    def gradients_per_example(self, X: Any, y: Any, sample_weight: Any = None) -> GradientsPerExample:
        """The gradient of each example's own loss, for influence, clipping, or their variance.

        Without the penalty and without dropout. The mean over the examples, with the penalty's gradient, is what
        `loss_and_gradients` returns.

        Parameters
        ----------
        X, y, sample_weight
            As for `loss`; there may be no example. A weight multiplies its example's gradient.

        Returns
        -------
        GradientsPerExample
            Its ``flat`` has shape (n, n_parameters) and takes n * n_parameters numbers of memory: batches of what
            fits. A single example's has no first axis.
        """
        batch, single = check_inputs(X, self._n_inputs, self._dtype)
        examples = self._with_targets(batch, single, y, sample_weight)
        flat = np.empty((len(batch), self.n_parameters), self._dtype)
        if len(flat):
            self._engine.derivatives().gradients_per_example(examples, flat)
        return GradientsPerExample(self._layout.layer_sizes, flat[0] if single else flat)

    def hvp(self, X: Any, y: Any, V: Any, sample_weight: Any = None) -> Gradients:
        """The Hessian of the loss times a vector, for eight multiplications where a gradient takes three.

        It is the derivative of `loss_and_gradients` along V, penalty included (of l1 there is none), without
        dropout; exact, and computed without the Hessian [1]_. Where an activation or a loss has a kink its second
        derivative counts as 0, as in PyTorch.

        Parameters
        ----------
        X, y, sample_weight
            As for `loss`.
        V : array of shape (n_parameters,), or Gradients
            In the order of ``parameters``; or what `loss_and_gradients`, `backward` or this method returned, which
            saves a copy.

        Returns
        -------
        Gradients
            ``flat`` is H V, (n_parameters,).

        References
        ----------
        .. [1] B. A. Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6 (1994) 147-160.
        """
        examples = self._checked_examples(X, y, sample_weight)
        direction = self._checked_direction(V)
        arena = self._layout.arena()
        self._engine.derivatives().hvp(examples, direction, arena)
        return Gradients(self._layout, arena)

    # --- by the inputs ---

    def jacobian(self, X: Any) -> np.ndarray:
        """The derivatives of all outputs y_hat by all inputs, exact, without dropout.

        It goes from the outputs to the inputs or the other way, whichever takes fewer multiplications.

        Parameters
        ----------
        X : array of shape (n, n_0), or (n_0,)

        Returns
        -------
        ndarray of shape (n, n_L, n_0), or (n_L, n_0) for a single example
            Element [i, k, j] is d y_hat_k / d x_j of example i.
        """
        batch, single = check_inputs(X, self._n_inputs, self._dtype)
        out = np.empty((len(batch), self._n_outputs, self._n_inputs), self._dtype)
        if len(batch):
            self._engine.derivatives().jacobian(batch, out)
        return out[0] if single else out

    def jvp(self, X: Any, T: Any) -> tuple[np.ndarray, np.ndarray]:
        """The outputs, and each example's Jacobian times a vector: their derivative along a direction of the inputs.

        Without dropout. As of jax.jvp and torch.func.jvp, both come as a pair. (Vectors times Jacobians are
        ``backward(X, dY, input_gradient=True).input``.)

        Parameters
        ----------
        X : array of shape (n, n_0), or (n_0,)
        T : array of X's shape
            A direction for each example.

        Returns
        -------
        y_hat, dy_hat : ndarray of shape (n, n_L), or (n_L,) for a single example
        """
        batch, single = check_inputs(X, self._n_inputs, self._dtype)
        direction = check_numbers("T", T, self._dtype)
        if direction.shape != batch.shape[single:]:
            raise ValueError(f"T has shape {direction.shape}; expected {batch.shape[single:]}, that of X")
        direction = np.ascontiguousarray(direction.reshape(batch.shape), dtype=self._dtype)
        outputs, tangents = (np.empty((len(batch), self._n_outputs), self._dtype) for _ in range(2))
        if len(batch):
            self._engine.derivatives().jvp(batch, direction, outputs, tangents)
        return (outputs[0], tangents[0]) if single else (outputs, tangents)

    # --- checks ---

    def _checked_direction(self, V: Any) -> np.ndarray:
        """A vector in the space of the parameters, as an arena."""
        if isinstance(V, Gradients):
            theirs, mine = list(V.layer_sizes), list(self.layer_sizes)
            if theirs != mine:
                raise ValueError(f"V belongs to a network of the layer sizes {theirs}; this network has {mine}")
            if V.arena.dtype == self._dtype:
                return V.arena
            V = V.flat
        flat = check_parameter_array("V", V, (self.n_parameters,))
        direction = self._layout.arena()
        self._layout.unflatten(flat, direction)
        return direction

    def _checked_examples(self, X: Any, y: Any, sample_weight: Any = None) -> Examples:
        """At least one example, as engines take them."""
        if sample_weight is None and (quick := self._quick_checks.targets(X, y)) is not None:
            return Examples(X, quick, None)
        batch, single = check_inputs(X, self._n_inputs, self._dtype)
        check_some(len(batch))
        return self._with_targets(batch, single, y, sample_weight)

    def _with_targets(self, batch: np.ndarray, single: bool, y: Any, sample_weight: Any) -> Examples:
        """Checked inputs, of a single example or a batch, with targets and weights."""
        n = len(batch)
        if single and sample_weight is not None:
            sample_weight = np.reshape(sample_weight, (1,)) if np.size(sample_weight) == 1 else sample_weight
        targets = check_targets(y, n, self._architecture, single=single)
        return Examples(batch, targets, check_sample_weight(sample_weight, n))
