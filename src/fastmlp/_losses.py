"""The losses by name: which output activation each goes with, and the codes kernels know them by."""

import math

# The codes are shared with csrc/fastmlp.h.
LOSS_CODES = {"mse": 0, "mae": 1, "huber": 2, "bce": 3, "poisson": 4, "cross_entropy": 5}

# These are computed from the logits of one output activation; the others take any output but softmax.
LOSS_OF_OUTPUT = {"softmax": "cross_entropy", "sigmoid": "bce", "exp": "poisson"}
OUTPUT_OF_LOSS = {loss: output for output, loss in LOSS_OF_OUTPUT.items()}

# The targets for which the losses from logits are bounded below; the others take any.
TARGET_RANGES = {"bce": (0.0, 1.0), "cross_entropy": (0.0, math.inf), "poisson": (0.0, math.inf)}


def default_loss(output_activation: str) -> str:
    """The loss that belongs to an output activation."""
    return LOSS_OF_OUTPUT.get(output_activation, "mse")


def losses_of(output_activation: str) -> tuple[str, ...]:
    """Every loss that can be computed with an output activation."""
    own = LOSS_OF_OUTPUT.get(output_activation)
    if output_activation == "softmax":
        return ("cross_entropy",)
    general = tuple(name for name in LOSS_CODES if name not in OUTPUT_OF_LOSS)
    return ((own,) if own else ()) + general
