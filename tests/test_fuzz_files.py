"""Files from strangers: a thousand of those that fuzz_files.py makes, and some that it would not find."""

import json
import os

import numpy as np
import pytest
from fuzz_files import Files, check, fuzz, join, split

import fastmlp


def test_a_thousand_cases():
    for name, (tried, good) in fuzz(1002, derandomize=True).items():
        assert tried >= 300 and good < tried / 2, name


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def test_a_good_file_is_good(files):
    assert check(files.path, files.saved, files.load)
    assert check(files.path, files.checkpoint, files.load)
    assert check(files.path, files.checkpoint, files.resume)


def test_the_memory_of_a_large_file(tmp_path):
    """40 MB in one layer: at most the network and one tensor at a time."""
    fastmlp.MLP([5000, 2000], backend="numpy", initializer="zeros").save(tmp_path / "file")
    content = (tmp_path / "file").read_bytes()
    assert check(tmp_path / "file", content, lambda path: fastmlp.MLP.load(path, backend="numpy"))


@pytest.mark.parametrize("header", [b"[[]]," * 200_000, b'{"":{"":0}},' * 100_000, b'"\\ud800",' * 100_000])
def test_a_header_that_would_take_much_memory(files, header):
    text = b'{"__metadata__":{},"more":[' + header + b"0]}"
    assert not check(files.path, join(text, b"", False), files.load)
    assert not check(files.path, join(text, bytes(2**20), False), files.load)


def test_sizes_whose_product_overflows(files):
    header, data = split(files.saved)
    for sizes in ([2**32, 2**32], [2**31, 2**31, 2], [2**62, 4], [10**300, 10**300]):
        description = json.loads(header["__metadata__"]["architecture"])
        description |= {
            "layer_sizes": sizes,
            "dropout": [0.0] * (len(sizes) - 2),
            "activation": ["relu"] * (len(sizes) - 2),
        }
        metadata = header["__metadata__"] | {"architecture": json.dumps(description)}
        tensors = {}
        for layer, (n_in, n_out) in enumerate(zip(sizes, sizes[1:]), start=1):
            for name, shape in (("weight", [n_out, n_in]), ("bias", [n_out])):
                tensors[f"layer{layer}.{name}"] = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
        assert not check(files.path, join({"__metadata__": metadata, **tensors}, b"", False), files.load)
        assert not check(files.path, join({"__metadata__": metadata, **tensors}, data, False), files.load)


@pytest.mark.parametrize("constant", [b"NaN", b"Infinity", b"-Infinity"])
def test_constants_that_are_no_json(files, constant):
    files.path.write_bytes(join(b'{"__metadata__":{},"a":' + constant + b"}", b"", False))
    with pytest.raises(ValueError, match=f"{constant.decode()} is no number of JSON"):
        files.load(files.path)


def edited_state(header, edit):
    state = json.loads(header["__metadata__"]["state"])
    edit(state)
    header["__metadata__"]["state"] = json.dumps(state)


@pytest.mark.parametrize(
    "name, value",
    [
        ("seed", 2**64),
        ("dropout_step", 2**62),
        ("dropout_step", 10**400),
        ("start_dropout_step", -1),
        ("epochs_begun", 1.5),
        ("powers", [0.5]),
        ("powers", [0.5, -0.5]),
        ("start_powers", "12"),
        ("lr", -0.1),
        ("rate", "0.1"),
        ("best_epoch", 2),
        ("best_epoch", True),
        ("stopped_by", ["callback"]),
    ],
)
def test_states_that_make_no_sense(files, name, value):
    header, data = split(files.checkpoint)
    edited_state(header, lambda state: state.update({name: value}))
    assert not check(files.path, join(header, data, True), files.resume)


@pytest.mark.parametrize("value", [625, 10**6, 2**31, 2**40, -1, 1.0, True, None, [3]])
def test_a_generator_that_would_read_past_its_memory(files, value):
    header, data = split(files.checkpoint)
    edited_state(header, lambda state: state["generator"]["state"].update(pos=value))
    files.path.write_bytes(join(header, data, True))
    with pytest.raises(ValueError, match="cannot be resumed from: its pos is"):
        files.resume(files.path)


@pytest.mark.parametrize("key", [[0] * 623, [0] * 625, [2**32] * 624, [-1] * 624, [0.0] * 624, None, {}])
def test_a_generator_of_another_size(files, key):
    header, data = split(files.checkpoint)
    edited_state(header, lambda state: state["generator"]["state"].update(key=key))
    files.path.write_bytes(join(header, data, True))
    with pytest.raises(ValueError, match="cannot be resumed from: its key is"):
        files.resume(files.path)


def without_the_last_number(header, name):
    """The header of a file in which one of the vectors is shorter, and the next one longer."""
    names = list(header)
    following = names[names.index(name) + 1]
    size = {"F32": 4, "F64": 8, "U8": 1}[header[name]["dtype"]]
    for changed, by in ((name, -1), (following, 1)):
        header[changed]["shape"] = [header[changed]["shape"][0] + by]
    header[name]["data_offsets"][1] -= size
    header[following]["data_offsets"][0] -= size


@pytest.mark.parametrize("name", ["optimizer.first", "best.parameters", "history.loss", "history.val_loss"])
def test_arrays_that_do_not_fit_together(files, name):
    for edit in (
        lambda header: header.update({"more": header.pop(name)}),
        lambda header: without_the_last_number(header, name),
        lambda header: header[name].update(shape=[*header[name]["shape"], 1]),
    ):
        header, data = split(files.checkpoint)
        edit(header)
        files.path.write_bytes(join(header, data, True))
        with pytest.raises(ValueError, match=r"cannot be (resumed from|loaded): (its tensors|it has|.*needs)"):
            files.resume(files.path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names on this platform")
def test_what_is_no_regular_file(tmp_path):
    """Reading from them would hang, or never end."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path):
        with pytest.raises(ValueError, match="no regular file"):
            fastmlp.MLP.load(path)


def test_paths_of_other_kinds():
    for path in (0, None, 1.5, ["net"]):
        with pytest.raises(TypeError):
            fastmlp.MLP.load(path)
    with pytest.raises(ValueError, match="null"):
        fastmlp.MLP.load("net\0")


def test_the_settings_of_load_are_not_blamed_on_the_file(files):
    files.path.write_bytes(files.saved)
    for more, error, text in (
        ({"backend": "gpu"}, ValueError, "^backend is"),
        ({"n_threads": 0}, ValueError, "^n_threads is"),
        ({"n_threads": "2"}, TypeError, "^n_threads is"),
        ({"rng": "seed"}, TypeError, "^rng is"),
    ):
        with pytest.raises(error, match=text):
            fastmlp.MLP.load(files.path, **more)


def test_a_net_of_very_many_layers_is_refused_when_it_is_saved(tmp_path):
    with pytest.raises(ValueError, match="too many layers"):
        fastmlp.MLP([1] * 2000, backend="numpy").save(tmp_path / "net")
    net = fastmlp.MLP([1] * 600, backend="numpy", rng=0)
    net.save(tmp_path / "net")
    np.testing.assert_array_equal(fastmlp.MLP.load(tmp_path / "net").parameters, net.parameters)
