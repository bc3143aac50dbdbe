"""Other libraries at the same work as fastmlp, one a file; here is which there are, and what each can do.

Each class is a contender (see fastmlp._bench._contenders). Its module imports the library, so it is imported in the
process that computes with it.
"""

import importlib
import importlib.util
from functools import partial
from typing import NamedTuple

import fastmlp
from fastmlp._bench._contenders import FastMLP, HandwrittenNumPy, Make
from fastmlp._bench._tasks import TASKS
from fastmlp._bench._workload import Workload

OURS = "fastmlp "
BY_HAND = "NumPy by hand"


class Peer(NamedTuple):
    """Where a library's contender is, the packages it imports, and the tasks and dtypes it does."""

    module: str
    class_name: str
    packages: tuple[str, ...]
    tasks: tuple[str, ...] = tuple(TASKS)
    dtypes: tuple[str, ...] = ("float32", "float64")


PEERS = {
    "PyTorch": Peer("pytorch", "PyTorch", ("torch",)),
    "JAX": Peer("jax_jit", "JAX", ("jax",)),
    "JAX, by step": Peer("jax_jit", "JAXByStep", ("jax",), ("fit",)),
    "scikit-learn": Peer("scikit_learn", "ScikitLearn", ("sklearn",)),
    "onnxruntime": Peer("onnx_runtime", "ONNXRuntime", ("onnxruntime",), ("forward", "one")),
    "OpenVINO": Peer("open_vino", "OpenVINO", ("openvino",), ("forward", "one"), ("float32",)),
}


def missing() -> dict[str, str]:
    """The peers that cannot run here, each with the packages it lacks."""
    lacking = {
        name: ", ".join(package for package in peer.packages if importlib.util.find_spec(package) is None)
        for name, peer in PEERS.items()
    }
    return {name: packages for name, packages in lacking.items() if packages}


def contenders() -> list[str]:
    """fastmlp with each backend it has here, NumPy by hand, and the peers that are installed."""
    ours = [OURS + backend for backend in fastmlp.available_backends()]
    return [*ours, BY_HAND, *(name for name in PEERS if name not in missing())]


def can_do(name: str, task: str, dtype: str) -> bool:
    return name not in PEERS or (task in PEERS[name].tasks and dtype in PEERS[name].dtypes)


def maker(name: str, workload: Workload, n_threads: int) -> Make:
    """What sets up the contender of that name for a learning rate."""
    if name.startswith(OURS):
        return partial(FastMLP, workload, n_threads=n_threads, backend=name.removeprefix(OURS))
    if name == BY_HAND:
        return partial(HandwrittenNumPy, workload)
    peer = PEERS[name]
    return partial(getattr(importlib.import_module(f"peers.{peer.module}"), peer.class_name), workload)
