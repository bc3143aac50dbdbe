"""fastmlp: multi-layer perceptrons, fast on a CPU.

Public names only. `MLP` is the network; an optimizer trains it, through its own ``step`` or through `MLP.fit`.
"""

from fastmlp import interop, schedules
from fastmlp._backends import available_backends
from fastmlp._checkpoint import Checkpoint
from fastmlp._config import show_config
from fastmlp._early_stopping import EarlyStopping
from fastmlp._gradients import Gradients, GradientsPerExample
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
    "Gradients",
    "GradientsPerExample",
    "History",
    "RMSprop",
    "__version__",
    "available_backends",
    "interop",
    "minibatches",
    "schedules",
    "set_num_threads",
    "show_config",
]
