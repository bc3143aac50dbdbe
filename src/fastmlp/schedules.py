"""Learning rate schedules: small picklable callables that give the rate of an epoch, counted from 0.

Pass one as ``lr`` of an optimizer. Any other callable of the epoch does as well.

>>> import fastmlp
>>> optimizer = fastmlp.SGD(lr=fastmlp.schedules.cosine(0.1, epochs=50, warmup=5))
"""

import math
from dataclasses import dataclass, fields

from fastmlp._numbers import check_real, check_whole

__all__ = ["constant", "cosine", "exponential", "step"]


class _Schedule:
    """Prints as the call that made it."""

    def __repr__(self) -> str:
        settings = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self))  # type: ignore[arg-type]
        return f"schedules.{type(self).__name__}({settings})"


@dataclass(frozen=True, repr=False)
class constant(_Schedule):
    """The same rate in every epoch.

    Parameters
    ----------
    lr : float
        The rate, at least 0.
    """

    lr: float

    def __post_init__(self) -> None:
        check_real("lr", self.lr, at_least=0.0)

    def __call__(self, epoch: int) -> float:
        return self.lr


@dataclass(frozen=True, repr=False)
class step(_Schedule):
    """``lr * factor ** (epoch // every)``: the rate drops by a factor once in so many epochs.

    Parameters
    ----------
    lr : float
        The rate of the first epochs, at least 0.
    every : int
        How many epochs share one rate.
    factor : float, default 0.1
        What the rate is multiplied by, above 0.
    """

    lr: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        check_real("lr", self.lr, at_least=0.0)
        check_whole("every", self.every, at_least=1)
        check_real("factor", self.factor, above=0.0)

    def __call__(self, epoch: int) -> float:
        return float(self.lr * self.factor ** (epoch // self.every))


@dataclass(frozen=True, repr=False)
class exponential(_Schedule):
    """``lr * factor ** epoch``.

    Parameters
    ----------
    lr : float
        The rate of the first epoch, at least 0.
    factor : float
        What the rate is multiplied by after each epoch, above 0.
    """

    lr: float
    factor: float

    def __post_init__(self) -> None:
        check_real("lr", self.lr, at_least=0.0)
        check_real("factor", self.factor, above=0.0)

    def __call__(self, epoch: int) -> float:
        return float(self.lr * self.factor**epoch)


@dataclass(frozen=True, repr=False)
class cosine(_Schedule):
    """Half a cosine wave from ``lr`` down to ``final``, after an optional linear rise.

    Epoch e of the warm-up has the rate ``lr * (e + 1) / (warmup + 1)``. From epoch ``warmup`` on it is
    ``final + (lr - final) * (1 + cos(pi * t)) / 2``, t going from 0 to 1 at epoch ``epochs``; later epochs
    stay at ``final``. (Loshchilov and Hutter, "SGDR", 2017, without restarts.)

    Parameters
    ----------
    lr : float
        The largest rate, at least 0.
    epochs : int
        Where the rate reaches ``final``: as a rule the epochs of the whole training.
    warmup : int, default 0
        Epochs of the rise, less than ``epochs``.
    final : float, default 0.0
        The last rate, at least 0.
    """

    lr: float
    epochs: int
    warmup: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        check_real("lr", self.lr, at_least=0.0)
        check_whole("epochs", self.epochs, at_least=1)
        check_whole("warmup", self.warmup, at_least=0)
        check_real("final", self.final, at_least=0.0)
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup is {self.warmup}; it must be less than epochs, {self.epochs}")

    def __call__(self, epoch: int) -> float:
        if epoch < self.warmup:
            return self.lr * (epoch + 1) / (self.warmup + 1)
        t = min(1.0, (epoch - self.warmup) / (self.epochs - self.warmup))
        return self.final + (self.lr - self.final) * (1.0 + math.cos(math.pi * t)) / 2.0
