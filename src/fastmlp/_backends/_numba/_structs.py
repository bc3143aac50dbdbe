"""The structs of csrc/fastmlp.h, and the codes in them."""

from typing import Any

from numba.core import types

from fastmlp._activations import ACTIVATION_CODES
from fastmlp._backends._numba._memory import Pointer, Struct
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

LAYER = Struct(
    "layer",
    {
        "n_in": types.int64,
        "n_out": types.int64,
        "leading": types.int64,  # of the parameters' rows and of the output's rows
        "parameters": types.int64,  # offset of the (n_in + 1, leading) matrix in every arena
        "activation": types.int64,
        "output": types.int64,  # offset in the workspace: (block_rows, leading)
        "factor": types.int64,  # the same for d output / d input where a training pass keeps it, else -1
        "dropout_from": types.int64,  # units whose random word is below this are dropped; 0: no dropout
        "dropout_scale": types.float64,  # of the units that stay
    },
)

EXAMPLES = Struct(
    "examples",
    {
        "x": Pointer(types.int8),  # any strides
        "x_row": types.int64,
        "x_column": types.int64,
        "x_type": types.int64,
        "y": Pointer(types.int8),  # classes: a vector, y_column 0, y_type INT64; else (n, outputs)
        "y_row": types.int64,
        "y_column": types.int64,
        "y_type": types.int64,
        "sample_weight": Pointer(types.float64),  # or null
        "order": Pointer(types.int64),  # example i is row order[i]; null: row i
    },
)

SCHEDULE = Struct(
    "schedule",
    {
        "n_examples": types.int64,  # in an epoch
        "batch_size": types.int64,
        "first_step": types.int64,
        "n_steps": types.int64,
        "table": Pointer(types.float64),  # rows of learning rate, epsilon, divisor (0: rows), scale of the penalty
        "table_row": types.int64,  # doubles from one step's row to the next; 0: one row for all
        "dropout_step": types.int64,
    },
)


def plan_struct(real: Any) -> Struct:
    return Struct(
        f"plan_{real}",
        {
            "n_layers": types.int64,
            "loss": types.int64,
            "l1": types.float64,
            "l2": types.float64,
            "seed": types.int64,  # of dropout
            "parameters": Pointer(real),  # the arena
            "n_threads": types.int64,  # at most
            "thread_products": types.int64,  # a call gets as many threads as it has this number of multiplications
            "block_rows": types.int64,  # rows that go through the net together
            "input": types.int64,  # offsets in the workspace: (block_rows, input_leading)
            "input_leading": types.int64,
            "constants": types.int64,  # a line of ones, then zeros
            "parts": types.int64,  # (3, block_rows)
            "losses": types.int64,  # (block_rows) doubles: weight * loss of each example
            # One for each thread, a stride apart.
            "target": types.int64,  # two rows of the last layer: one of targets, one to work with
            "target_stride": types.int64,
            "panel": types.int64,  # W^T of one panel of units: (widest output, PANEL)
            "panel_stride": types.int64,
            "tile": types.int64,  # what tiles of the backward pass are computed in
            "tile_stride": types.int64,
        },
        trailing=("layers", LAYER),
    )


def update_struct(real: Any) -> Struct:
    return Struct(
        f"update_{real}",
        {
            "code": types.int64,
            "scalars": Pointer(types.float64),  # see fastmlp/_update.py
            "first": Pointer(real),
            "second": Pointer(real),
        },
    )


def call_struct(real: Any) -> Struct:
    """The arguments of a call: forward's, or those of a run of one step."""
    return Struct(
        f"call_{real}",
        {
            "kernels": types.int64,  # C's
            "plan": Pointer(plan_struct(real)),
            "workspace": Pointer(real),
            "examples": Pointer(EXAMPLES),
            "n": types.int64,
            "out": Pointer(real),
            "schedule": Pointer(SCHEDULE),
            "update": Pointer(update_struct(real)),
            "gradients": Pointer(real),
            "losses": Pointer(types.float64),
        },
    )


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
