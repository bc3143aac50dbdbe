"""`MLP.jit`: a net as a function for the user's own compiled code.

_function.py has what Python sees, _numba_type.py what Numba does; the machine code comes from the Numba backend
(_backends/_numba/_specialized.py). Nothing here is imported before a net is compiled, and so neither is Numba.
"""
