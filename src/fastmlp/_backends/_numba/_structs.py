"""The structs of csrc/fastmlp.h, as _plan.py lays them out, and the codes in them."""

from typing import Any

import numpy as np
from numba.core import types

from fastmlp._activations import ACTIVATION_CODES
from fastmlp._backends import _derivative_plan, _plan
from fastmlp._backends._numba._memory import Pointer, Struct
from fastmlp._backends._numba._team import TEAM
from fastmlp._backends._plan import TYPE_CODES
from fastmlp._losses import LOSS_CODES
from fastmlp._update import UPDATE_CODES

IDENTITY = ACTIVATION_CODES["identity"]
RELU = ACTIVATION_CODES["relu"]
LEAKY_RELU = ACTIVATION_CODES["leaky_relu"]
ELU = ACTIVATION_CODES["elu"]
SOFTPLUS = ACTIVATION_CODES["softplus"]
SIGMOID = ACTIVATION_CODES["sigmoid"]
TANH = ACTIVATION_CODES["tanh"]
GELU = ACTIVATION_CODES["gelu"]
SILU = ACTIVATION_CODES["silu"]
EXP = ACTIVATION_CODES["exp"]
SOFTMAX = ACTIVATION_CODES["softmax"]

MSE = LOSS_CODES["mse"]
MAE = LOSS_CODES["mae"]
HUBER = LOSS_CODES["huber"]
BCE = LOSS_CODES["bce"]
POISSON = LOSS_CODES["poisson"]
CROSS_ENTROPY = LOSS_CODES["cross_entropy"]

SGD = UPDATE_CODES["sgd"]
MOMENTUM = UPDATE_CODES["momentum"]
NESTEROV = UPDATE_CODES["nesterov"]
ADAM = UPDATE_CODES["adam"]
RMSPROP = UPDATE_CODES["rmsprop"]

FLOAT32, FLOAT64, INT64 = TYPE_CODES.values()

# What kernels' parameters are annotated with: a pointer to reals, a vector, and pointers to the structs.
Reals = Any
Vector = Any
Layer = Any
Plan = Any
Examples = Any
Update = Any
Schedule = Any
Derivatives = Any

_SCALARS = {"i8": types.int64, "u8": types.int64, "f8": types.float64}


def _fields(record: Any, **pointers: Any) -> dict[str, Any]:
    """The fields of a record of _plan.py, in which a pointer is a number: ``pointers`` tells to what."""
    names = [(name, kind) for name, kind, *shape in np.dtype(record).descr if not shape]
    return {name: pointers.get(name) or _SCALARS[kind[1:]] for name, kind in names}


BYTES, INTEGERS, DOUBLES = Pointer(types.int8), Pointer(types.int64), Pointer(types.float64)
LAYER = Struct("layer", _fields(_plan._LAYER))
EXAMPLES = Struct("examples", _fields(_plan._EXAMPLES, x=BYTES, y=BYTES, sample_weight=DOUBLES, order=INTEGERS))
SCHEDULE = Struct("schedule", _fields(_plan._SCHEDULE, table=DOUBLES))


def plan_struct(real: Any) -> Struct:
    return Struct(f"plan_{real}", _fields(_plan._PLAN, parameters=Pointer(real)), trailing=("layers", LAYER))


def update_struct(real: Any) -> Struct:
    reals = Pointer(real)
    return Struct(f"update_{real}", _fields(_plan._UPDATE, scalars=DOUBLES, first=reals, second=reals))


def call_struct(real: Any) -> Struct:
    """The arguments of a call: forward's, or those of a run of one step."""
    pointers = {
        "kernels": Pointer(TEAM),
        "plan": Pointer(plan_struct(real)),
        "workspace": Pointer(real),
        "examples": Pointer(EXAMPLES),
        "out": Pointer(real),
        "schedule": Pointer(SCHEDULE),
        "update": Pointer(update_struct(real)),
        "gradients": Pointer(real),
        "losses": DOUBLES,
    }
    return Struct(f"call_{real}", _fields(_plan._CALL, **pointers))


def arguments_struct(real: Any) -> Struct:
    """One call's arguments, and what comes back: csrc/network.h."""
    return Struct(
        f"arguments_{real}",
        {
            "plan": Pointer(plan_struct(real)),
            "workspace": Pointer(real),
            "examples": Pointer(EXAMPLES),
            "n": types.int64,
            "out": Pointer(real),
            "option": types.int64,  # logits, or the step of dropout
            "dy": Pointer(real),
            "dx": Pointer(real),
            "outs": Pointer(Pointer(real)),
            "schedule": Pointer(SCHEDULE),
            "update": Pointer(update_struct(real)),
            "gradients": Pointer(real),
            "losses": Pointer(types.float64),
            "value": types.float64,
            "taken": types.int64,
        },
    )


LAYER_DERIVATIVES = Struct("layer_derivatives", _fields(_derivative_plan.LAYER_DERIVATIVES))
DERIVATIVES = Struct("derivatives", _fields(_derivative_plan.DERIVATIVES), trailing=("layers", LAYER_DERIVATIVES))


def derivative_arguments_struct(real: Any) -> Struct:
    """The arguments of a call of csrc/derivatives.h."""
    return Struct(
        f"derivative_arguments_{real}",
        {
            "plan": Pointer(plan_struct(real)),
            "derivatives": Pointer(DERIVATIVES),
            "workspace": Pointer(real),
            "examples": Pointer(EXAMPLES),
            "n": types.int64,
            "direction": Pointer(real),
            "y": Pointer(real),
            "out": Pointer(real),
        },
    )


def trainee_struct(real: Any) -> Struct:
    """A member of an ensemble that is being trained."""
    pointers = {
        "plan": Pointer(plan_struct(real)),
        "examples": Pointer(EXAMPLES),
        "schedule": Pointer(SCHEDULE),
        "update": Pointer(update_struct(real)),
        "losses": DOUBLES,
    }
    return Struct(f"trainee_{real}", _fields(_plan.TRAINEE, **pointers))
