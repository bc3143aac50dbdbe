"""Compiles the kernels that a wheel brings: ``python -m fastmlp._backends._numba._ship FOLDER``, which setup.py runs.

So nobody waits for Numba at the first fit (5 to 10 s), on Windows above all, where there are no C kernels. What is not
here (ensembles, derivatives, other processors) is compiled at its first use.
"""

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

from fastmlp._backends._numba import _cache
from fastmlp._backends._numba._kernels import entries_of
from fastmlp._backends._numba._target import LIMITS, Target, find_target, shipped_targets


def ship(folder: Path, dtype: str, target: Target) -> None:
    """Compile for one dtype and target, whatever processor this one is."""
    from fastmlp._backends._numba._compiler import emit_object

    find_target(LIMITS[0])  # LLVM is ready then
    _cache.ship(folder, dtype, target, emit_object(entries_of(dtype), target))


def main() -> None:
    parts = list(product([Path(sys.argv[1])], ("float32", "float64"), shipped_targets()))
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(ship, *zip(*parts)) if parts else ())


if __name__ == "__main__":
    main()
