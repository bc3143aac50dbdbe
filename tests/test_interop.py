"""Networks from and to PyTorch: with stand-ins for its modules, and with PyTorch itself where it is installed."""

import sys

import numpy as np
import oracle
import pytest
from support import HIDDEN_ACTIVATIONS, OUTPUT_ACTIVATIONS, assert_close, assert_same_bits, make_net, run_python

import fastmlp
from fastmlp.interop import from_torch, to_torch

# Stand-ins, which have what from_torch looks at. ---------------------------------------------------------


class Parameter:
    def __init__(self, array):
        self.array = np.asarray(array)
        self.shape, self.dtype = self.array.shape, f"torch.{self.array.dtype}"

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self.array


def stand_in(name, **attributes):
    return type(name, (), {"__module__": "torch.nn.modules"})(), attributes


def module(name, **attributes):
    instance, attributes = stand_in(name, **attributes)
    vars(instance).update(attributes)
    return instance


def sequential(*children, **named):
    named = {str(i): child for i, child in enumerate(children)} | named
    return module("Sequential", named_children=named.items)


def linear(n_in, n_out, dtype="float32", bias=True):
    random = np.random.default_rng(n_in * 100 + n_out)
    biases = Parameter(random.normal(size=n_out).astype(dtype)) if bias else None
    return module("Linear", weight=Parameter(random.normal(size=(n_out, n_in)).astype(dtype)), bias=biases)


SETTINGS = {
    "relu": ("ReLU", {}),
    "leaky_relu": ("LeakyReLU", {"negative_slope": 0.01}),
    "elu": ("ELU", {"alpha": 1.0}),
    "softplus": ("Softplus", {"beta": 1.0, "threshold": 20.0}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "gelu": ("GELU", {"approximate": "none"}),
    "silu": ("SiLU", {}),
    "identity": ("Identity", {}),
    "softmax": ("Softmax", {"dim": -1}),
}


def activation_module(name, **changed):
    class_name, settings = SETTINGS[name]
    return module(class_name, **settings | changed)


@pytest.mark.parametrize("name", HIDDEN_ACTIVATIONS)
def test_hidden_activations(dtype, name):
    first, second = linear(3, 5, dtype), linear(5, 2, dtype)
    net = from_torch(sequential(first, activation_module(name), module("Dropout", p=0.25), second), backend="numpy")
    assert net.layer_sizes == (3, 5, 2) and net.dtype == dtype
    assert (net.activations, net.output_activation, net.dropout) == ((name,), "identity", (0.25,))
    for layer, source in enumerate((first, second)):
        assert_same_bits(net.weights[layer], source.weight.array)
        assert_same_bits(net.biases[layer], source.bias.array)


@pytest.mark.parametrize("name", [*HIDDEN_ACTIVATIONS, "softmax"])
def test_output_activations(name):
    net = from_torch(sequential(linear(3, 2), activation_module(name)), rng=0)
    assert (net.layer_sizes, net.output_activation) == ((3, 2), name)


def test_log_softmax_gives_probabilities():
    source = linear(3, 4)
    net = from_torch(sequential(source, module("LogSoftmax", dim=1)))
    assert net.output_activation == "softmax"
    np.testing.assert_allclose(net.forward(np.ones((2, 3))).sum(axis=1), 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    "loss, output",
    [("cross_entropy", "softmax"), ("bce", "sigmoid"), ("poisson", "exp"), ("mse", "identity"), (None, "identity")],
)
def test_a_loss_decides_on_the_output(loss, output):
    net = from_torch(sequential(linear(3, 2)), loss=loss)
    assert (net.output_activation, net.loss_name) == (output, loss or "mse")


def test_a_single_linear_without_bias():
    net = from_torch(linear(3, 2, bias=False))
    assert net.layer_sizes == (3, 2)
    np.testing.assert_array_equal(net.biases[0], 0.0)


def test_nested_and_passed_over():
    body = sequential(
        module("Flatten", start_dim=1, end_dim=-1), linear(3, 4), module("Identity"), module("Dropout", p=0)
    )
    net = from_torch(sequential(body=body, act=activation_module("tanh"), head=sequential(linear(4, 2))))
    assert (net.layer_sizes, net.activations, net.dropout) == ((3, 4, 2), ("tanh",), (0.0,))


def test_parameters_are_copied():
    source = linear(3, 2)
    net = from_torch(source)
    before = net.parameters
    source.weight.array[...] = 0.0
    assert_same_bits(net.parameters, before)


class Outsider:
    pass


A, B = linear(3, 4), linear(4, 2)
REFUSED = [
    (Outsider(), TypeError, "module is a Outsider; expected a module of torch.nn"),
    (None, TypeError, "module is a NoneType"),
    (sequential(A, Outsider(), B), TypeError, "module '1' is a Outsider"),
    (sequential(), ValueError, "module has no Linear"),
    (sequential(module("Conv2d")), TypeError, "module '0' is Conv2d, which has no counterpart here"),
    (sequential(body=sequential(A, module("BatchNorm1d")), head=B), TypeError, "module 'body.1' is BatchNorm1d"),
    (
        sequential(A, activation_module("leaky_relu", negative_slope=0.2), B),
        ValueError,
        "negative_slope=0.2; expected 0.01",
    ),
    (sequential(A, activation_module("elu", alpha=2.0), B), ValueError, "alpha=2.0; expected 1"),
    (sequential(A, activation_module("softplus", beta=2.0), B), ValueError, "beta=2.0; expected 1"),
    (sequential(A, activation_module("softplus", threshold=5), B), ValueError, "threshold=5; expected at least 20"),
    (
        sequential(A, activation_module("gelu", approximate="tanh"), B),
        ValueError,
        "approximate='tanh'; expected 'none'",
    ),
    (sequential(A, activation_module("softmax", dim=0)), ValueError, "dim=0; expected -1"),
    (sequential(A, activation_module("softmax"), B), ValueError, "followed by a softmax"),
    (sequential(activation_module("relu"), A), ValueError, "module '0' is ReLU before any Linear"),
    (
        sequential(A, activation_module("relu"), activation_module("tanh"), B),
        ValueError,
        "module '2' is Tanh; expected one",
    ),
    (
        sequential(A, module("Dropout", p=0.5), activation_module("tanh"), B),
        ValueError,
        "module '2' is Tanh; expected one",
    ),
    (sequential(module("Dropout", p=0.5), A), ValueError, "module '0' is Dropout of the inputs"),
    (sequential(A, module("Dropout", p=0.5)), ValueError, "module ends with Dropout"),
    (sequential(A, module("Dropout", p=0.5), module("Dropout", p=0.5), B), ValueError, "a second Dropout"),
    (sequential(A, module("Dropout", p=1.0), B), ValueError, "dropout[0] is 1"),
    (sequential(A, module("Flatten", start_dim=0, end_dim=-1), B), ValueError, "expected Flatten(1, -1)"),
    (sequential(A, linear(5, 2)), ValueError, "module '1' takes 5 features; the layer before gives 4"),
    (sequential(A, linear(4, 2, "float64")), ValueError, "module '1' has dtype torch.float64; expected float32 or"),
    (sequential(linear(3, 4, "float16")), ValueError, "module '0' has dtype torch.float16; expected float32 or"),
    (module("Linear", weight=A.weight, bias=None, _forward_hooks={0: print}), ValueError, "module has hooks"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_has_no_counterpart_is_refused_by_name(number):
    given, error, text = REFUSED[number]
    with pytest.raises(error) as raised:
        from_torch(given)
    assert text in str(raised.value)


def test_a_loss_that_does_not_go_with_the_output():
    with pytest.raises(ValueError, match="loss is 'bce', which does not go with output_activation 'softmax'"):
        from_torch(sequential(A, activation_module("softmax")), loss="bce")


def test_torch_is_not_imported():
    code = "import sys, fastmlp, fastmlp.interop; fastmlp.MLP([2, 2], backend='numpy'); print('torch' in sys.modules)"
    assert run_python(code).strip() == "False"


def test_missing_torch_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="pip install torch"):
        to_torch(fastmlp.MLP([2, 2]))


# PyTorch itself. -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is the other side")


def outputs_of(torch, module, X):
    with torch.inference_mode():
        return module(torch.from_numpy(X)).numpy()


@pytest.mark.parametrize("depth", range(1, 7))
def test_random_nets_there_and_back(torch, dtype, depth):
    random = np.random.default_rng(depth)
    settings = {
        "activation": [str(name) for name in random.choice(HIDDEN_ACTIVATIONS, depth - 1)],
        "output_activation": str(random.choice([name for name in OUTPUT_ACTIVATIONS if name != "exp"])),
        "dropout": [float(rate) for rate in random.choice([0.0, 0.5], depth - 1)],
    }
    net, expected_net = make_net(tuple(map(int, random.integers(1, 40, depth + 1))), dtype=dtype, **settings)
    made = to_torch(net).eval()
    X = random.normal(size=(7, net.layer_sizes[0])).astype(dtype)
    expected = oracle.fast_forward(expected_net, X)
    assert_close(outputs_of(torch, made, X), expected, dtype, repr(net), scale=4.0)
    back = from_torch(made)
    assert_same_bits(back.parameters, net.parameters)
    for name in ("layer_sizes", "activations", "output_activation", "dropout", "dtype"):
        assert getattr(back, name) == getattr(net, name), name


@pytest.mark.parametrize("output", [name for name in OUTPUT_ACTIVATIONS if name != "exp"])
def test_every_activation_of_torch(torch, dtype, output):
    hidden = output if output != "softmax" else "gelu"
    net, _ = make_net((4, 9, 3), activation=hidden, output_activation=output, dtype=dtype)
    X = 3.0 * np.random.default_rng(2).normal(size=(20, 4)).astype(dtype)
    assert_close(outputs_of(torch, to_torch(net), X), net.forward(X), dtype, output, scale=4.0)


def test_logits(torch):
    net, _ = make_net((4, 6, 3), activation="softplus", output_activation="exp")
    with pytest.raises(ValueError, match="logits=True leaves it out"):
        to_torch(net)
    X = np.ones((2, 4), np.float32)
    assert_close(outputs_of(torch, to_torch(net, logits=True), X), net.logits(X), "float32")


def test_names_in_state_dict(torch):
    net, _ = make_net((4, 6, 3), dropout=0.5, output_activation="softmax")
    assert list(to_torch(net).state_dict()) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    nn = torch.nn
    named = nn.Sequential()
    named.add_module("body", nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU()))
    named.add_module("head", nn.Linear(6, 3))
    before = {name: value.clone() for name, value in named.state_dict().items()}
    filled = to_torch(net, like=named)
    assert list(filled.state_dict()) == ["body.1.weight", "body.1.bias", "head.weight", "head.bias"]
    np.testing.assert_array_equal(filled.head.weight.detach().numpy(), net.weights[1])
    assert_same_bits(from_torch(filled).parameters, net.parameters)
    for name, value in named.state_dict().items():
        assert torch.equal(value, before[name])
    assert filled.head.weight.requires_grad


def test_like_must_be_alike(torch):
    nn = torch.nn
    net, _ = make_net((4, 6, 3))
    for like, text in (
        (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), "like has the layers [(4, 5), (5, 3)]"),
        (nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), "like has tanh after module '0'"),
        (nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3)), "like has no bias in module '0'"),
    ):
        with pytest.raises(ValueError) as raised:
            to_torch(net, like=like)
        assert text in str(raised.value)


def test_initial_parameters_and_random_numbers_of_torch_are_left_alone(torch):
    state = torch.get_rng_state()
    net, _ = make_net((4, 6, 3))
    made = to_torch(net)
    assert torch.equal(torch.get_rng_state(), state)
    made[0].weight.data.zero_()
    assert net.weights[0].any()


def test_a_subclass_is_refused(torch):
    class Scaled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(TypeError, match="module '0' is a Scaled"):
        from_torch(torch.nn.Sequential(Scaled(3, 2)))


def test_hooks_and_half_precision_are_refused(torch):
    hooked = torch.nn.Linear(3, 2)
    hooked.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="module has hooks"):
        from_torch(hooked)
    with pytest.raises(ValueError, match=r"dtype torch\.bfloat16"):
        from_torch(torch.nn.Linear(3, 2).to(torch.bfloat16))


def test_training_goes_on_alike(torch):
    """One step of SGD on the same loss, here and there."""
    random = np.random.default_rng(4)
    X, y = random.normal(size=(16, 5)), random.integers(0, 3, 16)
    made = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()
    net = from_torch(made, loss="cross_entropy")
    loss = torch.nn.functional.cross_entropy(made(torch.from_numpy(X)), torch.from_numpy(y))
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    loss.backward()
    optimizer.step()
    assert fastmlp.SGD(lr=0.1).step(net, X, y) == pytest.approx(loss.item(), rel=1e-12)
    assert_close(net.parameters, from_torch(made).parameters, "float64")
