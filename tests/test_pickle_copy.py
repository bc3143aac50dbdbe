"""Copies and pickles: the same net, then a life of its own."""

import copy
import pickle

import numpy as np
import pytest
from support import assert_same_bits, make_examples, make_net

import fastmlp

COPIES = {
    "copy": lambda net: net.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "pickle protocol 2": lambda net: pickle.loads(pickle.dumps(net, protocol=2)),
}


@pytest.fixture(params=COPIES)
def make_copy(request):
    return COPIES[request.param]


def dropout_net(backend, dtype="float32"):
    return make_net(
        (4, 9, 3), activation="silu", output_activation="softmax", l2=0.01, dropout=0.2, dtype=dtype, backend=backend
    )[0]


def test_a_copy_is_the_same_net(monkeypatch, backend, dtype, make_copy):
    monkeypatch.setenv("FASTMLP_BACKEND", backend)
    net = dropout_net(backend, dtype)
    X, y = make_examples(net, 20)
    net.fit(X, y, epochs=2)
    other = make_copy(net)
    assert repr(other) == repr(net)
    assert_same_bits(other.parameters, net.parameters)
    assert_same_bits(other.forward(X), net.forward(X))
    # Shuffling and dropout go on alike.
    for each in (net, other):
        each.fit(X, y, optimizer=fastmlp.SGD(lr=0.1), epochs=2, batch_size=3)
    assert_same_bits(other.parameters, net.parameters)


def test_a_copy_lives_on_its_own(backend, make_copy):
    net = dropout_net(backend)
    X, y = make_examples(net, 20)
    other = make_copy(net)
    before = other.parameters
    net.weights[0][...] = 0.0
    fastmlp.SGD(lr=0.1).step(net, X, y)
    assert_same_bits(other.parameters, before)
    views = other.weights
    fastmlp.SGD(lr=0.1).step(other, X, y)
    assert np.any(other.parameters != before)
    assert_same_bits(views[0], other.weights[0])
    assert not np.shares_memory(net.weights[0], other.weights[0])


def test_a_copy_keeps_the_backend_and_a_pickle_does_not():
    net = fastmlp.MLP([2, 3], backend="numpy")
    assert net.copy().backend == copy.deepcopy(net).backend == "numpy"
    assert pickle.loads(pickle.dumps(net)).backend == fastmlp.MLP([2, 3]).backend


def test_a_pickle_names_no_backend(compiled_backend):
    """It can be read where that backend is missing."""
    net = fastmlp.MLP([2, 3], backend=compiled_backend)
    text = pickle.dumps(net)
    assert b"_backends" not in text and compiled_backend.encode() + b"." not in text


def test_a_copy_during_training_is_free(backend):
    net = dropout_net(backend)
    X, y = make_examples(net, 20)
    copies = []

    def callback(net, history):
        copies.append(net.copy())
        copies[-1].fit(X, y)

    net.fit(X, y, epochs=2, callbacks=[callback])
    assert len(copies) == 2


def test_pickles_hold_no_more_than_the_parameters():
    net = fastmlp.MLP([100, 200], backend="numpy")
    net.forward(np.zeros((600, 100)))
    assert len(pickle.dumps(net)) < 4 * net.n_parameters + 4000


def test_histories_are_picklable():
    net = dropout_net("numpy")
    history = net.fit(*make_examples(net, 20), epochs=3, record=("steps", "parameters"))
    loaded = pickle.loads(pickle.dumps(history))
    assert loaded.loss == history.loss and loaded.stopped_by == "epochs"
    assert_same_bits(loaded.parameters, history.parameters)
