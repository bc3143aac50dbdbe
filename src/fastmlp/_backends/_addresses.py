"""Where arrays lie in memory, as kernels are told."""

import _cffi_backend
import numpy as np

_FFI = _cffi_backend.FFI()
_ADDRESS = _FFI.typeof("intptr_t")


def address_by_cffi(array: np.ndarray | None, /) -> int:
    """Where an array's memory begins; 0 for none.

    cffi tells in a third of the time that NumPy takes, of arrays that are one piece of memory.
    """
    if array is None:
        return 0
    if array.flags.c_contiguous:
        return int(_FFI.cast(_ADDRESS, _FFI.from_buffer(array)))
    return array.ctypes.data


try:  # 0.03 us in place of 0.54, a dozen times a fit
    from fastmlp._bound_call import address as address
except ImportError:  # it was not built
    address = address_by_cffi
