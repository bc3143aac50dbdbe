"""Loads files that were made wrong on purpose: ``fuzz_files.py CASES [SEED]``.

Whatever a file has in it, loading returns a net or raises ValueError with a short message, within twice the memory of
the file and 10 MB. test_fuzz_files.py runs some thousand cases; hypothesis makes them.
"""

import json
import sys
import tempfile
import tracemalloc
import warnings
from hashlib import blake2b
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import fastmlp

SLACK = 10 * 2**20
LONGEST_MESSAGE = 1000

NUMBERS = st.sampled_from(
    [-1, 0, 1, 2, 3, 4, 7, 8, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**128, 10**400]
) | st.integers(-5, 400)
TEXTS = st.sampled_from(
    [
        "",
        "relu",
        "softmax",
        "mse",
        "float32",
        "float64",
        "O",
        "F16",
        "F32",
        "U8",
        "NaN",
        "\ud800",
        "é\0",
        "x" * 5000,
        "1",
    ]
)
SCALARS = NUMBERS | TEXTS | st.booleans() | st.none() | st.sampled_from([1.5, -0.0, 1e308, float("nan"), float("inf")])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
HEADERS = st.sampled_from(
    [
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"a":[' + b"[[]]," * 20_000 + b"0]}",
        b'{"__metadata__":{}}',
        b"\xff\xfe{}",
        b"{" + b'"a":1,' * 3 + b'"a":2}',
        b'{"a":1e999}',
        b'{"a":' + b"9" * 5000 + b"}",
        b"\x00" * 64,
    ]
)


def split(content):
    """Header, as a dict, and tensors of a good file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join(header, data, signed):
    """A file of these parts; ``signed`` ones end with a right checksum in the place of the last 32 bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode("utf-8", "surrogatepass")
    content = len(text).to_bytes(8, "little") + text + data
    return sign(content) if signed else content


def sign(content):
    """The right checksum in the place of the last 32 bytes."""
    return content[:-32] + blake2b(content[:-32], digest_size=32).digest()


@st.composite
def changed_bytes(draw, content):
    """Bytes flipped, cut out, put in, or the end cut off."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        # Most of what can go wrong stands in the header.
        place = draw(st.integers(0, len(changed)) | st.integers(0, min(900, len(changed))))
        how = draw(st.sampled_from(["flip", "cut", "insert", "delete", "length"]))
        if how == "flip" and place < len(changed):
            changed[place] ^= draw(st.integers(1, 255))
        elif how == "cut":
            del changed[place:]
        elif how == "insert":
            changed[place:place] = draw(st.binary(max_size=40))
        elif how == "delete":
            del changed[place : place + draw(st.integers(1, 40))]
        elif how == "length":
            changed[:8] = draw(st.integers(0, 2**64 - 1) | st.integers(0, 2000)).to_bytes(8, "little")
    return bytes(changed)


def paths_in(value, path=()):
    """The ways to every value inside a JSON object, those inside of texts that are JSON themselves, too."""
    if isinstance(value, str) and value.startswith(("{", "[")):
        yield (*path, None)
        yield from paths_in(json.loads(value), (*path, None))
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from paths_in(inner, (*path, key))


def replaced(value, path, new):
    """A copy of ``value`` with another value at a path; None in a path opens a JSON text."""
    if not path:
        return new(value)
    if path[0] is None:
        return json.dumps(replaced(json.loads(value), path[1:], new))
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@st.composite
def changed_headers(draw, header, data, ways, signed):
    """Values in the header replaced, at some of these ways, or the header as a whole; the rest as it was."""
    if draw(st.integers(0, 9)) == 0:
        return join(draw(HEADERS), data, signed)
    for _ in range(draw(st.integers(1, 2))):
        value = draw(VALUES)
        kind = draw(st.sampled_from(["replace", "add", "multiply"]))

        def new(old, kind=kind, value=value):
            if kind == "add" and isinstance(old, dict):
                return old | {"more": value}
            if kind == "multiply" and isinstance(old, list):
                return old * 3
            if kind == "add" and type(old) is int and type(value) is int:
                return old + value
            return value

        try:
            header = replaced(header, draw(st.sampled_from(ways)), new)
        except (
            AttributeError,
            KeyError,
            TypeError,
            IndexError,
            ValueError,
        ):  # the first change has taken that way away
            continue
    return join(header, data, signed)


def cases(content, signed):
    """Files that were made from a good one."""
    header, data = split(content)
    ways = sorted(paths_in(header), key=repr)
    unsigned = changed_bytes(content) | changed_headers(header, data, ways, False)
    return (
        unsigned | changed_headers(header, data, ways, True) | changed_bytes(content).map(sign) if signed else unsigned
    )


def check(path, content, load):
    """Load a file that may be anything; returns whether it was taken for good."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        load(path)
        good = True
    except ValueError as error:
        good = False
        message = str(error)
        assert str(path) in message and len(message) < LONGEST_MESSAGE, message
        message.encode("utf-8")
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= 2 * len(content) + SLACK, f"{peak} bytes of memory for a file of {len(content)}"
    return good


class Files:
    """Good files to start from, and what loads them."""

    def __init__(self, folder):
        self.path = Path(folder, "file")
        self._X = np.random.default_rng(0).normal(size=(20, 3))
        self._y = np.arange(20) % 2
        self._net().save(self.path)
        self.saved = self.path.read_bytes()
        self._fit(self._net(), callbacks=fastmlp.Checkpoint(self.path))
        self.checkpoint = self.path.read_bytes()
        Path(f"{self.path}.previous").unlink()

    def _net(self):
        return fastmlp.MLP([3, 5, 2], output_activation="softmax", dropout=0.1, rng=0, backend="numpy")

    def _fit(self, net, **more):
        """Two epochs in full, and one interrupted where there is a checkpoint."""
        rng = np.random.Generator(np.random.MT19937(1))
        validation = {"validation_data": (self._X[:4], self._y[:4]), "early_stopping": 2, "record": "steps"}
        net.fit(self._X, self._y, epochs=2, rng=rng, **validation, **more)

    def load(self, path):
        """MLP.load, and a look at what came of it."""
        net = fastmlp.MLP.load(path, backend="numpy")
        with np.errstate(all="ignore"):
            net.forward(np.zeros(net.layer_sizes[0]))

    def resume(self, path):
        """Go on from a file; a net whose fit is refused is as it was."""
        net = self._net()
        before = net.parameters.tobytes(), net._seed, net._dropout_step
        try:
            self._fit(net, resume=path)
        except ValueError:
            assert (net.parameters.tobytes(), net._seed, net._dropout_step) == before
            raise


def fuzz(n_cases, **more):
    """Try so many cases, of each of the three ways to load a third; returns how many were tried and how many good."""
    with tempfile.TemporaryDirectory() as folder:
        files = Files(folder)
        return {
            "MLP.load": try_cases(n_cases // 3, cases(files.saved, False), files.path, files.load, **more),
            "MLP.load of checkpoints": try_cases(
                n_cases // 3, cases(files.checkpoint, True), files.path, files.load, **more
            ),
            "fit(resume=...)": try_cases(n_cases // 3, cases(files.checkpoint, True), files.path, files.resume, **more),
        }


def try_cases(n_cases, strategy, path, load, **more):
    results = []

    @settings(
        max_examples=n_cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        **more,
    )
    @given(strategy)
    def attempt(content):
        results.append(check(path, content, load))

    attempt()
    return len(results), sum(results)


if __name__ == "__main__":
    warnings.simplefilter("error")
    for name, (tried, good) in fuzz(int(sys.argv[1])).items():
        print(f"{name}: {tried} files, {good} of them good")
