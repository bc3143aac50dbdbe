"""The state of one optimizer on one net, as kernels see it. The formulas stand in each backend's update kernel."""

from typing import NamedTuple

import numpy as np

# The codes are shared with csrc/fastmlp.h.
UPDATE_CODES = {"sgd": 0, "momentum": 1, "nesterov": 2, "adam": 3, "rmsprop": 4}

# Places in Update.scalars, shared with csrc/fastmlp.h.
LR, BETA1, BETA2, EPS, WEIGHT_DECAY, CLIP_NORM, BETA1_POWER, BETA2_POWER = range(8)
N_SCALARS = 8


class Update(NamedTuple):
    """One optimizer bound to one net.

    ``scalars`` (float64) holds the learning rate; BETA1: momentum, or Adam's first beta; BETA2: Adam's
    second beta, or RMSprop's rho; EPS; WEIGHT_DECAY: AdamW's, on weights only; CLIP_NORM: 0 for none; and
    the running powers of Adam's betas, 1 before the first step. ``first`` and ``second`` are arenas in the
    parameters' layout: velocity or first moment, and second moment; empty where not used.
    """

    code: int
    scalars: np.ndarray
    first: np.ndarray
    second: np.ndarray
