"""Saving and loading: round trips, other readers of the format, damaged and strange files, old files."""

import json
import os
import threading

import numpy as np
import oracle
import pytest
from support import DATA, LOSS_OF_OUTPUT, OUTPUT_ACTIVATIONS, assert_close, assert_same_bits, make_examples, make_net

import fastmlp

FULL = {
    "activation": ("tanh", "gelu"),
    "output_activation": "softmax",
    "l1": 0.001,
    "l2": 0.01,
    "dropout": (0.25, 0.5),
}


def split(content):
    """Header and tensors of a file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.fixture
def file(tmp_path):
    """A small file, as bytes, and a function that loads bytes."""
    path = tmp_path / "net.safetensors"
    make_net((3, 4, 2), output_activation="softmax", backend="numpy")[0].save(path)

    def load(content):
        path.write_bytes(content)
        return fastmlp.MLP.load(path, backend="numpy")

    return path.read_bytes(), load


@pytest.mark.parametrize("as_text", [True, False])
def test_round_trip(backend, dtype, tmp_path, as_text):
    net, _ = make_net((3, 7, 5, 4), dtype=dtype, backend=backend, **FULL)
    path = tmp_path / "net.safetensors"
    net.save(str(path) if as_text else path)
    loaded = fastmlp.MLP.load(str(path) if as_text else path, backend=backend)
    assert_same_bits(loaded.parameters, net.parameters)
    assert loaded.backend == backend and loaded.dtype == dtype
    for name in ("layer_sizes", "activations", "output_activation", "loss_name", "l1", "l2", "dropout"):
        assert getattr(loaded, name) == getattr(net, name), name
    X, y = make_examples(net, 6)
    assert_same_bits(loaded.forward(X), net.forward(X))
    assert loaded.loss(X, y) == net.loss(X, y)
    loaded.fit(X, y, epochs=2)


@pytest.mark.parametrize("output", OUTPUT_ACTIVATIONS)
def test_every_output_comes_back(tmp_path, output):
    net, _ = make_net((2, 2), output_activation=output, backend="numpy")
    net.save(tmp_path / "net")
    loaded = fastmlp.MLP.load(tmp_path / "net", backend="numpy")
    assert (loaded.output_activation, loaded.loss_name) == (output, LOSS_OF_OUTPUT.get(output, "mse"))


def test_a_file_binds_no_backend(tmp_path):
    make_net((2, 2), backend="numpy")[0].save(tmp_path / "net")
    assert fastmlp.MLP.load(tmp_path / "net").backend == fastmlp.MLP([2, 2]).backend


def test_values_that_are_not_finite_come_back(tmp_path):
    net, _ = make_net((2, 2), backend="numpy")
    net.set_parameters([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38])
    net.save(tmp_path / "net")
    assert_same_bits(fastmlp.MLP.load(tmp_path / "net", backend="numpy").parameters, net.parameters)


def test_the_safetensors_package_reads_it(dtype, tmp_path):
    safetensors = pytest.importorskip("safetensors", reason="the other reader of the format")
    net, _ = make_net((3, 7, 5, 4), dtype=dtype, backend="numpy", **FULL)
    path = tmp_path / "net.safetensors"
    net.save(path)
    with safetensors.safe_open(path, framework="numpy") as opened:
        assert sorted(opened.keys()) == sorted(
            f"layer{layer}.{part}" for layer in (1, 2, 3) for part in ("weight", "bias")
        )
        for layer in (1, 2, 3):
            assert_same_bits(opened.get_tensor(f"layer{layer}.weight"), np.ascontiguousarray(net.weights[layer - 1]))
            assert_same_bits(opened.get_tensor(f"layer{layer}.bias"), net.biases[layer - 1])
        metadata = opened.metadata()
    assert metadata["format"] == "fastmlp" and metadata["format_version"] == "1"
    assert json.loads(metadata["architecture"])["layer_sizes"] == [3, 7, 5, 4]


def test_it_reads_what_the_safetensors_package_writes(tmp_path):
    """Another order of keys and of tensors, the same content."""
    numpy_format = pytest.importorskip("safetensors.numpy", reason="the other writer of the format")
    net, _ = make_net((3, 4, 2), backend="numpy")
    net.save(tmp_path / "ours")
    header, _ = split((tmp_path / "ours").read_bytes())
    tensors = {f"layer{layer}.weight": np.ascontiguousarray(net.weights[layer - 1]) for layer in (2, 1)}
    tensors |= {f"layer{layer}.bias": np.ascontiguousarray(net.biases[layer - 1]) for layer in (2, 1)}
    numpy_format.save_file(tensors, tmp_path / "theirs", metadata=header["__metadata__"])
    assert_same_bits(fastmlp.MLP.load(tmp_path / "theirs", backend="numpy").parameters, net.parameters)


def test_a_file_is_data_and_nothing_else(file):
    content, _ = file
    header, data = split(content)
    assert len(data) == (3 * 4 + 4 + 4 * 2 + 2) * 4
    assert (len(content) - len(data)) % 8 == 0
    assert set(header) == {"__metadata__", "layer1.weight", "layer1.bias", "layer2.weight", "layer2.bias"}
    assert all(isinstance(value, str) for value in header["__metadata__"].values())


def test_an_old_file_stays_readable(backend):
    """Written by make_old_file.py with the first version of the format."""
    net = fastmlp.MLP.load(DATA / "version1.safetensors", backend=backend)
    assert net.layer_sizes == (3, 4, 2) and net.activations == ("tanh",)
    assert (net.output_activation, net.loss_name) == ("softmax", "cross_entropy")
    assert (net.l1, net.l2, net.dropout, net.dtype) == (0.001, 0.01, (0.25,), np.float32)
    np.testing.assert_array_equal(net.parameters, (np.arange(26) - 12) / 16)
    reference = oracle.Net(
        (3, 4, 2),
        ("tanh",),
        "softmax",
        "cross_entropy",
        [(np.arange(12).reshape(4, 3) - 12) / 16, (np.arange(16, 24).reshape(2, 4) - 12) / 16],
        [(np.arange(12, 16) - 12) / 16, (np.arange(24, 26) - 12) / 16],
    )
    X = np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 3.0]])
    assert_close(net.forward(X), oracle.forward(reference, X), "float32")


# Files that are not what they should be. -----------------------------------------------------------------


def test_every_truncation_is_noticed(file):
    content, load = file
    for length in range(len(content)):
        with pytest.raises(ValueError, match=r"net\.safetensors"):
            load(content[:length])
    assert load(content).layer_sizes == (3, 4, 2)


def test_anything_after_the_end_is_noticed(file):
    content, load = file
    with pytest.raises(ValueError, match="bytes"):
        load(content + b"\0")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04K\x01.",  # a pickle
        b"PK\x03\x04" + bytes(100),  # a zip archive, as of numpy or torch
        b"\xff" * 100,
        bytes(8),
        bytes(100),
        join(b"{}", b""),
        join(b"[]", b""),
        join(b"null", b""),
        join(b"{", b""),
        join(b"\xff\xfe", b""),
        join(b"[" * 100_000, b""),
        join(b'{"__metadata__": 3}', b""),
        join(b'{"__metadata__": {"format": "pt"}}', b""),
    ],
)
def test_other_files_are_refused(file, content):
    _, load = file
    with pytest.raises(ValueError, match=r"net\.safetensors"):
        load(content)


def edited_metadata(**changes):
    def edit(header):
        header["__metadata__"].update(changes)

    return edit


def edited_architecture(**changes):
    def edit(header):
        architecture = json.loads(header["__metadata__"]["architecture"]) | changes
        header["__metadata__"]["architecture"] = json.dumps(architecture)

    return edit


def without(*keys):
    def edit(header):
        for key in keys[:-1]:
            header = header[key]
        del header[keys[-1]]

    return edit


def edited_tensor(name, **changes):
    def edit(header):
        header[name].update(changes)

    return edit


@pytest.mark.parametrize(
    "edit, text",
    [
        (without("__metadata__"), "fastmlp"),
        (edited_metadata(format="pt"), "fastmlp"),
        (edited_metadata(format_version="2"), "version 2"),
        (edited_metadata(format_version="0"), "version"),
        (edited_metadata(format_version="-1"), "version"),
        (edited_metadata(format_version="one"), "version"),
        (edited_metadata(format_version=1), "version"),
        (edited_metadata(format_version="9" * 5000), "version"),
        (without("__metadata__", "format_version"), "version"),
        (without("__metadata__", "architecture"), "architecture"),
        (edited_metadata(architecture="{"), "architecture"),
        (edited_metadata(architecture="3"), "architecture"),
        (edited_metadata(architecture={"layer_sizes": [3, 4, 2]}), "architecture"),
        (edited_architecture(layer_sizes=[3, 5, 2]), "layer"),
        (edited_architecture(layer_sizes=[3, 4]), "layer"),
        (edited_architecture(layer_sizes=[3, 4, 2, 2]), "layer"),
        (edited_architecture(layer_sizes=[10**9, 10**9, 2]), "layer"),
        (edited_architecture(layer_sizes=[3, -4, 2]), "layer_sizes"),
        (edited_architecture(layer_sizes="342"), "layer_sizes"),
        (edited_architecture(layer_sizes=None), "layer_sizes"),
        (edited_architecture(activation="rleu"), "rleu"),
        (edited_architecture(output_activation="nothing"), "nothing"),
        (edited_architecture(output_activation=["softmax"]), "output_activation"),
        (edited_architecture(loss="mse"), "mse"),
        (edited_architecture(l2=-1.0), "l2"),
        (edited_architecture(dropout=[2.0]), "dropout"),
        (edited_architecture(dtype="float16"), "float16"),
        (edited_architecture(dtype="float64"), "dtype"),
        (edited_architecture(dtype="object"), "object"),
        (edited_architecture(bias=False), "bias"),
        (without("layer2.bias"), r"layer2\.bias"),
        (lambda header: header.update({"layer3.bias": header.pop("layer2.bias")}), r"layer\d\.bias"),
        (lambda header: header.update(more=header["layer1.bias"]), "more"),
        (edited_tensor("layer1.bias", dtype="F16"), "F16"),
        (edited_tensor("layer1.bias", dtype="F64"), "F64"),
        (edited_tensor("layer1.bias", dtype=["F32"]), "dtype"),
        (edited_tensor("layer1.weight", shape=[3, 4]), "shape"),
        (edited_tensor("layer1.weight", shape=[12]), "shape"),
        (edited_tensor("layer1.weight", shape=[4.0, 3.0]), "shape"),
        (edited_tensor("layer1.weight", shape=None), "shape"),
        (edited_tensor("layer1.weight", data_offsets=[0, 44]), "data_offsets"),
        (edited_tensor("layer1.weight", data_offsets=[4, 52]), "layer1"),
        (edited_tensor("layer1.weight", data_offsets=[-48, 0]), "layer1"),
        (edited_tensor("layer1.weight", data_offsets=[48, 0]), "data_offsets"),
        (edited_tensor("layer1.weight", data_offsets=[0.0, 48.0]), "data_offsets"),
        (edited_tensor("layer1.weight", data_offsets=[0]), "data_offsets"),
        (edited_tensor("layer1.weight", data_offsets=None), "data_offsets"),
        (edited_tensor("layer1.weight", more=1), r"layer1\.weight"),
        (lambda header: header.update({"layer1.weight": None}), r"layer1\.weight"),
        # Two tensors over the same bytes, and bytes that belong to none.
        (lambda header: header["layer2.bias"].update(data_offsets=[48, 56]), r"layer\d"),
    ],
)
def test_wrong_headers(file, edit, text):
    content, load = file
    header, data = split(content)
    edit(header)
    with pytest.raises(ValueError, match=text) as raised:
        load(join(header, data))
    assert "net.safetensors" in str(raised.value)


def test_gaps_between_tensors_are_refused(file):
    content, load = file
    header, data = split(content)
    for name in header.keys() - {"__metadata__"}:
        offsets = header[name]["data_offsets"]
        header[name]["data_offsets"] = [offset + 8 * (offsets[0] >= 64) for offset in offsets]
    assert load(content).layer_sizes == (3, 4, 2)
    with pytest.raises(ValueError, match="starts at byte 72"):
        load(join(header, data[:64] + bytes(8) + data[64:]))


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        fastmlp.MLP.load(tmp_path / "nothing")
    with pytest.raises(OSError, match="nowhere"):
        fastmlp.MLP([2, 2]).save(tmp_path / "nowhere" / "net")


def test_a_failed_save_leaves_the_older_file(file, tmp_path, monkeypatch):
    content, load = file

    def fail(*arguments, **settings):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        fastmlp.MLP([2, 2], backend="numpy").save(tmp_path / "net.safetensors")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["net.safetensors"]
    assert (tmp_path / "net.safetensors").read_bytes() == content
    fastmlp.MLP([2, 2], backend="numpy").save(tmp_path / "net.safetensors")
    assert fastmlp.MLP.load(tmp_path / "net.safetensors", backend="numpy").layer_sizes == (2, 2)


def test_threads_may_save_to_one_path(tmp_path):
    """What is there in the end is one of the files, whole."""
    nets = [fastmlp.MLP([50, 400, size], rng=0, backend="numpy") for size in range(1, 9)]

    def save(net):
        for _ in range(5):
            net.save(tmp_path / "net")

    threads = [threading.Thread(target=save, args=(net,)) for net in nets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loaded = fastmlp.MLP.load(tmp_path / "net")
    assert_same_bits(loaded.parameters, nets[loaded.layer_sizes[-1] - 1].parameters)
    assert os.listdir(tmp_path) == ["net"]
