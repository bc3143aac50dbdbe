"""fastmlp: multi-layer perceptrons, fast on a CPU.

Public names only. `MLP` is the network; an optimizer trains it, through its own ``step`` or through `MLP.fit`.
"""

from fastmlp import schedules
from fastmlp._backends import available_backends
from fastmlp._checkpoint import Checkpoint
from fastmlp._config import show_config
from fastmlp._early_stopping import EarlyStopping
from fastmlp._ensemble import MLPEnsemble
from fastmlp._ensemble_history import EnsembleHistory
from fastmlp._gradients import Gradients
from fastmlp._history import History
from fastmlp._minibatches import minibatches
from fastmlp._mlp import MLP
from fastmlp._optimizers import SGD, Adam, AdamW, RMSprop
from fastmlp._threads import set_num_threads
from fastmlp._version import __version__

__all__ = [
    "MLP",
    "SGD",
    "Adam",
    "AdamW",
    "Checkpoint",
    "EarlyStopping",
    "EnsembleHistory",
    "Gradients",
    "History",
    "MLPEnsemble",
    "RMSprop",
    "__version__",
    "available_backends",
    "minibatches",
    "schedules",
    "set_num_threads",
    "show_config",
]
