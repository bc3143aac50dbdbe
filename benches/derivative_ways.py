"""Derivatives of a tanh net with linear outputs and squared loss, as each library offers them, for bench_jacobian.py.

A way is a function without arguments that returns the derivative as the library's own array. Parameters are one flat
vector, as fastmlp has them. What is right, `expected`, is computed by hand in float64.
"""

import importlib.util
import os
from collections.abc import Callable
from functools import partial

import numpy as np
from workloads import N_THREADS

import fastmlp
from fastmlp._bench._contenders import Way
from fastmlp._bench._workload import Array, Workload


def directions(workload: Workload) -> tuple[Array, Array]:
    """One of the inputs for each example, and one of all parameters."""
    rng = np.random.default_rng(2)
    n_parameters = sum(W.size + b.size for W, b in workload.parameters())
    T, V = rng.standard_normal((workload.n, workload.layer_sizes[0])), rng.standard_normal(n_parameters)
    return T.astype(workload.dtype), V.astype(workload.dtype)


def flat_parameters(workload: Workload) -> Array:
    return np.concatenate([part.ravel() for layer in workload.parameters() for part in layer])


def layers_of(workload: Workload, parameters):
    """(W_l, b_l) as views of flat parameters of any library."""
    start = 0
    for n_in, n_out in zip(workload.layer_sizes, workload.layer_sizes[1:]):
        middle, stop = start + n_out * n_in, start + n_out * (n_in + 1)
        yield parameters[start:middle].reshape(n_out, n_in), parameters[middle:stop]
        start = stop


# Names of the libraries and of their ways of each derivative.
JACOBIAN, JVP, EXAMPLES, HVP = "jacobian", "jvp", "gradients_per_example", "hvp"


def expected(workload: Workload, derivative: str) -> Array:
    """By hand: the chain rule, and for the Hessian a complex step, which is exact."""
    X, y = (array.astype(np.float64) for array in workload.examples())
    T, V = (array.astype(np.float64) for array in directions(workload))
    parameters = flat_parameters(workload).astype(np.float64)
    if derivative == HVP:
        return examples_gradients(workload, parameters + 1e-30j * V, X, y).mean(axis=0).imag / 1e-30
    if derivative == EXAMPLES:
        return examples_gradients(workload, parameters, X, y)
    *hidden, (W_out, _) = layers_of(workload, parameters)
    J, a = np.eye(X.shape[1]), X
    for W, b in hidden:
        a = np.tanh(a @ W.T + b)
        J = (1 - a**2)[:, :, None] * (W @ J)
    return W_out @ J if derivative == JACOBIAN else np.einsum("nkj,nj->nk", W_out @ J, T)


def examples_gradients(workload: Workload, parameters: Array, X: Array, y: Array) -> Array:
    """The gradient of each example's loss, for real or complex parameters."""
    layers = list(layers_of(workload, parameters))
    inputs = [X]
    for W, b in layers[:-1]:
        inputs.append(np.tanh(inputs[-1] @ W.T + b))
    dz = 2 / y.shape[1] * (inputs[-1] @ layers[-1][0].T + layers[-1][1] - y)
    pieces = []
    for (W, _), a in zip(reversed(layers), reversed(inputs)):
        pieces = [(dz[:, :, None] * a[:, None, :]).reshape(len(X), -1), dz, *pieces]
        dz = (dz @ W) * (1 - a**2)
    return np.concatenate(pieces, axis=1)


def fastmlp_ways(workload: Workload) -> dict[str, dict[str, Way]]:
    X, y = workload.examples()
    T, V = directions(workload)
    found: dict[str, dict[str, Way]] = {}
    for backend in fastmlp.available_backends():
        net = workload.net(backend, N_THREADS)
        found[f"fastmlp {backend}"] = {
            JACOBIAN: partial(net.jacobian, X),
            JVP: lambda net=net: net.jvp(X, T)[1],
            EXAMPLES: lambda net=net: net.gradients_per_example(X, y).flat,
            HVP: lambda net=net: net.hvp(X, y, V).flat,
        }
    return found


def torch_ways(workload: Workload) -> dict[str, dict[str, Way]]:
    import torch
    from torch import func

    torch.set_num_threads(N_THREADS)
    X, y, T, V, parameters = map(
        torch.from_numpy, (*workload.examples(), *directions(workload), flat_parameters(workload))
    )
    layers = list(layers_of(workload, parameters))

    def outputs(layers, x):
        *hidden, (W_out, b_out) = layers
        for W, b in hidden:
            x = torch.tanh(torch.nn.functional.linear(x, W, b))
        return torch.nn.functional.linear(x, W_out, b_out)

    def loss(parameters, X, y):
        return torch.nn.functional.mse_loss(outputs(layers_of(workload, parameters), X), y)

    def reverse_twice():
        leaf = parameters.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf, X, y), leaf, create_graph=True)
        return torch.autograd.grad(gradient, leaf, V)[0]

    forward = partial(outputs, layers)
    return {
        "torch.func reverse": {
            JACOBIAN: partial(func.vmap(func.jacrev(forward)), X),
            EXAMPLES: partial(func.vmap(func.grad(loss), (None, 0, 0)), parameters, X, y),
            HVP: reverse_twice,
        },
        "torch.func forward": {
            JACOBIAN: partial(func.vmap(func.jacfwd(forward)), X),
            JVP: lambda: func.jvp(forward, (X,), (T,))[1],
            # not HVP: PyTorch 2.13 raises where a gradient's views meet tangents that are zero
        },
    }


def jax_ways(workload: Workload) -> dict[str, dict[str, Way]]:
    if N_THREADS == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", workload.dtype == "float64")
    X, y, T, V, parameters = map(jnp.asarray, (*workload.examples(), *directions(workload), flat_parameters(workload)))

    def outputs(parameters, x):
        *hidden, (W_out, b_out) = layers_of(workload, parameters)
        for W, b in hidden:
            x = jnp.tanh(x @ W.T + b)
        return x @ W_out.T + b_out

    def loss(parameters, X, y):
        return jnp.mean((outputs(parameters, X) - y) ** 2)

    def compiled(function: Callable, *arguments) -> Way:
        function = jax.jit(function)
        return lambda: function(*arguments).block_until_ready()

    return {
        "jax.jit reverse": {
            JACOBIAN: compiled(jax.vmap(jax.jacrev(outputs, 1), (None, 0)), parameters, X),
            EXAMPLES: compiled(jax.vmap(jax.grad(loss), (None, 0, 0)), parameters, X, y),
            HVP: compiled(jax.grad(lambda p, X, y, V: jax.grad(loss)(p, X, y) @ V), parameters, X, y, V),
        },
        "jax.jit forward": {
            JACOBIAN: compiled(jax.vmap(jax.jacfwd(outputs, 1), (None, 0)), parameters, X),
            JVP: compiled(lambda p, X, T: jax.jvp(partial(outputs, p), (X,), (T,))[1], parameters, X, T),
            HVP: compiled(
                lambda p, X, y, V: jax.jvp(lambda p: jax.grad(loss)(p, X, y), (p,), (V,))[1], parameters, X, y, V
            ),
        },
    }


LIBRARIES = {"torch": torch_ways, "jax": jax_ways}


def missing() -> list[str]:
    return [name for name in LIBRARIES if importlib.util.find_spec(name) is None]


def ways(workload: Workload, derivative: str) -> dict[str, Way]:
    """fastmlp's with each backend, and those of the libraries that are installed."""
    found = fastmlp_ways(workload)
    for name, make in LIBRARIES.items():
        if name not in missing():
            found |= make(workload)
    return {name: its[derivative] for name, its in found.items() if derivative in its}
