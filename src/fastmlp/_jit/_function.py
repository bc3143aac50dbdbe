"""A net as a compiled function, as Python sees it."""

from typing import Any, NoReturn

import cffi
import numpy as np

from fastmlp import _backends
from fastmlp._architecture import Architecture
from fastmlp._layout import aligned_zeros

_ffi = cffi.FFI()
_SIGNATURES = {
    "forward": "void(*)(intptr_t parameters, intptr_t x, intptr_t out)",
    "forward_batch": "void(*)(intptr_t parameters, intptr_t X, int64_t n, intptr_t out)",
    "value_and_jacobian": "void(*)(intptr_t parameters, intptr_t x, intptr_t out, intptr_t J)",
}
# What compiled code reads: the addresses of these functions and then that of the parameters.
RECORD = (*_SIGNATURES, "parameters")


class CompiledNet:
    """A net as a compiled function: what `MLP.jit` returns.

    It can be called from Python and from functions that Numba compiles (``@njit``, ``@cfunc``, ``prange`` loops), as a
    global, a variable of an enclosing function, or an argument. Calls hold no lock, allocate nothing, and may run side
    by side in any number of threads, from Python without the GIL. Outputs are the bits that `MLP.forward` gives with
    a compiled backend.

    Arrays are contiguous and of the net's dtype, so that nothing has to be converted; they may begin anywhere and
    overlap where no element is read after it was written. All calls return None.

    Attributes
    ----------
    n_inputs, n_outputs : int
        n_0 and n_L; constants in compiled code.
    dtype : numpy.dtype
        Of all arrays.
    live : bool
        Whether the net's parameters are used as they are at each call, instead of those that it had at `MLP.jit`.
    """

    __slots__ = ("_architecture", "_code", "_functions", "_parameters", "_record", "_record_address", "live")

    def __init__(self, architecture: Architecture, parameters: np.ndarray, live: bool) -> None:
        self._architecture = architecture
        self._code = _backends.specialized_code(architecture)
        self.live = live
        if not live:
            own = aligned_zeros(parameters.size, parameters.dtype)
            own[...] = parameters
            parameters = own
        self._parameters = parameters  # kept, for the record holds its address
        addresses: dict[str, int] = self._code.addresses
        self._functions = {name: _ffi.cast(signature, addresses[name]) for name, signature in _SIGNATURES.items()}
        self._record = np.array([*(addresses[name] for name in _SIGNATURES), parameters.ctypes.data], dtype=np.uint64)
        self._record_address = self._record.ctypes.data

    @property
    def n_inputs(self) -> int:
        return self._architecture.layer_sizes[0]

    @property
    def n_outputs(self) -> int:
        return self._architecture.layer_sizes[-1]

    @property
    def dtype(self) -> np.dtype:
        return self._architecture.dtype

    def __repr__(self) -> str:
        sizes = "-".join(map(str, self._architecture.layer_sizes))
        return f"<compiled net {sizes}, {self.dtype}, {'live' if self.live else 'parameters fixed'}>"

    def __call__(self, x: np.ndarray, out: np.ndarray) -> None:
        """The outputs y_hat of one example.

        Parameters
        ----------
        x : ndarray of shape (n_0,)
        out : ndarray of shape (n_L,)
            Where to write them.

        Raises
        ------
        TypeError, ValueError
            If an array is not what is expected. In compiled code the wrong dtype or number of dimensions is an
            error at compile time.
        """
        self._check("x", x, (self.n_inputs,))
        self._check("out", out, (self.n_outputs,), is_written=True)
        self._functions["forward"](self._parameters.ctypes.data, x.ctypes.data, out.ctypes.data)

    def batch(self, X: np.ndarray, out: np.ndarray) -> None:
        """The outputs of a batch; one after the other and all in the calling thread.

        Parameters
        ----------
        X : ndarray of shape (n, n_0)
        out : ndarray of shape (n, n_L)
        """
        n = len(X) if isinstance(X, np.ndarray) and X.ndim else 0
        self._check("X", X, (n, self.n_inputs))
        self._check("out", out, (n, self.n_outputs), is_written=True)
        self._functions["forward_batch"](self._parameters.ctypes.data, X.ctypes.data, n, out.ctypes.data)

    def value_and_jacobian(self, x: np.ndarray, out: np.ndarray, J: np.ndarray) -> None:
        """The outputs of one example and their derivatives by its features.

        Parameters
        ----------
        x : ndarray of shape (n_0,)
        out : ndarray of shape (n_L,)
        J : ndarray of shape (n_L, n_0)
            J[i, k] becomes d y_hat_i / d x_k.
        """
        self._check("x", x, (self.n_inputs,))
        self._check("out", out, (self.n_outputs,), is_written=True)
        self._check("J", J, (self.n_outputs, self.n_inputs), is_written=True)
        addresses = (array.ctypes.data for array in (self._parameters, x, out, J))
        self._functions["value_and_jacobian"](*addresses)

    def _check(self, name: str, array: Any, shape: tuple[int, ...], is_written: bool = False) -> None:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name} is a {type(array).__name__}; expected a {self.dtype} array of shape {shape}")
        if array.dtype != self.dtype:
            raise TypeError(f"{name} is of dtype {array.dtype}; this function takes {self.dtype}")
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}; expected {shape}")
        if not (array.flags.c_contiguous and array.flags.aligned):
            raise ValueError(f"{name} is not C-contiguous and aligned; numpy.ascontiguousarray makes a copy that is")
        if is_written and not array.flags.writeable:
            raise ValueError(f"{name} cannot be written")

    def __reduce__(self) -> tuple[Any, ...]:
        """What a pickle holds, and a copy is: the parameters as they are now, not live; the code is compiled again."""
        return _restored, (self._architecture, np.array(self._parameters))

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(self, name):
            self._refuse(name)
        object.__setattr__(self, name, value)

    def _refuse(self, name: str) -> NoReturn:
        raise AttributeError(f"{name} of a compiled net cannot be changed")


def _restored(architecture: Architecture, parameters: np.ndarray) -> CompiledNet:
    return compile_net(architecture, parameters, live=False)


def compile_net(architecture: Architecture, parameters: np.ndarray, live: bool) -> CompiledNet:
    """The function of a net, given its arena of parameters."""
    from fastmlp._jit import _numba_type  # noqa: F401  tells Numba of CompiledNet

    return CompiledNet(architecture, parameters, live)
