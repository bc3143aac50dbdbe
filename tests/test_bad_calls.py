"""Wrong calls over the whole public API: each gets its exception, with a message that names the argument.

After every one of them the net and the optimizer are as they were: parameters, moments, counters and generators.
"""

import os

import numpy as np
import pytest
from support import make_net, require

import fastmlp
from fastmlp import MLP, SGD, Adam, AdamW, Checkpoint, EarlyStopping, RMSprop, minibatches, schedules

X, Y = np.linspace(-1.0, 1.0, 20).reshape(5, 4), np.array([0, 1, 2, 1, 0])
X32 = X.astype(np.float32)
ROW = X[0]
HUGE = 10**400


def read_only(shape):
    array = np.zeros(shape, dtype=np.float32)
    array.flags.writeable = False
    return array


def objects(shape):
    return np.zeros(shape).astype(object)


class Unreadable:
    """An array-like thing that fails when it is asked."""

    def __array__(self, *arguments, **settings):
        raise ValueError("no array today")


class Situation:
    """A net of 4 inputs and 3 classes in the midst of its training, and one for regression."""

    def __init__(self, backend):
        self.net, _ = make_net((4, 6, 3), output_activation="softmax", dropout=0.2, backend=backend)
        self.regressor, _ = make_net((4, 6, 3), backend=backend)
        self.adam = Adam()
        self.net.fit(X, Y, optimizer=self.adam, batch_size=2)
        self.gradients = self.net.loss_and_gradients(X, Y)[1]

    def state(self):
        update, net = self.adam._update, self.net
        arrays = (net._parameters, self.regressor._parameters, update.first, update.second, update.scalars, X, Y)
        counters = (
            net._dropout_step,
            net._seed,
            self.adam._epoch,
            self.adam.lr,
            str(net._shuffle_rng.bit_generator.state),
        )
        return [array.tobytes() for array in (*arrays, self.gradients.arena)], counters


# A group of calls: how each is made of its wrong value, and the values with error and a part of the message.
WRONG_INTS = [
    (0, ValueError),
    (-1, ValueError),
    (1.0, TypeError),
    ("1", TypeError),
    (True, TypeError),
    ([1], TypeError),
]
WRONG_RATES = [
    (-1e-9, ValueError),
    (np.nan, ValueError),
    (np.inf, ValueError),
    (HUGE, ValueError),
    ("0.1", TypeError),
    (None, TypeError),
    (True, TypeError),
    (1j, TypeError),
    (np.array([0.1]), TypeError),
]
WRONG_INPUTS = [
    (X[:, :3], ValueError, "X has 3 features; this network takes 4"),
    (np.zeros((5, 5)), ValueError, "X has 5 features; this network takes 4"),
    (np.zeros(20), ValueError, "X has 20 features; this network takes 4"),
    (np.zeros((0, 3)), ValueError, "X has 3 features; this network takes 4"),
    (np.zeros((1, 5, 4)), ValueError, "X has 3 dimensions"),
    (np.float64(1.0), ValueError, "X has 0 dimensions"),
    (1.0, ValueError, "X has 0 dimensions"),
    (True, ValueError, "X has 0 dimensions"),
    (None, TypeError, "X has dtype object; expected real numbers"),
    ("text", TypeError, "X has dtype <U4; expected real numbers"),
    (b"text", TypeError, "X has dtype |S4; expected real numbers"),
    (objects((5, 4)), TypeError, "X has dtype object; expected real numbers"),
    (X.astype(complex), TypeError, "X has dtype complex128; expected real numbers"),
    (np.zeros((5, 4), dtype="M8[s]"), TypeError, "X has dtype datetime64[s]; expected real numbers"),
    (np.zeros(5, dtype=[("a", "f4")]), TypeError, "X has dtype [('a', '<f4')]; expected real numbers"),
    (np.full((5, 4), "1.5"), TypeError, "X has dtype <U3; expected real numbers"),
    (np.ma.masked_array(X, X > 0), TypeError, "X is a masked array"),
    ([[1, 2, 3, 4], [1, 2]], ValueError, "X is no array"),
    ([[1, 2, 3, HUGE]], TypeError, "X has dtype object; expected real numbers"),
    ({1, 2}, TypeError, "X has dtype object; expected real numbers"),
    (Unreadable(), ValueError, "X is no array: no array today"),
]
WRONG_TARGETS = [
    (Y[:4], ValueError, "y has 4 rows; X has 5"),
    (np.zeros(6), ValueError, "y has 6 rows; X has 5"),
    (np.zeros((5, 2)), ValueError, "y has shape (5, 2); expected shape (n,) with classes or (n, 3)"),
    (np.zeros((5, 3, 1)), ValueError, "y has shape (5, 3, 1); expected shape (n,) with classes or (n, 3)"),
    (np.zeros((4, 3)), ValueError, "y has 4 rows; X has 5"),
    (1, ValueError, "y has shape (); expected shape (n,) with classes or (n, 3)"),
    ([0, 1, 2, 3, 0], ValueError, "y has class 3; this network has classes 0 to 2"),
    ([0, 1, -1, 2, 0], ValueError, "y has class -1; this network has classes 0 to 2"),
    (np.array([0, 1, 2, 2**63, 0], dtype=np.uint64), ValueError, "y has class"),
    ([0.0, 0.5, 1.0, 1.0, 0.0], ValueError, "y has classes that are no whole numbers"),
    ([0.0, np.nan, 1.0, 1.0, 0.0], ValueError, "y has classes that are no whole numbers"),
    ([0.0, 1e300, 1.0, 1.0, 0.0], ValueError, "y has classes that are no whole numbers"),
    (np.full((5, 3), -0.1), ValueError, "y has -0.1 in it"),
    (list("abcde"), TypeError, "y has dtype <U1; expected real numbers"),
    (None, TypeError, "y has dtype object; expected real numbers"),
    (objects(5), TypeError, "y has dtype object; expected real numbers"),
    (Y.astype(complex), TypeError, "y has dtype complex128; expected real numbers"),
    (np.ma.masked_array(Y, Y > 0), TypeError, "y is a masked array"),
]
WRONG_WEIGHTS = [
    (np.ones(4), ValueError, "sample_weight has shape (4,); expected (5,)"),
    (np.ones((5, 1)), ValueError, "sample_weight has shape (5, 1); expected (5,)"),
    (1.0, ValueError, "sample_weight has shape (); expected (5,)"),
    ([1, 1, np.nan, 1, 1], ValueError, "sample_weight has NaN or infinity"),
    ([1, 1, np.inf, 1, 1], ValueError, "sample_weight has NaN or infinity"),
    (objects(5), TypeError, "sample_weight has dtype object"),
    ("balanced", TypeError, "sample_weight has dtype <U8"),
]
OVERLAPPING = np.zeros((10, 4), dtype=np.float32)
WRONG_OUTS = [
    (np.zeros((5, 2), dtype=np.float32), ValueError, "out has shape (5, 2); expected (5, 3)"),
    (np.zeros(3, dtype=np.float32), ValueError, "out has shape (3,); expected (5, 3)"),
    (np.zeros((5, 3)), ValueError, "out has dtype float64; this network computes in float32"),
    (np.zeros((5, 3), dtype=">f4"), ValueError, "out has dtype >f4; this network computes in float32"),
    (objects((5, 3)), ValueError, "out has dtype object"),
    (np.zeros((3, 5), dtype=np.float32).T, ValueError, "out must be writeable, aligned and C-contiguous"),
    (np.zeros((10, 3), dtype=np.float32)[::2], ValueError, "out must be writeable, aligned and C-contiguous"),
    (read_only((5, 3)), ValueError, "out must be writeable, aligned and C-contiguous"),
    (np.zeros((5, 3)).tolist(), TypeError, "out is a list; expected an array of shape (5, 3)"),
    (True, TypeError, "out is a bool; expected an array of shape (5, 3)"),
]
WRONG_SETTINGS = {
    "layer_sizes": [
        (4, TypeError),
        (None, TypeError),
        ("443", TypeError),
        (b"443", TypeError),
        ([], ValueError),
        ([4], ValueError),
        ([4, 0, 3], ValueError),
        ([4, -6, 3], ValueError),
        ([4, 6.0, 3], TypeError),
        ([4, True, 3], TypeError),
        ([4, None, 3], TypeError),
        (["4", "3"], TypeError),
        ([[4, 3]], TypeError),
        ({"in": 4, "out": 3}, TypeError),
        (np.array([4.0, 3.0]), TypeError),
        ([2**32, 2**32], ValueError),
        ([2**62, 4], ValueError),
        ([HUGE, 3], ValueError),
    ],
    "activation": [
        ("rleu", ValueError),
        ("softmax", ValueError),
        ("exp", ValueError),
        (b"relu", (TypeError, ValueError)),
        (None, TypeError),
        (3, TypeError),
        (np.tanh, TypeError),
        (["relu", "relu"], ValueError),
        ([], ValueError),
        ([None], TypeError),
        (["rleu"], ValueError),
    ],
    "output_activation": [("rleu", ValueError), (None, TypeError), (["relu"], TypeError), (3, TypeError)],
    "loss": [
        ("hinge", ValueError),
        ("bce", ValueError),
        ("cross_entropy", ValueError),
        (3, TypeError),
        (np.abs, TypeError),
    ],
    "initializer": [("xavier", ValueError), (None, TypeError), (0.1, TypeError)],
    "l1": WRONG_RATES,
    "l2": WRONG_RATES,
    "dropout": [
        (-0.1, ValueError),
        (1.0, ValueError),
        (np.nan, ValueError),
        ("0.5", TypeError),
        (None, TypeError),
        (True, TypeError),
        ([0.1, 0.1], ValueError),
        (["0.1"], TypeError),
        ([1.0], ValueError),
    ],
    "dtype": [
        ("float16", ValueError),
        (int, ValueError),
        (complex, ValueError),
        (None, ValueError),
        (object, ValueError),
        ("f4,f4", ValueError),
        (">f4", ValueError),
        ("no such thing", TypeError),
        (3, TypeError),
    ],
    "rng": [(-1, ValueError), ("seed", TypeError), (1.5, TypeError), (object(), TypeError)],
    "backend": [("gpu", ValueError), (3, ValueError), (True, ValueError), (["c"], ValueError)],
    "n_threads": WRONG_INTS,
}
WRONG_FITTING = {
    "optimizer": [("adam", TypeError), (Adam, TypeError), (0.1, TypeError)],
    "epochs": [(-1, ValueError), (1.5, TypeError), ("3", TypeError), (True, TypeError), (None, TypeError)],
    "batch_size": WRONG_INTS,
    "shuffle": [
        (1, TypeError),
        (None, TypeError),
        ("yes", ValueError),
        (b"blocks", TypeError),
        (["blocks"], TypeError),
    ],
    "block_rows": WRONG_INTS,
    "progress": [(1, TypeError), (None, TypeError), ("bar", TypeError)],
    "validation_data": [
        (3, TypeError),
        (X, TypeError),
        ((X,), TypeError),
        ((X, Y, None, None), TypeError),
        ((X[:, :3], Y), ValueError),
        ((X, Y[:4]), ValueError),
        ((X[:0], Y[:0]), ValueError),
        ((X, Y + 5), ValueError),
        ((X, Y, np.ones(3)), ValueError),
        ((objects((5, 4)), Y), TypeError),
        ("XY", TypeError),
    ],
    "early_stopping": [(0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError), ("yes", TypeError)],
    "callbacks": [(3, TypeError), ([3], TypeError), (None, TypeError), ([None], TypeError), ("log", TypeError)],
    "rng": [(-1, ValueError), (1.5, TypeError), ("seed", TypeError), (True, TypeError), (np.random, TypeError)],
    "record": [("gradients", ValueError), (3, ValueError), (None, ValueError), ([3], ValueError), ([[]], ValueError)],
    "on_nonfinite": [("stop", ValueError), (None, TypeError), (True, TypeError)],
    "resume": [(3, TypeError), (True, TypeError), (b"fit", TypeError), ("fit\0", ValueError)],
}
WRONG_OPTIMIZERS = {
    "lr": WRONG_RATES,
    "clip_norm": [(0.0, ValueError), (-1.0, ValueError), (np.nan, ValueError), (np.inf, ValueError), ("1", TypeError)],
}
BETAS = [
    (0.9, TypeError),
    ((0.9,), TypeError),
    ((0.9, 0.9, 0.9), TypeError),
    ("99", TypeError),
    ((1.0, 0.9), ValueError),
    ((0.9, 1.0), ValueError),
    ((-0.1, 0.9), ValueError),
    ((0.9, np.nan), ValueError),
    ((0.9, "0.9"), TypeError),
    ((True, 0.9), TypeError),
]
EPS = [(0.0, ValueError), (-1e-8, ValueError), (1e-40, ValueError), (np.inf, ValueError), ("1e-8", TypeError)]
MOMENTUM = [(1.0, ValueError), (-0.1, ValueError), (np.nan, ValueError), ("0.9", TypeError), (True, TypeError)]


def calls():
    """Each wrong call: a function of a Situation, the exception, a part of its message."""
    yield from calls_with_examples()
    for name, values in WRONG_SETTINGS.items():
        for value, error in values:
            yield lambda s, name=name, value=value: MLP(**({"layer_sizes": [4, 6, 3]} | {name: value})), error, name
    for name, values in WRONG_FITTING.items():
        for value, error in values:
            yield (
                lambda s, name=name, value=value: s.net.fit(X, Y, **({"optimizer": s.adam} | {name: value})),
                error,
                name,
            )
    yield from calls_of_optimizers()
    yield from calls_with_parameters()
    yield from other_calls()


def calls_with_examples():
    with_X = [
        lambda s, value: s.net.forward(value),
        lambda s, value: s.net(value),
        lambda s, value: s.net.logits(value),
        lambda s, value: s.net.predict(value),
        lambda s, value: s.net.activations_of(value),
        lambda s, value: s.net.accuracy(value, Y),
        lambda s, value: s.net.loss(value, Y),
        lambda s, value: s.net.loss_and_gradients(value, Y, training=True),
        lambda s, value: s.net.backward(value, np.zeros((5, 3))),
        lambda s, value: s.adam.step(s.net, value, Y),
        lambda s, value: s.net.fit(value, Y, optimizer=s.adam),
        lambda s, value: s.net.hvp(value, Y, s.gradients),
    ]
    with_X_or_none = [
        lambda s, value: s.net.jacobian(value),
        lambda s, value: s.net.jvp(value, X),
        lambda s, value: s.net.gradients_per_example(value, Y),
    ]
    with_y = [
        lambda s, value: s.net.accuracy(X, value),
        lambda s, value: s.net.loss(X, value),
        lambda s, value: s.net.loss_and_gradients(X, value, training=True),
        lambda s, value: s.adam.step(s.net, X, value),
        lambda s, value: s.net.fit(X, value, optimizer=s.adam),
        lambda s, value: s.net.gradients_per_example(X, value),
        lambda s, value: s.net.hvp(X, value, s.gradients),
    ]
    with_weight = [
        lambda s, value: s.net.loss(X, Y, value),
        lambda s, value: s.net.loss_and_gradients(X, Y, value, training=True),
        lambda s, value: s.adam.step(s.net, X, Y, value),
        lambda s, value: s.net.fit(X, Y, optimizer=s.adam, sample_weight=value),
        lambda s, value: s.net.gradients_per_example(X, Y, value),
        lambda s, value: s.net.hvp(X, Y, s.gradients, value),
    ]
    with_out = [lambda s, value: s.net.forward(X, out=value), lambda s, value: s.net.logits(X, value)]
    for group, values in (
        (with_X + with_X_or_none, WRONG_INPUTS),
        (with_y, WRONG_TARGETS),
        (with_weight, WRONG_WEIGHTS),
        (with_out, WRONG_OUTS),
    ):
        for make in group:
            for value, error, text in values:
                yield lambda s, make=make, value=value: make(s, value), error, text
    for make in with_X[5:8] + with_X[9:]:
        yield lambda s, make=make: make(s, X[:0]), ValueError, "X has no examples"
    for make in with_X[6:8] + with_X[9:]:
        yield lambda s, make=make: make(s, X[:4]), ValueError, "y has 5 rows; X has 4"
    yield (
        lambda s: s.net.forward(OVERLAPPING[:4], out=OVERLAPPING.reshape(-1)[8:20].reshape(4, 3)),
        ValueError,
        "out shares",
    )
    yield lambda s: s.net.forward(ROW, out=s.net.biases[-1]), ValueError, "out shares memory"
    yield lambda s: s.net.forward(ROW, out=np.zeros((1, 3), dtype=np.float32)), ValueError, "out has shape (1, 3)"
    yield lambda s: s.net.fit(ROW, Y[0]), ValueError, "that of one example"
    yield lambda s: s.regressor.accuracy(X, Y), ValueError, "accuracy is defined for softmax and sigmoid"
    for dY, error, text in (
        (np.zeros((5, 2)), ValueError, "dY has shape (5, 2); expected (5, 3)"),
        (np.zeros((4, 3)), ValueError, "dY has shape (4, 3); expected (5, 3)"),
        (np.zeros(3), ValueError, "dY has shape (3,); expected (5, 3)"),
        (None, TypeError, "dY has dtype object"),
        (objects((5, 3)), TypeError, "dY has dtype object"),
        (np.zeros((5, 3), dtype=complex), TypeError, "dY has dtype complex128"),
    ):
        yield lambda s, dY=dY: s.net.backward(X, dY), error, text
    yield lambda s: s.net.gradients_per_example(X[:4], Y), ValueError, "y has 5 rows; X has 4"
    for T, error, text in (
        (X[:4], ValueError, "T has shape (4, 4); expected (5, 4), that of X"),
        (X[:, :3], ValueError, "T has shape (5, 3); expected (5, 4), that of X"),
        (ROW, ValueError, "T has shape (4,); expected (5, 4), that of X"),
        (1.0, ValueError, "T has shape (); expected (5, 4), that of X"),
        (None, TypeError, "T has dtype object"),
        (objects((5, 4)), TypeError, "T has dtype object"),
        (X * 1j, TypeError, "T has dtype complex128"),
        (np.ma.masked_array(X, X > 0), TypeError, "T is a masked array"),
    ):
        yield lambda s, T=T: s.net.jvp(X, T), error, text
    yield lambda s: s.net.jvp(ROW, X[:1]), ValueError, "T has shape (1, 4); expected (4,), that of X"
    other = MLP([4, 5, 3]).loss_and_gradients(X, np.zeros((5, 3)))[1]
    for V, error, text in (
        (np.zeros(50), ValueError, "V has shape (50,); expected (51,)"),
        (np.zeros((51, 1)), ValueError, "V has shape (51, 1); expected (51,)"),
        (0.0, ValueError, "V has shape (); expected (51,)"),
        (None, TypeError, "V has dtype object"),
        (objects(51), TypeError, "V has dtype object"),
        (np.zeros(51) * 1j, TypeError, "V has dtype complex128"),
        (other, ValueError, "V belongs to a network of the layer sizes [4, 5, 3]; this network has [4, 6, 3]"),
    ):
        yield lambda s, V=V: s.net.hvp(X, Y, V), error, text
    for flag in (1, None, "yes"):
        yield lambda s, flag=flag: s.net.backward(X, np.zeros((5, 3)), flag), TypeError, "input_gradient is"
        yield lambda s, flag=flag: s.net.loss_and_gradients(X, Y, training=flag), TypeError, "training is"


def calls_of_optimizers():
    for name, values in WRONG_OPTIMIZERS.items():
        for make in (SGD, Adam, AdamW, RMSprop):
            for value, error in values:
                yield lambda s, make=make, name=name, value=value: make(**{name: value}), error, name
    for value, error in WRONG_RATES:
        yield lambda s, value=value: setattr(s.adam, "lr", value), error, "lr"
        yield lambda s, value=value: AdamW(weight_decay=value), error, "weight_decay"
    for value, error in BETAS:
        yield lambda s, value=value: Adam(betas=value), error, "betas"
    for value, error in EPS:
        yield lambda s, value=value: Adam(eps=value), error, "eps"
        yield lambda s, value=value: RMSprop(eps=value), error, "eps"
    for value, error in MOMENTUM:
        yield lambda s, value=value: SGD(momentum=value), error, "momentum"
        yield lambda s, value=value: RMSprop(rho=value), error, "rho"
    yield lambda s: SGD(nesterov=True), ValueError, "nesterov needs a momentum"
    yield lambda s: SGD(momentum=0.9, nesterov=1), TypeError, "nesterov is"
    for lr in (lambda epoch: None, lambda epoch: -1.0, lambda epoch: np.nan, lambda epoch: "0.1"):
        yield (
            lambda s, lr=lr: s.net.fit(X, Y, optimizer=SGD(lr=lr)),
            (TypeError, ValueError),
            "lr at epoch 0 is",
        )
        yield lambda s, lr=lr: SGD(lr=lr).step(s.net, X, Y), (TypeError, ValueError), "lr at epoch 0 is"
    for net in (None, "net", X, MLP):
        yield lambda s, net=net: s.adam.step(net, X, Y), TypeError, "expected an MLP"
        yield lambda s, net=net: s.adam.apply(net, s.gradients), TypeError, "expected an MLP"
    yield lambda s: s.adam.step(s.regressor, X, np.zeros((5, 3))), RuntimeError, "keeps the state of another network"
    yield lambda s: s.adam.apply(s.regressor, s.gradients), RuntimeError, "keeps the state of another network"
    yield lambda s: s.regressor.fit(X, np.zeros((5, 3)), optimizer=s.adam), RuntimeError, "keeps the state of another"
    for gradients in (None, X, (1.0, None)):
        yield lambda s, gradients=gradients: s.adam.apply(s.net, gradients), TypeError, "expected the Gradients of"
    other = MLP([4, 5, 3], output_activation="softmax").loss_and_gradients(X, Y)[1]
    yield lambda s: s.adam.apply(s.net, other), ValueError, "gradients belongs to a network of other layer sizes"


def calls_with_parameters():
    weights, biases = [np.zeros((6, 4)), np.zeros((3, 6))], [np.zeros(6), np.zeros(3)]
    for wrong_weights, wrong_biases, error, text in (
        (weights[:1], biases, ValueError, "weights has 1 arrays; this network has 2 layers"),
        (weights, [], ValueError, "biases has 0 arrays; this network has 2 layers"),
        ([w.T for w in weights], biases, ValueError, "weights[0] has shape (4, 6); expected (6, 4)"),
        (weights, [b[None] for b in biases], ValueError, "biases[0] has shape (1, 6); expected (6,)"),
        ([weights[0], None], biases, TypeError, "weights[1] has dtype object"),
        (weights, [biases[0], "abc"], TypeError, "biases[1] has dtype <U3"),
        (weights, [biases[0], objects(3)], TypeError, "biases[1] has dtype object"),
        ([weights[0], weights[1] * 1j], biases, TypeError, "weights[1] has dtype complex128"),
        (None, biases, TypeError, "weights is"),
        (weights, 3, TypeError, "biases is"),
    ):
        yield lambda s, w=wrong_weights, b=wrong_biases: s.net.set_weights(w, b), error, text
    for value, error, text in (
        (np.zeros(50), ValueError, "flat has shape (50,); expected (51,)"),
        (np.zeros((51, 1)), ValueError, "flat has shape (51, 1); expected (51,)"),
        (0.0, ValueError, "flat has shape (); expected (51,)"),
        (None, TypeError, "flat has dtype object"),
        (objects(51), TypeError, "flat has dtype object"),
        ("x" * 51, TypeError, "flat has dtype"),
        (np.zeros(51) * 1j, TypeError, "flat has dtype complex128"),
    ):
        yield lambda s, value=value: s.net.set_parameters(value), error, text
    for name in ("weights", "biases", "parameters"):
        yield (
            lambda s, name=name: setattr(s.net, name, getattr(s.net, name)),
            AttributeError,
            f"{name} cannot be assigned",
        )
    for name in ("dtype", "layer_sizes", "backend", "l1", "dropout", "n_parameters"):
        yield lambda s, name=name: setattr(s.net, name, 3), AttributeError, name
    for other, error, text in (
        (None, TypeError, "other is a NoneType; expected an MLP"),
        (X, TypeError, "other is a ndarray; expected an MLP"),
        (MLP([4, 5, 3]), ValueError, "other has the layer sizes [4, 5, 3]; this network has [4, 6, 3]"),
    ):
        yield lambda s, other=other: s.net.copy_parameters_from(other), error, text
    for tau, error in (
        (-0.1, ValueError),
        (1.1, ValueError),
        (np.nan, ValueError),
        ("1", TypeError),
        (True, TypeError),
    ):
        yield lambda s, tau=tau: s.net.copy_parameters_from(s.regressor, tau=tau), error, "tau"
    for value, error in (
        (np.zeros(3), ValueError),
        (np.zeros((4, 1)), ValueError),
        ([0, 0, np.nan, 0], ValueError),
        (np.inf, ValueError),
        (None, TypeError),
        ("0", TypeError),
        (objects(4), TypeError),
    ):
        yield lambda s, value=value: s.net.fold_input_scaling(value, 1.0), error, "mean has"
        yield lambda s, value=value: s.net.fold_input_scaling(0.0, value), error, "scale has"
    yield lambda s: s.net.fold_input_scaling(0.0, 0.0), ValueError, "scale has 0 in it"
    yield lambda s: s.net.fold_input_scaling(0.0, [1, 1, 0, 1]), ValueError, "scale has 0 in it"


def other_calls():
    for value, error in WRONG_INTS:
        yield lambda s, value=value: s.net.bind(value), error, "n is"
        yield lambda s, value=value: fastmlp.set_num_threads(value), error, "n is"
        yield lambda s, value=value: minibatches(X, Y, value), error, "batch_size is"
        yield lambda s, value=value: EarlyStopping(value), error, "patience is"
        yield lambda s, value=value: schedules.step(0.1, value), error, "every is"
        yield lambda s, value=value: schedules.cosine(0.1, value), error, "epochs is"
        if value != "1":
            yield lambda s, value=value: Checkpoint("fit", value), error, "every is"
    yield lambda s: minibatches(X, Y[:4], 2), ValueError, "X has 5 examples but y has 4"
    yield lambda s: minibatches(3, Y, 2), ValueError, "X is a single int"
    yield lambda s: minibatches(X, None, 2), ValueError, "y is a single NoneType"
    yield lambda s: minibatches(X, Y, None), TypeError, "batch_size is None"
    for rng, error in ((-1, ValueError), ("seed", TypeError), (1.5, TypeError)):
        yield lambda s, rng=rng: minibatches(X, Y, 2, rng), error, "rng is"
    for value, error in WRONG_RATES:
        yield lambda s, value=value: EarlyStopping(3, min_delta=value), error, "min_delta is"
        yield lambda s, value=value: schedules.constant(value), error, "lr is"
        yield lambda s, value=value: schedules.cosine(0.1, 10, final=value), error, "final is"
        yield lambda s, value=value: schedules.exponential(0.1, value), error, "factor is"
    yield lambda s: s.net.bind(2**60), ValueError, "no memory can hold"
    for value, error in ((X[0, :3], ValueError), (X, ValueError), (3.0, ValueError), ("1234", TypeError)):
        yield lambda s, value=value: s.net.bind()(value), error, "x has"
        yield lambda s, value=value: s.net.bind(2)(value), error, "x has"
    for value in (1, "yes", None):
        yield lambda s, value=value: s.net.jit(live=value), TypeError, "live is"
    yield lambda s: schedules.cosine(0.1, 10, warmup=10), ValueError, "warmup is 10; it must be less than epochs"
    yield lambda s: EarlyStopping(3, monitor="accuracy"), ValueError, "monitor is 'accuracy'"
    yield lambda s: EarlyStopping(3, restore_best=1), TypeError, "restore_best is"
    yield lambda s: s.net.fit(X, Y, early_stopping=3), ValueError, "there is no validation_data"
    for path in (None, 3, 3.5, True, b"net", ["net"]):
        yield lambda s, path=path: s.net.save(path), TypeError, "path is"
        yield lambda s, path=path: MLP.load(path), TypeError, "path is"
        yield lambda s, path=path: Checkpoint(path), TypeError, "path is"
        yield lambda s, path=path: s.net.export_c(path), TypeError, "path is"
        yield lambda s, path=path: s.net.to_onnx(path), TypeError, "path is"
    for name, error in (
        (None, TypeError),
        (3, TypeError),
        (b"mlp", TypeError),
        ("", ValueError),
        ("2nd", ValueError),
        ("_mlp", ValueError),
        ("a-b", ValueError),
        ("m\u00fc", ValueError),
        ("mlp\n", ValueError),
        ("m" * 24, ValueError),
    ):
        yield lambda s, name=name: s.net.export_c("no such folder/net.c", name), error, "name is"
    yield lambda s: s.net.export_c("no such folder/net.c"), FileNotFoundError, "no such folder"
    yield lambda s: s.net.to_onnx("no such folder/net.onnx"), FileNotFoundError, "no such folder"
    for net in (None, 3, MLP):
        yield lambda s, net=net: fastmlp.interop.to_torch(net), TypeError, "net is a"
        yield lambda s, net=net: fastmlp.interop.from_torch(net), TypeError, "module is a"
    yield lambda s: fastmlp.interop.to_torch(s.net, logits=1), TypeError, "logits is"
    yield lambda s: s.net.save("no such folder/net"), FileNotFoundError, "no such folder"
    yield lambda s: MLP.load("no such file"), FileNotFoundError, "no such file"
    yield lambda s: MLP.load(os.curdir), ValueError, "no regular file"
    yield lambda s: s.net.fit(X, Y, callbacks=Checkpoint("no such folder/fit")), FileNotFoundError, "no such folder"


CALLS = tuple(calls())


def test_there_are_many():
    assert len(CALLS) >= 150


@pytest.fixture(scope="module", params=["numpy", "c"])
def situation(request):
    require(request.param)
    return Situation(request.param)


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_wrong_call(situation, number):
    call, error, text = CALLS[number]
    before = situation.state()
    with pytest.raises(error) as raised:
        call(situation)
    assert text in str(raised.value), f"{type(raised.value).__name__}: {raised.value}"
    assert situation.state() == before


def test_the_net_trains_on(situation):
    situation.net.fit(X, Y, optimizer=situation.adam)
