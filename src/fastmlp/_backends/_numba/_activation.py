"""Activations and their derivatives, over some rows of some whole vectors. As csrc/activation.h."""

from fastmlp._activations import LEAKY_RELU_SLOPE
from fastmlp._backends._numba._compiler import inline, kernel
from fastmlp._backends._numba._elementary import (
    exponential,
    exponential_minus_one,
    gelu,
    gelu_derivative,
    gelu_second_derivative,
    hyperbolic_tangent,
    logistic,
    silu,
    silu_derivative,
    silu_second_derivative,
    softplus,
)
from fastmlp._backends._numba._structs import (
    ELU,
    EXP,
    GELU,
    IDENTITY,
    LEAKY_RELU,
    RELU,
    SIGMOID,
    SILU,
    SOFTPLUS,
    TANH,
    Reals,
    Vector,
)
from fastmlp._backends._numba._vector import apart, at_least, choose, lanes, load, multiply_add, splat, store


@inline
def identity(z: Vector) -> Vector:
    return z


@inline
def relu(z: Vector) -> Vector:
    return at_least(z, splat(0, z))


@inline
def leaky_relu(z: Vector) -> Vector:
    return choose(z < splat(0, z), z * splat(LEAKY_RELU_SLOPE, z), z)


@inline
def elu(z: Vector) -> Vector:
    return choose(z > splat(0, z), z, exponential_minus_one(z))


# Derivatives that the output tells.


@inline
def identity_derivative(a: Vector) -> Vector:
    return splat(1, a)


@inline
def relu_derivative(a: Vector) -> Vector:
    return choose(a > splat(0, a), splat(1, a), splat(0, a))


@inline
def leaky_relu_derivative(a: Vector) -> Vector:
    return choose(a > splat(0, a), splat(1, a), splat(LEAKY_RELU_SLOPE, a))


@inline
def elu_derivative(a: Vector) -> Vector:
    return choose(a > splat(0, a), splat(1, a), a + splat(1, a))


@inline
def sigmoid_derivative(a: Vector) -> Vector:
    return a * (splat(1, a) - a)


@inline
def tanh_derivative(a: Vector) -> Vector:
    return multiply_add(-a, a, splat(1, a))


# Each activation's function of z, and its derivative: of z for those in DERIVATIVE_FROM_INPUT, of the output else.
FUNCTIONS = {
    IDENTITY: (identity, identity_derivative),
    RELU: (relu, relu_derivative),
    LEAKY_RELU: (leaky_relu, leaky_relu_derivative),
    ELU: (elu, elu_derivative),
    SOFTPLUS: (softplus, logistic),
    SIGMOID: (logistic, sigmoid_derivative),
    TANH: (hyperbolic_tangent, tanh_derivative),
    GELU: (gelu, gelu_derivative),
    SILU: (silu, silu_derivative),
    EXP: (exponential, identity),
}


@inline
def activate(activation: int, z: Vector) -> Vector:
    """f(z) of a hidden or output activation; softmax stands in _loss.py."""
    if activation == RELU:
        return relu(z)
    if activation == LEAKY_RELU:
        return leaky_relu(z)
    if activation == ELU:
        return elu(z)
    if activation == SOFTPLUS:
        return softplus(z)
    if activation == SIGMOID:
        return logistic(z)
    if activation == TANH:
        return hyperbolic_tangent(z)
    if activation == GELU:
        return gelu(z)
    if activation == SILU:
        return silu(z)
    if activation == EXP:
        return exponential(z)
    return z


@inline
def derivative(activation: int, z: Vector, a: Vector) -> Vector:
    """f'(z), given z and a = f(z): mostly a polynomial of a, which needs no z."""
    if activation == RELU:
        return relu_derivative(a)
    if activation == LEAKY_RELU:
        return leaky_relu_derivative(a)
    if activation == ELU:
        return elu_derivative(a)
    if activation == SOFTPLUS:
        return logistic(z)
    if activation == SIGMOID:
        return sigmoid_derivative(a)
    if activation == TANH:
        return tanh_derivative(a)
    if activation == GELU:
        return gelu_derivative(z)
    if activation == SILU:
        return silu_derivative(z)
    if activation == EXP:
        return a
    return splat(1, z)


@kernel
def activate_any(activation: int, z: Vector) -> Vector:
    return activate(activation, z)


@kernel
def derivative_any(activation: int, z: Vector, a: Vector) -> Vector:
    return derivative(activation, z, a)


@inline
def activate_with_derivative(activation: int, z: Vector) -> tuple[Vector, Vector]:
    """f(z) and f'(z) where few vectors go through: by calls, which keep the machine code small."""
    if activation == IDENTITY:
        return z, splat(1, z)
    a = activate_any(activation, z)
    return a, derivative_any(activation, z, a)


# The loops over rows and vectors: inlined once for each activation, so that the choice is made once.


@inline
def activate_loop(activation: int, rows: int, vectors: int, z: Reals, leading: int) -> None:
    for i in range(rows):
        for j in range(vectors):
            p = z + (i * leading + j * lanes(z))
            store(p, activate(activation, apart(load(p))))


@kernel
def activate_rows(activation: int, rows: int, vectors: int, z: Reals, leading: int) -> None:
    """z becomes f(z)."""
    if activation == RELU:
        activate_loop(RELU, rows, vectors, z, leading)
    elif activation == LEAKY_RELU:
        activate_loop(LEAKY_RELU, rows, vectors, z, leading)
    elif activation == ELU:
        activate_loop(ELU, rows, vectors, z, leading)
    elif activation == SOFTPLUS:
        activate_loop(SOFTPLUS, rows, vectors, z, leading)
    elif activation == SIGMOID:
        activate_loop(SIGMOID, rows, vectors, z, leading)
    elif activation == TANH:
        activate_loop(TANH, rows, vectors, z, leading)
    elif activation == GELU:
        activate_loop(GELU, rows, vectors, z, leading)
    elif activation == SILU:
        activate_loop(SILU, rows, vectors, z, leading)
    elif activation == EXP:
        activate_loop(EXP, rows, vectors, z, leading)


@inline
def factor_loop(activation: int, rows: int, vectors: int, z: Reals, factor: Reals, leading: int) -> None:
    for i in range(rows):
        for j in range(vectors):
            at = i * leading + j * lanes(z)
            before = apart(load(z + at))
            output = activate(activation, before)
            store(z + at, output)
            store(factor + at, derivative(activation, before, output))


@kernel
def activate_rows_keeping_factor(
    activation: int, rows: int, vectors: int, z: Reals, factor: Reals, leading: int
) -> None:
    """z becomes f(z), and factor f'(z): for layers whose output does not tell the derivative."""
    if activation == RELU:
        factor_loop(RELU, rows, vectors, z, factor, leading)
    elif activation == LEAKY_RELU:
        factor_loop(LEAKY_RELU, rows, vectors, z, factor, leading)
    elif activation == ELU:
        factor_loop(ELU, rows, vectors, z, factor, leading)
    elif activation == SOFTPLUS:
        factor_loop(SOFTPLUS, rows, vectors, z, factor, leading)
    elif activation == SIGMOID:
        factor_loop(SIGMOID, rows, vectors, z, factor, leading)
    elif activation == TANH:
        factor_loop(TANH, rows, vectors, z, factor, leading)
    elif activation == GELU:
        factor_loop(GELU, rows, vectors, z, factor, leading)
    elif activation == SILU:
        factor_loop(SILU, rows, vectors, z, factor, leading)
    elif activation == EXP:
        factor_loop(EXP, rows, vectors, z, factor, leading)
    else:
        factor_loop(IDENTITY, rows, vectors, z, factor, leading)


@inline
def chain_loop(
    activation: int, scale: float, rows: int, vectors: int, d: Reals, d_row: int, a: Reals, leading: int
) -> None:
    for i in range(rows):
        for j in range(vectors):
            p = a + (i * leading + j * lanes(a))
            output = load(p)
            if activation == RELU:
                zero = splat(0, a)
                slope = choose(output > zero, splat(scale, a), zero)
            else:
                slope = derivative(activation, output, output)
            store(p, load(d + (i * d_row + j * lanes(a))) * slope)


@kernel
def chain_rows(
    activation: int, scale: float, rows: int, vectors: int, d: Reals, d_row: int, a: Reals, leading: int
) -> None:
    """The chain rule through an activation, in place: the outputs a become dL/dz = d * f'(a), d being dL/da. ``scale``
    is what dropout has multiplied relu's outputs by."""
    if activation == RELU:
        chain_loop(RELU, scale, rows, vectors, d, d_row, a, leading)
    elif activation == LEAKY_RELU:
        chain_loop(LEAKY_RELU, scale, rows, vectors, d, d_row, a, leading)
    elif activation == ELU:
        chain_loop(ELU, scale, rows, vectors, d, d_row, a, leading)
    elif activation == SIGMOID:
        chain_loop(SIGMOID, scale, rows, vectors, d, d_row, a, leading)
    elif activation == TANH:
        chain_loop(TANH, scale, rows, vectors, d, d_row, a, leading)
    else:
        chain_loop(IDENTITY, scale, rows, vectors, d, d_row, a, leading)


@kernel
def chain_rows_by_factor(rows: int, vectors: int, d: Reals, d_row: int, factor: Reals, a: Reals, leading: int) -> None:
    """The same where the derivative was kept."""
    for i in range(rows):
        for j in range(vectors):
            at = i * leading + j * lanes(a)
            store(a + at, load(d + (i * d_row + j * lanes(a))) * load(factor + at))


@inline
def second_derivative(activation: int, z: Vector, a: Vector, slope: Vector) -> Vector:
    """f''(z), given z, a = f(z) and slope = f'(z). At a kink it is 0.

    Within 2.5 eps of its largest value, but for those that start from a rounded output or slope: tanh within 4.7,
    softplus 3.9, sigmoid 10.
    """
    zero = splat(0, z)
    one = splat(1, z)
    minus_two = splat(-2, z)
    if activation == ELU:
        return choose(a < zero, slope, zero)
    if activation == SOFTPLUS:
        return slope * (one - slope)
    if activation == SIGMOID:
        return slope * multiply_add(minus_two, a, one)
    if activation == TANH:
        return minus_two * a * slope
    if activation == GELU:
        return gelu_second_derivative(z)
    if activation == SILU:
        return silu_second_derivative(z)
    if activation == EXP:
        return a
    return zero


@inline
def bend_loop(
    activation: int, rows: int, vectors: int, z: Reals, slope: Reals, tangent: Reals, bend: Reals, leading: int
) -> None:
    for i in range(rows):
        for j in range(vectors):
            at = i * leading + j * lanes(z)
            before = apart(load(z + at))
            output = activate(activation, before)
            first = derivative(activation, before, output)
            t = load(tangent + at)
            store(z + at, output)
            store(slope + at, first)
            store(bend + at, second_derivative(activation, before, output, first) * t)
            store(tangent + at, first * t)


@kernel
def bend_rows(
    activation: int, rows: int, vectors: int, z: Reals, slope: Reals, tangent: Reals, bend: Reals, leading: int
) -> None:
    """z, whose tangent is t, becomes f(z), whose tangent f'(z) t replaces t; slope becomes f'(z), and bend its tangent
    f''(z) t."""
    if activation == RELU:
        bend_loop(RELU, rows, vectors, z, slope, tangent, bend, leading)
    elif activation == LEAKY_RELU:
        bend_loop(LEAKY_RELU, rows, vectors, z, slope, tangent, bend, leading)
    elif activation == ELU:
        bend_loop(ELU, rows, vectors, z, slope, tangent, bend, leading)
    elif activation == SOFTPLUS:
        bend_loop(SOFTPLUS, rows, vectors, z, slope, tangent, bend, leading)
    elif activation == SIGMOID:
        bend_loop(SIGMOID, rows, vectors, z, slope, tangent, bend, leading)
    elif activation == TANH:
        bend_loop(TANH, rows, vectors, z, slope, tangent, bend, leading)
    elif activation == GELU:
        bend_loop(GELU, rows, vectors, z, slope, tangent, bend, leading)
    elif activation == SILU:
        bend_loop(SILU, rows, vectors, z, slope, tangent, bend, leading)
    elif activation == EXP:
        bend_loop(EXP, rows, vectors, z, slope, tangent, bend, leading)
    else:
        bend_loop(IDENTITY, rows, vectors, z, slope, tangent, bend, leading)
