"""Nets of random shapes and options against vector_oracle.py: ``fuzz_nets.py COUNT [BACKEND...]``.

Everything a net computes is compared with float64, the compiled backends with each other to the bit, and guard lines
lie around and within all arenas. test_fuzz_nets.py tries a few hundred.
"""

import sys
import time
from typing import Any, NamedTuple

import numpy as np
import vector_oracle
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support import DTYPES, HIDDEN_ACTIVATIONS, OUTPUTS_AND_LOSSES, assert_same_bits, flat, make_examples, make_net
from test_optimizers import CLIPPING, OPTIMIZERS, clipped, weights_mask

import fastmlp
from fastmlp import _backends, _guards
from fastmlp._backends import _plan

# Relative to the largest element of an array; a float32 sum of 1,300 terms that cancel keeps half of its digits.
TOLERANCE = {"float32": 2e-4, "float64": 1e-11}
MOST_STEPS = 6
WITH_CORNERS = {"relu", "leaky_relu"}

# Half of the cases are small, where edges are a large share.
widths = st.one_of(st.integers(1, 40), st.integers(1, 300))
rows = st.one_of(st.integers(1, 40), st.integers(1, 1300))
regularization = st.sampled_from([0.0, 0.0, 1e-3])
LAYOUTS = {
    "as it is": lambda X: X,
    "columns first": np.asfortranarray,
    "every second row, third column": lambda X: np.repeat(np.repeat(X, 2, axis=0), 3, axis=1)[::2, ::3],
    "backwards": lambda X: np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1],
    "between others": lambda X: np.pad(X, ((1, 2), (3, 1)), constant_values=np.nan if X.dtype.kind == "f" else 9)[
        1:-2, 3:-1
    ],
}


class Case(NamedTuple):
    """One net, its data and its training."""

    sizes: tuple[int, ...]
    activations: tuple[str, ...]
    output_and_loss: tuple[str, str]
    dtype: str
    n: int
    l1: float
    l2: float
    dropout: tuple[float, ...]
    n_threads: int
    x_dtype: str
    layout: str
    classes: bool
    weighted: bool
    optimizer: str
    clip_norm: float | None
    batch_size: int | None
    seed: int


@st.composite
def cases(draw: Any) -> Case:
    sizes = tuple(draw(st.lists(widths, min_size=2, max_size=5)))
    n_hidden = len(sizes) - 2
    n = draw(rows)
    optimizer = draw(st.sampled_from(list(OPTIMIZERS)))
    return Case(
        sizes=sizes,
        activations=tuple(draw(st.sampled_from(HIDDEN_ACTIVATIONS)) for _ in range(n_hidden)),
        output_and_loss=draw(st.sampled_from(OUTPUTS_AND_LOSSES)),
        dtype=draw(st.sampled_from(DTYPES)),
        n=n,
        l1=draw(regularization),
        l2=draw(regularization),
        dropout=tuple(draw(st.sampled_from([0.0, 0.0, 0.3])) for _ in range(n_hidden)),
        n_threads=draw(st.sampled_from([1, 1, 1, 2, 3])),
        x_dtype=draw(st.sampled_from(["same", "same", "float32", "float64", "int64"])),
        layout=draw(st.sampled_from(list(LAYOUTS))),
        classes=draw(st.booleans()),
        weighted=draw(st.booleans()),
        optimizer=optimizer,
        clip_norm=draw(st.sampled_from([None, None, 0.1])) if optimizer in CLIPPING else None,
        batch_size=draw(st.one_of(st.none(), st.integers(-(-n // MOST_STEPS), n))),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def make_case_net(case: Case, backend: str) -> tuple[Any, Any]:
    output, loss = case.output_and_loss
    return make_net(
        case.sizes,
        seed=case.seed,
        activation=case.activations,
        output_activation=output,
        loss=loss,
        l1=case.l1,
        l2=case.l2,
        dropout=case.dropout,
        dtype=case.dtype,
        backend=backend,
        n_threads=case.n_threads,
    )


def make_data(case: Case, net: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """As the case wants them laid out."""
    X, y = make_examples(net, case.n, seed=case.seed, classes=case.classes)
    if case.x_dtype != "same":
        X = (np.rint(X) if case.x_dtype == "int64" else X).astype(case.x_dtype)
    arrange = LAYOUTS[case.layout]
    weight = np.random.default_rng(case.seed).uniform(0.1, 2.0, case.n) if case.weighted else None
    return arrange(X), arrange(y) if y.ndim == 2 else y, weight


def assert_near(actual: Any, expected: Any, dtype: str, what: str) -> None:
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert actual.shape == expected.shape, f"{what} has shape {actual.shape}, expected {expected.shape}"
    error, largest = np.max(np.abs(actual - expected)), np.max(np.abs(expected))
    assert error <= TOLERANCE[dtype] * (largest + 1e-3), f"{what} is off by {error:.3g}; its largest is {largest:.3g}"


def check(case: Case, backend: str) -> list[np.ndarray]:
    """One case against the oracle; returns everything computed."""
    net, reference = make_case_net(case, backend)
    X, y, weight = make_data(case, net)
    exact_X = X.astype(case.dtype).astype(np.float64)
    computed = net.activations_of(X)
    zs, outputs = vector_oracle.trace(reference, exact_X)
    for layer, (actual, expected) in enumerate(zip(computed, outputs), start=1):
        assert_near(actual, expected, case.dtype, f"the output of layer {layer}")
    logits, forward = net.logits(X), net.forward(X)
    assert_near(logits, zs[-1], case.dtype, "the logits")
    assert_same_bits(forward, computed[-1])
    assert_same_bits(net.forward(X[case.n // 2]), forward[case.n // 2])

    loss, gradients = net.loss_and_gradients(X, y, weight)
    expected_loss, *expected = vector_oracle.loss_and_gradients(reference, exact_X, y, weight, computed=computed)
    assert_near(loss, expected_loss, case.dtype, "the loss")
    assert_near(net.loss(X, y, weight), expected_loss, case.dtype, "the loss alone")
    assert_near(gradients.flat, flat(*expected[:2]), case.dtype, "the gradient")

    dY = np.random.default_rng(case.seed).normal(size=forward.shape).astype(case.dtype)
    backward = net.backward(X, dY, input_gradient=True)
    d_weights, d_biases, dX = vector_oracle.backward(reference, exact_X, dY, computed)
    assert_near(backward.flat, flat(d_weights, d_biases), case.dtype, "backward")
    assert_near(backward.input, dX, case.dtype, "the gradient by X")

    before, twin = net.parameters, net.copy()
    loss, gradients = twin.loss_and_gradients(X, y, weight, training=True)
    corners = case.dtype == "float32" and (WITH_CORNERS & set(case.activations) or case.output_and_loss[1] == "mae")
    if any(case.dropout) and not corners:
        factors = vector_oracle.dropout_factors(reference, net._seed, 0, case.n)
        expected_loss, *expected = vector_oracle.loss_and_gradients(reference, exact_X, y, weight, factors)
        assert_near(loss, expected_loss, case.dtype, "the loss in training")
        assert_near(gradients.flat, flat(*expected[:2]), case.dtype, "the gradient in training")
    make, formula = OPTIMIZERS[case.optimizer]
    more = {} if case.clip_norm is None else {"clip_norm": case.clip_norm}
    if case.clip_norm is not None:
        formula = clipped(formula, case.clip_norm)
    optimizer = make(**more)
    assert optimizer.step(net, X, y, weight) == loss
    stepped = formula(before.astype(np.float64), gradients.flat.astype(np.float64), weights_mask(net), {}, 1)
    assert_near(net.parameters, stepped, case.dtype, "the parameters after a step")

    history = net.fit(
        X, y, sample_weight=weight, optimizer=optimizer, epochs=1, batch_size=case.batch_size, on_nonfinite="ignore"
    )
    computed_all = [*computed, logits, np.array(history.loss), gradients.flat, backward.flat, backward.input]
    return [*computed_all, before, net.parameters]


def check_on_all(case: Case, backends: tuple[str, ...]) -> None:
    """Against the oracle on each backend; those that promise the same bits are compared."""
    results = {backend: check(case, backend) for backend in backends}
    promised = [name for name in backends if name != "numpy" and _backends.instruction_set(name) != "baseline"]
    for other in promised[1:]:
        for actual, expected in zip(results[other], results[promised[0]]):
            assert_same_bits(actual, expected)


def main(count: str, *backends: str) -> None:
    _guards.active = True
    _plan.THREAD_PRODUCTS = 1
    tried, began = 0, time.perf_counter()

    @settings(
        max_examples=int(count),
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def fuzz(case: Case) -> None:
        nonlocal tried
        tried += 1
        check_on_all(case, backends or fastmlp.available_backends())

    fuzz()
    print(f"{tried} nets in {time.perf_counter() - began:.0f} s, no difference")


if __name__ == "__main__":
    main(*sys.argv[1:])
