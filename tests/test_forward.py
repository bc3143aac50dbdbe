"""forward, logits, predict, accuracy and activations_of against the oracle."""

import numpy as np
import oracle
import pytest
from support import (
    HIDDEN_ACTIVATIONS,
    OUTPUT_ACTIVATIONS,
    assert_close,
    assert_same_bits,
    make_examples,
    make_net,
)

SIZES = [
    (1, 1),
    (3, 2),
    (2, 2, 1),
    (1, 1, 1, 1),
    (4, 5, 3),
    (7, 15, 16, 17, 4),
    (17, 33, 65, 6),
    (70, 31, 48, 49, 10),
    (5, 1, 5),
    (6,) * 9,
    (11, 300, 257, 5),  # one example takes a way of its own through layers from 256 on
]


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "-".join(map(str, sizes)))
def test_forward_of_odd_shapes(backend, dtype, sizes):
    net, reference = make_net(sizes, activation="tanh", dtype=dtype, backend=backend)
    for n in (1, 2, 3, 5, 8, 13, 17, 40):
        X, _ = make_examples(net, n, seed=n)
        y_hat = net.forward(X)
        assert y_hat.shape == (n, sizes[-1]) and y_hat.dtype == dtype and y_hat.flags.c_contiguous
        assert_close(y_hat, oracle.fast_forward(reference, X), dtype, f"{n} rows")


@pytest.mark.parametrize("output", OUTPUT_ACTIVATIONS)
@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
def test_every_activation_with_every_output(backend, dtype, activation, output):
    net, reference = make_net(
        (4, 9, 5, 3), activation=activation, output_activation=output, dtype=dtype, backend=backend
    )
    X, _ = make_examples(net, 6)
    assert_close(net.forward(X), oracle.forward(reference, X), dtype)
    assert_close(net.logits(X), oracle.logits(reference, X), dtype)


def test_a_different_activation_in_every_layer(backend, dtype):
    settings = {"activation": HIDDEN_ACTIVATIONS, "output_activation": "softmax", "dtype": dtype, "backend": backend}
    net, reference = make_net((3, *range(4, 4 + len(HIDDEN_ACTIVATIONS)), 5), **settings)
    X, _ = make_examples(net, 7)
    assert net.activations == HIDDEN_ACTIVATIONS
    assert_close(net.forward(X), oracle.forward(reference, X), dtype, scale=2)


@pytest.mark.parametrize("n", [255, 256, 257, 513, 1300])
def test_forward_of_many_rows(backend, dtype, n):
    net, reference = make_net((9, 20, 4), output_activation="softmax", dtype=dtype, backend=backend)
    X, _ = make_examples(net, n)
    assert_close(net.forward(X), oracle.fast_forward(reference, X), dtype)


def test_forward_of_wide_layers(backend, dtype):
    net, reference = make_net((2100, 530, 300), activation="sigmoid", dtype=dtype, backend=backend)
    X, _ = make_examples(net, 9)
    assert_close(net.forward(X), oracle.fast_forward(reference, X), dtype, scale=10)


@pytest.mark.parametrize("n", [1, 9, 205])
def test_forward_of_layers_whose_inputs_are_packed(backend, dtype, n):
    settings = {"activation": "tanh", "dtype": dtype, "backend": backend}
    net, reference = make_net((333, 1030, 1024, 5), n_threads=1, **settings)
    X, _ = make_examples(net, n)
    y_hat = net.forward(X)
    assert_close(y_hat, oracle.fast_forward(reference, X), dtype, scale=10)
    if backend != "numpy":  # whose products are as its BLAS sums them
        assert_same_bits(make_net((333, 1030, 1024, 5), n_threads=2, **settings)[0].forward(X), y_hat)


def test_layer_outputs(backend, dtype):
    net, reference = make_net((3, 6, 4, 2), activation=("relu", "silu"), dtype=dtype, backend=backend)
    X, _ = make_examples(net, 5)
    outputs = net.activations_of(X)
    expected = oracle.layer_outputs(reference, X)
    assert len(outputs) == 3
    for actual, layer in zip(outputs, expected):
        assert_close(actual, layer, dtype)
    for actual, layer in zip(net.activations_of(X[0]), expected):
        assert_close(actual, layer[0], dtype)


def test_a_single_example_is_a_row_without_its_axis(backend, dtype):
    net, _ = make_net((5, 8, 3), output_activation="softmax", dtype=dtype, backend=backend)
    X, _ = make_examples(net, 4)
    for method in (net.forward, net.logits, net, net.predict):
        batch, single = method(X), method(X[2])
        assert single.shape == batch.shape[1:]
        np.testing.assert_allclose(single, batch[2], rtol=1e-5 if dtype == "float32" else 1e-13)
    assert net.forward(X[2]).dtype == dtype


@pytest.mark.parametrize("sizes", [(5, 8, 3), (33, 65, 50, 7), (300, 4)])
def test_compiled_forward_does_not_depend_on_the_batch(compiled_backend, dtype, sizes):
    net, _ = make_net(sizes, activation="gelu", output_activation="softmax", dtype=dtype, backend=compiled_backend)
    X, _ = make_examples(net, 31)
    whole = net.forward(X)
    for row in (0, 7, 30):
        assert_same_bits(net.forward(X[row]), whole[row])
        assert_same_bits(net.forward(X[row : row + 1])[0], whole[row])
    for n in (2, 5, 8, 13, 29):
        assert_same_bits(net.forward(X[:n]), whole[:n])


def test_calling_the_net_is_forward(backend):
    net, _ = make_net((3, 4, 2), backend=backend)
    X, _ = make_examples(net, 3)
    assert_same_bits(net(X), net.forward(X))


def test_results_are_not_buffers_that_later_calls_reuse(backend):
    net, _ = make_net((3, 4, 2), backend=backend)
    X, y = make_examples(net, 3)
    calls = [
        lambda X: [net.forward(X)],
        lambda X: [net.forward(X[0])],
        lambda X: [net.logits(X)],
        lambda X: [net.predict(X)],
        lambda X: list(net.activations_of(X)),
        lambda X: [net.loss_and_gradients(X, y)[1].flat],
        lambda X: list(net.loss_and_gradients(X, y)[1].weights),
        lambda X: list(net.backward(X, y).biases),
    ]
    for call in calls:
        first = call(X)
        kept = [array.copy() for array in first]
        second = call(X + 1)
        for array, copy, other in zip(first, kept, second):
            assert_same_bits(array, copy)
            assert not np.shares_memory(array, other)


def test_out_receives_the_result(backend, dtype):
    net, _ = make_net((3, 4, 2), dtype=dtype, backend=backend)
    X, _ = make_examples(net, 5)
    out = np.full((5, 2), np.nan, dtype=dtype)
    assert net.forward(X, out=out) is out
    assert_same_bits(out, net.forward(X))
    single = np.full(2, np.nan, dtype=dtype)
    assert net.forward(X[1], out=single) is single
    assert_same_bits(single, net.forward(X[1]))


def test_softmax_rows_sum_to_one(backend, dtype):
    net, _ = make_net((3, 37), output_activation="softmax", dtype=dtype, backend=backend, scale=20.0)
    X, _ = make_examples(net, 20)
    np.testing.assert_allclose(net.forward(X).sum(axis=1), 1.0, rtol=1e-6 if dtype == "float32" else 1e-14)


def test_predict_gives_classes_for_softmax(backend):
    net, reference = make_net((3, 5, 4), output_activation="softmax", backend=backend)
    X, y = make_examples(net, 30)
    classes = net.predict(X)
    assert classes.shape == (30,) and np.issubdtype(classes.dtype, np.integer)
    np.testing.assert_array_equal(classes, np.argmax(oracle.forward(reference, X), axis=1))
    assert net.accuracy(X, y) == pytest.approx(np.mean(classes == y))
    assert net.accuracy(X, classes) == 1.0


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_predict_gives_zeros_and_ones_for_sigmoid(backend, n_outputs):
    net, reference = make_net((3, 5, n_outputs), output_activation="sigmoid", backend=backend)
    X, _ = make_examples(net, 30)
    labels = net.predict(X)
    expected = (oracle.logits(reference, X) > 0).astype(int)
    np.testing.assert_array_equal(labels, expected[:, 0] if n_outputs == 1 else expected)
    assert net.accuracy(X, labels) == 1.0


def test_predict_gives_values_otherwise(backend):
    one, _ = make_net((3, 5, 1), backend=backend)
    several, _ = make_net((3, 5, 2), backend=backend)
    X, _ = make_examples(one, 6)
    assert_same_bits(one.predict(X), one.forward(X)[:, 0])
    assert_same_bits(several.predict(X), several.forward(X))
