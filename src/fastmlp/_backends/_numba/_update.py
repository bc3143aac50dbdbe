"""Optimizers: one update of some rows of parameters from their gradients. Formulas are PyTorch's. As csrc/update.h."""

from typing import Any

from numba.core import types

from fastmlp._backends._numba._compiler import inline, kernel
from fastmlp._backends._numba._memory import Pointer, Struct, constructor, local_copy
from fastmlp._backends._numba._structs import ADAM, MOMENTUM, NESTEROV, RMSPROP, SGD, Reals, Update, Vector
from fastmlp._backends._numba._vector import choose, lanes, load, multiply_add, splat, square_root, store
from fastmlp._update import BETA1, BETA1_POWER, BETA2, BETA2_POWER, WEIGHT_DECAY

UpdateStep = Any

# What an update has beside its optimizer: nothing, the l2 penalty, clipping and weight decay, or any of these and the
# l1 penalty.
PLAIN, WITH_L2, WITH_FACTORS, WITH_ANY = range(4)


# One step's constants, in the kernels' dtype.
def update_step_struct(real: Any) -> Struct:
    return Struct(
        f"update_step_{real}",
        {
            "code": types.int64,
            "rate": real,
            "eps": real,
            "beta1": real,  # momentum, or Adam's
            "beta2": real,  # Adam's, or RMSprop's rho
            "one_minus1": real,  # 1 - beta1
            "one_minus2": real,
            "shrink": real,  # 1 - learning rate * weight decay, on weights
            "clip": real,  # factor of the whole gradient
            "l1": real,  # the penalty's, 0 where the gradient has it already
            "l2": real,
            "parameters": Pointer(real),  # arenas
            "first": Pointer(real),
            "second": Pointer(real),
        },
    )


update_step = constructor(update_step_struct, like="parameters")


@inline
def penalty_gradient(g: Vector, p: Vector, l1: float, l2: float) -> Vector:
    """The gradient g of weights p with the penalty's part."""
    zero = splat(0, g)
    slope = splat(l1, g)
    g = multiply_add(splat(l2, g), p, g)
    if l1 != 0:
        g = g + choose(p > zero, slope, choose(p < zero, -slope, zero))
    return g


@inline
def extras_of(s: UpdateStep) -> int:
    has_factors = s.clip != 1 or s.shrink != 1
    if s.l1 != 0 or (s.l2 != 0 and has_factors):
        return WITH_ANY
    if has_factors:
        return WITH_FACTORS
    return WITH_L2 if s.l2 != 0 else PLAIN


@inline
def update_vector(code: int, s: UpdateStep, extras: int, g: Vector, at: int) -> None:
    """One vector of one optimizer's update; ``at`` is its place in every arena."""
    p = s.parameters + at
    first = s.first + at
    second = s.second + at
    x = load(p)
    if extras == WITH_L2:
        g = penalty_gradient(g, x, 0.0, s.l2)
    elif extras == WITH_ANY:
        g = penalty_gradient(g, x, s.l1, s.l2)
    if extras == WITH_FACTORS or extras == WITH_ANY:
        g = g * splat(s.clip, g)
        x = x * splat(s.shrink, x)
    rate = splat(-s.rate, x)
    beta1 = splat(s.beta1, x)
    beta2 = splat(s.beta2, x)
    if code == SGD:
        x = multiply_add(rate, g, x)
    elif code == MOMENTUM:
        velocity = multiply_add(beta1, load(first), g)
        store(first, velocity)
        x = multiply_add(rate, velocity, x)
    elif code == NESTEROV:
        velocity = multiply_add(beta1, load(first), g)
        store(first, velocity)
        x = multiply_add(rate, multiply_add(beta1, velocity, g), x)
    elif code == ADAM:
        m = multiply_add(splat(s.one_minus1, x), g - load(first), load(first))
        v = multiply_add(beta2, load(second), splat(s.one_minus2, x) * g * g)
        store(first, m)
        store(second, v)
        x = multiply_add(rate, m / (square_root(v) + splat(s.eps, x)), x)
    elif code == RMSPROP:
        v = multiply_add(beta2, load(second), splat(s.one_minus2, x) * g * g)
        store(second, v)
        x = multiply_add(rate, g / (square_root(v) + splat(s.eps, x)), x)
    store(p, x)


@inline
def update_loop(
    code: int, s: UpdateStep, extras: int, rows: int, vectors: int, g: Reals, g_row: int, at: int, leading: int
) -> None:
    for i in range(rows):
        for j in range(vectors):
            gradient = load(g + (i * g_row + j * lanes(g)))
            update_vector(code, s, extras, gradient, at + i * leading + j * lanes(g))


@inline
def update_with(code: int, s: UpdateStep, rows: int, vectors: int, g: Reals, g_row: int, at: int, leading: int) -> None:
    extras = extras_of(s)
    if extras == PLAIN:
        update_loop(code, s, PLAIN, rows, vectors, g, g_row, at, leading)
    elif extras == WITH_L2:
        update_loop(code, s, WITH_L2, rows, vectors, g, g_row, at, leading)
    elif extras == WITH_FACTORS:
        update_loop(code, s, WITH_FACTORS, rows, vectors, g, g_row, at, leading)
    else:
        update_loop(code, s, WITH_ANY, rows, vectors, g, g_row, at, leading)


@inline
def uses_first(code: int) -> bool:
    """Whether an optimizer keeps a velocity or first moment."""
    return code == MOMENTUM or code == NESTEROV or code == ADAM


@inline
def uses_second(code: int) -> bool:
    return code == ADAM or code == RMSPROP


@kernel
def update_rows(
    s: UpdateStep, is_weight: bool, rows: int, vectors: int, g: Reals, g_row: int, at: int, leading: int
) -> None:
    """Updates rows of a layer's matrix that begin at ``at`` in every arena, from gradients g."""
    own = local_copy(s)
    if not is_weight:
        own.l1 = 0.0
        own.l2 = 0.0
        own.shrink = 1.0
    if own.code == SGD:
        update_with(SGD, own, rows, vectors, g, g_row, at, leading)
    elif own.code == MOMENTUM:
        update_with(MOMENTUM, own, rows, vectors, g, g_row, at, leading)
    elif own.code == NESTEROV:
        update_with(NESTEROV, own, rows, vectors, g, g_row, at, leading)
    elif own.code == ADAM:
        update_with(ADAM, own, rows, vectors, g, g_row, at, leading)
    elif own.code == RMSPROP:
        update_with(RMSPROP, own, rows, vectors, g, g_row, at, leading)


@kernel
def begin_update(s: UpdateStep, u: Update, rate: float, eps: float, parameters: Reals) -> None:
    """The constants of the step that follows, into s."""
    scalars = u.scalars
    beta1 = scalars[BETA1]
    beta2 = scalars[BETA2]
    s.code = u.code
    s.eps = eps
    s.beta1 = beta1
    s.beta2 = beta2
    s.one_minus1 = 1 - beta1
    s.one_minus2 = 1 - beta2
    s.shrink = 1 - rate * scalars[WEIGHT_DECAY]
    s.clip = 1.0
    s.l1 = 0.0
    s.l2 = 0.0
    s.parameters = parameters
    s.first = u.first
    s.second = u.second
    if u.code == ADAM:
        correction = square_root(1 - scalars[BETA2_POWER] * beta2)
        s.eps = eps * correction
        rate = rate * (correction / (1 - scalars[BETA1_POWER] * beta1))
    s.rate = rate


@kernel
def end_update(u: Update) -> None:
    """Adam's running powers advance, once a step."""
    if u.code == ADAM:
        u.scalars[BETA1_POWER] = u.scalars[BETA1_POWER] * u.scalars[BETA1]
        u.scalars[BETA2_POWER] = u.scalars[BETA2_POWER] * u.scalars[BETA2]
