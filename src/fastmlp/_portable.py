"""The forms in which a network goes elsewhere: into compiled code, into a call with buffers of its own, to C, to ONNX.

fastmlp.interop has PyTorch.
"""

import os
from typing import TYPE_CHECKING

from fastmlp._architecture import Architecture
from fastmlp._checks import check_path
from fastmlp._numbers import check_flag
from fastmlp._parametrized import Parametrized

if TYPE_CHECKING:
    from fastmlp._backends._engine import Engine
    from fastmlp._jit._function import CompiledNet
    from fastmlp._predictor import Predictor


class Portable(Parametrized):
    """What `MLP` is built on: a network that can leave this process, or the interpreter."""

    _architecture: Architecture
    _engine: "Engine"

    def jit(self, live: bool = False) -> "CompiledNet":
        """This network as a function for compiled code, made by Numba for its architecture: docs/compiled.md.

        Parameters
        ----------
        live : bool, default False
            Whether it follows later changes of the parameters, instead of keeping those of now.

        Returns
        -------
        CompiledNet
            ``f(x, out)`` for one example, ``f.batch(X, out)``, ``f.value_and_jacobian(x, out, J)``: from Python,
            ``@njit``, ``@cfunc`` and ``prange``.

        Raises
        ------
        RuntimeError
            If the numba backend cannot be used here.
        ValueError
            If a layer is too wide to be computed on the stack: beyond some 5,000 units.
        """
        from fastmlp._jit._function import compile_net

        return compile_net(self._architecture, self._parameters, check_flag("live", live))

    def bind(self, n: int = 1) -> "Predictor":
        """A function that computes the outputs of ``n`` examples from buffers of its own: docs/compiled.md.

        Parameters
        ----------
        n : int, default 1
            1 is for a single example, of shape (n_0,).

        Returns
        -------
        Predictor
            ``p.x[:] = ...; p()``, or ``p(x)``; for one thread at a time. It follows the network's parameters.
        """
        from fastmlp._predictor import bind

        return bind(self._engine, n, self._architecture)

    def export_c(self, path: str | os.PathLike[str], name: str = "mlp") -> None:
        """Write the network as one C99 file with its parameters: ``NAME_forward(x, y)`` for one example.

        It needs nothing but the standard library, and allocates nothing. The comment at its top tells how to compile
        it and its test. With fused multiply-add its outputs are the same bits as the compiled backends', subnormal
        numbers excepted; without, they agree within rounding.

        Parameters
        ----------
        path : path
            The file; it is replaced as a whole or not at all.
        name : str, default "mlp"
            Stands in front of everything that the file defines.

        Raises
        ------
        TypeError, ValueError
            If ``name`` is no identifier of C that begins with a letter, or too long.
        """
        from fastmlp._export import c_source
        from fastmlp._mlp import MLP
        from fastmlp._whole_file import write_whole

        assert isinstance(self, MLP)
        pieces = c_source.c_source(self, name)
        write_whole(check_path("path", path), (piece.encode() for piece in pieces))

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write the network in the ONNX format (operator set 17): input ``X`` (n, n_0), output ``Y`` (n, n_L).

        The number of examples n is free. The onnx package is not needed.

        Parameters
        ----------
        path : path
            The file; it is replaced as a whole or not at all.

        Raises
        ------
        ValueError
            If the parameters take 2 GB or more, which is the most that the format holds.
        """
        from fastmlp._export import onnx_file
        from fastmlp._whole_file import write_whole

        activations = (*self._architecture.activations, self._architecture.output_activation)
        model = onnx_file.onnx_model(list(zip(self._weights, self._biases)), activations)
        write_whole(check_path("path", path), [model])
