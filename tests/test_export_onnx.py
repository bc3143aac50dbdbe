"""Exported ONNX: valid to onnx's checker, and computed right by onnxruntime."""

import sys

import numpy as np
import oracle
import pytest
from support import HIDDEN_ACTIVATIONS, OUTPUT_ACTIVATIONS, make_net

from fastmlp._export import onnx_file

onnx = pytest.importorskip("onnx", reason="onnx checks the files")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime computes them")

# erf in double is that of float: see onnx_file.py.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
GELU_TOLERANCE = 1e-6
ERRORS_ALONE = 3


def outputs_of(path, X):
    """What onnxruntime computes from a file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ALONE
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(["Y"], {"X": X})[0]


def check(folder, sizes, **settings):
    """Export, have the file checked, and compare with the oracle for several batches."""
    net, expected_net = make_net(sizes, **settings)
    path = str(folder / "net.onnx")
    net.to_onnx(path)
    onnx.checker.check_model(path, full_check=True)
    tolerance = TOLERANCE[net.dtype.name]
    if "gelu" in (*net.activations, net.output_activation):
        tolerance = max(tolerance, GELU_TOLERANCE)
    for n in (1, 7):
        X = 3.0 * np.random.default_rng(n).normal(size=(n, sizes[0])).astype(net.dtype)
        actual, expected = outputs_of(path, X), oracle.fast_forward(expected_net, X)
        assert actual.dtype == net.dtype
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("output", OUTPUT_ACTIVATIONS)
def test_every_output_activation(dtype, output, tmp_path):
    check(tmp_path, (5, 6, 4), activation="tanh", output_activation=output, dtype=dtype)


@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
def test_every_hidden_activation(dtype, activation, tmp_path):
    check(tmp_path, (5, 9, 4), activation=activation, dtype=dtype)


@pytest.mark.parametrize("depth", range(1, 7))
def test_random_nets(depth, tmp_path):
    random = np.random.default_rng(depth)
    check(
        tmp_path,
        tuple(int(size) for size in random.integers(1, 40, depth + 1)),
        activation=[str(name) for name in random.choice(HIDDEN_ACTIVATIONS, depth - 1)],
        output_activation=str(random.choice(OUTPUT_ACTIVATIONS)),
        dtype=("float32", "float64")[depth % 2],
    )


def test_an_empty_batch(tmp_path):
    net, _ = make_net((3, 4, 2), output_activation="softmax")
    net.to_onnx(tmp_path / "net.onnx")
    assert outputs_of(tmp_path / "net.onnx", np.zeros((0, 3), np.float32)).shape == (0, 2)


def test_what_the_file_says(tmp_path):
    net, _ = make_net((3, 4, 2), activation="leaky_relu", output_activation="gelu")
    net.to_onnx(tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    assert (model.producer_name, model.opset_import[0].version) == ("fastmlp", 17)
    (X,), (Y,) = model.graph.input, model.graph.output
    for value, name, size in ((X, "X", 3), (Y, "Y", 2)):
        batch, features = value.type.tensor_type.shape.dim
        assert (value.name, batch.dim_param, features.dim_value) == (name, "n", size)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    np.testing.assert_array_equal(tensors["layer1.weight"], net.weights[0])
    np.testing.assert_array_equal(tensors["layer2.bias"], net.biases[1])
    (slope,) = next(node for node in model.graph.node if node.op_type == "LeakyRelu").attribute
    assert (slope.name, slope.f) == ("alpha", np.float32(0.01))


def test_writing_needs_no_package(tmp_path, monkeypatch):
    for module in ("onnx", "onnxruntime", "google.protobuf"):
        monkeypatch.setitem(sys.modules, module, None)
    net, _ = make_net((3, 4, 2))
    net.to_onnx(tmp_path / "net.onnx")
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.onnx"]


def test_too_many_parameters_are_refused(tmp_path, monkeypatch):
    net, _ = make_net((3, 4, 2))
    monkeypatch.setattr(onnx_file, "MOST_BYTES", 4 * net.n_parameters)
    net.to_onnx(tmp_path / "fits.onnx")
    monkeypatch.setattr(onnx_file, "MOST_BYTES", 4 * net.n_parameters - 1)
    with pytest.raises(ValueError, match=f"the parameters take {4 * net.n_parameters} bytes"):
        net.to_onnx(tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize(
    "value, expected", [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02"), (-1, "ff" * 9 + "01")]
)
def test_numbers_of_variable_length(value, expected):
    assert onnx_file._varint(value).hex() == expected
