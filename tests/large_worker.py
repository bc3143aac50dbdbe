"""What test_large.py runs in processes of its own: how far the resident memory rises over what was there before.

Linux alone tells; everything is in bytes.
"""

import ctypes
import gc
import os
from pathlib import Path

import numpy as np

import fastmlp

MB = 10**6
# Interpreter, allocator, code that runs for the first time.
SLACK = 3 * MB

trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def resident(peak=False):
    """The resident memory, or its peak since the last reset."""
    wanted = "VmHWM:" if peak else "VmRSS:"
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(wanted):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {wanted} in /proc/self/status")


def growth(function):
    """By how much the peak during a call exceeds what was resident before it."""
    gc.collect()
    if trim is not None:
        trim(0)  # what the allocator keeps for later would hide as much growth
    Path("/proc/self/clear_refs").write_text("5")
    before = resident()
    function()
    return resident(peak=True) - before


def warm(backend, **settings):
    """Everything that is loaded or compiled at first use."""
    net = fastmlp.MLP([3, 4, 2], output_activation="softmax", rng=0, backend=backend, **settings)
    X, y = np.zeros((600, 3), net.dtype), np.zeros(600, int)
    for optimizer in (fastmlp.SGD(), fastmlp.SGD(momentum=0.9), fastmlp.Adam()):
        net.fit(X, y, optimizer=optimizer)
        optimizer.reset()
        optimizer.apply(net, net.loss_and_gradients(X, y)[1])
    net.loss(X, y), net.predict(X), net.accuracy(X, y), net.forward(X.astype(np.uint8))


def print_figures(name, **figures):
    """In MB."""
    print(name, *(f"{key}={value / MB:.1f}" for key, value in figures.items()))


def large_net(backend, initializer, folder):
    """200 million parameters: they and what a call cannot do without, times 1.3, are enough."""
    sizes = [10000, 14000, 4000, 400]
    rows = 16
    warm(backend)
    nets = []
    made = growth(lambda: nets.append(fastmlp.MLP(sizes, initializer=initializer, rng=0, backend=backend)))
    net = nets[0]
    parameters = net.n_parameters * 4
    assert parameters > 790 * MB
    block = rows * sum(sizes) * 4
    X, y = np.ones((rows, sizes[0]), np.float32), np.ones((rows, sizes[-1]), np.float32)
    optimizer = fastmlp.SGD(lr=1e-6, momentum=0.9)
    losses = []
    calls = {
        "forward": (lambda: net.forward(X), 0),
        "gradients": (lambda: losses.append(net.loss_and_gradients(X, y)[0]), parameters),
        "fit": (lambda: losses.append(net.fit(X, y, optimizer=optimizer, batch_size=8).loss[0]), parameters),
        "step": (lambda: losses.append(optimizer.step(net, X, y)), 0),
    }
    if initializer == "zeros":  # which take no memory before they are written
        net._parameters[::1000] = 0.0
    assert made < 1.3 * parameters, f"a new net: {made / MB:.1f} MB"
    print_figures("net", parameters=parameters, made=made)
    have = parameters
    for name, (call, needed) in calls.items():
        taken = growth(call)
        limit = 1.3 * (have + needed + block) - have
        print_figures(name, taken=taken, needed=needed, limit=limit)
        assert taken < limit, (
            f"{name}: {taken / MB:.1f} MB beside {have / MB:.1f} MB, of which {needed / MB:.1f} needed"
        )
        have += needed if name == "fit" else 0
    assert np.isfinite(losses).all()
    if initializer != "zeros":
        path = Path(folder) / "net"
        os.fsync = lambda descriptor: None  # the disk's time is not the question
        saved = growth(lambda: net.save(path))
        expected = net.weights[1][3999, ::1000].copy()
        optimizer.reset(), nets.clear()
        del net, calls, call
        loaded = growth(lambda: nets.append(fastmlp.MLP.load(path, backend=backend)))
        print_figures("file", saved=saved, loaded=loaded)
        assert saved < 0.3 * parameters and loaded < 1.3 * parameters
        assert np.array_equal(nets[0].weights[1][3999, ::1000], expected)


def many_rows(backend):
    """A million rows through a small net: no call takes more than its results and an order."""
    n, sizes = 10**6, [16, 32, 4]
    warm(backend)
    net = fastmlp.MLP(sizes, output_activation="softmax", rng=0, backend=backend)
    random = np.random.default_rng(0)
    y = random.integers(0, 4, n)
    base = random.integers(0, 255, (n, 16), dtype=np.uint8)
    for dtype in ("float32", "float64", "uint8"):
        X = base.astype(dtype, copy=False)
        out = np.empty((n, 4), np.float32)
        out[...] = 0.0
        order, results = 8 * n, 16 * n
        limits = {
            "forward": (lambda X=X: net.forward(X), results),
            "into out": (lambda X=X, out=out: net.forward(X, out=out), 0),
            "predict": (lambda X=X: net.predict(X), results + 8 * n),
            "loss": (lambda X=X: net.loss(X, y), 0),
            "fit": (lambda X=X: net.fit(X, y, batch_size=4096), 2 * order),
            "fit by blocks": (lambda X=X: net.fit(X, y, batch_size=4096, shuffle="blocks"), 3 * order),
        }
        if dtype == "float64":
            limits = {"forward": limits["forward"], "loss": limits["loss"], "fit": limits["fit"]}
        if dtype == "float32":
            limits["gradients"] = lambda X=X: net.loss_and_gradients(X, y), 0
            limits["full batch"] = lambda X=X: net.fit(X, y, batch_size=None, shuffle=False), 0
        for name, (call, needed) in limits.items():
            taken = growth(call)
            print_figures(f"{dtype} {name}", taken=taken, needed=needed)
            # Blocks of converted rows, twice: before and after; the workspace of 512 rows.
            assert taken < 1.3 * needed + 8 * MB + SLACK, f"{dtype} {name}: {taken / MB:.1f} MB"


def images(backend):
    """60,000 x 784, shuffled: data and parameters and less than 50 MB."""
    warm(backend)
    for dtype in ("float32", "float64"):
        X = np.random.default_rng(0).random((60000, 784), dtype=dtype)
        y = np.arange(60000) % 10
        net = fastmlp.MLP([784, 128, 10], output_activation="softmax", rng=0, backend=backend)
        taken = growth(lambda X=X, y=y, net=net: net.fit(X, y, batch_size=64))
        print_figures(f"60,000 x 784 {dtype}", taken=taken)
        assert taken < 50 * MB
        assert taken < 10 * MB + SLACK, f"{dtype}: {taken / MB:.1f} MB"
        del X


def slices(backend, folder):
    """Blocks from a file of 100 MB: one is held, and a batch."""
    warm(backend)

    class File:
        def __init__(self, path, n, k):
            self.path, self.shape, self.dtype = path, (n, k), np.dtype(np.float32)

        def __getitem__(self, rows):
            k = self.shape[1]
            values = np.fromfile(self.path, self.dtype, (rows.stop - rows.start) * k, offset=rows.start * k * 4)
            return values.reshape(-1, k)

    n, k = 50_000, 500
    path = Path(folder) / "X"
    with open(path, "wb") as file:
        file.truncate(n * k * 4)
    X, y = File(path, n, k), np.zeros(n, np.int64)
    net = fastmlp.MLP([k, 8, 3], output_activation="softmax", rng=0, backend=backend)
    for shuffle in ("blocks", False) if backend == "c" else ("blocks",):
        taken = growth(lambda shuffle=shuffle: net.fit(X, y, batch_size=256, shuffle=shuffle))
        print_figures(f"slices {shuffle}", taken=taken)
        assert taken < 2**24 + 10 * MB + SLACK
    taken = growth(lambda: (net.loss(X, y), net.predict(X)))
    print_figures("slices loss, predict", taken=taken)
    assert taken < 10 * MB + n * (3 * 4 + 8) + SLACK
