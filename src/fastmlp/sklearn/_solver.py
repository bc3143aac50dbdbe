"""The update rule of a fit and its learning rate: scikit-learn's policies over one of the package's optimizers."""

from typing import Any

import numpy as np

from fastmlp._mlp import MLP
from fastmlp._numbers import check_real
from fastmlp._optimizers import Optimizer
from fastmlp._update import BETA2, BETA2_POWER, WEIGHT_DECAY, Update

STOCHASTIC = ("sgd", "adam", "adamw")
SMALLEST_RATE = 1e-6  # an adaptive rate that came down to it stops the fit


class Solver:
    """The rule, its state on a network, and the learning rate that holds now.

    Parameters
    ----------
    settings : estimator
        Its parameters are read once: changing them later changes nothing here.
    """

    def __init__(self, settings: Any) -> None:
        self.policy = settings.learning_rate
        self.learning_rate_init = settings.learning_rate_init
        self.learning_rate = float(settings.learning_rate_init)
        self.power_t = settings.power_t
        self.n_steps = 0
        self._epochs = 0
        self._is_sgd = settings.solver == "sgd"
        if self._is_sgd:
            momentum = float(settings.momentum)
            rule = "sgd" if momentum == 0.0 else "nesterov" if settings.nesterovs_momentum else "momentum"
            self._optimizer = Optimizer(rule, self.learning_rate, None, beta1=momentum)
        else:
            self._optimizer = Optimizer(
                "adam",
                self.learning_rate,
                None,
                beta1=float(settings.beta_1),
                beta2=float(settings.beta_2),
                eps=float(settings.epsilon),
            )
            self._eps = float(settings.epsilon)
            if settings.solver == "adamw":
                self._optimizer._scalars[WEIGHT_DECAY] = float(settings.weight_decay)

    def bind(self, net: MLP) -> Update:
        """The state on ``net``, which may be another one than before if it has the same layers."""
        try:
            return self._optimizer._bind(net)
        except RuntimeError:
            self._optimizer = _unbound(self._optimizer)
            return self._optimizer._bind(net)

    @property
    def rates_vary(self) -> bool:
        """Whether every epoch may have a rate of its own."""
        return callable(self.policy) or (self._is_sgd and self.policy == "invscaling")

    def start_epoch(self) -> None:
        """Ask a schedule for the rate of the epoch that begins."""
        if callable(self.policy):
            rate = self.policy(self._epochs)
            self.learning_rate = check_real(f"learning_rate at epoch {self._epochs}", rate, at_least=0.0)
        self._epochs += 1

    def table(self, weight_sums: np.ndarray, factor: float, penalty: float) -> np.ndarray:
        """What the kernels want for the next steps: learning rate, epsilon, divisor and scale of the penalty each.

        Parameters
        ----------
        weight_sums : array of shape (n_steps,)
            Of each batch.
        factor : float
            The objective's.
        penalty : float
            What the network's penalty is multiplied by before it is divided by a batch's sum.
        """
        table = np.empty((len(weight_sums), 4))
        table[:, 0] = self.learning_rate
        table[:, 1] = 0.0 if self._is_sgd else self._uncorrected_eps(len(weight_sums))
        table[:, 2] = factor * weight_sums
        table[:, 3] = penalty / weight_sums
        return table

    def _uncorrected_eps(self, n_steps: int) -> np.ndarray:
        """The kernels correct epsilon for the moments' start at 0, scikit-learn does not: undo it beforehand."""
        scalars = self._optimizer._scalars
        powers = scalars[BETA2_POWER] * scalars[BETA2] ** np.arange(1, n_steps + 1)
        eps: np.ndarray = self._eps / np.sqrt(1.0 - powers)
        return eps

    def end_epoch(self, n_seen: int) -> None:
        """Inverse scaling goes by the number of examples seen."""
        if self._is_sgd and self.policy == "invscaling":
            self._change_rate(float(self.learning_rate_init) / (n_seen + 1) ** self.power_t)

    def stops(self, reason: str, verbose: bool) -> bool:
        """Whether a fit that no longer improves ends; an adaptive rate is divided by 5 instead while it is large."""
        adaptive = self._is_sgd and self.policy == "adaptive"
        stopping = not adaptive or self.learning_rate <= SMALLEST_RATE
        if stopping:
            ending = "Learning rate too small. Stopping." if adaptive else "Stopping."
        else:
            self._change_rate(self.learning_rate / 5.0)
            ending = f"Setting learning rate to {self.learning_rate:f}"
        if verbose:
            print(f"{reason} {ending}")
        return stopping

    def _change_rate(self, rate: float) -> None:
        """The kernels multiply the velocity by the rate at each step; scikit-learn's velocity has it inside already."""
        update = self._optimizer._update
        if update is not None and update.first.size:
            update.first[...] *= self.learning_rate / rate
        self.learning_rate = rate


def _unbound(optimizer: Optimizer) -> Optimizer:
    """The same optimizer with the same state, free for a network of the same layers."""
    free = Optimizer.__new__(Optimizer)
    free.__setstate__(optimizer.__getstate__())
    return free
