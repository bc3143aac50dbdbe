"""What fit does where a loss or a parameter is not finite."""

import warnings
from typing import TYPE_CHECKING, Any

from fastmlp._checks import check_name
from fastmlp._training_state import TrainingState, all_finite, n_bytes
from fastmlp._update import Update

if TYPE_CHECKING:
    from fastmlp._mlp import MLP

POLICIES = ("raise", "warn", "ignore")
# Nets beyond keep no copy: they must train within little more than the memory of what they are made of.
LARGEST_COPY = 2**28


def check_policy(on_nonfinite: Any) -> str:
    """One out of POLICIES."""
    return check_name("on_nonfinite", on_nonfinite, POLICIES)


class Guard:
    """Keeps the state to which a fit returns, and tells the user."""

    def __init__(self, net: "MLP", update: Update, policy: str) -> None:
        self._parameters = net._parameters
        self.start = TrainingState(net, update) if n_bytes(net, update) <= LARGEST_COPY else None
        self.stops = policy == "raise"
        self._warns = policy == "warn"
        self._told: int | None = None

    def keep(self) -> None:
        """Take note of the state at the start of an epoch, or of several."""
        if self.start is not None:
            self.start.take()

    def finite(self) -> bool:
        """Whether all parameters are."""
        return all_finite(self._parameters)

    def tell(self, epoch: int, what: str) -> None:
        """Raise FloatingPointError, or warn once an epoch, or say nothing."""
        if self.stops:
            raise FloatingPointError(what)
        if self._warns and self._told != epoch:
            self._told = epoch
            warnings.warn(f"{what}; fit goes on", RuntimeWarning, stacklevel=8)
