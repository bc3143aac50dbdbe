"""When the log loss must be reported from clipped probabilities, and the kernels do not bound it.

They do for classes, in the steps of a stochastic fit; labels, and lbfgs, need more.
"""

import math

import numpy as np

from fastmlp._mlp import MLP
from fastmlp.sklearn._objective import clipped_log_losses

# Far below the bounds, 36 in float64 and 16 in float32.
CALM = 9.0
# Above it the rounding of 1 - p shows in scikit-learn's loss of a label that is 0: exp(20) eps is 1e-7.
LARGEST_OF_LABEL = 20.0
LONGEST_RUN = 512


class Clipping:
    """Watches for examples so badly classified that clipping shows in the reported loss.

    scikit-learn clips probabilities to [eps, 1 - eps], so no example's loss is above -log(eps): 36 in float64, which
    unscaled data exceed. A step that is looked at has its loss computed apart, at the price of one more forward pass.
    Every step is, until one shows no example above CALM; then there is one step between two looks, then twice as many
    each time, up to LONGEST_RUN, while the losses stay where they are: a run is taken back to the first batch whose
    sum of losses is so large that one of its examples may have risen from CALM to the bound since the last look.
    """

    def __init__(self, net: MLP) -> None:
        self._net = net
        self._bound = -math.log(np.finfo(net.dtype).eps)
        if net.loss_name == "bce":
            self._bound = min(self._bound, LARGEST_OF_LABEL)
        # In float32 results agree to fewer digits anyway, and the bound is within the noise of the sums.
        self.takes_back = net.dtype == np.float64
        self._run = 0
        self._calm_sum = 0.0
        self.steps_left = 0

    def look(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None, penalty: float) -> float:
        """The loss of a batch: the weighted mean of the clipped losses, and the penalty."""
        logits = np.empty((len(X), self._net.layer_sizes[-1]), self._net.dtype)
        self._net._engine.forward(X, logits, True)
        losses = clipped_log_losses(self._net.loss_name, logits, y)
        loss = float(np.average(losses, weights=sample_weight)) + penalty
        if losses.max() < CALM:
            self._run = min(max(1, 2 * self._run), LONGEST_RUN)
            self._calm_sum = loss * len(X)
        else:
            self._run = 0
        self.steps_left = self._run
        return loss

    def passed(self, sums: np.ndarray) -> int:
        """Take note of steps without a look, by the sums of the losses of their batches; returns how many may stand."""
        limit = max(self._bound, self._calm_sum + self._bound - CALM) if self.takes_back else math.inf
        strays = np.flatnonzero(sums > limit)
        n_steps = int(strays[0]) if len(strays) else len(sums)
        if len(strays):
            self.steps_left = 0
        elif sums.max() >= self._bound:
            self.steps_left -= n_steps
        return n_steps
