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

# Most are small, where edges are a large share.
widths = st.one_of(st.integers(1, 20), st.integers(1, 50), st.integers(1, 300))
rows = st.one_of(st.integers(1, 30), st.integers(1, 100), st.integers(1, 1300))
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


class Results(NamedTuple):
    """Everything that a net computes."""

    outputs: tuple[np.ndarray, ...]
    logits: np.ndarray
    loss: float
    loss_alone: float
    gradient: np.ndarray
    backward: np.ndarray
    dX: np.ndarray
    loss_in_training: float
    gradient_in_training: np.ndarray
    stepped: np.ndarray
    losses: list[float]
    fitted: np.ndarray


def direction(case: Case) -> np.ndarray:
    """What `backward` starts from."""
    return np.random.default_rng(case.seed).normal(size=(case.n, case.sizes[-1])).astype(case.dtype)


def compute(case: Case, backend: str) -> Results:
    net, _ = make_case_net(case, backend)
    X, y, weight = make_data(case, net)
    outputs = net.activations_of(X)
    assert_same_bits(net.forward(X), outputs[-1])
    if backend != "numpy":  # whose products may round otherwise for other numbers of rows
        assert_same_bits(net.forward(X[case.n // 2]), outputs[-1][case.n // 2])
    loss, gradients = net.loss_and_gradients(X, y, weight)
    backward = net.backward(X, direction(case), input_gradient=True)
    in_training = net.copy().loss_and_gradients(X, y, weight, training=True)
    make, _ = OPTIMIZERS[case.optimizer]
    optimizer = make() if case.clip_norm is None else make(clip_norm=case.clip_norm)
    loss_alone, logits = net.loss(X, y, weight), net.logits(X)
    assert optimizer.step(net, X, y, weight) == in_training[0]
    stepped = net.parameters
    history = net.fit(
        X, y, sample_weight=weight, optimizer=optimizer, batch_size=case.batch_size, on_nonfinite="ignore"
    )
    return Results(
        outputs=outputs,
        logits=logits,
        loss=loss,
        loss_alone=loss_alone,
        gradient=gradients.flat,
        backward=backward.flat,
        dX=backward.input,
        loss_in_training=in_training[0],
        gradient_in_training=in_training[1].flat,
        stepped=stepped,
        losses=history.loss,
        fitted=net.parameters,
    )


def check(case: Case, backend: str) -> Results:
    """One backend against the oracle."""
    actual = compute(case, backend)
    net, reference = make_case_net(case, backend)
    X, y, weight = make_data(case, net)
    X = X.astype(case.dtype).astype(np.float64)

    def near(value: Any, expected: Any, what: str) -> None:
        assert_near(value, expected, case.dtype, what)

    traced = zs, outputs = vector_oracle.trace(reference, X)
    for layer, (value, expected) in enumerate(zip(actual.outputs, outputs), start=1):
        near(value, expected, f"the output of layer {layer}")
    near(actual.logits, zs[-1], "the logits")
    loss, d_weights, d_biases, _ = vector_oracle.loss_and_gradients(
        reference, X, y, weight, computed=actual.outputs, traced=traced
    )
    near(actual.loss, loss, "the loss")
    near(actual.loss_alone, loss, "the loss alone")
    near(actual.gradient, flat(d_weights, d_biases), "the gradient")
    d_weights, d_biases, dX = vector_oracle.backward(reference, X, direction(case), actual.outputs, traced)
    near(actual.backward, flat(d_weights, d_biases), "backward")
    near(actual.dX, dX, "the gradient by X")

    corners = case.dtype == "float32" and (WITH_CORNERS & set(case.activations) or case.output_and_loss[1] == "mae")
    if any(case.dropout) and not corners:
        factors = vector_oracle.dropout_factors(reference, net._seed, 0, case.n)
        loss, d_weights, d_biases, _ = vector_oracle.loss_and_gradients(reference, X, y, weight, factors)
        near(actual.loss_in_training, loss, "the loss in training")
        near(actual.gradient_in_training, flat(d_weights, d_biases), "the gradient in training")
    _, formula = OPTIMIZERS[case.optimizer]
    if case.clip_norm is not None:
        formula = clipped(formula, case.clip_norm)
    before, gradient = net.parameters.astype(np.float64), actual.gradient_in_training.astype(np.float64)
    near(actual.stepped, formula(before, gradient, weights_mask(net), {}, 1), "the parameters after a step")
    return actual


def check_on_all(case: Case, backends: tuple[str, ...]) -> None:
    """Each against the oracle, or to the bit against one that was."""
    promised = [name for name in backends if name != "numpy" and _backends.instruction_set(name) != "baseline"]
    for backend in set(backends) - set(promised[1:]):
        checked = check(case, backend)
        if backend in promised:
            for other in promised[1:]:
                actual, expected = compute(case, other), checked
                for a, b in zip([*actual.outputs, *actual[1:]], [*expected.outputs, *expected[1:]]):
                    assert_same_bits(a, b)


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
