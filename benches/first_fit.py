"""A fresh process's first fit, for bench_start.py: ``first_fit.py BACKEND`` prints what it took as JSON."""

import json
import sys
import time

import numpy as np

started = time.perf_counter()
import fastmlp  # noqa: E402

imported = time.perf_counter()
rng = np.random.default_rng(0)
X, y = rng.standard_normal((640, 64), dtype=np.float32), rng.integers(0, 10, 640)
made = time.perf_counter()
net = fastmlp.MLP([64, 100, 10], output_activation="softmax", rng=0, backend=sys.argv[1])
history = net.fit(X, y, optimizer=fastmlp.SGD(lr=0.1), batch_size=64, shuffle=False)
fitted = time.perf_counter()
print(
    json.dumps(
        {"import": imported - started, "fit": fitted - made, "loss": history.loss[0], "numba": "numba" in sys.modules}
    )
)
