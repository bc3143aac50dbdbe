"""Checks an installed fastmlp from outside the checkout: ``check_install.py BACKEND...`` names what must be there."""

import sys

import numpy as np

import fastmlp
from fastmlp import _backends

expected = tuple(sys.argv[1:])
assert "site-packages" in fastmlp.__file__, fastmlp.__file__
assert "numba" not in sys.modules, "import fastmlp imports numba"
fastmlp.show_config()
assert set(_backends.why_missing()) == {"c", "numba", "numpy"} - set(expected), _backends.why_missing()
assert fastmlp.available_backends() == expected, f"{fastmlp.available_backends()} are there, expected {expected}"

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.float32)
y = np.array([0, 1, 1, 0])
for backend in expected:
    net = fastmlp.MLP([2, 8, 1], activation="tanh", output_activation="sigmoid", rng=0, backend=backend)
    history = net.fit(X, y, optimizer=fastmlp.Adam(lr=0.05), epochs=500, batch_size=None)
    print(f"{backend}: XOR learned, loss {history.loss[0]:.3f} -> {history.loss[-1]:.6f}")
    assert net.accuracy(X, y) == 1.0, f"{backend} did not learn XOR"
    if _backends.instruction_set(backend) in ("avx2", "avx512"):
        assert "numba" not in sys.modules, "the wheel's kernels were not taken"
