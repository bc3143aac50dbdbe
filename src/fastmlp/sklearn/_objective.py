"""What is minimized: scikit-learn's losses in terms of the network's own."""

from typing import NamedTuple

import numpy as np
from scipy.special import expit, xlogy

# scikit-learn's names of activations where the network's differ.
NET_NAMES = {"logistic": "sigmoid"}
SKLEARN_NAMES = {"sigmoid": "logistic"}


class Objective(NamedTuple):
    """A loss of the network, and how scikit-learn counts it.

    scikit-learn divides the loss of a batch by its sum of weights and adds half of alpha times the squared weights over
    the same sum; it sums over outputs where the network takes their mean, and halves squared errors.
    """

    loss: str
    output_activation: str
    n_outputs: int

    @property
    def is_log_loss(self) -> bool:
        """Whether scikit-learn reports it from clipped probabilities."""
        return self.loss in ("bce", "cross_entropy")

    @property
    def factor(self) -> float:
        """The network's loss of one example over what is minimized of it."""
        return {"cross_entropy": 1.0, "mse": 2.0 / self.n_outputs}.get(self.loss, 1.0 / self.n_outputs)

    @property
    def reported_share(self) -> float:
        """What is reported over what is minimized: the mean over the outputs, of squared errors alone."""
        return 1.0 / self.n_outputs if self.loss == "mse" else 1.0

    def constants(self, y: np.ndarray) -> np.ndarray | None:
        """What a reported loss of each example has that the network's lacks, (n,): the deviance's own y log y - y."""
        if self.loss != "poisson":
            return None
        constants: np.ndarray = (xlogy(y, y) - y).sum(axis=1)
        return constants


def clipped_log_losses(loss: str, logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The log loss of each example, (n,), from probabilities clipped to [eps, 1 - eps] of their dtype.

    ``y`` holds classes (n,) for cross_entropy, and 0 or 1 (n, n_outputs) for bce. The complement of a probability is
    taken from the rounded probability, as scikit-learn does: near 1 that is another number than from the logit.
    """
    eps = np.finfo(logits.dtype).eps
    if loss == "bce":
        p = np.clip(expit(logits), eps, 1 - eps)
        losses: np.ndarray = -(xlogy(y, p) + xlogy(1 - y, 1 - p)).sum(axis=1)
        return losses
    with np.errstate(invalid="ignore"):  # infinite logits end a fit soon after
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    chosen = powers[np.arange(len(y)), y] / powers.sum(axis=1)
    losses = -np.log(np.clip(chosen, eps, 1 - eps))
    return losses
