"""What the tests share: nets beside their oracle, random examples, and one table of tolerances."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import oracle
import pytest

import fastmlp
from fastmlp import _backends

DATA = Path(__file__).parent / "data"
BACKENDS = ("numpy", "numba", "c")
DTYPES = ("float32", "float64")
HIDDEN_ACTIVATIONS = ("relu", "leaky_relu", "elu", "softplus", "sigmoid", "tanh", "gelu", "silu", "identity")
OUTPUT_ACTIVATIONS = (*HIDDEN_ACTIVATIONS, "exp", "softmax")
LOSS_OF_OUTPUT = {"softmax": "cross_entropy", "sigmoid": "bce", "exp": "poisson"}
OUTPUTS_AND_LOSSES = tuple(
    [("softmax", "cross_entropy"), ("sigmoid", "bce"), ("exp", "poisson")]
    + [(output, loss) for output in OUTPUT_ACTIVATIONS if output != "softmax" for loss in ("mse", "mae", "huber")]
)

# Of a whole array against the oracle, relative to its largest element: a few dozen roundings in a row.
TOLERANCES = {"float32": {"rtol": 5e-6, "atol": 1e-7}, "float64": {"rtol": 1e-13, "atol": 1e-15}}


# Threads take part whether it pays or not. Else, beside busy processes, tests would compare one thread with itself.
with suppress(ImportError):
    from fastmlp import _fastmlp_c

    _fastmlp_c.lib.fastmlp_keep_teams(1)
with suppress(ImportError):
    from fastmlp._backends._numba import _kernels

    _kernels._pool.keep_teams(True)

# Backends that are left out on purpose, as "numba" where Numba is not installed.
LEFT_OUT = os.environ.get("FASTMLP_TEST_WITHOUT", "").split()


def require(name):
    """Go on only with a backend that is there. Where all are demanded, a missing one is a failure unless left out."""
    if name in fastmlp.available_backends():
        assert name not in LEFT_OUT, f"FASTMLP_TEST_WITHOUT names the {name} backend, but it is there"
        return
    reason = f"the {name} backend is missing: {_backends.why_missing()[name]}"
    if name not in LEFT_OUT and (os.environ.get("CI") or os.environ.get("FASTMLP_REQUIRE_C")):
        pytest.fail(reason)
    pytest.skip(reason)


def assert_close(actual, expected, dtype, what="", scale=1.0):
    """Compare within the table's tolerance of ``dtype``, relative to the largest element expected."""
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    if not expected.size:
        return
    tolerance = TOLERANCES[np.dtype(dtype).name]
    largest = float(np.max(np.abs(expected)))
    error = float(np.max(np.abs(actual - expected)))
    assert error <= scale * (tolerance["rtol"] * largest + tolerance["atol"]), (
        f"{what}: error {error:.3g}, largest element {largest:.3g}\nactual {actual}\nexpected {expected}"
    )


def assert_same_bits(actual, expected):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    if actual.tobytes() != expected.tobytes():
        different = ~((actual == expected) | (np.isnan(actual) & np.isnan(expected)))
        raise AssertionError(
            f"{np.count_nonzero(different)} of {actual.size} elements differ (none: only the sign of zeros or the bits "
            f"of NaN do); the first at {np.argwhere(different)[:3].tolist()}: "
            f"{actual[different][:3]} against {expected[different][:3]}"
        )


def make_net(layer_sizes, *, seed=0, scale=1.0, **settings):
    """A net whose weights and biases are all random, and the oracle's net with the same parameters."""
    settings.setdefault("rng", seed)
    net = fastmlp.MLP(layer_sizes, **settings)
    random = np.random.default_rng(seed + 1)
    for weights, bias in zip(net.weights, net.biases):
        weights[...] = random.normal(0.0, scale / np.sqrt(weights.shape[1]), weights.shape)
        bias[...] = random.normal(0.0, 0.5 * scale, bias.shape)
    return net, oracle_of(net, **settings)


def oracle_of(net, *, activation="relu", output_activation="identity", loss=None, l1=0.0, l2=0.0, dropout=0.0, **_):
    """The oracle's net with the parameters of ``net``; the rest comes from the settings that made it."""
    n_hidden = len(net.layer_sizes) - 2
    return oracle.Net(
        layer_sizes=tuple(net.layer_sizes),
        activations=(activation,) * n_hidden if isinstance(activation, str) else tuple(activation),
        output_activation=output_activation,
        loss=loss or LOSS_OF_OUTPUT.get(output_activation, "mse"),
        weights=[np.array(w, dtype=np.float64) for w in net.weights],
        biases=[np.array(b, dtype=np.float64) for b in net.biases],
        l1=l1,
        l2=l2,
        dropout=(dropout,) * n_hidden if np.ndim(dropout) == 0 else tuple(dropout),
    )


def make_examples(net, n, *, seed=0, classes=True):
    """X of shape (n, n_0) in the net's dtype and targets that suit its loss; class indices where it takes them."""
    random = np.random.default_rng(seed + 100)
    X = random.normal(size=(n, net.layer_sizes[0])).astype(net.dtype)
    k = net.layer_sizes[-1]
    if net.loss_name == "cross_entropy":
        if classes:
            return X, random.integers(0, k, n)
        y = random.dirichlet(np.ones(k), n)
    elif net.loss_name == "bce":
        y = random.random((n, k))
    elif net.loss_name == "poisson":
        y = random.poisson(2.0, (n, k)).astype(np.float64)
    else:
        y = random.normal(size=(n, k))
    return X, y.astype(net.dtype)


def flat(weights, biases):
    """One vector, layer by layer, W_l row-major and then b_l."""
    return np.concatenate([part.ravel() for pair in zip(weights, biases) for part in pair])


def run_python(code, timeout=300, **environment):
    """Run ``code`` in a fresh interpreter that can import the package and these helpers; returns its output."""
    here, package = str(Path(__file__).parent), str(Path(fastmlp.__file__).parent.parent)
    path = os.pathsep.join([here, package, os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert result.returncode == 0, f"exit status {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout
