"""The environment that gives NumPy's BLAS, and everything else that asks, a number of threads: it is read at start."""

import os

_LIMITS = (
    "FASTMLP_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
# Kernels and blocks chosen by hand, which slow an OpenBLAS newer than the choice.
_DROPPED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def with_threads(n: int) -> dict[str, str]:
    """The environment of a process that is to compute with ``n`` threads."""
    kept = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    return kept | dict.fromkeys(_LIMITS, str(n))
