"""fastmlp: multi-layer perceptrons, fast on a CPU.

Public names only. `MLP` is the network; an optimizer trains it, through its own ``step`` or through `MLP.fit`.
"""

from typing import TYPE_CHECKING

from fastmlp._backends import available_backends
from fastmlp._gradients import Gradients, GradientsPerExample
from fastmlp._minibatches import minibatches
from fastmlp._mlp import MLP
from fastmlp._optimizers import SGD, Adam, AdamW, RMSprop
from fastmlp._threads import set_num_threads
from fastmlp._version import __version__

if TYPE_CHECKING:
    from fastmlp import interop, schedules
    from fastmlp._checkpoint import Checkpoint
    from fastmlp._config import show_config
    from fastmlp._early_stopping import EarlyStopping
    from fastmlp._ensemble import MLPEnsemble
    from fastmlp._ensemble_history import EnsembleHistory
    from fastmlp._history import History
else:
    # Imported when first asked for: together they take as long as all the rest.
    _MODULES = {
        "Checkpoint": "_checkpoint",
        "EarlyStopping": "_early_stopping",
        "EnsembleHistory": "_ensemble_history",
        "History": "_history",
        "MLPEnsemble": "_ensemble",
        "interop": "interop",
        "schedules": "schedules",
        "show_config": "_config",
    }

    def __getattr__(name):
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        module = import_module(f"{__name__}.{_MODULES[name]}")
        value = module if name == _MODULES[name] else getattr(module, name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *_MODULES})


__all__ = [
    "MLP",
    "SGD",
    "Adam",
    "AdamW",
    "Checkpoint",
    "EarlyStopping",
    "EnsembleHistory",
    "Gradients",
    "GradientsPerExample",
    "History",
    "MLPEnsemble",
    "RMSprop",
    "__version__",
    "available_backends",
    "interop",
    "minibatches",
    "schedules",
    "set_num_threads",
    "show_config",
]
