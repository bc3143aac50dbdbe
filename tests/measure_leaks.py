"""Memory that is never given back: ``measure_leaks.py BACKEND NETS STEPS`` makes and drops nets, and takes steps.

It prints by how many bytes the process has grown after a fifth of each, which warms everything up.
test_lifetimes.py does it with a few.
"""

import gc
import sys
import time
from pathlib import Path

import numpy as np

import fastmlp

X = np.random.default_rng(0).normal(size=(40, 5))
Y = X[:, :3] > 0


def resident_bytes():
    """Of this process; Linux alone tells."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


def use_a_net(backend, everything):
    """A net and a step; or every kind of call, each of which may keep something."""
    net = fastmlp.MLP([5, 30, 3], output_activation="sigmoid", dropout=0.1, rng=0, backend=backend)
    optimizer = fastmlp.Adam(clip_norm=1.0)
    optimizer.step(net, X, Y)
    if everything:
        net.fit(X, Y, optimizer=optimizer, batch_size=16)
        net.forward(X), net.forward(X[0]), net.loss(X, Y), net.activations_of(X), net.copy()
        net.loss_and_gradients(X, Y)[1].weights, net.backward(X, Y, input_gradient=True).input
    return net.weights


def growth_over_nets(backend, count):
    def make(n):
        for i in range(n):
            use_a_net(backend, everything=i % 20 == 0)

    return growth(make, count)


def growth_over_steps(backend, count):
    net = fastmlp.MLP([5, 30, 3], output_activation="sigmoid", rng=0, backend=backend)
    optimizer = fastmlp.SGD(lr=1e-3)

    def step(n):
        for i in range(n):
            rows = 1 + i % 40  # more shapes than are remembered
            optimizer.step(net, X[:rows], Y[:rows])

    return growth(step, count)


def growth(work, count):
    """The bytes that are held after ``count`` repetitions and were not after a fifth of them."""
    work(count // 5)
    before = resident_bytes()
    work(count - count // 5)
    return resident_bytes() - before


def main(backend, nets, steps):
    for what, measure, count in (("nets", growth_over_nets, int(nets)), ("steps", growth_over_steps, int(steps))):
        if count:
            began = time.perf_counter()
            print(f"{backend}: {count} {what}: {measure(backend, count)} bytes more", end=" ")
            print(f"({time.perf_counter() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
