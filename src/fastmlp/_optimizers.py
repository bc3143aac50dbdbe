"""SGD, Adam, AdamW and RMSprop: their settings, their state on one net, and single training steps.

The update formulas themselves stand in each backend's update kernel.
"""

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from fastmlp._layout import Layout
from fastmlp._numbers import check_flag, check_real
from fastmlp._update import (
    BETA1,
    BETA1_POWER,
    BETA2,
    BETA2_POWER,
    CLIP_NORM,
    EPS,
    LR,
    N_SCALARS,
    UPDATE_CODES,
    WEIGHT_DECAY,
    Update,
)

if TYPE_CHECKING:
    from fastmlp._gradients import Gradients
    from fastmlp._mlp import MLP

# Looked up at every step.
ndarray = np.ndarray

LearningRate = float | Callable[[int], float]

# A smaller one would vanish in float32, and 0 / 0 would follow wherever the gradient is 0.
SMALLEST_EPS = 1e-30


class _Bindable(Protocol):
    """What the state can be bound to: a network, or a member of an ensemble."""

    @property
    def _layout(self) -> Layout: ...


USES_FIRST = ("momentum", "nesterov", "adam")
USES_SECOND = ("adam", "rmsprop")


class Optimizer:
    """What all optimizers share: learning rate, state bound to one net, ``step``, ``apply`` and ``reset``.

    The state (velocities, moments, the number of epochs begun) belongs to the optimizer and is bound to the
    first net it updates. Pickling keeps the state but not the net: a loaded optimizer goes on with the first
    net of the same layer sizes and dtype. The net itself is held weakly.
    """

    _shown: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        rule: str,
        lr: LearningRate,
        clip_norm: float | None,
        *,
        beta1: float = 0.0,
        beta2: float = 0.0,
        eps: float = 0.0,
    ) -> None:
        self._rule = rule
        self._scalars = np.zeros(N_SCALARS)
        self._scalars[[BETA1, BETA2, EPS]] = beta1, beta2, eps
        if clip_norm is not None:
            self._scalars[CLIP_NORM] = check_real("clip_norm", clip_norm, above=0.0)
        # Every step of `step` and of an epoch of fit uses this one row of lr, eps, divisor, penalty scale.
        self._table = np.array([[0.0, eps, 0.0, 1.0]])
        self._rate: float | None = None
        self.reset()
        self.lr = lr

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._shown)
        return f"{type(self).__name__}({settings})"

    @property
    def lr(self) -> LearningRate:
        """The learning rate: a number, or a schedule called with the epoch. It may be set at any time."""
        return self._lr

    @lr.setter
    def lr(self, value: LearningRate) -> None:
        if callable(value):
            self._lr: LearningRate = value
            self._rate = None
        else:
            self._lr = check_real("lr", value, at_least=0.0)
            self._set_rate(self._lr)

    @property
    def clip_norm(self) -> float | None:
        """The largest L2 norm of the whole gradient, or None."""
        return float(self._scalars[CLIP_NORM]) or None

    def reset(self) -> None:
        """Forget the state, the net and the epochs counted; the settings stay."""
        self._net: weakref.ref[_Bindable] | None = None
        self._layout: Layout | None = None
        self._update: Update | None = None
        self._epoch = 0
        self._scalars[[BETA1_POWER, BETA2_POWER]] = 1.0
        if callable(getattr(self, "_lr", None)):
            self._rate = None

    def step(self, net: "MLP", X: Any, y: Any, sample_weight: Any = None) -> float:
        """Take one training step on the whole of X.

        The same, bit for bit, as ``net.loss_and_gradients(X, y, sample_weight, training=True)`` followed by
        ``apply``, but faster. A schedule is not advanced: the rate is that of the last epoch begun by fit.

        Parameters
        ----------
        net : MLP
        X : array of shape (n, n_0), or (n_0,) for a single example
        y : array
            Targets as in ``net.loss``.
        sample_weight : array of shape (n,), optional

        Returns
        -------
        float
            The loss before the update.

        Raises
        ------
        FloatingPointError
            The loss is not finite; net and optimizer are as before.
        RuntimeError
            The optimizer is bound to another net, or the net is being trained already.
        """
        update, loss = self._update, None
        try:
            if update is not None and self._rate is not None and sample_weight is None:
                loss = net._engine.repeat_step(X, y, update, self._table, net._dropout_step, net._training_lock)
            if loss is None:
                loss = self._checked_step(net, X, y, sample_weight)
        except AttributeError:
            if hasattr(net, "_training_lock"):
                raise
            raise no_net(net) from None
        # Not so for infinity and NaN.
        if loss - loss == 0.0:
            net._dropout_step += 1
            return loss
        raise FloatingPointError(f"the loss is {loss}; the step was not taken")

    def _checked_step(self, net: "MLP", X: Any, y: Any, sample_weight: Any) -> float:
        with net._training():
            X, y, sample_weight = net._checked_examples(X, y, sample_weight)
            update = self._bind(net)
            self._ready_rate()
            return net._engine.step(X, y, sample_weight, update, self._table, net._dropout_step)

    def apply(self, net: "MLP", gradients: "Gradients") -> None:
        """Update the parameters of a net by gradients that were computed before.

        Parameters
        ----------
        net : MLP
        gradients : Gradients
            From ``net.loss_and_gradients`` or ``net.backward``; stays as it is.

        Raises
        ------
        RuntimeError
            The optimizer is bound to another net, or the net is being trained already.
        """
        from fastmlp._gradients import Gradients

        if not isinstance(gradients, Gradients):
            raise TypeError(
                f"gradients is a {type(gradients).__name__}; expected the Gradients of loss_and_gradients or backward"
            )
        if not hasattr(net, "_training_lock"):
            raise no_net(net)
        layout, arena = net._layout, gradients.arena
        if arena.shape != (layout.size,) or arena.dtype != layout.dtype:
            raise ValueError("gradients belongs to a network of other layer sizes or another dtype")
        with net._training():
            update = self._bind(net)
            self._ready_rate()
            net._engine.apply(update, arena)

    def _bind(self, net: "_Bindable") -> Update:
        """The state on ``net``, made at the first call.

        Raises RuntimeError if the state belongs to another net.
        """
        if self._net is not None and self._net() is net and self._update is not None:
            return self._update
        layout = net._layout
        if self._net is not None or (self._layout is not None and not _same(self._layout, layout)):
            raise RuntimeError(
                f"this {type(self).__name__} keeps the state of another network; "
                "call its reset() to use it for a new one, or take a new optimizer"
            )
        if self._update is None:
            self._update = self._new_state(layout)
        self._layout = layout
        self._net = weakref.ref(net)
        return self._update

    def _new_state(self, layout: Layout) -> Update:
        none = np.empty(0, layout.dtype)
        return Update(
            UPDATE_CODES[self._rule],
            self._scalars,
            layout.arena() if self._rule in USES_FIRST else none,
            layout.arena() if self._rule in USES_SECOND else none,
        )

    def _like_new(self) -> "Optimizer":
        """Another one with the same settings and without a state."""
        other = type(self).__new__(type(self))
        vars(other).update(vars(self), _scalars=self._scalars.copy(), _table=self._table.copy())
        other.reset()
        return other

    def _start_epoch(self) -> None:
        """Count an epoch of fit; a schedule is asked for its rate first."""
        if callable(self._lr):
            self._set_rate(self._scheduled(self._epoch))
        self._epoch += 1

    def _ready_rate(self) -> None:
        """Ask a schedule that was not asked yet for the rate of the epoch begun last."""
        if self._rate is None:
            self._set_rate(self._scheduled(max(self._epoch - 1, 0)))

    def _scheduled(self, epoch: int) -> float:
        assert callable(self._lr)
        return check_real(f"lr at epoch {epoch}", self._lr(epoch), at_least=0.0)

    def _set_rate(self, rate: float) -> None:
        self._rate = rate
        self._scalars[LR] = self._table[0, 0] = rate

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name not in ("_net", "_layout", "_update")}
        if self._update is not None and self._layout is not None:
            # Flat copies outlive changes of the layout.
            layout = self._layout
            moments = [layout.flatten(arena) if arena.size else None for arena in self._update[2:]]
            state["_kept"] = layout.layer_sizes, layout.dtype.str, moments
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        kept = state.pop("_kept", None)
        vars(self).update(state)
        self._net = self._layout = self._update = None
        if kept is not None:
            layer_sizes, dtype, moments = kept
            self._layout = Layout(layer_sizes, np.dtype(dtype))
            self._update = self._new_state(self._layout)
            for flat, arena in zip(moments, self._update[2:], strict=True):
                if flat is not None:
                    self._layout.unflatten(flat, arena)


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (Polyak) or Nesterov's momentum.

    Parameters
    ----------
    lr : float or callable, default 0.01
        The learning rate, or a schedule called with the epoch.
    momentum : float, default 0.0
        In [0, 1).
    nesterov : bool, default False
        Whether the momentum is Nesterov's; it needs ``momentum``.
    clip_norm : float, optional
        Scale the whole gradient down to this L2 norm where it is longer.
    """

    _shown = ("lr", "momentum", "nesterov", "clip_norm")

    def __init__(
        self,
        lr: LearningRate = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        clip_norm: float | None = None,
    ) -> None:
        momentum = check_real("momentum", momentum, at_least=0.0, below=1.0)
        if check_flag("nesterov", nesterov) and not momentum:
            raise ValueError("nesterov needs a momentum above 0")
        rule = "nesterov" if nesterov else "momentum" if momentum else "sgd"
        super().__init__(rule, lr, clip_norm, beta1=momentum)

    @property
    def momentum(self) -> float:
        """The share of the velocity that each step keeps."""
        return float(self._scalars[BETA1])

    @property
    def nesterov(self) -> bool:
        """Whether the momentum is Nesterov's."""
        return self._rule == "nesterov"


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015), with both moments corrected for their start at 0.

    Parameters
    ----------
    lr : float or callable, default 0.001
        The learning rate, or a schedule called with the epoch.
    betas : tuple of two floats, default (0.9, 0.999)
        What the running means of the gradient and of its square keep at each step; in [0, 1).
    eps : float, default 1e-8
        Added to the root of the second moment; at least 1e-30.
    clip_norm : float, optional
        Scale the whole gradient down to this L2 norm where it is longer.
    """

    _shown: ClassVar[tuple[str, ...]] = ("lr", "betas", "eps", "clip_norm")

    def __init__(
        self,
        lr: LearningRate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        clip_norm: float | None = None,
    ) -> None:
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(f"betas is {betas!r}; expected two numbers")
        super().__init__(
            "adam",
            lr,
            clip_norm,
            beta1=check_real("betas[0]", betas[0], at_least=0.0, below=1.0),
            beta2=check_real("betas[1]", betas[1], at_least=0.0, below=1.0),
            eps=check_real("eps", eps, at_least=SMALLEST_EPS),
        )

    @property
    def betas(self) -> tuple[float, float]:
        """What the two running means keep at each step."""
        return float(self._scalars[BETA1]), float(self._scalars[BETA2])

    @property
    def eps(self) -> float:
        """What is added to the root of the second moment."""
        return float(self._scalars[EPS])


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), on weights only, never on biases.

    Parameters
    ----------
    lr, betas, eps, clip_norm
        As for Adam.
    weight_decay : float, default 0.01
        Each step first takes the share ``lr * weight_decay`` off every weight; at least 0.
    """

    _shown = ("lr", "betas", "eps", "clip_norm", "weight_decay")

    def __init__(
        self,
        lr: LearningRate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        clip_norm: float | None = None,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(lr, betas, eps, clip_norm)
        self._scalars[WEIGHT_DECAY] = check_real("weight_decay", weight_decay, at_least=0.0)

    @property
    def weight_decay(self) -> float:
        """The decay per step, in units of the learning rate."""
        return float(self._scalars[WEIGHT_DECAY])


class RMSprop(Optimizer):
    """RMSprop (Hinton, 2012): the gradient over the root of the running mean of its square.

    Parameters
    ----------
    lr : float or callable, default 0.001
        The learning rate, or a schedule called with the epoch.
    rho : float, default 0.99
        What the running mean keeps at each step; in [0, 1).
    eps : float, default 1e-8
        Added to the root; at least 1e-30.
    clip_norm : float, optional
        Scale the whole gradient down to this L2 norm where it is longer.
    """

    _shown = ("lr", "rho", "eps", "clip_norm")

    def __init__(
        self,
        lr: LearningRate = 1e-3,
        rho: float = 0.99,
        eps: float = 1e-8,
        clip_norm: float | None = None,
    ) -> None:
        rho = check_real("rho", rho, at_least=0.0, below=1.0)
        eps = check_real("eps", eps, at_least=SMALLEST_EPS)
        super().__init__("rmsprop", lr, clip_norm, beta2=rho, eps=eps)

    @property
    def rho(self) -> float:
        """What the running mean of the squared gradient keeps at each step."""
        return float(self._scalars[BETA2])

    @property
    def eps(self) -> float:
        """What is added to the root of the running mean."""
        return float(self._scalars[EPS])


def no_net(net: Any) -> TypeError:
    """The error that belongs to something else in the place of a net."""
    return TypeError(f"net is a {type(net).__name__}; expected an MLP")


def _same(one: Layout, other: Layout) -> bool:
    return one.layer_sizes == other.layer_sizes and one.dtype == other.dtype
